//! Carries one database's commands from the log into the local server.
//!
//! `reader` takes them off the log, `core` decides (pure), `pump` moves them, `connection` sends and receives, `recover`
//! finds out where to go on, `publish` exchanges the module under way, `update` by its owner's token, `judge` goes by what
//! the log says of it, `load` takes the rows of a restored one, `held` keeps answers until a majority has them, `poison` finds out which command stops the server,
//! `stuck` is what is done about it, `write` changes rows as their owner says, and `turn` waits for a procedure.

mod args;
mod back_off;
mod calls;
mod checkpoint;
mod connection;
mod core;
mod held;
mod judge;
mod load;
mod poison;
mod publish;
mod pump;
mod reader;
mod recover;
mod stuck;
mod turn;
mod update;
mod verify;
mod window;
mod words;
mod write;

pub(crate) use self::args::columns;
use self::back_off::BackOff;
use self::checkpoint::Checkpoints;
pub(crate) use self::connection::Connection;
pub use self::connection::ConnectionError;
pub(crate) use self::core::absent;
use self::core::{Core, Violation};
use self::held::Held;
use self::load::Loading;
pub(crate) use self::load::load_fits;
use self::poison::Poison;
pub(crate) use self::reader::database_of;
use self::reader::{Head, Reader};
pub use self::turn::TURN_MAX;
use self::window::Kind;
use self::write::Counting;
pub use self::write::{WRITE_ROWS_MAX, write_too_large};
use crate::replica::{Shared, Slot, Verdict, Verdicts, Witnesses};
use crate::{AdminError, DatabaseId, Fatal, Phase, Quarantine};
use futures::future::{Either, OptionFuture, select};
use rtdb_consensus::command::{Body, Owner};
use rtdb_consensus::{Position, ReadError, ResolvedCommand};
use rtdb_protocol::FrameError;
use rtdb_runtime::Instant;
use spacetimedb_lib::Identity;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{OwnedMutexGuard, watch};

/// Violations in a row, without a result in between, that set the database aside: a server that breaks off while it stops is
/// forgiven.
const VIOLATIONS_MAX: u32 = 3;

/// A server that is stopped so soon after it has removed a database may have it again, with all that is to be passed over:
/// twenty times as long as it takes until that is on disk.
const REMOVAL_LOST_MAX: Duration = Duration::from_secs(1);

