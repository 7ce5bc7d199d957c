//! The keys of calls that may be sent again: for how long they are kept, and what came of the calls.
//!
//! Whoever has too many is refused more of them, before what it may still send again is forgotten. Who has few gets room all the
//! same: from the caller that has the most.

use super::state::StateKey;
use super::verdict::{Change, Stamp};
use crate::command::{CallKey, Ended, FINGERPRINT_BYTES_MAX, KEY_BYTES_MAX, KEYS_LEVEL, Known, OUTCOMES_MAX};
use crate::{Outcome, Position, Refusal};
use prost::Message;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How long a key is kept, by the log's time, in microseconds.
pub const KEY_KEPT_US_MAX: i64 = 24 * 3600 * 1_000_000;

/// How long it is kept at least, however many its caller gives after it, in microseconds.
pub const KEY_KEPT_US_MIN: i64 = 300 * 1_000_000;

/// Keys of one caller in a database.
pub const KEYS_PER_CALLER_MAX: usize = 8_192;

/// Keys of all callers of a database.
pub const KEYS_PER_DATABASE_MAX: usize = 32_768;

/// Keys of all databases of a shard: each segment of the log begins with all of them.
pub const KEYS_MAX: usize = 65_536;

/// Keys whose time is over that are forgotten with one command.
const FORGOTTEN_AT_ONCE_MAX: usize = 8;

/// Bytes of an identity.
const SENDER_BYTES_MAX: usize = 32;

/// Bytes of a key's hash.
const HASH_BYTES: usize = blake3::OUT_LEN;

/// A call with a key, as it is kept and written. It has bytes of its own: those of the log's entry would keep all of that in
/// memory.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyedCall {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) database: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) sender: Vec<u8>,
    /// A hash of the key, which may be long.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) fingerprint: Vec<u8>,
    #[prost(sfixed64, tag = "5")]
    pub(crate) timestamp_us: i64,
    /// Its position, and what came of it, once the log has heard.
    #[prost(message, optional, tag = "6")]
    pub(crate) known: Option<Known>,
    #[prost(uint32, tag = "15")]
    pub(crate) version: u32,
}

impl KeyedCall {
    fn new(database: &[u8], key: &CallKey, timestamp_us: i64) -> Self {
        Self {
            database: database.to_vec(),
            sender: key.sender.to_vec(),
            hash: hash(&key.key).to_vec(),
            fingerprint: key.fingerprint.to_vec(),
            timestamp_us,
            known: None,
            version: KEYS_LEVEL,
        }
    }

    /// Whether it is the same call that its key is given now.
    pub fn is_same(&self, key: &CallKey) -> bool {
        self.fingerprint == key.fingerprint
    }

    /// What came of it, as its first caller has heard; `None` if the log has not heard.
    pub fn outcome(&self) -> Option<Outcome> {
        self.known.as_ref()?.outcome(self.timestamp_us)
    }

    /// When it was made, by the log's time.
    pub fn timestamp_us(&self) -> i64 {
        self.timestamp_us
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

fn hash(key: &str) -> [u8; HASH_BYTES] {
    *blake3::hash(key.as_bytes()).as_bytes()
}

/// How many keys a caller or a database has, and the position of the oldest, which tells whose they are. The last has the
/// most, and the oldest among those that have as many.
type Rank = (usize, Reverse<u64>);

fn rank(positions: &BTreeSet<u64>) -> Option<Rank> {
    Some((positions.len(), Reverse(*positions.first()?)))
}

/// Changes somebody's positions, and its rank among others.
fn change_of(
    ranks: &mut BTreeSet<Rank>,
    positions: &mut BTreeSet<u64>,
    change: impl FnOnce(&mut BTreeSet<u64>) -> bool,
) {
    if let Some(before) = rank(positions) {
        ranks.remove(&before);
    }
    change(positions);
    ranks.extend(rank(positions));
}

/// One caller's keys in a database, by their hashes.
#[derive(Clone, Debug, Default)]
struct Caller {
    keys: BTreeMap<Vec<u8>, u64>,
    positions: BTreeSet<u64>,
}

/// A database's callers with keys.
#[derive(Clone, Debug, Default)]
struct Callers {
    callers: BTreeMap<Vec<u8>, Caller>,
    ranks: BTreeSet<Rank>,
    positions: BTreeSet<u64>,
}

/// The calls with keys: by position, which is the order in which they came, and by what they are looked up by.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    calls: BTreeMap<u64, KeyedCall>,
    databases: BTreeMap<Vec<u8>, Callers>,
    ranks: BTreeSet<Rank>,
}

impl Keys {
    /// The call that a caller of the database has given the key, and its position.
    pub(super) fn find(&self, database: &[u8], sender: &[u8], key: &str) -> Option<(Position, &KeyedCall)> {
        let caller = self.databases.get(database)?.callers.get(sender)?;
        let position = *caller.keys.get(hash(key).as_slice())?;
        Some((Position(position), self.calls.get(&position)?))
    }

    /// Whether the call at `position` has a key, and the log has not heard what came of it.
    pub(super) fn is_open(&self, position: Position) -> bool {
        let call = self.calls.get(&position.0);
        call.is_some_and(|call| call.known.is_none())
    }

