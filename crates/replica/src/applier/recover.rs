//! Where to go on: the database's own record of what was applied to it, compared with the log.

use super::{Applier, Connection, ConnectionError, Head, Interrupt, before};
use crate::replica::Taken;
use crate::server::LineError;
use crate::{ActiveDatabase, AdminError, DatabaseState, Phase, Quarantine};
use http::StatusCode;
use rtdb_consensus::Position;
use rtdb_consensus::command::{Body, Owner, Publish};
use rtdb_determinism::Module;
use rtdb_runtime::Instant;
use spacetimedb_lib::Hash;
use std::sync::Arc;
use std::time::Duration;

/// How often it is logged that the server is ahead of the log.
const AHEAD_WARNING: Duration = Duration::from_secs(10);

/// How much of the log is looked through at once, in bytes.
const SEARCH_BYTES_MAX: usize = 4 << 20;

impl Applier {
    /// Reads where the server is, settles what was open when the connection was lost, and connects. `None`: there is no
    /// such database.
    pub(super) async fn recover(&mut self) -> Result<Option<Connection>, Interrupt> {
        self.slot.set_phase(Phase::Connecting);
        self.loading = None;
        self.shared.admin.up().await;
        let life = self.shared.admin.server().life();
        if life != self.life && self.removed.take().is_some() {
            // It was stopped before anybody talked to it again.
            self.passed_over.clear();
        }
        self.life = life;
        self.refresh_verdict();
        if let Some(position) = self.core.unsettled_publication()
            && !self.passed_over.contains(&position)
            && self.verdict.failed(position).is_some()
        {
            // The server must not even look at it.
            self.remove().await?;
            self.strike(position);
        }
        if let Some(position) = self.core.unsettled_publication() {
            self.take_turn_for(position).await;
        }
        let mut found = self.state().await?;
        if found.is_some_and(|state| Position(state.index) < before(self.born)) {
            // A server that was killed may bring back what was deleted, or cleared.
            tracing::warn!(
                database = self.hex(),
                "SpacetimeDB still has the database of before: it goes"
            );
            self.remove().await?;
            found = None;
        }
        let Some(mut state) = found else {
            self.core.set_active(None);
            self.shared.deactivate(&self.database);
            self.core.recovered(None);
            self.reader.seek(before(self.born));
            return Ok(None);
        };
        if rtdb_runtime::planted("losses of servers are not noticed") {
            state.index = state.index.max(self.core.succeeded().0);
        }
        let (active, taken, clears) = self.verified(&state).await?;
        let position = active.position;
        // An earlier life of the node may have ended before it has said what its server makes of the module.
        if self.is_judged {
            let Ok(taken) = self.decide(position, Ok(taken)).await else {
                return Err(self.rebuild(position).await);
            };
            // Without a word in the log, clients of now may all have come later.
            let under_way = self.core.unsettled_publication() == Some(position);
            if taken.breaks && (under_way || self.verdict.judged(position).is_some()) {
                self.slot.break_clients(position);
            }
        }
        if clears {
            // The server may have gone away between what it did and its clients' end.
            self.slot.break_clients(position);
        }
        // Before what was open is settled: until then, calls of the lost connection may still have run.
        let mut connection = self.connect(state.index, None).await?;
        self.count_inserted(Position(state.index), &mut connection)
            .await?;
        let done = self.core.recovered(Some(&state));
        self.core.set_active(Some(active.clone()));
        self.shared.activate(active);
        self.reader.seek(done);
        self.report();
        tracing::info!(database = self.hex(), position = %done, "applying from here on");
        Ok(Some(connection))
    }

    /// Connects to the database, which has applied everything up to `index`, and runs a module that was just put there. A server
    /// may have died since it said so, and lost the last of it: that is only certain of the one at the other end.
    pub(super) async fn connect(
        &mut self,
        index: u64,
        program: Option<Hash>,
    ) -> Result<Connection, Interrupt> {
        let connection = Connection::open(&self.shared.admin, &self.owner, &self.database).await?;
        let state = self.state().await?;
        let is_it = state.is_some_and(|state| state.index == index)
            || rtdb_runtime::planted("losses of servers are not noticed");
        let runs_it = match program.filter(|_| is_it) {
            Some(program) => self.runs(program).await? != Some(false),
            None => is_it,
        };
        if runs_it && self.shared.admin.server().life() == self.life {
            return Ok(connection);
        }
        Err(ConnectionError::from(LineError::Ended).into())
    }

    /// Whether the server runs a prepared module; `None` if it does not say that.
    pub(super) async fn runs(&mut self, program: Hash) -> Result<Option<bool>, AdminError> {
        self.shared.admin.runs(&self.owner, &self.database, program).await
    }

