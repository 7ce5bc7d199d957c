//! What a replica's tasks share.

use super::awaited::Awaited;
use super::backlog::Backlog;
use super::outcomes::Outcomes;
use super::programs::Programs;
use super::recent::{Became, Recent};
use super::ticks::Ticks;
use super::{ReplicaConfig, Report, Verdicts, Witnesses};
use crate::migration::program;
use crate::{
    ActiveDatabase, Admin, Contents, DatabaseId, DatabaseStatus, Digest, Fatal, Phase, Procedures,
    Quarantine, Views,
};
use parking_lot::{Mutex, RwLock};
use rtdb_consensus::command::{self, Body, Judgement, OUTCOMES_MAX, Owner, Poison, Publish, Timer, Trapped};
use rtdb_consensus::{Follow, Holding, Lag, LogIndex, Origin, Outcome, Position, ResolvedCommand};
use rtdb_runtime::Instant;
use spacetimedb_lib::{Hash, Identity, hash_bytes};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long what was read for a comparison is kept.
const CONTENTS_KEPT: Duration = Duration::from_secs(300);

/// How old a digest may be, if nothing has changed.
const DIGEST_KEPT: Duration = Duration::from_secs(5);

/// What a replica found that it holds, and has not told yet: the oldest goes first.
const HOLDINGS_MAX: usize = 16;

/// What a replica's tasks share.
pub(crate) struct Shared {
    pub(crate) admin: Admin,
    pub(crate) follow: Arc<dyn Follow>,
    /// What the log says of commands that stop the server.
    pub(crate) verdicts: watch::Sender<Verdicts>,
    pub(crate) reports: Option<Arc<dyn Report>>,
    /// Told when the replica is to end.
    pub(super) stop: Notify,
    pub(crate) damage_wait: Duration,
    pub(crate) node: u64,
    /// Whose command, of those that may stop the server, is on its way.
    pub(crate) turns: Arc<tokio::sync::Mutex<()>>,
    /// Whose rows are held in memory, to be compared with what they should be: one database's at a time.
    pub(crate) comparing: tokio::sync::Mutex<()>,
    active: RwLock<BTreeMap<DatabaseId, Arc<ActiveDatabase>>>,
    slots: RwLock<BTreeMap<DatabaseId, Arc<Slot>>>,
    /// What the log has published.
    programs: Mutex<Programs>,
    scouted: watch::Sender<LogIndex>,
    /// What is resolved and was not looked through for databases yet.
    unread: Mutex<Backlog>,
    applied: watch::Sender<LogIndex>,
    fatal: watch::Sender<Option<Arc<Fatal>>>,
}

/// What a replica has found that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is, and where.
    pub held: Holding,
    /// Whether the digest is of the rows as they are stored, rather than of all that was written.
    pub of_rows: bool,
    /// The command before which it was looked, if that is a place where all replicas look.
    pub place: Option<Position>,
}

/// What one applier tells of itself.
pub(crate) struct Slot {
    pub(crate) identity: DatabaseId,
    /// The log index up to which the database's commands are applied.
    done: AtomicU64,
    /// Who waits for that.
    awaited: Awaited,
    completed: AtomicU64,
    /// The log index up to which commands have been taken; like `succeeded`, it never goes back.
    taken: AtomicU64,
    /// The position of the last command that has become part of the database.
    succeeded: AtomicU64,
    /// How often a publication to the existing database has ended.
    publications: watch::Sender<u64>,
    /// The position of the last publication that breaks the clients of before it.
    broken: watch::Sender<Position>,
    /// The last look at where the server is, and who looks next.
    pub(super) look: tokio::sync::Mutex<Look>,
    backlog: Mutex<Backlog>,
    /// Who watches hears when there are none any more, or some again.
    in_flight: watch::Sender<usize>,
    in_flight_bytes: AtomicUsize,
    overlong_calls: AtomicU64,
    phase: Mutex<Phase>,
    /// The views that clients look at.
    pub(crate) views: Arc<Views>,
    /// The procedures that run for clients.
    pub(crate) procedures: Arc<Procedures>,
    owner: Mutex<Owner>,
    holdings: Mutex<VecDeque<Found>>,
    digest: Mutex<LastDigest>,
    quarantine: watch::Sender<Option<Quarantine>>,
    /// Whether the database is deleted, as far as the log is known: its applier may not have come to it yet.
    deleted: watch::Sender<bool>,
    /// What was read last for a comparison.
    contents: Mutex<Option<Arc<Contents>>>,
    ticks: Mutex<Ticks>,
    /// On which nodes calls have trapped.
    pub(crate) witnesses: watch::Sender<Witnesses>,
    /// What came of calls with keys.
    outcomes: Mutex<Outcomes>,
    /// The last calls within sessions.
    recent: Mutex<Recent>,
}

