//! The rules of a shard: databases, sessions, and what replicas report.

use super::audit::{Audit, Holding};
use super::poison::{StuckReplica, StuckReplicas};
use super::state::{SessionRecord, StateKey};
use super::{Change, Stamp, Verdict};
use crate::command::{Body, Call, REPORTS_MAX, Reports, Resolve};
use crate::record::RecordError;
use crate::version::decode;
use crate::{Position, Refusal, Reply, Session};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// What a shard's log says of databases and sessions.
#[derive(Clone, Debug, Default)]
pub struct ShardState {
    databases: BTreeSet<Bytes>,
    sessions: BTreeMap<u64, Session>,
    audits: BTreeMap<Bytes, Audit>,
    /// The same of rows as they are stored. What differs there may be the same again in all writes that follow.
    stored: BTreeMap<Bytes, Audit>,
    voters: BTreeSet<u64>,
    stuck: StuckReplicas,
}

impl ShardState {
    /// The databases' identities.
    pub fn databases(&self) -> impl Iterator<Item = &Bytes> {
        self.databases.iter()
    }

    /// The sessions, in the order in which they came.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// A session.
    pub fn session(&self, id: u64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// What is known of a database's replicas; `None` if none has reported yet.
    pub fn audit(&self, database: &[u8]) -> Option<&Audit> {
        self.audits.get(database)
    }

    /// What is known of a database's rows as the replicas have stored them; `None` if none has read them yet.
    pub fn stored(&self, database: &[u8]) -> Option<&Audit> {
        self.stored.get(database)
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
            origin,
            ..
        } = stamp;
        match body {
            Body::Call(call) => self.call(call, timestamp_us),
            Body::Connect(connect) => {
                if !self.databases.contains(&connect.database) {
                    return Verdict::Refused(Refusal::NoSuchDatabase);
                }
                let session = Session {
                    id: position.0,
                    origin,
                    database: connect.database.clone(),
                    sender: connect.sender.clone(),
                    connection: connect.connection.clone(),
                };
                changes.push(session_change(&session));
                self.sessions.insert(session.id, session);
                Verdict::Effect(None)
            }
            Body::Disconnect(disconnect) => match self.sessions.remove(&disconnect.session) {
                Some(session) => {
                    changes.push((StateKey::Session(session.id), None));
                    Verdict::Effect(Some(session))
                }
                // The gateway and the leader may both have proposed it.
                None => Verdict::Refused(Refusal::SessionGone),
            },
            // What clears the database makes all replicas the same.
            Body::Publish(publish) if !publish.clear && self.is_split(&publish.database, timestamp_us) => {
                Verdict::Refused(Refusal::Split)
            }
            Body::Publish(publish) => {
                if publish.clear {
                    self.forget_audits(&publish.database, changes);
                }
                if self.databases.insert(publish.database.clone()) {
                    changes.push(database_change(&publish.database));
                }
                Verdict::Effect(None)
            }
            Body::Delete(delete) => {
                if !self.databases.remove(&delete.database) {
                    return Verdict::Refused(Refusal::NoSuchDatabase);
                }
                changes.push((StateKey::Database(delete.database.clone()), None));
                self.forget_audits(&delete.database, changes);
                self.stuck.forget(&delete.database, changes);
                self.sessions.retain(|id, session| {
                    let stays = session.database != delete.database;
                    if !stays {
                        changes.push((StateKey::Session(*id), None));
                    }
                    stays
                });
                Verdict::Effect(None)
            }
            Body::Verify(verify) if self.databases.contains(&verify.database) => Verdict::Effect(None),
            Body::Reports(reports) => self.reported(reports, stamp, changes),
            Body::Resolve(resolve) => self.resolve(resolve, changes),
            Body::Poison(poison) => {
                if !self.databases.contains(&poison.database) {
                    return Verdict::Refused(Refusal::NoSuchDatabase);
                }
                self.stuck.judge(poison, stamp, changes)
            }
            Body::Judgement(it) => self.about(&it.database, &[it.position], position),
            Body::Trapped(it) => self.about(&it.database, &it.positions, position),
            // Nothing proposes a meta command here; a log that holds one must stay readable all the same.
            _ => Verdict::Refused(Refusal::NoSuchDatabase),
        }
    }

