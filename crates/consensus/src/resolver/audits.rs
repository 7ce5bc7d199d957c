//! The audits of a database.

use super::audit::Audit;
use super::state::StateKey;
use super::verdict::Change;
use bytes::Bytes;

/// What is known of a database's replicas, by what they report.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Audits {
    /// Digests of all writes, by the last command that changed the database.
    pub(super) writes: Audit,
    /// The same by place in the log. Of a replica on which calls fail that succeed elsewhere, no other knows the last
    /// command that changed the database.
    pub(super) places: Audit,
    /// Hashes of rows as they are stored. What differs there may be the same again in all writes that follow.
    pub(super) rows: Audit,
}

/// The name of a database's part of the state.
pub(super) type KeyOf = fn(Bytes) -> StateKey;

impl Audits {
    pub(super) fn each(&self) -> [(KeyOf, &Audit); 3] {
        [
            (StateKey::Audit, &self.writes),
            (StateKey::Places, &self.places),
            (StateKey::Rows, &self.rows),
        ]
    }

    pub(super) fn each_mut(&mut self) -> [(KeyOf, &mut Audit); 3] {
        [
            (StateKey::Audit, &mut self.writes),
            (StateKey::Places, &mut self.places),
            (StateKey::Rows, &mut self.rows),
        ]
    }

    /// The database is made anew there, and all replicas with it.
    pub(super) fn begin(&mut self, at: u64) {
        self.writes.begin(at);
        self.rows.begin(at);
        // The place before a command is named after it.
        self.places.begin(at.saturating_add(1));
    }

    pub(super) fn changes(&self, database: &Bytes, changes: &mut Vec<Change>) {
        let kept = self
            .each()
            .into_iter()
            .filter(|(_, audit)| **audit != Audit::default());
        changes.extend(kept.map(|(key, audit)| (key(database.clone()), Some(audit.encode()))));
    }
}
