//! The keys of calls that may be sent again: for how long they are kept, and what came of the calls.
//!
//! What somebody may still send again is not forgotten early: where there is no room, new keys are refused instead.

use super::state::StateKey;
use super::verdict::{Change, Stamp};
use crate::command::{CallKey, FINGERPRINT_BYTES_MAX, KEY_BYTES_MAX, KEYS_LEVEL, Known, OUTCOMES_MAX};
use crate::{Outcome, Position, Refusal};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// How long a key is kept, by the log's time, in microseconds.
pub const KEY_KEPT_US_MAX: i64 = 24 * 3600 * 1_000_000;

/// How long it is kept at least, however many come after it, in microseconds.
pub const KEY_KEPT_US_MIN: i64 = 300 * 1_000_000;

/// Keys of one caller in a database.
pub const KEYS_PER_CALLER_MAX: usize = 32_768;

/// Keys of all callers of a database.
pub const KEYS_PER_DATABASE_MAX: usize = 65_536;

/// Keys whose time is over that are forgotten with one command.
const FORGOTTEN_AT_ONCE_MAX: usize = 8;

/// Bytes of an identity.
const SENDER_BYTES_MAX: usize = 32;

/// A call with a key, as it is kept and written.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyedCall {
    #[prost(bytes = "bytes", tag = "1")]
    database: Bytes,
    #[prost(message, optional, tag = "2")]
    key: Option<CallKey>,
    #[prost(sfixed64, tag = "3")]
    timestamp_us: i64,
    /// Its position, and what came of it, once the log has heard.
    #[prost(message, optional, tag = "4")]
    known: Option<Known>,
    #[prost(uint32, tag = "15")]
    version: u32,
}

impl KeyedCall {
    fn new(database: &Bytes, key: &CallKey, timestamp_us: i64) -> Self {
        Self {
            database: database.clone(),
            key: Some(key.clone()),
            timestamp_us,
            known: None,
            version: KEYS_LEVEL,
        }
    }

    /// Whether it is the same call that `key` is given now.
    pub fn is_same(&self, key: &CallKey) -> bool {
        self.key.as_ref() == Some(key)
    }

    /// What came of it, as its first caller has heard; `None` if the log has not heard.
    pub fn outcome(&self) -> Option<Outcome> {
        self.known.as_ref()?.outcome(self.timestamp_us)
    }

    fn is_kept(&self, now_us: i64) -> bool {
        self.age_us(now_us) < KEY_KEPT_US_MAX
    }

    fn age_us(&self, now_us: i64) -> i64 {
        now_us.saturating_sub(self.timestamp_us)
    }

    fn change(&self, position: u64) -> Change {
        (StateKey::Keyed(position), Some(self.encode_to_vec()))
    }
}

/// One caller's keys in a database.
#[derive(Clone, Debug, Default)]
struct Caller {
    keys: BTreeMap<String, u64>,
    positions: BTreeSet<u64>,
}

/// A database's callers with keys.
#[derive(Clone, Debug, Default)]
struct Callers {
    callers: BTreeMap<Bytes, Caller>,
    positions: BTreeSet<u64>,
}

/// The calls with keys: by position, which is the order in which they came, and by what they are looked up by.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    calls: BTreeMap<u64, KeyedCall>,
    databases: BTreeMap<Bytes, Callers>,
}

impl Keys {
    /// The call that a caller of the database has given the key, and its position.
    pub(super) fn find(&self, database: &[u8], sender: &[u8], key: &str) -> Option<(Position, &KeyedCall)> {
        let caller = self.databases.get(database)?.callers.get(sender)?;
        let position = *caller.keys.get(key)?;
        Some((Position(position), self.calls.get(&position)?))
    }

    /// Whether the call at `position` has a key, and the log has not heard what came of it.
    pub(super) fn is_open(&self, position: Position) -> bool {
        let call = self.calls.get(&position.0);
        call.is_some_and(|call| call.known.is_none())
    }

    /// Refuses what has been there before, or can't be kept.
    pub(super) fn check(&self, database: &Bytes, key: &CallKey, now_us: i64) -> Result<(), Refusal> {
        let limits = [
            ("an idempotency key", key.key.len(), KEY_BYTES_MAX),
            ("a caller's identity", key.sender.len(), SENDER_BYTES_MAX),
            (
                "a call's fingerprint",
                key.fingerprint.len(),
                FINGERPRINT_BYTES_MAX,
            ),
        ];
        if let Some((what, _, max)) = limits.into_iter().find(|(_, bytes, max)| bytes > max) {
            return Err(Refusal::TooLong { what, max });
        }
        let before = self.find(database, &key.sender, &key.key);
        match before.filter(|(_, call)| call.is_kept(now_us)) {
            Some(_) if rtdb_runtime::planted("repeated calls count") => Ok(()),
            Some((_, call)) if call.is_same(key) => Err(Refusal::Repeated),
            Some(_) => Err(Refusal::KeyTaken),
            None => Ok(()),
        }
    }

