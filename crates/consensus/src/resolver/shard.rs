//! The rules of a shard: databases, sessions, calls with keys, and what replicas report.

mod keyed;
mod restore;

use super::audit::{Audit, Divergence, Holding};
use super::audits::{Audits, KeyOf};
use super::keys::{KeyedCall, Keys};
use super::poison::{StuckReplica, StuckReplicas};
use super::sessions::Sessions;
use super::state::{BirthRecord, Restoring, SessionRecord, StateKey};
use super::verdict::{Change, Stamp, Verdict};
use crate::command::{Body, Connect, Delete, Publish, REPORTS_MAX, Reports, Resolve, Timer, Transaction};
use crate::version::{RecordError, decode};
use crate::{Position, Refusal, Reply, Session};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// What a shard's log says of databases and sessions.
#[derive(Clone, Debug, Default)]
pub struct ShardState {
    /// The databases' births.
    databases: BTreeMap<Bytes, u64>,
    /// Those that are being restored: nobody sees them before that is done.
    pub(super) restoring: BTreeMap<Bytes, Restoring>,
    sessions: Sessions,
    audits: BTreeMap<Bytes, Audits>,
    voters: BTreeSet<u64>,
    stuck: StuckReplicas,
    keys: Keys,
}

impl ShardState {
    /// The databases' identities.
    pub fn databases(&self) -> impl Iterator<Item = &Bytes> {
        self.databases.keys()
    }

    /// The databases' identities and births.
    pub fn births(&self) -> impl Iterator<Item = (&Bytes, u64)> {
        self.databases.iter().map(|(identity, born)| (identity, *born))
    }

    /// A database's birth, if there is one of that identity.
    pub fn born(&self, database: &[u8]) -> Option<u64> {
        self.databases.get(database).copied()
    }

