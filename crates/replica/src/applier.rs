//! Carries one database's commands from the log into the local server.
//!
//! `reader` takes them off the log, `core` decides (pure), `connection` sends and receives, `recover` finds out where to
//! go on, `publish` exchanges the module under way.

mod args;
mod calls;
mod connection;
mod core;
mod publish;
mod reader;
mod recover;
mod window;
mod words;

use self::connection::{Connection, ConnectionError};
use self::core::{Core, Violation};
use self::reader::{Head, Reader};
use crate::replica::{Shared, Slot};
use crate::{AdminError, DatabaseId, Fatal, Phase};
use bytes::Bytes;
use futures::FutureExt;
use rtdb_consensus::command::{Body, Owner};
use rtdb_consensus::{Position, ReadError, ResolvedCommand};
use rtdb_protocol::FrameError;
use spacetimedb_lib::Identity;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The pause before a lost connection is tried again: doubles from the first to the second.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// How long the server may take for the first of the calls under way before the connection is given up. Calls that
/// were applied meanwhile are not applied again.
const RESULT_TIMEOUT: Duration = Duration::from_secs(120);
/// How often that is looked at.
const RESULT_POLL: Duration = Duration::from_secs(5);
/// Payloads that are handled in one go, before more calls are sent.
const PAYLOADS_MAX: usize = 256;
/// While so many results are still to come, they are let gather for a moment before they are handled, so that they are
/// read, told and answered many at a time; the server has enough to do meanwhile.
const GATHER_FROM: usize = 256;
/// The moment.
const GATHER: Duration = Duration::from_millis(1);
/// Violations in a row, without a result in between, that stop the node: a server that breaks off while it stops is
/// forgiven.
const VIOLATIONS_MAX: u32 = 3;

/// The applier of one database.
pub(crate) struct Applier {
    database: DatabaseId,
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    reader: Reader,
    core: Core,
    /// The position after which the database, as it is now, began: what to read again if the server lost it.
    born: Position,
    owner: Owner,
    /// The last `Publish` that the server refused, and its words: it is not asked again.
    refused: Option<(Position, String)>,
    /// What the server has said of the database's files.
    damage: words::Damage,
}

/// Why applying stopped.
#[derive(Debug, Error)]
enum Interrupt {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("no result for {RESULT_TIMEOUT:?}")]
    ResultTimeout,
    #[error("the module was refused: {0}")]
    ModuleRefused(String),
    #[error("SpacetimeDB has troubles of its own: {0}")]
    Troubled(String),
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl From<FrameError> for Interrupt {
    fn from(error: FrameError) -> Self {
        Self::Connection(error.into())
    }
}

impl From<ReadError> for Interrupt {
    fn from(error: ReadError) -> Self {
        Self::Fatal(error.into())
    }
}

impl Applier {
    /// An applier for a database which, if the server does not have it, begins with the command at `born`.
    pub(crate) fn new(shared: Arc<Shared>, slot: Arc<Slot>, born: Position, owner: Owner) -> Self {
        let database = slot.identity;
        let reader = Reader::new(shared.follow.clone(), database, before(born));
        Self {
            database,
            shared,
            slot,
            reader,
            core: Core::default(),
            born,
            owner,
            refused: None,
            damage: words::Damage::default(),
        }
    }