/// Where an applier is: the log index up to which all is done, and the last position whose outcome is known.
pub(super) type Reached = (LogIndex, Position);

/// The digest as it was last read.
#[derive(Default)]
struct LastDigest {
    read: Option<Digest>,
    /// Where the applier was when it was asked for.
    at: Option<Reached>,
    /// When it was asked for last, and where the applier was then.
    asked: Option<(Instant, Reached)>,
}

/// What was found when the server was asked where it is; see [`crate::Replica::caught_up`].
#[derive(Default)]
pub(super) struct Look {
    /// When it was asked.
    pub(super) begun: Option<Instant>,
    /// Where the applier was then.
    pub(super) done: LogIndex,
}

impl Shared {
    pub(super) fn new(config: ReplicaConfig, follow: Arc<dyn Follow>) -> Self {
        let admin = Admin::new(config.server, config.call_time_max);
        Self {
            admin,
            follow,
            verdicts: watch::Sender::new(Verdicts::default()),
            reports: config.reports,
            stop: Notify::new(),
            damage_wait: config.damage_wait,
            node: config.node,
            turns: Arc::default(),
            comparing: tokio::sync::Mutex::default(),
            active: RwLock::default(),
            slots: RwLock::default(),
            programs: Mutex::default(),
            scouted: watch::Sender::new(0),
            unread: Mutex::default(),
            applied: watch::Sender::new(0),
            fatal: watch::Sender::new(None),
        }
    }

    /// Takes what a command in the log says of commands that stop the server.
    pub(super) fn note(&self, origin: Origin, poison: &Poison) {
        self.verdicts
            .send_modify(|verdicts| verdicts.note(self.node, origin, poison));
    }

    /// Takes what a replica has said of a publication.
    pub(super) fn judge(&self, judgement: &Judgement) {
        self.verdicts.send_modify(|verdicts| verdicts.judge(judgement));
    }

    /// Takes what is published to a database.
    pub(super) fn published(&self, database: DatabaseId, publish: &Publish) {
        let (prepared, original) = (hash_bytes(&publish.module), program(publish));
        self.programs.lock().note(database, prepared, original);
    }

    pub(super) fn original(&self, database: &DatabaseId, prepared: Hash) -> Option<Hash> {
        self.programs.lock().original(database, prepared)
    }

    /// Takes that a database is deleted: it is not served from here on.
    pub(super) fn end(&self, database: DatabaseId, position: Position) {
        self.verdicts
            .send_modify(|verdicts| verdicts.delete(database, position));
        if let Some(slot) = self.slot(&database) {
            slot.deleted.send_replace(true);
        }
        self.programs.lock().forget(&database);
        self.deactivate(&database);
    }

    /// A database is gone, and so is its applier: nothing of it is kept.
    pub(super) fn forget(&self, database: &DatabaseId) {
        let slot = self.slots.write().remove(database);
        if let Some(slot) = slot {
            slot.deleted.send_replace(true);
        }
        self.verdicts.send_modify(|verdicts| verdicts.forget(database));
        self.report_applied();
    }

    /// Takes which calls a node's server has not brought to an end of their own.
    pub(super) fn witness(&self, node: u64, trapped: &Trapped) {
        let database = DatabaseId::try_from(trapped.database.as_ref()).ok();
        let slot = database.and_then(|database| self.slot(&database));
        if let Some(slot) = slot {
            slot.witnesses
                .send_modify(|witnesses| witnesses.hear(node, &trapped.positions));
        }
    }

    /// The call with a key at `position` has an outcome.
    pub(crate) fn learn(&self, slot: &Slot, position: Position, origin: Origin, outcome: &Outcome) {
        let is_open = |position| {
            self.reports
                .as_ref()
                .is_some_and(|reports| reports.wants(position))
        };
        let mut outcomes = slot.outcomes.lock();
        outcomes.learn(position, outcome, origin.node == self.node, is_open);
    }

    /// Takes of which calls somebody would like to know what came of them.
    pub(super) fn want(&self, asked: &command::Outcomes) {
        let database = DatabaseId::try_from(asked.database.as_ref()).ok();
        let Some(slot) = database.and_then(|database| self.slot(&database)) else {
            return;
        };
        for position in asked.wanted.iter().take(OUTCOMES_MAX) {
            slot.outcomes.lock().want(Position(*position));
        }
        self.say_outcomes(&slot);
    }

