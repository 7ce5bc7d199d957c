//! Carries one database's commands from the log into the local server.
//!
//! `reader` takes them off the log, `core` decides (pure), `connection` sends and receives, `recover` finds out where to
//! go on, `publish` exchanges the module under way, `poison` finds out which command stops the server, and `stuck` is what
//! is done about it.

mod args;
mod calls;
mod checkpoint;
mod connection;
mod core;
mod held;
mod poison;
mod publish;
mod reader;
mod recover;
mod stuck;
mod verify;
mod window;
mod words;

use self::checkpoint::Checkpoints;
pub(crate) use self::connection::{Connection, ConnectionError};
use self::core::{Core, Violation};
use self::held::Held;
use self::poison::Poison;
use self::reader::{Head, Reader};
use self::window::Told;
use crate::replica::{Found, Shared, Slot, Verdict, Verdicts, Witnesses};
use crate::{AdminError, DatabaseId, Fatal, Phase, Quarantine};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Either, select};
use rtdb_consensus::command::{Body, Owner, Trapped};
use rtdb_consensus::{Holding, Position, ReadError, ResolvedCommand};
use rtdb_protocol::FrameError;
use spacetimedb_lib::Identity;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{OwnedMutexGuard, watch};

/// The pause before a lost connection is tried again: doubles from the first to the second.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// How often it is looked at how long the first of the calls under way has been running.
const RESULT_POLL: Duration = Duration::from_millis(500);
/// A call that runs for so long may have run out of energy, of which 1.2.0 says nothing.
const FENCE_AFTER: Duration = Duration::from_secs(5);
/// Payloads that are handled in one go, before more calls are sent.
const PAYLOADS_MAX: usize = 256;
/// While so many results are still to come, they are let gather for a moment before they are handled, so that they are
/// read, told and answered many at a time; the server has enough to do meanwhile.
const GATHER_FROM: usize = 256;
/// The moment.
const GATHER: Duration = Duration::from_millis(1);
/// Violations in a row, without a result in between, that set the database aside: a server that breaks off while it stops is
/// forgiven.
const VIOLATIONS_MAX: u32 = 3;

/// The applier of one database.
pub(crate) struct Applier {
    database: DatabaseId,
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    reader: Reader,
    core: Core,
    checkpoints: Checkpoints,
    /// Whether what the server has must go first: it is of before `born`.
    is_stale: bool,
    /// The position after which the database, as it is now, began: what to read again if the server lost it.
    born: Position,
    owner: Owner,
    /// The last `Publish` that the server refused, and its words: it is not asked again.
    refused: Option<(Position, String)>,
    /// What the server has said of the database's files.
    damage: words::Damage,
    /// The life of the server that is connected to.
    life: u64,
    poison: Poison,
    verdicts: watch::Receiver<Verdicts>,
    /// What the log says of this database's commands.
    verdict: Arc<Verdict>,
    /// The commands that have failed by decision, as far as this applier has passed over them.
    passed_over: BTreeSet<Position>,
    /// Answers that a majority has to confirm.
    held: Held,
    witnesses: watch::Receiver<Witnesses>,
    /// Since when the server has not taken the publication at a position.
    untaken: Option<(Position, Instant)>,
    /// Held while a command that may be poison is alone on its way.
    turn: Option<OwnedMutexGuard<()>>,
}