/// What is heard on a node that has set the database aside.
const SET_ASIDE: &str = "this node's replica of the database is set aside; the other nodes apply the command";

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
    /// Where it began before it was cleared: what to read again if that publication has failed after all.
    created: Position,
    /// Whether the log says if the module that runs is taken.
    is_judged: bool,
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
    /// When the database was last removed, to be made again without one of them.
    removed: Option<Instant>,
    /// Answers that a majority has to confirm.
    held: Held,
    witnesses: watch::Receiver<Witnesses>,
    /// Since when the server has not taken the publication at a position.
    untaken: Option<(Position, Instant)>,
    /// The write whose rows are counted.
    counting: Option<Counting>,
    /// Where rows were to be read last, and how often that was begun.
    reads: (Position, u32),
    /// The database that is being restored, as long as its rows come.
    loading: Option<Loading>,
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
    #[error("the database was deleted at {0}")]
    Deleted(Position),
    #[error("SpacetimeDB does not take a module: {0}")]
    Untaken(String),
    #[error("SpacetimeDB has given a new database the files of an earlier one, which has gone again")]
    NotEmpty,
    #[error("{0}")]
    Quarantine(Quarantine),
    #[error("the database is set aside")]
    Aside,
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
            created: born,
            is_judged: false,
            owner,
            refused: None,
            damage: words::Damage::default(),
            life: 0,
            poison: Poison::default(),
            verdicts,
            verdict: Arc::default(),
            passed_over: BTreeSet::new(),
            removed: None,
            held: Held::default(),
            witnesses,
            untaken: None,
            counting: None,
            reads: (Position::default(), 0),
            loading: None,
            turn: None,
        }
    }

    /// Applies for as long as it is polled, or until the node must stop or the database is deleted. Gives back where it is.
    pub(crate) async fn run(mut self) -> Option<Position> {
        let mut back_off = BackOff::default();
        let (mut progress, mut violations) = ((self.core.completed(), self.slot.done()), 0);
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
                    Either::Right((Ok(_), _)) => Interrupt::Aside,
                    // The slot is ours: it does not go before we do.
                    Either::Right((Err(_), _)) => return None,
                }
            };
            self.blame(&interrupt);
            let is_refused = matches!(
                interrupt,
                Interrupt::Untaken(_) | Interrupt::Admin(AdminError::Refused { .. })
            );
            self.turn = None;
            // What is applied once more, to a server that has lost it, was completed long ago.
            let reached = (self.core.completed(), self.slot.done());
            if reached.0 > progress.0 || reached.1 > progress.1 {
                back_off.restart();
                violations = 0;
            }
            progress = reached;
            if let Interrupt::Unanswered(Violation::Unanswered { position }) = interrupt {
                back_off.unanswered(position);
            }
            let pause = back_off.pause();
            match interrupt {
                Interrupt::Fatal(fatal) => {
                    self.shared.fail(fatal);
                    return None;
                }
                Interrupt::Deleted(position) => {
                    // Nobody says anything more of what is held.
                    self.tell(|held| held.give_up());
                    return self.end(position).await;
                }
                Interrupt::Aside => self.core.lost(),
                Interrupt::Quarantine(why) => {
                    self.slot.set_aside(why);
                    self.core.lost();
                }
                Interrupt::Violation(skipped @ Violation::Skipped { .. }) => self.retry(&skipped, pause),
                Interrupt::Violation(violation) => {
                    violations += 1;
                    self.retry(&violation, pause);
                    if violations >= VIOLATIONS_MAX {
                        self.slot.set_aside(Quarantine::Misbehaves(violation.to_string()));
                    }
                }
                Interrupt::Untaken(text) => {
                    let is_for_long = self.is_untaken_for_long();
                    self.retry(&Interrupt::Untaken(text.clone()), pause);
                    if is_for_long {
                        self.slot.set_aside(Quarantine::Refuses(text));
                    }
                }
                interrupt => self.retry(&interrupt, pause),
            }
            // The log may have taken back by now what was found.
            let aside = quarantine.borrow().clone();
            if let Some(why) = aside {
                match self.stand_aside(why).await {
                    Ok(None) => {
                        back_off.restart();
                        violations = 0;
                    }
                    Ok(Some(deleted)) => return self.end(deleted).await,
                    Err(e) => {
                        self.shared.fail(e.into());
                        return None;
                    }
                }
                continue;
            }
            let stuck = self.poison.stuck();
            if let Some(stuck) = stuck {
                self.stuck(stuck).await;
            }
            if self.is_in_vain(is_refused) {
                if let Err(e) = self.leave_out().await {
                    self.shared.fail(e.into());
                    return None;
                }
            } else if stuck.is_none() {
                rtdb_runtime::sleep(pause).await;
            }
            back_off.grow();
        }
    }

    /// The database is deleted at `position`. The scout has to hear of it first, or else it would take what stands before it
    /// for another database's.
    async fn end(&mut self, position: Position) -> Option<Position> {
        self.shared.scouted(position).await;
        Some(position)
    }

    /// Notes which commands were on their way when the server was stopped, and stops it if one takes too long.
    fn blame(&mut self, interrupt: &Interrupt) {
        let overlong = match interrupt {
            Interrupt::Overlong { .. } | Interrupt::Connection(ConnectionError::Overlong(_)) => true,
            Interrupt::Connection(_) | Interrupt::Admin(AdminError::Http(_)) => false,
            _ => return,
        };
        let is_lost = |removed: Instant| removed.elapsed() < REMOVAL_LOST_MAX;
        if self.removed.take().is_some_and(is_lost) {
            self.passed_over.clear();
        }
        // A module that the server can't load kills it whenever the database is looked at.
        let published = || self.core.unsettled_publication().map(|at| (at, at));
        let under_way = self.core.window().under_way().or_else(published);
        // The commands before it have run, and those behind it have not.
        let is_views = self
            .core
            .window()
            .first()
            .is_some_and(|open| open.kind == Kind::Refresh);
        if under_way.is_none() && !is_views {
            return;
        }
        if is_views {
            self.slot.views.refresh_failed();
        }
        if overlong {
            self.slot.count_overlong();
            let why = format!("database {}: {interrupt}", self.hex());
            if !self.shared.admin.server().end_life(self.life, why) {
                tracing::error!(database = self.hex(), error = %interrupt, "the connection to SpacetimeDB is closed");
            }
        }
        match under_way.filter(|_| !is_views) {
            // The calls behind it have not run.
            Some((first, _)) if overlong => self.poison.stopped(first, first, true),
            // Without the turn, another database's command may have stopped the server.
            Some((first, last)) => self.poison.stopped(first, last, self.turn.is_some()),
            None => {}
        }
    }

    fn retry(&mut self, error: &dyn std::error::Error, pause: Duration) {
        tracing::warn!(database = self.hex(), %error, ?pause, "applying was interrupted; trying again");
        self.slot.set_phase(Phase::Retrying(error.to_string()));
        self.core.lost();
        self.report();
    }

    /// Neither applies nor serves the database: whoever waits hears that the outcome is unknown here. Ends before a command
    /// that makes the database anew, where the database is deleted of which this server has another, and when the log takes
    /// back what the database is set aside for.
    async fn stand_aside(&mut self, why: Quarantine) -> Result<Option<Position>, ReadError> {
        tracing::error!(
            database = self.hex(),
            "the database is set aside on this node: {why}"
        );
        self.slot.set_phase(Phase::Quarantined(why.clone()));
        self.give_up(SET_ASIDE);
        let end = why.pause().map(|pause| Instant::now() + pause);
        let mut quarantine = self.slot.quarantine();
        loop {
            while let Some(head) = self.reader.head() {
                // What the log took back before this command came to it is over for this command.
                if quarantine.borrow().is_none() {
                    break;
                }
                let command = head.command();
                // What the server does not take makes nothing anew.
                let is_untaken = self.untaken.is_some_and(|(of, _)| of == command.position);
                let is_anew = why.ends_anew()
                    && !is_untaken
                    && match &command.command.body {
                        Some(Body::Publish(publish)) if publish.clear => {
                            match self.foretold(command, publish).await {
                                Ok(taken) => taken,
                                Err(interrupt) => {
                                    tracing::warn!(database = self.hex(), error = %interrupt, "a publication is tried again");
                                    rtdb_runtime::sleep(back_off::MAX).await;
                                    continue;
                                }
                            }
                        }
                        Some(Body::Delete(_)) => true,
                        _ => false,
                    };
                if is_anew {
                    (self.born, self.is_stale) = (command.position, true);
                    self.slot.take_back();
                    return Ok(None);
                }
                self.core.pass(command, SET_ASIDE);
                self.reader.advance();
                self.report();
                if let Some(Body::Delete(_)) = &command.command.body {
                    return Ok(Some(command.position));
                }
            }
            self.report();
            rtdb_runtime::select! {
                _ = quarantine.wait_for(Option::is_none) => {
                    tracing::info!(database = self.hex(), "the database is not set aside any more");
                    return Ok(None);
                }
                more = self.reader.more() => more?,
                Some(()) = OptionFuture::from(end.map(rtdb_runtime::sleep_until)) => {
                    self.slot.take_back();
                    return Ok(None);
                }
            }
        }
    }

    /// The database is neither applied nor served any more: of what was under way nobody will know on this node.
    fn give_up(&mut self, why: &'static str) {
        self.shared.deactivate(&self.database);
        self.slot.forget_calls();
        self.core.give_up(why);
        self.tell(|held| held.give_up());
    }

    /// Finds out where to go on, and goes on.
    async fn serve(&mut self) -> Result<Infallible, Interrupt> {
        if self.is_stale {
            self.shared.admin.up().await;
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
            if let Some(Body::Publish(_) | Body::Write(_) | Body::Turn(_) | Body::Load(_)) =
                &head.command().command.body
            {
                self.take_turn_for(head.command().position).await;
            }
            connection = match &head.command().command.body {
                Some(Body::Publish(publish)) => match self.verdict.failed(head.command().position) {
                    None => self.publish(head.command(), publish, connection).await?,
                    Some(why) => {
                        self.pass_over_publication(head.command(), publish, connection, why)
                            .await?
                    }
                },
                Some(Body::Write(write)) => self.write(head.command(), write, connection).await?,
                Some(Body::Turn(turn)) => self.turn(head.command(), turn, connection).await?,
                Some(Body::Load(load)) => self.load(head.command(), load, connection).await?,
                Some(Body::Poison(poison)) => self.settle_poison(head.command(), poison, connection).await?,
                Some(Body::Delete(_)) => self.delete(head.command()).await?,
                _ => {
                    return Err(Fatal::NewerCommand {
                        position: head.command().position,
                    }
                    .into());
                }
            };
            self.turn = None;
            self.checkpoints.took(head.command().timestamp_us);
            self.reader.advance();
            self.report();
            if let Some(Body::Delete(_)) = &head.command().command.body {
                return Err(Interrupt::Deleted(head.command().position));
            }
        }
    }

    /// Before a publication that may stop the server is tried, or its database looked at: waits until no other database's
    /// suspect is on its way.
    async fn take_turn_for(&mut self, position: Position) {
        if self.turn.is_none() && self.poison.is_suspect(position) {
            self.turn = Some(self.shared.turns.clone().lock_owned().await);
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
        None | Some(
            Body::Publish(_)
                | Body::Delete(_)
                | Body::Poison(_)
                | Body::Verify(_)
                | Body::Write(_)
                | Body::Turn(_)
                | Body::Load(_)
        )
    )
}