    /// The sessions, in the order in which they came.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter()
    }

    /// The sessions of a database, by connection id.
    pub fn sessions_of(&self, database: &Bytes) -> impl Iterator<Item = &Session> {
        self.sessions.of(database)
    }

    /// The next sessions of the database of a session, which may be gone: those of later connection ids.
    pub fn sessions_behind(&self, last: &Session) -> impl Iterator<Item = &Session> {
        self.sessions.behind(last)
    }

    /// A session.
    pub fn session(&self, id: u64) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// What is known of a database's replicas; `None` if none has reported yet.
    pub fn audit(&self, database: &[u8]) -> Option<&Audit> {
        Some(&self.audits.get(database)?.writes)
    }

    /// What is known of a database's rows as the replicas have stored them; `None` if none has read them yet.
    pub fn stored(&self, database: &[u8]) -> Option<&Audit> {
        Some(&self.audits.get(database)?.rows)
    }

    /// All that is known of a database's replicas: of what they hold where it changed last, at places of the log, and as
    /// rows that are stored.
    pub fn audits(&self, database: &[u8]) -> impl Iterator<Item = &Audit> {
        let audits = self.audits.get(database).map(Audits::each);
        audits.into_iter().flatten().map(|(_, audit)| audit)
    }

    /// The replicas of a database that have diverged in anything, by node.
    pub fn diverged(&self, database: &[u8]) -> BTreeMap<u64, Divergence> {
        let mut all = BTreeMap::new();
        for (node, it) in self.audits(database).flat_map(Audit::diverged) {
            all.entry(*node).or_insert(*it);
        }
        all
    }

    /// The nodes that vote.
    pub fn voters(&self) -> &BTreeSet<u64> {
        &self.voters
    }

    pub(super) fn set_voters(&mut self, voters: BTreeSet<u64>) {
        self.voters = voters;
    }

    /// The databases with replicas that are stuck at a command which stops SpacetimeDB, and those replicas.
    pub fn stuck(&self) -> impl Iterator<Item = (&Bytes, Vec<StuckReplica>)> {
        self.stuck.iter()
    }

    pub(super) fn judge(&mut self, body: &Body, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        let Stamp {
            position,
            timestamp_us,
            ..
        } = stamp;
        self.keys.expire(timestamp_us, changes);
        match body {
            Body::Call(call) => {
                let judged = |shard: &Self| shard.call(&call.database, call.session, timestamp_us);
                self.once(&call.database, call.key.as_ref(), stamp, changes, judged)
            }
            Body::Write(write) => {
                let judged = |shard: &Self| shard.write(&write.database, timestamp_us);
                self.once(&write.database, write.key.as_ref(), stamp, changes, judged)
            }
            Body::Transaction(it) => self.transaction(it, stamp),
            Body::Turn(turn) => self.write(&turn.database, timestamp_us),
            Body::Connect(connect) => self.connect(connect, stamp, changes),
            Body::Disconnect(disconnect) => match self.sessions.remove(disconnect.session) {
                Some(session) => {
                    changes.push((StateKey::Session(session.id), None));
                    Verdict::Effect(Some(session))
                }
                // The gateway and the leader may both have proposed it.
                None => Verdict::Refused(Refusal::SessionGone),
            },
            Body::Publish(publish) => self.publish(publish, stamp, changes),
            Body::Delete(delete) => self.delete(delete, changes),
            Body::Load(load) => self.load(load, stamp, changes),
            Body::Verify(verify) if self.is_open(&verify.database) => Verdict::Effect(None),
            Body::Reports(reports) => self.reported(reports, stamp, changes),
            Body::Resolve(resolve) => self.resolve(resolve, changes),
            Body::Poison(poison) => {
                if !self.databases.contains_key(&poison.database) {
                    return Verdict::Refused(Refusal::NoSuchDatabase);
                }
                let verdict = self.stuck.judge(poison, stamp, changes);
                if matches!(verdict, Verdict::Effect(_))
                    && let Some(why) = poison.failure()
                {
                    self.decided(&poison.database, poison.position, false, changes);
                    self.keys
                        .overrule(&poison.database, poison.position, why, changes);
                }
                verdict
            }
            Body::Judgement(it) => {
                let verdict = self.about(&it.database, &[it.position], position);
                if matches!(verdict, Verdict::Effect(_)) {
                    self.decided(&it.database, it.position, it.refusal.is_none(), changes);
                }
                verdict
            }
            Body::Trapped(it) => self.about(&it.database, &it.positions, position),
            Body::Outcomes(it) => self.outcomes(it, position, changes),
            Body::Timer(timer) => self.timer(timer, stamp),
            // Nothing proposes a meta command here; a log that holds one must stay readable all the same.
            _ => Verdict::Refused(Refusal::NoSuchDatabase),
        }
    }

    fn connect(&mut self, connect: &Connect, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        if !self.is_open(&connect.database) {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        }
        if connect.unique && self.sessions.has(&connect.database, &connect.connection) {
            return Verdict::Refused(Refusal::ConnectionTaken);
        }
        // Bytes of its own: the log's entry is not to stay in memory for as long as the session lasts.
        let session = Session {
            id: stamp.position.0,
            origin: stamp.origin,
            database: Bytes::copy_from_slice(&connect.database),
            sender: Bytes::copy_from_slice(&connect.sender),
            connection: Bytes::copy_from_slice(&connect.connection),
        };
        changes.push(session_change(&session));
        self.sessions.insert(session);
        Verdict::Effect(None)
    }

    fn publish(&mut self, publish: &Publish, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        // Not the entry with the module.
        let database = &Bytes::copy_from_slice(&publish.database);
        let known = self.databases.get(database).copied();
        match known {
            Some(known) if publish.born < known => return Verdict::Refused(Refusal::NoSuchDatabase),
            Some(known) if publish.born > known => return Verdict::Refused(Refusal::StillThere),
            _ => {}
        }
        if self.restoring.contains_key(database) && !publish.loads {
            return Verdict::Refused(Refusal::Restoring);
        }
        // What clears the database makes all replicas the same, once it is taken.
        if !publish.clear && self.is_split(database, stamp.timestamp_us) {
            return Verdict::Refused(Refusal::Split);
        }
        let audits = self.audits.entry(database.clone()).or_default();
        if known.is_none() {
            self.databases.insert(database.clone(), publish.born);
            changes.push(database_change(database, publish.born, None));
            audits.begin(stamp.position.0);
            audits.changes(database, changes);
        } else if publish.clear {
            audits.writes.may_begin(stamp.position.0);
            audits.changes(database, changes);
        }
        if publish.loads {
            self.restores(database, publish.born, stamp, changes);
        }
        Verdict::Effect(None)
    }

    fn delete(&mut self, delete: &Delete, changes: &mut Vec<Change>) -> Verdict {
        let database = &delete.database;
        match self.databases.get(database) {
            Some(born) if delete.before == 0 || *born < delete.before => {}
            _ => return Verdict::Refused(Refusal::NoSuchDatabase),
        }
        self.databases.remove(database);
        self.restoring.remove(database);
        changes.push((StateKey::Database(database.clone()), None));
        self.forget_audits(database, changes);
        self.stuck.forget(database, changes);
        self.keys.forget(database, changes);
        let ended = self.sessions.end(database).into_iter();
        changes.extend(ended.map(|id| (StateKey::Session(id), None)));
        Verdict::Effect(None)
    }

    fn call(&self, database: &Bytes, session: u64, now_us: i64) -> Verdict {
        if !self.is_open(database) {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        }
        let known = self.sessions.get(session);
        if session != 0 && known.is_none_or(|known| known.database != database) {
            return Verdict::Refused(Refusal::SessionGone);
        }
        self.write(database, now_us)
    }

    /// A turn has to end, whatever has become of the database's replicas and the procedure's client.
    fn transaction(&self, it: &Transaction, stamp: Stamp) -> Verdict {
        if Position(it.turn) >= stamp.position {
            return Verdict::Refused(Refusal::NotYet);
        }
        match &it.claim {
            _ if it.is_nothing() && self.databases.contains_key(&it.database) => Verdict::Effect(None),
            Some(claim) if claim.database != it.database => Verdict::Refused(Refusal::NoSuchDatabase),
            Some(claim) => self.timer(claim, stamp),
            None => self.call(&it.database, it.session, stamp.timestamp_us),
        }
    }

    /// Rows may change unless it is contested what they are.
    fn write(&self, database: &Bytes, now_us: i64) -> Verdict {
        if !self.is_open(database) {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        }
        if self.is_split(database, now_us) {
            return Verdict::Refused(Refusal::Split);
        }
        Verdict::Effect(None)
    }

    /// What another leader has seen counts for nothing: it may have been deposed, and its successor have seen the same.
    fn timer(&self, timer: &Timer, stamp: Stamp) -> Verdict {
        let is_its_term = timer.term == stamp.term || rtdb_runtime::planted("timers count in any term");
        if !is_its_term || timer.over {
            return Verdict::Refused(Refusal::Deposed);
        }
        if !self.is_open(&timer.database) {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        }
        if self.is_split(&timer.database, stamp.timestamp_us) {
            return Verdict::Refused(Refusal::Split);
        }
        // The leader's clock may have been set back since it looked.
        let is_due = timer.due_us().is_none_or(|due_us| due_us <= stamp.timestamp_us);
        if !is_due && !rtdb_runtime::planted("timers run before they are due") {
            return Verdict::Refused(Refusal::NotDue);
        }
        Verdict::Effect(None)
    }

    /// What a replica says of earlier commands: the replicas make of it what it is to them.
    fn about(&self, database: &Bytes, positions: &[u64], now: Position) -> Verdict {
        if !self.databases.contains_key(database) {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        }
        if positions.iter().any(|position| Position(*position) >= now) {
            return Verdict::Refused(Refusal::NotYet);
        }
        Verdict::Effect(None)
    }

    /// The first word on a clearing publication says whether it is taken, and with it, whether what is known of the replicas
    /// is over. As long as there is none, as where a node is too old to say it, nothing is forgotten: what is known for too
    /// long ends with the next such publication, and what is forgotten too early may never be found again.
    fn decided(&mut self, database: &Bytes, position: u64, is_taken: bool, changes: &mut Vec<Change>) {
        let Some(audits) = self.audits.get_mut(database) else {
            return;
        };
        if !audits.writes.might_begin(position) {
            return;
        }
        if is_taken {
            audits.begin(position);
        }
        for (key, audit) in audits.each() {
            changes.push((key(database.clone()), Some(audit.encode())));
        }
    }

    fn is_split(&self, database: &Bytes, now_us: i64) -> bool {
        let mut contests = self.audits(database).filter_map(Audit::contest);
        contests.any(|contest| contest.is_split(now_us))
    }

    fn forget_audits(&mut self, database: &Bytes, changes: &mut Vec<Change>) {
        if let Some(audits) = self.audits.remove(database) {
            changes.extend(audits.each().map(|(key, _)| (key(database.clone()), None)));
        }
    }

    fn reported(&mut self, reports: &Reports, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        for report in reports.reports.iter().take(REPORTS_MAX) {
            if !self.databases.contains_key(&report.database) {
                continue;
            }
            let database = Bytes::copy_from_slice(&report.database);
            let audits = self.audits.entry(database).or_default();
            let mut note = |audit: &mut Audit, key: KeyOf, position| {
                let held = Holding {
                    position,
                    digest: report.digest,
                };
                audit.note(stamp.origin.node, held, &self.voters, stamp.timestamp_us);
                changes.push((key(report.database.clone()), Some(audit.encode())));
            };
            if report.of_rows {
                note(&mut audits.rows, StateKey::Rows, report.position);
                continue;
            }
            note(&mut audits.writes, StateKey::Audit, report.position);
            if report.place != 0 {
                note(&mut audits.places, StateKey::Places, report.place);
            }
        }
        Verdict::Done(Reply::Done)
    }

    fn resolve(&mut self, resolve: &Resolve, changes: &mut Vec<Change>) -> Verdict {
        let database = &resolve.database;
        let audits = self.audits.get_mut(database).map(Audits::each_mut);
        let split: Vec<_> = audits
            .into_iter()
            .flatten()
            .filter(|(_, audit)| audit.contest().is_some())
            .collect();
        if split.is_empty() {
            return Verdict::Refused(Refusal::NotSplit);
        }
        if split.iter().any(|(_, audit)| !audit.has_contested(resolve.node)) {
            return Verdict::Refused(Refusal::NotReported(resolve.node));
        }
        for (key, audit) in split {
            audit.resolve(resolve.node);
            changes.push((key(database.clone()), Some(audit.encode())));
        }
        Verdict::Done(Reply::Done)
    }

    pub(super) fn restore(&mut self, key: &StateKey, value: Bytes) -> Result<(), RecordError> {
        match key {
            StateKey::Session(_) if rtdb_runtime::planted("sessions are forgotten") => {}
            StateKey::Session(id) => {
                self.sessions.insert(decode::<SessionRecord>(value)?.session(*id));
            }
            StateKey::Keyed(position) => self.keys.restore(*position, decode::<KeyedCall>(value)?),
            StateKey::Stuck(node, database) => {
                self.stuck.restore(database, *node, &decode(value)?);
            }
            StateKey::Database(identity) => {
                let record: BirthRecord = decode(value)?;
                self.databases.insert(identity.clone(), record.born);
                if let Some(restoring) = record.restoring() {
                    self.restoring.insert(identity.clone(), restoring);
                }
            }
            StateKey::Audit(identity) => {
                self.audits.entry(identity.clone()).or_default().writes = Audit::decode(value)?;
            }
            StateKey::Places(identity) => {
                self.audits.entry(identity.clone()).or_default().places = Audit::decode(value)?;
            }
            StateKey::Rows(identity) => {
                self.audits.entry(identity.clone()).or_default().rows = Audit::decode(value)?;
            }
            _ => return Err(RecordError::Missing("the meaning of a shard's key")),
        }
        Ok(())
    }

    pub(super) fn dump(&self, changes: &mut Vec<Change>) {
        changes.extend(
            self.births().map(|(identity, born)| {
                database_change(identity, born, self.restoring.get(identity).copied())
            }),
        );
        changes.extend(self.sessions.iter().map(session_change));
        for (database, audits) in &self.audits {
            audits.changes(database, changes);
        }
        self.stuck.dump(changes);
        self.keys.dump(changes);
    }
}

fn session_change(session: &Session) -> Change {
    (
        StateKey::Session(session.id),
        Some(SessionRecord::from(session).encode_to_vec()),
    )
}

fn database_change(identity: &Bytes, born: u64, restoring: Option<Restoring>) -> Change {
    let record = BirthRecord::new(born, restoring);
    (StateKey::Database(identity.clone()), Some(record.encode_to_vec()))
}
