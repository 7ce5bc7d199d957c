//! The rules of a shard: databases and sessions.

use super::poison::{StuckReplica, StuckReplicas};
use super::state::{SessionRecord, StateKey};
use super::{Change, Verdict};
use crate::command::Body;
use crate::record::RecordError;
use crate::version::decode;
use crate::{Origin, Position, Refusal, Session};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// What a shard's log says of databases and sessions.
#[derive(Clone, Debug, Default)]
pub struct ShardState {
    databases: BTreeSet<Bytes>,
    sessions: BTreeMap<u64, Session>,
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

    /// The databases with replicas that are stuck at a command which stops SpacetimeDB, and those replicas.
    pub fn stuck(&self) -> impl Iterator<Item = (&Bytes, Vec<StuckReplica>)> {
        self.stuck.iter()
    }

    pub(super) fn judge(
        &mut self,
        body: &Body,
        term: u64,
        position: Position,
        origin: Origin,
        changes: &mut Vec<Change>,
    ) -> Verdict {
        match body {
            Body::Call(call) => {
                if !self.databases.contains(&call.database) {
                    return Verdict::Refused(Refusal::NoSuchDatabase);
                }
                let session = self.sessions.get(&call.session);
                if call.session != 0 && session.is_none_or(|session| session.database != call.database) {
                    return Verdict::Refused(Refusal::SessionGone);
                }
                Verdict::Effect(None)
            }
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
            Body::Publish(publish) => {
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
            Body::Poison(poison) => {
                if !self.databases.contains(&poison.database) {
                    return Verdict::Refused(Refusal::NoSuchDatabase);
                }
                self.stuck.judge(poison, term, position, origin, changes)
            }
            // Nothing proposes a meta command here; a log that holds one must stay readable all the same.
            _ => Verdict::Refused(Refusal::NoSuchDatabase),
        }
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
            _ => return Err(RecordError::Missing("the meaning of a shard's key")),
        }
        Ok(())
    }

    pub(super) fn dump(&self, changes: &mut Vec<Change>) {
        changes.extend(self.databases.iter().map(database_change));
        changes.extend(self.sessions.values().map(session_change));
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