    /// Says what came of calls with keys, where this node is to say it.
    pub(crate) fn say_outcomes(&self, slot: &Slot) {
        let Some(reports) = &self.reports else {
            return;
        };
        let mut outcomes = slot.outcomes.lock();
        while let Some(known) = outcomes.unsaid(|position| reports.wants(position)) {
            let count = known.len();
            let database = slot.identity.to_vec().into();
            let wanted = Vec::new();
            if !reports.report(Body::Outcomes(command::Outcomes {
                database,
                known,
                wanted,
            })) {
                return;
            }
            outcomes.said(count);
        }
    }

    /// Takes that a row was due.
    pub(super) fn tick(&self, timer: &Timer) {
        if let Some(slot) = self.slots.read().get(&*timer.database) {
            slot.ticks.lock().note(timer);
        }
    }

    pub(crate) fn active(&self, identity: &DatabaseId) -> Option<Arc<ActiveDatabase>> {
        self.active.read().get(identity).cloned()
    }

    pub(super) fn all_active(&self) -> Vec<Arc<ActiveDatabase>> {
        self.active.read().values().cloned().collect()
    }

    /// The database is served from here on, unless it is deleted further on in the log.
    pub(crate) fn activate(&self, database: Arc<ActiveDatabase>) {
        // In this order: a deletion that is heard of meanwhile takes it away again.
        let mut active = self.active.write();
        let verdict = self.verdicts.borrow().of(&database.identity);
        if !verdict.is_deleted_after(database.position) {
            active.insert(database.identity, database);
        }
    }

    pub(crate) fn deactivate(&self, identity: &DatabaseId) {
        self.active.write().remove(identity);
    }

    /// The node must stop. The first reason is the one that counts; whoever stops the node says it.
    pub(crate) fn fail(&self, fatal: Fatal) {
        self.fatal.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(Arc::new(fatal));
            }
            first
        });
    }

    pub(super) fn fatal(&self) -> watch::Receiver<Option<Arc<Fatal>>> {
        self.fatal.subscribe()
    }

    pub(super) fn applied(&self) -> watch::Receiver<LogIndex> {
        self.applied.subscribe()
    }

    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().values().cloned().collect()
    }

    pub(super) fn slot(&self, database: &DatabaseId) -> Option<Arc<Slot>> {
        self.slots.read().get(database).cloned()
    }

    /// Adds a database's slot. Whoever still looks at the one that it had before hears that this one is over.
    pub(super) fn add_slot(&self, slot: Arc<Slot>) {
        let before = self.slots.write().insert(slot.identity, slot);
        if let Some(before) = before {
            before.deleted.send_replace(true);
        }
    }

    /// Sees how far the log is resolved: what of it was not looked through yet is at least as old as this.
    pub(super) fn see_resolved(&self) {
        let end = *self.follow.resolved().borrow();
        self.unread.lock().resolved(end, 0, Instant::now());
    }

    /// How long ago the oldest entry was seen to be resolved that was not looked through yet, in milliseconds.
    pub(super) fn unread_ms(&self) -> u64 {
        self.unread.lock().lag(Instant::now()).age_ms
    }

    /// So many commands of a database are resolved, the last of them at `index`.
    pub(super) fn resolved(&self, database: &[u8], index: LogIndex, commands: u64) {
        let since = self.unread.lock().since(index);
        if let Some(slot) = self.slots.read().get(database) {
            slot.resolved(index, commands, since.unwrap_or_else(Instant::now));
        }
    }

    /// Every database's commands up to `index` have an applier.
    pub(super) fn set_scouted(&self, index: LogIndex) {
        self.scouted.send_replace(index);
        self.unread.lock().done(index, Instant::now());
        self.report_applied();
    }

    /// Waits until the log was looked through for databases up to `position`.
    pub(crate) async fn scouted(&self, position: Position) {
        let mut scouted = self.scouted.subscribe();
        // The sender lives as long as the replica.
        let _ = scouted.wait_for(|index| *index >= position.index()).await;
    }

    /// Tells how far all databases are, if that has changed. Never goes back, though a server may.
    pub(crate) fn report_applied(&self) {
        let scouted = *self.scouted.borrow();
        let slots = self.slots.read();
        let applied = slots
            .values()
            .map(|slot| slot.done.load(Ordering::Relaxed))
            .fold(scouted, LogIndex::min);
        drop(slots);
        let grown = self.applied.send_if_modified(|known| {
            let grown = applied > *known;
            *known = applied.max(*known);
            grown
        });
        if grown {
            self.follow.applied(applied);
        }
    }
}