    fn call(&self, call: &Call, now_us: i64) -> Verdict {
        if !self.databases.contains(&call.database) {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        }
        let session = self.sessions.get(&call.session);
        if call.session != 0 && session.is_none_or(|session| session.database != call.database) {
            return Verdict::Refused(Refusal::SessionGone);
        }
        if self.is_split(&call.database, now_us) {
            return Verdict::Refused(Refusal::Split);
        }
        Verdict::Effect(None)
    }

    /// What a replica says of earlier commands: the replicas make of it what it is to them.
    fn about(&self, database: &Bytes, positions: &[u64], now: Position) -> Verdict {
        if !self.databases.contains(database) {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        }
        if positions.iter().any(|position| Position(*position) >= now) {
            return Verdict::Refused(Refusal::NotYet);
        }
        Verdict::Effect(None)
    }

    fn is_split(&self, database: &Bytes, now_us: i64) -> bool {
        let audits = [&self.audits, &self.stored].map(|audits| audits.get(database));
        let mut contests = audits.into_iter().flatten().filter_map(Audit::contest);
        contests.any(|contest| contest.is_split(now_us))
    }

    fn forget_audits(&mut self, database: &Bytes, changes: &mut Vec<Change>) {
        if self.audits.remove(database).is_some() {
            changes.push((StateKey::Audit(database.clone()), None));
        }
        if self.stored.remove(database).is_some() {
            changes.push((StateKey::Rows(database.clone()), None));
        }
    }

    fn reported(&mut self, reports: &Reports, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        for report in reports.reports.iter().take(REPORTS_MAX) {
            if !self.databases.contains(&report.database) {
                continue;
            }
            let (audits, key): (_, fn(Bytes) -> StateKey) = match report.of_rows {
                false => (&mut self.audits, StateKey::Audit),
                true => (&mut self.stored, StateKey::Rows),
            };
            let audit = audits.entry(report.database.clone()).or_default();
            let (position, digest) = (report.position, report.digest);
            let held = Holding { position, digest };
            audit.note(stamp.origin.node, held, &self.voters, stamp.timestamp_us);
            changes.push((key(report.database.clone()), Some(audit.encode())));
        }
        Verdict::Done(Reply::Done)
    }

    fn resolve(&mut self, resolve: &Resolve, changes: &mut Vec<Change>) -> Verdict {
        let database = &resolve.database;
        let audits = [
            self.audits
                .get_mut(database)
                .map(|audit| (StateKey::Audit(database.clone()), audit)),
            self.stored
                .get_mut(database)
                .map(|audit| (StateKey::Rows(database.clone()), audit)),
        ];
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
            changes.push((key, Some(audit.encode())));
        }
        Verdict::Done(Reply::Done)
    }

    pub(super) fn restore(&mut self, key: &StateKey, value: Bytes) -> Result<(), RecordError> {
        match key {
            StateKey::Session(id) => {
                self.sessions
                    .insert(*id, decode::<SessionRecord>(value)?.session(*id));
            }
            StateKey::Stuck(node, database) => {
                self.stuck.restore(database, *node, &decode(value)?);
            }
            StateKey::Database(identity) => {
                // It holds nothing as yet. If it does, that may have to be known.
                decode::<()>(value)?;
                self.databases.insert(identity.clone());
            }
            StateKey::Audit(identity) => {
                self.audits.insert(identity.clone(), Audit::decode(value)?);
            }
            StateKey::Rows(identity) => {
                self.stored.insert(identity.clone(), Audit::decode(value)?);
            }
            _ => return Err(RecordError::Missing("the meaning of a shard's key")),
        }
        Ok(())
    }

    pub(super) fn dump(&self, changes: &mut Vec<Change>) {
        changes.extend(self.databases.iter().map(database_change));
        changes.extend(self.sessions.values().map(session_change));
        let audits = self.audits.iter();
        changes.extend(
            audits.map(|(database, audit)| (StateKey::Audit(database.clone()), Some(audit.encode()))),
        );
        let stored = self.stored.iter();
        changes
            .extend(stored.map(|(database, audit)| (StateKey::Rows(database.clone()), Some(audit.encode()))));
        self.stuck.dump(changes);
    }
}

fn session_change(session: &Session) -> Change {
    (
        StateKey::Session(session.id),
        Some(SessionRecord::from(session).encode_to_vec()),
    )
}

fn database_change(identity: &Bytes) -> Change {
    (StateKey::Database(identity.clone()), Some(Vec::new()))
}
