//! Calls with keys.

use super::ShardState;
use crate::command::{CallKey, OUTCOMES_MAX, Outcomes};
use crate::resolver::keys::KeyedCall;
use crate::resolver::verdict::{Change, Stamp, Verdict};
use crate::{Position, Reply};
use bytes::Bytes;

impl ShardState {
    /// The call that a caller of a database has given a key, and where it stands.
    pub fn keyed(&self, database: &[u8], sender: &[u8], key: &str) -> Option<(Position, &KeyedCall)> {
        self.keys.find(database, sender, key)
    }

    /// Whether the call at `position` has a key, and it is not known here yet what came of it.
    pub fn wants_outcome(&self, position: Position) -> bool {
        self.keys.is_open(position)
    }

    /// What has a key counts once: what was said of it holds, whatever would be said now.
    pub(super) fn once(
        &mut self,
        database: &Bytes,
        key: Option<&CallKey>,
        stamp: Stamp,
        changes: &mut Vec<Change>,
        judged: impl FnOnce(&Self) -> Verdict,
    ) -> Verdict {
        let Some(key) = key else { return judged(self) };
        if let Err(refusal) = self.keys.check(database, key, stamp.timestamp_us) {
            return Verdict::Refused(refusal);
        }
        let verdict = judged(self);
        if matches!(verdict, Verdict::Effect(_))
            && let Err(refusal) = self.keys.take(database, key, stamp, changes)
        {
            return Verdict::Refused(refusal);
        }
        verdict
    }

    /// What replicas say of calls with keys is kept; what is wanted, the replicas hear.
    pub(super) fn outcomes(&mut self, it: &Outcomes, now: Position, changes: &mut Vec<Change>) -> Verdict {
        self.keys.hear(&it.database, &it.known, changes);
        match it.wanted.is_empty() {
            true => Verdict::Done(Reply::Done),
            false => self.about(&it.database, &it.wanted[..it.wanted.len().min(OUTCOMES_MAX)], now),
        }
    }
}
