//! Whether a publication is taken: what the log has heard first, and what is done about it here.

use super::publish::{Judged, Publication};
use super::{Applier, Connection, Interrupt, words};
use crate::AdminError;
use crate::replica::Taken;
use bytes::Bytes;
use rtdb_consensus::command::{Body, Judgement, Publish, REFUSAL_BYTES_MAX};
use rtdb_consensus::{Position, ResolvedCommand};
use rtdb_determinism::Module;
use rtdb_runtime::Instant;
use spacetimedb_lib::{Hash, hash_bytes};
use std::sync::Arc;
use std::time::Duration;

/// Once the server has not taken for so long what the other nodes run, this one does not serve the database any more.
const UNTAKEN_MAX: Duration = Duration::from_secs(60);

impl Applier {
    /// What came of a publication, if that is decided.
    pub(super) fn judged(&self, position: Position) -> Option<Judged> {
        let here = || {
            let (_, text) = self.refused.as_ref().filter(|(of, _)| *of == position)?;
            Some(Err(text.clone()))
        };
        let judged = self.verdict.judged(position);
        judged.map(told).or_else(here)
    }

    /// Says what this node's server says of a publication, and waits for what the log has heard first.
    pub(super) async fn decide(&mut self, position: Position, word: Judged) -> Judged {
        loop {
            self.refresh_verdict();
            if let Some(judged) = self.verdict.judged(position) {
                return told(judged);
            }
            if self.verdict.is_deleted_after(position) {
                // Nothing is said of it any more, and nobody will see it.
                return word;
            }
            let Some(reports) = self
                .shared
                .reports
                .as_ref()
                .filter(|reports| reports.majority().is_some())
            else {
                if let Err(text) = &word {
                    self.refused = Some((position, text.clone()));
                }
                return word;
            };
            reports.report(Body::Judgement(Judgement {
                database: self.database.to_vec().into(),
                position: position.0,
                refusal: word.as_ref().err().map(|text| shortened(text).to_owned()),
                breaks: word.as_ref().is_ok_and(|taken| taken.breaks),
            }));
            self.verdict_changed_soon().await;
        }
    }

    /// The publication is refused: what was there before goes on, with its own module.
    pub(super) async fn turn_down(
        &mut self,
        publication: Publication<'_>,
        text: String,
        connection: Option<Connection>,
    ) -> Result<Option<Connection>, Interrupt> {
        let Publication { command, publish, .. } = publication;
        self.untaken = None;
        self.slot.published();
        let Some(mut connection) = connection else {
            self.remove().await?;
            return Ok(self.refused(text, None));
        };
        if !publish.clear {
            // As where it was tried.
            let owner = self.owner.clone();
            let index = self.settle(&mut connection, command, &owner).await?;
            if self.may_run(command.position, &publish.module).await? {
                drop(connection);
                let Some(program) = self.revert().await? else {
                    return Err(self.rebuild(command.position).await);
                };
                connection = self.connect(index, Some(program)).await?;
                self.passed_over.insert(command.position);
            }
            if let Some(state) = self.state().await? {
                self.core.counted(state.successes);
            }
        }
        Ok(self.refused(text, Some(connection)))
    }

    /// The database goes, to be made again without the command at `position`.
    pub(super) async fn rebuild(&mut self, position: Position) -> Interrupt {
        if let Err(interrupt) = self.remove().await {
            return interrupt;
        }
        self.strike(position);
        self.slot.doubt(position);
        Interrupt::Rebuild(position)
    }

    /// The command at `position` is passed over from here on: there is nothing of it on the server.
    pub(super) fn strike(&mut self, position: Position) {
        self.passed_over.insert(position);
        self.removed = Some(Instant::now());
        if position == self.born {
            // What it has cleared comes back.
            self.born = self.created;
        }
    }

    /// What came of a publication that clears a database which is set aside: nothing is removed before it is taken.
    pub(super) async fn foretold(
        &mut self,
        command: &ResolvedCommand,
        publish: &Publish,
    ) -> Result<bool, Interrupt> {
        self.refresh_verdict();
        if self.verdict.failed(command.position).is_some() {
            return Ok(false);
        }
        let (Ok(module), Some(owner)) = (Module::from_def(&publish.original_def), &publish.owner) else {
            return Ok(false);
        };
        let judged = match self.judged(command.position) {
            Some(judged) => judged,
            None => {
                self.shared.admin.up().await;
                let publication = Publication {
                    command,
                    publish,
                    owner,
                    module: &module,
                };
                let rehearsed = self.rehearse(publication).await?;
                match publish.judged {
                    true => self.decide(command.position, rehearsed).await,
                    false => rehearsed,
                }
            }
        };
        Ok(judged.is_ok())
    }

    /// Whether the module that runs here is one that the log has refused meanwhile.
    pub(super) fn runs_refused(&self) -> Option<Position> {
        let position = self.core.active().filter(|_| self.is_judged)?.position;
        matches!(self.verdict.judged(position), Some(Err(_))).then_some(position)
    }

    /// Whether the server has not taken for long what the other nodes run.
    pub(super) fn is_untaken_for_long(&self) -> bool {
        self.untaken.is_some_and(|(position, since)| {
            matches!(self.verdict.judged(position), Some(Ok(_))) && since.elapsed() >= UNTAKEN_MAX
        })
    }

    /// Whether the server may run the module of an update. It may have lost since that it was taken back.
    async fn may_run(&mut self, position: Position, module: &Bytes) -> Result<bool, AdminError> {
        let runs = self.runs(hash_bytes(module)).await?;
        Ok(runs.unwrap_or_else(|| !self.passed_over.contains(&position)))
    }

    /// An update may be in place that is refused: the module before it comes back, if the server lets it. Gives its hash.
    async fn revert(&mut self) -> Result<Option<Hash>, Interrupt> {
        let Some(active) = self.core.active() else {
            return Ok(None);
        };
        let head = self.reader.at(active.position).await?;
        let Some(Body::Publish(before)) = head
            .as_ref()
            .and_then(|head| head.command().command.body.as_ref())
        else {
            return Ok(None);
        };
        let module = before.module.clone();
        let program = hash_bytes(&module);
        match self.exchange(&active.owner, module, active.program).await {
            Ok(_) => Ok(Some(program)),
            Err(AdminError::Refused { status, text }) if words::is_of_module(status, &text) => {
                tracing::error!(
                    database = self.hex(),
                    text,
                    "SpacetimeDB does not take back the module before one that is refused: the database is made again"
                );
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }
}

fn told(judged: &Result<Taken, Arc<str>>) -> Judged {
    judged.clone().map_err(|text| text.to_string())
}

/// As much of a text as fits into a judgement.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(REFUSAL_BYTES_MAX)]
}