    /// Refuses what has been there before, or can't be kept.
    pub(super) fn check(&self, database: &[u8], key: &CallKey, now_us: i64) -> Result<(), Refusal> {
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

    /// Forgets keys whose time is over, a few at once.
    pub(super) fn expire(&mut self, now_us: i64, changes: &mut Vec<Change>) {
        for _ in 0..FORGOTTEN_AT_ONCE_MAX {
            match self.calls.first_key_value() {
                Some((position, call)) if !call.is_kept(now_us) => self.remove(*position, changes),
                _ => break,
            }
        }
    }

    /// Keeps the key of a call that takes effect, and forgets another for it.
    pub(super) fn take(
        &mut self,
        database: &[u8],
        key: &CallKey,
        stamp: Stamp,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refusal> {
        if let Some((Position(over), _)) = self.find(database, &key.sender, &key.key) {
            self.remove(over, changes);
        }
        if let Some(goes) = self.makes_room(database, &key.sender, stamp.timestamp_us)? {
            self.remove(goes, changes);
        }
        let call = KeyedCall::new(database, key, stamp.timestamp_us);
        changes.push(call.change(stamp.position.0));
        self.insert(stamp.position.0, call);
        Ok(())
    }

    /// Which key goes for another of the caller: its own oldest if it has the most, or else the oldest of who has. If that may
    /// still be sent again, whoever it is of, it would count twice: then the oldest of all that there is no room for.
    fn makes_room(&self, database: &[u8], sender: &[u8], now_us: i64) -> Result<Option<u64>, Refusal> {
        let callers = self.databases.get(database);
        let caller = callers.and_then(|callers| callers.callers.get(sender));
        let of_caller = caller.and_then(|caller| rank(&caller.positions));
        let of_database = callers.and_then(|callers| rank(&callers.positions));
        let count = |rank: Option<Rank>| rank.map_or(0, |(count, _)| count);
        let oldest = |rank: Option<Rank>| rank.map(|(_, Reverse(oldest))| oldest);
        let (most, oldest_of_all, whose) = match () {
            () if count(of_caller) >= KEYS_PER_CALLER_MAX => {
                (of_caller, oldest(of_caller), "the caller has made")
            }
            () if count(of_database) >= KEYS_PER_DATABASE_MAX => (
                self.most_of(of_database),
                oldest(of_database),
                "the callers of this database have made",
            ),
            () if self.calls.len() >= KEYS_MAX => (
                self.most_of(self.ranks.last().copied()),
                self.calls.keys().next().copied(),
                "the callers of all databases have made",
            ),
            () => return Ok(None),
        };
        let call = |position: Option<u64>| self.calls.get(&position?);
        let is_here = call(oldest(most)).is_some_and(|call| call.database == database);
        let first = match is_here && count(of_caller) >= count(most) {
            true => oldest(of_caller),
            false => oldest(most),
        };
        let is_old = |goes: &Option<u64>| call(*goes).is_some_and(|it| it.age_us(now_us) >= KEY_KEPT_US_MIN);
        let goes = [first, oldest_of_all].into_iter().find(is_old);
        goes.ok_or(Refusal::TooManyKeys { whose })
    }

    /// The caller that has the most keys in a database.
    fn most_of(&self, database: Option<Rank>) -> Option<Rank> {
        let (_, Reverse(oldest)) = database?;
        let callers = self.databases.get(&self.calls.get(&oldest)?.database)?;
        callers.ranks.last().copied()
    }

    /// What came of calls of the database. The first word holds.
    pub(super) fn hear(&mut self, database: &[u8], known: &[Known], changes: &mut Vec<Change>) {
        for known in known.iter().take(OUTCOMES_MAX) {
            let position = known.position;
            let call = self.calls.get_mut(&position);
            let Some(call) = call.filter(|call| call.database == database && call.known.is_none()) else {
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

    /// The log decides that the call at `position` has failed, whatever was said of it before.
    pub(super) fn overrule(&mut self, database: &[u8], position: u64, why: &str, changes: &mut Vec<Change>) {
        let call = self.calls.get_mut(&position);
        if let Some(call) = call.filter(|call| call.database == database) {
            let ended = Some(Ended::Trapped(why.to_owned()));
            call.known = Some(Known { position, ended }.shortened());
            changes.push(call.change(position));
        }
    }

    /// The database is gone.
    pub(super) fn forget(&mut self, database: &[u8], changes: &mut Vec<Change>) {
        let callers = self.databases.remove(database).unwrap_or_default();
        if let Some(rank) = rank(&callers.positions) {
            self.ranks.remove(&rank);
        }
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
        change_of(&mut self.ranks, &mut callers.positions, |it| it.insert(position));
        let caller = callers.callers.entry(call.sender.clone()).or_default();
        change_of(&mut callers.ranks, &mut caller.positions, |it| {
            it.insert(position)
        });
        caller.keys.insert(call.hash.clone(), position);
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
        change_of(&mut self.ranks, &mut callers.positions, |it| it.remove(&position));
        if let Some(caller) = callers.callers.get_mut(&call.sender) {
            change_of(&mut callers.ranks, &mut caller.positions, |it| {
                it.remove(&position)
            });
            if caller.keys.get(&call.hash) == Some(&position) {
                caller.keys.remove(&call.hash);
            }
            if caller.positions.is_empty() {
                callers.callers.remove(&call.sender);
            }
        }
        if callers.positions.is_empty() {
            self.databases.remove(&call.database);
        }
    }
}