/// Why applying stopped.
#[derive(Debug, Error)]
enum Interrupt {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Violation(Violation),
    /// The server did as it does: what came of the calls, the database says.
    #[error("{0}")]
    Unanswered(Violation),
    #[error("the call at {position} has run for {ran:?}, and may for {max:?}")]
    Overlong {
        position: Position,
        ran: Duration,
        max: Duration,
    },
    #[error("the command at {0} has failed by decision: the database is made again, without it")]
    Rebuild(Position),
    #[error("SpacetimeDB does not take a module: {0}")]
    Untaken(String),
    #[error("{0}")]
    Quarantine(Quarantine),
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl From<FrameError> for Interrupt {
    fn from(error: FrameError) -> Self {
        Self::Connection(error.into())
    }
}

impl From<Violation> for Interrupt {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Unanswered { .. } => Self::Unanswered(violation),
            violation => Self::Violation(violation),
        }
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
        let (verdicts, witnesses) = (shared.verdicts.subscribe(), slot.witnesses.subscribe());
        Self {
            database,
            shared,
            slot,
            reader,
            core: Core::default(),
            checkpoints: Checkpoints::default(),
            is_stale: false,
            born,
            owner,
            refused: None,
            damage: words::Damage::default(),
            life: 0,
            poison: Poison::default(),
            verdicts,
            verdict: Arc::default(),
            passed_over: BTreeSet::new(),
            held: Held::default(),
            witnesses,
            untaken: None,
            turn: None,
        }
    }

    /// Applies for as long as it is polled, or until the node must stop.
    pub(crate) async fn run(mut self) {
        let mut pause = BACK_OFF_MIN;
        let (mut progress, mut violations) = (self.core.completed(), 0);
        self.refresh_verdict();
        if let Some(position) = self.verdict.stuck() {
            // An earlier life has promised not to try it.
            self.take_back(position).await;
        }
        let mut quarantine = self.slot.quarantine();
        loop {
            let interrupt = {
                let served = std::pin::pin!(self.serve());
                let aside = std::pin::pin!(quarantine.wait_for(Option::is_some));
                match select(served, aside).await {
                    Either::Left((Err(interrupt), _)) => interrupt,
                    Either::Right((why, _)) => match why.ok().and_then(|why| why.clone()) {
                        Some(why) => Interrupt::Quarantine(why),
                        // The slot is ours: it does not go before we do.
                        None => return,
                    },
                }
            };
            self.turn = None;
            self.blame(&interrupt);
            if self.core.completed() > progress {
                progress = self.core.completed();
                (pause, violations) = (BACK_OFF_MIN, 0);
            }
            let why = match interrupt {
                Interrupt::Fatal(fatal) => return self.shared.fail(fatal),
                Interrupt::Quarantine(why) => Some(why),
                Interrupt::Violation(skipped @ Violation::Skipped { .. }) => {
                    self.retry(&skipped, pause);
                    None
                }
                Interrupt::Violation(violation) => {
                    violations += 1;
                    self.retry(&violation, pause);
                    (violations >= VIOLATIONS_MAX).then(|| Quarantine::Misbehaves(violation.to_string()))
                }
                Interrupt::Untaken(text) => {
                    let refuses = self
                        .is_untaken_for_long()
                        .then(|| Quarantine::Refuses(text.clone()));
                    self.retry(&Interrupt::Untaken(text), pause);
                    refuses
                }
                interrupt => {
                    self.retry(&interrupt, pause);
                    None
                }
            };
            if let Some(why) = why {
                match self.stand_aside(why).await {
                    Ok(()) => {
                        self.slot.take_back();
                        (pause, violations) = (BACK_OFF_MIN, 0);
                    }
                    Err(e) => return self.shared.fail(e.into()),
                }
                continue;
            }
            match self.poison.stuck() {
                Some(stuck) => self.stuck(stuck).await,
                None => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    /// Notes which commands were on their way when the server was stopped, and stops it if one takes too long.
    fn blame(&mut self, interrupt: &Interrupt) {
        let overlong = match interrupt {
            Interrupt::Overlong { .. } | Interrupt::Connection(ConnectionError::Overlong(_)) => true,
            Interrupt::Connection(_) | Interrupt::Admin(AdminError::Http(_)) => false,
            _ => return,
        };
        // A module that the server can't load kills it whenever the database is looked at.
        let published = || self.core.unsettled_publication().map(|at| (at, at));
        let Some((first, last)) = self.core.window().under_way().or_else(published) else {
            return;
        };
        if overlong {
            self.slot.count_overlong();
            let why = format!("database {}: {interrupt}", self.hex());
            if !self.shared.admin.server().end_life(self.life, why) {
                tracing::error!(database = self.hex(), error = %interrupt, "the connection to SpacetimeDB is closed");
            }
            // The calls behind it have not run.
            self.poison.stopped(first, first);
        } else {
            self.poison.stopped(first, last);
        }
    }

    fn retry(&mut self, error: &dyn std::error::Error, pause: Duration) {
        tracing::warn!(database = self.hex(), %error, ?pause, "applying was interrupted; trying again");
        self.slot.set_phase(Phase::Retrying(error.to_string()));
        self.core.lost();
        self.report();
    }

    /// Neither applies nor serves the database: whoever waits hears that the outcome is unknown here. Ends before a command
    /// that makes the database anew.
    async fn stand_aside(&mut self, why: Quarantine) -> Result<(), ReadError> {
        self.slot.set_aside(why.clone());
        tracing::error!(
            database = self.hex(),
            "the database is set aside on this node: {why}"
        );
        self.slot.set_phase(Phase::Quarantined(why.clone()));
        self.shared.deactivate(&self.database);
        self.core.lost();
        self.core.set_aside();
        self.tell(|held| held.give_up());
        let end = why.pause().map(|pause| tokio::time::Instant::now() + pause);
        loop {
            while let Some(head) = self.reader.head() {
                let is_anew = match &head.command().command.body {
                    Some(Body::Publish(publish)) => publish.clear,
                    Some(Body::Delete(_)) => true,
                    _ => false,
                };
                if is_anew && why.ends_anew() {
                    (self.born, self.is_stale) = (head.command().position, true);
                    return Ok(());
                }
                self.core.pass(head.command());
                self.reader.advance();
                self.report();
            }
            self.report();
            let Some(end) = end else {
                self.reader.more().await?;
                continue;
            };
            match tokio::time::timeout_at(end, self.reader.more()).await {
                Ok(more) => more?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// Finds out where to go on, and goes on.
    async fn serve(&mut self) -> Result<Infallible, Interrupt> {
        if self.is_stale {
            self.shared.admin.server().up().await;
            self.remove().await?;
            self.is_stale = false;
        }
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
            if let Some(Body::Verify(verify)) = &head.command().command.body {
                self.verify(head.command(), verify, connection.is_some()).await?;
                self.reader.advance();
                self.report();
                continue;
            }
            connection = match &head.command().command.body {
                Some(Body::Publish(publish)) => match self.verdict.failed(head.command().position) {
                    None => self.publish(head.command(), publish, connection).await?,
                    Some(why) => {
                        self.pass_over_publication(head.command(), publish, connection, why)
                            .await?
                    }
                },
                Some(Body::Poison(poison)) => self.settle_poison(head.command(), poison, connection).await?,
                Some(Body::Delete(_)) => self.delete(head.command()).await?,
                _ => {
                    return Err(Fatal::NewerCommand {
                        position: head.command().position,
                    }
                    .into());
                }
            };
            self.checkpoints.took(head.command().timestamp_us);
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
                self.take_turn(connection).await?;
            }
            let alone = self.fill(connection);
            if let Some(position) = self.runs_refused() {
                return Err(self.rebuild(position).await);
            }
            self.report();
            if self.core.window().is_empty() && self.is_checkpoint_due() {
                self.check().await?;
                continue;
            }
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
                // The sender lives as long as the slot.
                Ok(()) = self.witnesses.changed(), if self.held.is_waiting() => {}
                _ = poll.tick() => {
                    let (ran, max) = (last_result.elapsed(), self.shared.admin.call_time_max());
                    if let Some(first) = self.core.window().first().filter(|_| ran >= max) {
                        return Err(Interrupt::Overlong { position: first.position, ran, max });
                    }
                    if ran >= FENCE_AFTER && connection.may_leave_calls_unanswered() {
                        self.core.fence(&mut connection.calls);
                    }
                    // The log rests, here as on the other nodes.
                    if self.core.window().is_empty() && self.reader.peek().is_none() && self.checkpoints.is_dirty() {
                        self.check().await?;
                    }
                }
            }
        }
    }

    /// Before a command that may stop the server is sent: waits until no other database's is on its way, so that it is
    /// known which one it was.
    async fn take_turn(&mut self, connection: &mut Connection) -> Result<(), Interrupt> {
        self.turn = None;
        let next = self.reader.peek().map(|command| command.position);
        if !next.is_some_and(|next| self.poison.is_suspect(next)) {
            return Ok(());
        }
        let mut turn = pin!(self.shared.turns.clone().lock_owned());
        loop {
            tokio::select! {
                turn = &mut turn => {
                    self.turn = Some(turn);
                    return Ok(());
                }
                payload = connection.next() => self.results(connection, payload?)?,
            }
        }
    }

    /// Takes commands from the log into the window while there is room; stops at one that must be alone.
    fn fill(&mut self, connection: &mut Connection) -> Option<Head> {
        if self.verdicts.has_changed().is_ok_and(|changed| changed) {
            self.refresh_verdict();
        }
        while self.core.window().has_room() {
            let command = self.reader.peek()?;
            if self.checkpoints.is_due(command.timestamp_us) {
                return None;
            }
            if is_alone(command) {
                return self.reader.head();
            }
            let on_its_way = self.core.window().first().map(|open| open.position);
            let mut either = [Some(command.position), on_its_way].into_iter().flatten();
            if on_its_way.is_some() && either.any(|position| self.poison.is_suspect(position)) {
                return None;
            }
            match self.verdict.failed(command.position) {
                None => {
                    self.checkpoints.took(command.timestamp_us);
                    self.core.take(command, &mut connection.calls);
                }
                Some(why) => {
                    self.passed_over.insert(command.position);
                    self.core.pass_over(command, why, &mut connection.calls);
                }
            }
            self.reader.advance();
        }
        None
    }

    fn is_checkpoint_due(&mut self) -> bool {
        let next = self.reader.peek().map(|command| command.timestamp_us);
        next.is_some_and(|next_us| self.checkpoints.is_due(next_us))
    }

    /// Looks at what the replica holds, with nothing under way.
    async fn check(&mut self) -> Result<(), Interrupt> {
        let held = self.state().await?.map(|state| Holding {
            position: state.index,
            digest: state.digest,
        });
        if let Some(news) = self.checkpoints.found(held) {
            let of_rows = false;
            self.slot.hold(Found { held: news, of_rows });
        }
        Ok(())
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
        let majority = self
            .shared
            .reports
            .as_ref()
            .and_then(|reports| reports.majority());
        for told in self.core.told() {
            match told.doubtful.filter(|_| majority.is_some()) {
                Some(position) => {
                    let is_own = told.origin.node == self.shared.node;
                    self.held.take(position, is_own.then_some(told), Instant::now());
                }
                None => self.shared.follow.complete(told.origin, told.seq, told.outcome),
            }
        }
        self.say_trapped();
        if self.held.is_waiting() {
            let witnesses = self.witnesses.borrow_and_update();
            let is_shared = |position| majority.is_none_or(|majority| witnesses.count(position) >= majority);
            let settled = self.held.settled(Instant::now(), is_shared);
            drop(witnesses);
            self.tell(|_| settled);
        }
        let passed = self.reader.passed();
        self.slot.set_reach(self.reader.reached(), self.core.succeeded());
        let open = self.core.first_open();
        let done = open.map_or(passed, |open| passed.min(open.index().saturating_sub(1)));
        self.poison.done(open.map_or(self.core.completed(), before));
        let window = self.core.window();
        self.slot
            .set_progress(done, self.core.completed(), window.len(), window.bytes());
        self.shared.report_applied();
    }

    /// Tells what is held no longer.
    fn tell(&mut self, settled: impl FnOnce(&mut Held) -> Vec<Told>) {
        for told in settled(&mut self.held) {
            self.shared.follow.complete(told.origin, told.seq, told.outcome);
        }
    }

    /// Says to the others which calls the server did not run to their end.
    fn say_trapped(&mut self) {
        let Some(reports) = &self.shared.reports else {
            return;
        };
        while let Some(positions) = self.held.unsaid() {
            let count = positions.len();
            let database = self.database.to_vec().into();
            if !reports.report(Body::Trapped(Trapped { database, positions })) {
                return;
            }
            self.held.said(count);
        }
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
        None | Some(Body::Publish(_) | Body::Delete(_) | Body::Poison(_) | Body::Verify(_))
    )
}
