//! The sessions of a shard's clients.

use crate::Session;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The sessions, and what they are looked up by.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<u64, Session>,
    /// Database, connection id, session. Where connection ids were not unique yet, several sessions may have one.
    connections: BTreeSet<(Bytes, Bytes, u64)>,
}

impl Sessions {
    /// The sessions, in the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.all.values()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, id: u64) -> Option<&Session> {
        self.all.get(&id)
    }

    /// Whether a session of the database has the connection id.
    pub(super) fn has(&self, database: &Bytes, connection: &Bytes) -> bool {
        let [first, last] = [0, u64::MAX].map(|id| (database.clone(), connection.clone(), id));
        self.connections.range(first..=last).next().is_some()
    }

    /// The sessions of a database, by connection id.
    pub(super) fn of(&self, database: &Bytes) -> impl Iterator<Item = &Session> {
        self.beginning_at((database.clone(), Bytes::new(), 0))
    }

    /// The sessions of a database whose connection ids come behind that of one of them.
    pub(super) fn behind(&self, last: &Session) -> impl Iterator<Item = &Session> {
        self.beginning_at((last.database.clone(), last.connection.clone(), u64::MAX))
    }

    fn beginning_at(&self, key: (Bytes, Bytes, u64)) -> impl Iterator<Item = &Session> {
        let database = key.0.clone();
        let keys = self.connections.range(key..);
        keys.take_while(move |(of, _, _)| *of == database)
            .filter_map(|(_, _, id)| self.all.get(id))
    }

    pub(super) fn insert(&mut self, session: Session) {
        self.connections.insert(key(&session));
        self.all.insert(session.id, session);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Session> {
        let session = self.all.remove(&id)?;
        self.connections.remove(&key(&session));
        Some(session)
    }

    /// Ends all sessions of a database, and gives back which they were.
    pub(super) fn end(&mut self, database: &Bytes) -> Vec<u64> {
        let ended: Vec<u64> = self.of(database).map(|session| session.id).collect();
        for id in &ended {
            self.remove(*id);
        }
        ended
    }
}

fn key(session: &Session) -> (Bytes, Bytes, u64) {
    (session.database.clone(), session.connection.clone(), session.id)
}