impl Slot {
    pub(super) fn new(identity: DatabaseId, owner: Owner) -> Self {
        Self {
            identity,
            done: AtomicU64::new(0),
            awaited: Awaited::default(),
            completed: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            publications: watch::Sender::new(0),
            broken: watch::Sender::new(Position::default()),
            look: tokio::sync::Mutex::default(),
            backlog: Mutex::default(),
            in_flight: watch::Sender::default(),
            in_flight_bytes: AtomicUsize::new(0),
            overlong_calls: AtomicU64::new(0),
            phase: Mutex::new(Phase::Connecting),
            views: Arc::default(),
            procedures: Arc::default(),
            owner: Mutex::new(owner),
            holdings: Mutex::default(),
            digest: Mutex::default(),
            quarantine: watch::Sender::new(None),
            deleted: watch::Sender::new(false),
            contents: Mutex::default(),
            ticks: Mutex::default(),
            witnesses: watch::Sender::new(Witnesses::default()),
            outcomes: Mutex::default(),
            recent: Mutex::default(),
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        *self.phase.lock() = phase;
    }

    /// A command is on its way to the server.
    pub(crate) fn took(&self, command: &ResolvedCommand) {
        self.recent.lock().note(command);
    }

    /// The call at `position`, which stands in a session, has an outcome.
    pub(crate) fn ended(&self, position: Position, outcome: &Outcome) {
        self.recent.lock().learn(position, outcome);
    }

    /// Commands pass by that are not noted, and of which nothing is known here.
    pub(crate) fn forget_calls(&self) {
        *self.recent.lock() = Recent::default();
        *self.outcomes.lock() = Outcomes::default();
    }

    /// The database is made again without the command at `position`.
    pub(crate) fn doubt(&self, position: Position) {
        self.recent.lock().doubt(position);
        *self.outcomes.lock() = Outcomes::default();
    }

    pub(super) fn became(&self, client: &([u8; 32], [u8; 16]), request_id: u32) -> Became {
        self.recent.lock().became(client, request_id)
    }

    /// A call has run for longer than it may.
    pub(crate) fn count_overlong(&self) {
        self.overlong_calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_owner(&self, owner: Owner) {
        *self.owner.lock() = owner;
    }

    pub(crate) fn set_progress(&self, done: LogIndex, completed: Position, calls: usize, bytes: usize) {
        if self.done.swap(done, Ordering::AcqRel) != done {
            self.backlog.lock().done(done, Instant::now());
            self.awaited.reached(done);
        }
        self.completed.store(completed.0, Ordering::Relaxed);
        self.in_flight.send_if_modified(|in_flight| {
            let before = std::mem::replace(in_flight, calls);
            (before == 0) != (calls == 0)
        });
        self.in_flight_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn in_flight(&self) -> watch::Receiver<usize> {
        self.in_flight.subscribe()
    }

    /// So many commands are resolved, the last of them at `index`, and that was known then.
    pub(super) fn resolved(&self, index: LogIndex, commands: u64, since: Instant) {
        self.backlog.lock().resolved(index, commands, since);
    }

    /// How far the replica lags.
    pub(super) fn lag(&self) -> Lag {
        match self.quarantine.borrow().is_some() {
            true => Lag::default(),
            false => self.backlog.lock().lag(Instant::now()),
        }
    }

    /// Commands up to the log index `taken` are on their way to the server, and the one at `succeeded` was the last that
    /// is known to be part of the database. To be said before [`Slot::set_progress`].
    pub(crate) fn set_reach(&self, taken: LogIndex, succeeded: Position) {
        self.taken.fetch_max(taken, Ordering::AcqRel);
        self.succeeded.fetch_max(succeeded.0, Ordering::AcqRel);
    }

    pub(super) fn taken(&self) -> LogIndex {
        self.taken.load(Ordering::Acquire)
    }

    pub(super) fn succeeded(&self) -> Position {
        Position(self.succeeded.load(Ordering::Acquire))
    }

    pub(crate) fn done(&self) -> LogIndex {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until all is done up to `index`.
    pub(super) async fn done_to(&self, index: LogIndex) {
        self.awaited.wait(index, || self.done()).await;
    }

    /// A publication to the existing database has ended, well or not.
    pub(crate) fn published(&self) {
        self.views.published();
        self.publications.send_modify(|count| *count += 1);
    }

    /// The publication at `position` is in place, and breaks the clients of before it.
    pub(crate) fn break_clients(&self, position: Position) {
        self.broken.send_if_modified(|last| {
            let is_new = position > *last;
            *last = position.max(*last);
            is_new
        });
    }

    pub(crate) fn broken(&self) -> watch::Receiver<Position> {
        self.broken.subscribe()
    }

    /// The database's identity as people write it.
    pub(crate) fn hex(&self) -> String {
        Identity::from_byte_array(self.identity).to_hex().to_string()
    }

    pub(crate) fn publications(&self) -> watch::Receiver<u64> {
        self.publications.subscribe()
    }

    /// What was read for a comparison. It is kept for a while only.
    pub(crate) fn set_contents(self: &Arc<Self>, contents: Arc<Contents>) {
        let position = contents.position;
        *self.contents.lock() = Some(contents);
        let slot = self.clone();
        rtdb_runtime::spawn(async move {
            rtdb_runtime::sleep(CONTENTS_KEPT).await;
            let mut contents = slot.contents.lock();
            if contents.as_ref().is_some_and(|it| it.position == position) {
                *contents = None;
            }
        });
    }

    pub(super) fn last_ticks(&self, module: Position) -> BTreeMap<(u32, u64), i64> {
        self.ticks.lock().of(module.0)
    }

    pub(super) fn contents(&self) -> Option<Arc<Contents>> {
        self.contents.lock().clone()
    }

    /// What the replica holds, to be told to the others.
    pub(crate) fn hold(&self, found: Found) {
        let mut holdings = self.holdings.lock();
        holdings.truncate(HOLDINGS_MAX - 1);
        holdings.push_front(found);
    }

    /// Takes what is to be told.
    pub(super) fn take_holdings(&self) -> Vec<Found> {
        self.holdings.lock().drain(..).rev().collect()
    }

    /// Sets the database aside. The first reason is the one that counts.
    pub(crate) fn set_aside(&self, why: Quarantine) {
        self.quarantine.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(why);
            }
            first
        });
    }

    /// The log has taken back what the replica was set aside for. Before its applier has come to `index`, it may come to a
    /// command that makes the database anew, and must not apply anything before that.
    pub(super) fn acquit(&self, index: LogIndex) {
        if self.done() < index {
            return;
        }
        self.quarantine.send_if_modified(|known| {
            let is_over = matches!(known, Some(Quarantine::Outvoted(_)));
            if is_over {
                *known = None;
            }
            is_over
        });
    }

    /// The database is applied and served again.
    pub(crate) fn take_back(&self) {
        self.quarantine.send_replace(None);
    }

    /// Whether the database is deleted; says so at once, however far behind its applier is.
    pub(crate) fn deleted(&self) -> watch::Receiver<bool> {
        self.deleted.subscribe()
    }

    /// Why the database is set aside, if it is.
    pub(crate) fn quarantine(&self) -> watch::Receiver<Option<Quarantine>> {
        self.quarantine.subscribe()
    }

    /// If the digest is to be read anew, since something was applied or it was long ago: where the applier is. Then it counts
    /// as asked for.
    pub(super) fn ask_for_digest(&self, now: Instant) -> Option<Reached> {
        let reached = self.reached();
        let mut digest = self.digest.lock();
        let is_fresh = |(asked, at): (Instant, Reached)| at == reached && now - asked < DIGEST_KEPT;
        if digest.at.is_some() && digest.asked.is_some_and(is_fresh) {
            return None;
        }
        digest.asked = Some((now, reached));
        Some(reached)
    }

    /// The digest was read, when the applier had been `at` that place; nothing, if there is no such database.
    pub(super) fn set_digest(&self, at: Reached, read: Option<Digest>) {
        let mut digest = self.digest.lock();
        (digest.at, digest.read) = (read.map(|_| at), read);
    }

    fn reached(&self) -> Reached {
        (self.done(), Position(self.completed.load(Ordering::Relaxed)))
    }

    pub(super) fn status(&self) -> DatabaseStatus {
        let reached = self.reached();
        let digest = self.digest.lock();
        DatabaseStatus {
            identity: self.identity,
            phase: self.phase.lock().clone(),
            applied: reached.1,
            in_flight: *self.in_flight.borrow(),
            in_flight_bytes: self.in_flight_bytes.load(Ordering::Relaxed),
            lag: self.lag(),
            overlong_calls: self.overlong_calls.load(Ordering::Relaxed),
            digest: digest.read,
            digest_is_old: digest.at != Some(reached),
        }
    }
}
