//! A command that stops the server: it is reported through the log, tried again after long, or passed over once the log
//! says that it has failed.

use super::core::Violation;
use super::poison::{Poison, Stuck};
use super::publish::{header, mark};
use super::{Applier, Connection, Interrupt};
use crate::Phase;
use rtdb_consensus::command::{self, Body, PoisonStep, Publish};
use rtdb_consensus::{Position, ReadError, ResolvedCommand};
use rtdb_determinism::MARK;
use rtdb_runtime::Instant;
use std::time::Duration;

/// The pause before a command that has stopped the server again and again is tried once more.
const STUCK_PAUSE: Duration = Duration::from_secs(300);
/// What is heard of commands before the deletion of a database that this node has not made as the others may have.
const LEFT_OUT: &str =
    "the database has been deleted since, and this node's SpacetimeDB could not do all that came before";
/// How often a report is made until it is in the log.
const REPORT_RETRY: Duration = Duration::from_secs(5);

impl Applier {
    /// A command has stopped the server again and again: waits until it has failed by decision, or is to be tried again.
    pub(super) async fn stuck(&mut self, stuck: Stuck) {
        let Stuck { position, attempts } = stuck;
        tracing::error!(
            database = self.hex(),
            %position,
            attempts,
            "this command stops SpacetimeDB each time: it is not sent again for {STUCK_PAUSE:?}"
        );
        self.slot.set_phase(Phase::Stuck { position, attempts });
        let end = Instant::now() + STUCK_PAUSE;
        while Instant::now() < end {
            self.refresh_verdict();
            if self.verdict.is_deleted_after(position) {
                return;
            }
            let is_refused = matches!(self.verdict.judged(position), Some(Err(_)));
            if is_refused || self.verdict.failed(position).is_some() {
                return self.poison.done(position);
            }
            if self.verdict.stuck() != Some(position) {
                self.say_stuck(position, attempts);
            }
            self.verdict_changed(end).await;
        }
        tracing::error!(
            database = self.hex(),
            %position,
            "not all replicas are stuck at this command: this one is behind, and tries it again. Has its SpacetimeDB \
             less memory or time than the others?"
        );
        self.take_back(position).await;
    }

    /// Whether the server can't do what stands before the database's deletion: a command stops it, or it has troubles with a
    /// publication. Nothing will be decided about that, and nobody needs it.
    pub(super) fn is_in_vain(&mut self, is_refused: bool) -> bool {
        self.refresh_verdict();
        let publication = self.core.unsettled_publication().filter(|_| is_refused);
        let stuck = self.poison.stuck().map(|stuck| stuck.position);
        let mut undone = [publication, stuck].into_iter().flatten();
        undone.any(|position| self.verdict.is_deleted_after(position))
    }

    /// Goes on at the database's deletion. Other nodes may have done what this server can't, and what comes after it: here it
    /// would have other outcomes.
    pub(super) async fn leave_out(&mut self) -> Result<(), ReadError> {
        tracing::warn!(
            database = self.hex(),
            "SpacetimeDB can't do what comes before the database's deletion: all of that is left out"
        );
        self.give_up(LEFT_OUT);
        (self.poison, self.untaken) = (Poison::default(), None);
        loop {
            while let Some(head) = self.reader.head() {
                let command = head.command();
                if let Some(Body::Delete(_)) = &command.command.body {
                    (self.born, self.is_stale) = (command.position, true);
                    return Ok(());
                }
                self.core.pass(command, LEFT_OUT);
                self.reader.advance();
                self.report();
            }
            self.reader.more().await?;
        }
    }

    /// Takes the promise back not to try a command.
    pub(super) async fn take_back(&mut self, position: Position) {
        loop {
            self.refresh_verdict();
            let is_over = self.verdict.stuck() != Some(position) || self.verdict.is_deleted_after(position);
            if is_over || self.shared.reports.is_none() {
                return;
            }
            self.say_stuck(position, 0);
            self.verdict_changed(Instant::now() + REPORT_RETRY).await;
        }
    }

    /// Whether the log says anything new of this database's commands.
    pub(super) fn refresh_verdict(&mut self) {
        self.verdict = self.verdicts.borrow_and_update().of(&self.database);
        // A report of an earlier life may have come late.
        if let Some(stuck) = self
            .verdict
            .stuck()
            .filter(|stuck| *stuck <= self.core.succeeded())
        {
            self.say_stuck(stuck, 0);
        }
    }

    pub(super) async fn verdict_changed_soon(&mut self) {
        self.verdict_changed(Instant::now() + REPORT_RETRY).await;
    }

    async fn verdict_changed(&mut self, end: Instant) {
        let soon = (Instant::now() + REPORT_RETRY).min(end);
        // The sender lives as long as the replica.
        let _ = rtdb_runtime::timeout_at(soon, self.verdicts.changed()).await;
    }

    fn say_stuck(&self, position: Position, attempts: u32) {
        let poison = command::Poison {
            database: self.database.to_vec().into(),
            position: position.0,
            step: Some(PoisonStep::Stuck(command::Stuck { attempts })),
        };
        if let Some(reports) = &self.shared.reports {
            reports.report(Body::Poison(poison));
        }
    }

    /// A publication that has failed by decision. The server may have taken a part of it in: the database is made again.
    pub(super) async fn pass_over_publication(
        &mut self,
        command: &ResolvedCommand,
        publish: &Publish,
        connection: Option<Connection>,
        why: &str,
    ) -> Result<Option<Connection>, Interrupt> {
        if !self.passed_over.contains(&command.position) {
            let born = self.born;
            let rebuild = self.rebuild(command.position).await;
            let is_all_there = born == self.born && self.passed_over.contains(&command.position);
            if connection.is_some() || !is_all_there {
                return Err(rebuild);
            }
        }
        self.core.publishing(command);
        let connection = self.refused(why.to_owned(), connection);
        if publish.clear {
            self.slot.published();
        }
        Ok(connection)
    }

    /// The log decides that the command at an earlier position has failed.
    pub(super) async fn settle_poison(
        &mut self,
        command: &ResolvedCommand,
        poison: &command::Poison,
        connection: Option<Connection>,
    ) -> Result<Option<Connection>, Interrupt> {
        let Some(mut connection) = connection else {
            return Ok(None);
        };
        let position = Position(poison.position);
        let is_ours = async {
            let head = self.reader.at(position).await?;
            Ok::<_, Interrupt>(head.is_some())
        };
        if !is_ours.await? {
            // A slip of the operator's.
            tracing::warn!(database = self.hex(), %position, "what is to be skipped is no command of this database");
            return Ok(Some(connection));
        }
        if position >= self.born && !self.passed_over.contains(&position) {
            tracing::error!(
                database = self.hex(),
                %position,
                "this replica may have applied a command that has failed by decision: its database is made again, from \
                 the log"
            );
            return Err(self.rebuild(position).await);
        }
        // From here on the database itself says that the command was passed over.
        if let Err(message) = mark(&mut connection, header(command, &self.owner), false).await? {
            return Err(Violation::Hidden {
                reducer: MARK,
                message,
            }
            .into());
        }
        if let Some(state) = self.state().await? {
            self.core.counted(state.successes);
        }
        Ok(Some(connection))
    }
}