    /// Keeps the key of a call that takes effect, and forgets others for it.
    pub(super) fn take(
        &mut self,
        database: &Bytes,
        key: &CallKey,
        stamp: Stamp,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refusal> {
        self.make_room(database, key, stamp.timestamp_us, changes)?;
        let call = KeyedCall::new(database, key, stamp.timestamp_us);
        changes.push(call.change(stamp.position.0));
        self.insert(stamp.position.0, call);
        Ok(())
    }

    fn make_room(
        &mut self,
        database: &Bytes,
        key: &CallKey,
        now_us: i64,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refusal> {
        for _ in 0..FORGOTTEN_AT_ONCE_MAX {
            match self.calls.first_key_value() {
                Some((position, call)) if !call.is_kept(now_us) => self.remove(*position, changes),
                _ => break,
            }
        }
        if let Some((Position(over), _)) = self.find(database, &key.sender, &key.key) {
            self.remove(over, changes);
        }
        let full =
            |positions: &BTreeSet<u64>, max| positions.first().copied().filter(|_| positions.len() >= max);
        let Some(callers) = self.databases.get(database) else {
            return Ok(());
        };
        let of_caller = callers.callers.get(&key.sender);
        let of_caller = of_caller.and_then(|caller| full(&caller.positions, KEYS_PER_CALLER_MAX));
        let of_database = full(&callers.positions, KEYS_PER_DATABASE_MAX);
        let (oldest, whose) = match (of_caller, of_database) {
            (Some(oldest), _) => (oldest, "the caller has made"),
            (None, Some(oldest)) => (oldest, "the callers of this database have made"),
            (None, None) => return Ok(()),
        };
        let call = self.calls.get(&oldest);
        if call.is_some_and(|call| call.age_us(now_us) < KEY_KEPT_US_MIN) {
            return Err(Refusal::TooManyKeys { whose });
        }
        self.remove(oldest, changes);
        Ok(())
    }

    /// What came of calls of the database. The first word holds.
    pub(super) fn hear(&mut self, database: &Bytes, known: &[Known], changes: &mut Vec<Change>) {
        for known in known.iter().take(OUTCOMES_MAX) {
            let position = known.position;
            let call = self.calls.get_mut(&position);
            let Some(call) = call.filter(|call| call.database == *database && call.known.is_none()) else {
                continue;
            };
            if known.ended.is_none() {
                self.remove(position, changes);
                continue;
            }
            call.known = Some(known.clone().shortened());
            changes.push(call.change(position));
        }
    }

    /// The database is gone.
    pub(super) fn forget(&mut self, database: &Bytes, changes: &mut Vec<Change>) {
        let callers = self.databases.remove(database).unwrap_or_default();
        for position in callers.positions {
            self.calls.remove(&position);
            changes.push((StateKey::Keyed(position), None));
        }
    }

    pub(super) fn restore(&mut self, position: u64, call: KeyedCall) {
        self.insert(position, call);
    }

    pub(super) fn dump(&self, changes: &mut Vec<Change>) {
        changes.extend(self.calls.iter().map(|(position, call)| call.change(*position)));
    }

    fn insert(&mut self, position: u64, call: KeyedCall) {
        let callers = self.databases.entry(call.database.clone()).or_default();
        callers.positions.insert(position);
        let CallKey { sender, key, .. } = call.key.clone().unwrap_or_default();
        let caller = callers.callers.entry(sender).or_default();
        caller.positions.insert(position);
        caller.keys.insert(key, position);
        self.calls.insert(position, call);
    }

    fn remove(&mut self, position: u64, changes: &mut Vec<Change>) {
        let Some(call) = self.calls.remove(&position) else {
            return;
        };
        changes.push((StateKey::Keyed(position), None));
        let Some(callers) = self.databases.get_mut(&call.database) else {
            return;
        };
        callers.positions.remove(&position);
        let CallKey { sender, key, .. } = call.key.unwrap_or_default();
        if let Some(caller) = callers.callers.get_mut(&sender) {
            caller.positions.remove(&position);
            if caller.keys.get(&key) == Some(&position) {
                caller.keys.remove(&key);
            }
            if caller.positions.is_empty() {
                callers.callers.remove(&sender);
            }
        }
        if callers.positions.is_empty() {
            self.databases.remove(&call.database);
        }
    }
}