    /// The database's state; `None` if there is none, or if its creation was broken off.
    pub(super) async fn state(&mut self) -> Result<Option<DatabaseState>, Interrupt> {
        let state = self.shared.admin.state(&self.owner, &self.database).await;
        if matches!(state, Ok(_) | Err(AdminError::NoSuchDatabase)) {
            self.damage.gone();
        }
        match state {
            Ok(state) => Ok(state),
            // A full disk or a power cut leaves such files. A server that is slow, or short of something, is waited for.
            Err(AdminError::Refused { status, text })
                if status.is_server_error()
                    && self.damage.named(Instant::now(), &text, self.shared.damage_wait) =>
            {
                tracing::error!(
                    database = self.hex(),
                    error = text,
                    "SpacetimeDB says that the database is damaged, or another one: it is made again, from the log; its files stay, in a \
                     folder of `replicas` in SpacetimeDB's data directory that is no longer written to"
                );
                self.damage.gone();
                self.remove().await?;
                Ok(None)
            }
            Err(AdminError::NoSuchDatabase) => Ok(None),
            Err(AdminError::Refused {
                status: StatusCode::BAD_REQUEST,
                text,
            }) => match self.former_owner().await? {
                Some(former) => {
                    tracing::info!(
                        database = self.hex(),
                        "SpacetimeDB still has the database of an earlier owner, which was deleted: it goes"
                    );
                    self.shared.admin.delete(&former, &self.database).await?;
                    Ok(None)
                }
                None => Err(Interrupt::Quarantine(Quarantine::Foreign(text))),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// The owner of what the server has, if that is a database of the same identity which the log has deleted since: this
    /// node was away, or the server has lost that it was deleted. Seldom enough that all of the log may be looked through.
    async fn former_owner(&mut self) -> Result<Option<Owner>, Interrupt> {
        let Some(found) = self.shared.admin.owner(&self.owner, &self.database).await? else {
            return Ok(None);
        };
        let mut next = 1;
        while next <= self.born.index() {
            let entries = self.shared.follow.read(next, SEARCH_BYTES_MAX).await?;
            let commands = entries.iter().flat_map(|entry| &entry.commands);
            let earlier = commands.filter(|command| command.position < self.born);
            let owners = earlier.filter_map(|command| match &command.command.body {
                Some(Body::Publish(publish)) if *publish.database == self.database => publish.owner.as_ref(),
                _ => None,
            });
            let former = owners
                .filter(|owner| **owner != self.owner)
                .find(|owner| *owner.identity == found);
            if former.is_some() {
                return Ok(former.cloned());
            }
            match entries.last() {
                Some(last) => next = last.index + 1,
                None => break,
            }
        }
        Ok(None)
    }

    /// Checks that what the server has follows from the log: else every further command would be skipped as applied, or
    /// land on other rows than elsewhere. Gives also what this node says of the module, if nobody has, and whether it came
    /// with an empty database.
    async fn verified(
        &mut self,
        state: &DatabaseState,
    ) -> Result<(Arc<ActiveDatabase>, Taken, bool), Interrupt> {
        let index = Position(state.index);
        let diverged = |reason| Interrupt::Quarantine(Quarantine::Diverged(reason));
        // Before the wait: no log of this generation ever comes to a position of another one.
        of_generation(self.born, index).map_err(diverged)?;
        self.log_known_to(index).await?;
        // The mark before a publication has the position just before it.
        let next = Position(state.index.saturating_add(1));
        let last = match self.reader.at(index).await? {
            None => {
                self.log_known_to(next).await?;
                self.reader.at(next).await?
            }
            last => last,
        };
        self.checkpoints
            .begin(last.as_ref().map(|head| head.command().timestamp_us));
        if last.is_none() {
            return Err(diverged(format!(
                "it has applied {index}, which is no command of its log: the node's data directory and its SpacetimeDB do not \
                 belong together"
            )));
        }
        let position = Position(state.module);
        let head = self.reader.at(position).await?;
        let Some((publish, owner)) = head.as_ref().and_then(publication) else {
            return Err(diverged(format!(
                "its module is that of {position}, where none was published"
            )));
        };
        let module = Module::from_def(&publish.original_def)
            .map_err(|e| diverged(format!("the module at {position} can't be read: {e}")))?;
        self.is_judged = publish.judged;
        if publish.clear {
            // What came before it is not needed again.
            self.born = position;
        }
        let active = ActiveDatabase::new(self.database, publish, owner, module, position);
        // What it did to clients nobody can tell any more, if nobody has said so.
        let breaks = !publish.token.is_empty();
        Ok((Arc::new(active), Taken { breaks }, publish.clear))
    }

    /// Waits until this node knows the log up to `index`: after a start it may learn of its own log's end only from the
    /// others, while the server still has what was applied before.
    async fn log_known_to(&mut self, index: Position) -> Result<(), Interrupt> {
        while self.reader.end() < index.index() {
            self.slot.set_phase(Phase::AheadOfLog);
            tracing::warn!(
                database = self.hex(),
                applied = %index,
                log_end = self.reader.end(),
                "SpacetimeDB is ahead of the log that this node knows; waiting for the other nodes"
            );
            if let Ok(known) = rtdb_runtime::timeout(AHEAD_WARNING, self.reader.known(index.index())).await {
                known?;
            }
        }
        Ok(())
    }
}

/// Checks that what was applied is of the generation in which the log has the database: an index of another one counts
/// something else.
fn of_generation(born: Position, applied: Position) -> Result<(), String> {
    if applied.generation() == born.generation() {
        return Ok(());
    }
    Err(format!(
        "it has applied {applied}, of generation {}, and its log is of generation {}",
        applied.generation(),
        born.generation()
    ))
}

fn publication(head: &Head) -> Option<(&Publish, &Owner)> {
    match &head.command().command.body {
        Some(Body::Publish(publish)) => Some((publish, publish.owner.as_ref()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::LOG_INDEX_MAX;

    #[test]
    fn a_position_of_another_generation_is_none_of_the_log() {
        let born = Position::new(3, 0);
        for applied in [Position(0), before(born), Position::new(LOG_INDEX_MAX, 65_535)] {
            assert_eq!(of_generation(born, applied), Ok(()));
        }
        for applied in [Position::in_generation(1, 3, 0), Position(u64::MAX)] {
            assert!(of_generation(born, applied).is_err(), "{applied}");
        }
        let moved = Position::in_generation(1, 1, 0);
        assert_eq!(of_generation(moved, before(moved)), Ok(()));
        let reason = of_generation(moved, Position::new(9, 2)).unwrap_err();
        assert_eq!(
            reason,
            "it has applied 9.2, of generation 0, and its log is of generation 1"
        );
    }
}