    /// Applies for as long as it is polled, or until the node must stop.
    pub(crate) async fn run(mut self) {
        let mut pause = BACK_OFF_MIN;
        let (mut progress, mut violations) = (self.core.completed(), 0);
        loop {
            let Err(interrupt) = self.serve().await;
            if self.core.completed() > progress {
                progress = self.core.completed();
                (pause, violations) = (BACK_OFF_MIN, 0);
            }
            let fatal = match interrupt {
                Interrupt::Fatal(fatal) => Some(fatal),
                Interrupt::Violation(violation) => {
                    violations += 1;
                    (violations >= VIOLATIONS_MAX)
                        .then(|| Fatal::Misbehaves {
                            database: self.hex(),
                            reason: violation.to_string(),
                        })
                        .or_else(|| self.retry(&violation, pause))
                }
                interrupt => self.retry(&interrupt, pause),
            };
            if let Some(fatal) = fatal {
                return self.shared.fail(fatal);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    fn retry(&mut self, error: &dyn std::error::Error, pause: Duration) -> Option<Fatal> {
        tracing::warn!(database = self.hex(), %error, ?pause, "applying was interrupted; trying again");
        self.slot.set_phase(Phase::Retrying(error.to_string()));
        self.core.lost();
        self.report();
        None
    }

    /// Finds out where to go on, and goes on.
    async fn serve(&mut self) -> Result<Infallible, Interrupt> {
        let mut connection = self.recover().await?;
        loop {
            self.slot.set_phase(if connection.is_some() {
                Phase::Applying
            } else {
                Phase::Absent
            });
            let head = match &mut connection {
                Some(connection) => self.pump(connection).await?,
                None => self.skim().await?,
            };
            connection = match &head.command().command.body {
                Some(Body::Publish(publish)) => self.publish(head.command(), publish, connection).await?,
                Some(Body::Delete(_)) => self.delete(head.command()).await?,
                _ => {
                    return Err(Fatal::NewerCommand {
                        position: head.command().position,
                    }
                    .into());
                }
            };
            self.reader.advance();
            self.report();
        }
    }

    /// Applies commands until one comes that must be alone, and everything before it is done.
    async fn pump(&mut self, connection: &mut Connection) -> Result<Head, Interrupt> {
        let mut poll = tokio::time::interval(RESULT_POLL);
        let mut last_result = Instant::now();
        let mut gathers = false;
        loop {
            if self.core.window().is_empty() {
                last_result = Instant::now();
            }
            let alone = self.fill(connection);
            self.report();
            if let Some(head) = alone.filter(|_| self.core.window().is_empty()) {
                return Ok(head);
            }
            if std::mem::take(&mut gathers) {
                connection.send_for(GATHER).await?;
            }
            tokio::select! {
                biased;
                payload = connection.next() => {
                    self.results(connection, payload?)?;
                    last_result = Instant::now();
                    gathers = self.core.window().len() >= GATHER_FROM;
                }
                read = self.reader.more(), if self.reader.is_empty() => read?,
                _ = poll.tick() => {
                    if last_result.elapsed() >= RESULT_TIMEOUT {
                        return Err(Interrupt::ResultTimeout);
                    }
                }
            }
        }
    }

    /// Takes commands from the log into the window while there is room; stops at one that must be alone.
    fn fill(&mut self, connection: &mut Connection) -> Option<Head> {
        while self.core.window().has_room() {
            let command = self.reader.peek()?;
            if is_alone(command) {
                return self.reader.head();
            }
            self.core.take(command, &mut connection.calls);
            self.reader.advance();
        }
        None
    }

    /// Handles a payload, and what else has come by now.
    fn results(&mut self, connection: &mut Connection, payload: Bytes) -> Result<(), Interrupt> {
        let mut payload = Some(Ok(payload));
        for _ in 0..PAYLOADS_MAX {
            let Some(received) = payload.take() else { break };
            for result in connection.results(received?) {
                self.core.result(result?)?;
            }
            payload = connection.next().now_or_never();
        }
        match payload {
            Some(received) => self.results_last(connection, received?),
            None => Ok(()),
        }
    }

    fn results_last(&mut self, connection: &Connection, payload: Bytes) -> Result<(), Interrupt> {
        connection
            .results(payload)
            .try_for_each(|result| Ok(self.core.result(result?)?))
    }

    /// Answers commands for a database that does not exist, until one comes that may create it.
    async fn skim(&mut self) -> Result<Head, Interrupt> {
        let mut nothing = calls::Calls::new(rtdb_protocol::Subprotocol::V3);
        loop {
            while let Some(head) = self.reader.head() {
                if is_alone(head.command()) {
                    return Ok(head);
                }
                self.core.take(head.command(), &mut nothing);
                self.reader.advance();
                self.report();
            }
            self.report();
            self.reader.more().await?;
        }
    }

    /// Tells outcomes, and how far we are.
    fn report(&mut self) {
        for told in self.core.told() {
            self.shared.follow.complete(told.origin, told.seq, told.outcome);
        }
        let passed = self.reader.passed();
        self.slot.set_reach(self.reader.reached(), self.core.succeeded());
        let window = self.core.window();
        let done = window
            .first()
            .map_or(passed, |open| passed.min(open.position.index().saturating_sub(1)));
        self.slot
            .set_progress(done, self.core.completed(), window.len(), window.bytes());
        self.shared.report_applied();
    }

    fn hex(&self) -> String {
        hex(&self.database)
    }
}

/// A database's identity as people write it.
fn hex(database: &DatabaseId) -> String {
    Identity::from_byte_array(*database).to_hex().to_string()
}

/// The position after which `position` is the next.
fn before(position: Position) -> Position {
    Position(position.0.saturating_sub(1))
}

/// Whether a command is carried out with nothing else under way.
fn is_alone(command: &ResolvedCommand) -> bool {
    matches!(
        command.command.body,
        None | Some(Body::Publish(_) | Body::Delete(_))
    )
}
