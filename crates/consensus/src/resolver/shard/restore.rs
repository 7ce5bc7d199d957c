//! Databases that are restored: their rows come by the log, and nobody sees them before all are there.

use super::{ShardState, database_change, session_change};
use crate::command::{LOAD_DEPARTED_MAX, Load};
use crate::resolver::state::Restoring;
use crate::resolver::verdict::{Change, Stamp, Verdict};
use crate::{Origin, Refusal, Session};
use bytes::Bytes;

/// An epoch that is over from the start: no node has it, since each one's first is above it.
const OVER: u64 = 0;

impl ShardState {
    /// Whether there is a database whose rows are all there, as far as the log goes.
    pub fn is_open(&self, database: &[u8]) -> bool {
        self.databases.contains_key(database) && !self.restoring.contains_key(database)
    }

    /// The databases that nobody goes on to restore, as `is_over` says of who has begun, and their births.
    pub(in crate::resolver) fn abandoned(
        &self,
        is_over: impl Fn(Origin) -> bool,
    ) -> impl Iterator<Item = (Bytes, u64)> {
        let over = self.restoring.iter().filter(move |(_, it)| is_over(it.by));
        over.filter_map(|(database, _)| Some((database.clone(), self.born(database)?)))
    }

    /// Restoring begins, or begins anew.
    pub(super) fn restores(&mut self, database: &Bytes, born: u64, stamp: Stamp, changes: &mut Vec<Change>) {
        let restoring = Restoring {
            of: stamp.position.0,
            loads: 0,
            by: stamp.origin,
        };
        self.restoring.insert(database.clone(), restoring);
        changes.push(database_change(database, born, Some(restoring)));
        // What was there goes, with its clients.
        let ended = self.sessions.end(database).into_iter();
        changes.extend(ended.map(|id| (crate::resolver::StateKey::Session(id), None)));
    }

    pub(super) fn load(&mut self, load: &Load, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        let database = Bytes::copy_from_slice(&load.database);
        let (Some(born), Some(restoring)) = (self.born(&database), self.restoring.get_mut(&database)) else {
            return Verdict::Refused(Refusal::NotRestoring);
        };
        let is_next =
            load.of == restoring.of && load.number == restoring.loads && stamp.origin == restoring.by;
        if !is_next || load.departed.len() > LOAD_DEPARTED_MAX {
            return Verdict::Refused(Refusal::NotRestoring);
        }
        restoring.loads += 1;
        let restoring = *restoring;
        if load.last {
            self.restoring.remove(&database);
        }
        let is_open = load.last;
        changes.push(database_change(&database, born, (!is_open).then_some(restoring)));
        for (departed, nth) in load.departed.iter().zip(1..) {
            let session = Session {
                id: stamp.position.0 + nth,
                origin: Origin {
                    node: stamp.origin.node,
                    epoch: OVER,
                },
                database: database.clone(),
                sender: Bytes::copy_from_slice(&departed.sender),
                connection: Bytes::copy_from_slice(&departed.connection),
            };
            changes.push(session_change(&session));
            self.sessions.insert(session);
        }
        Verdict::Effect(None)
    }
}
