//! A database with a prepared module, as the shim has it: its rows, and the hidden ones. Pure.

use super::query::{Changes, Query, Table};
use crate::module::{ADD, BURN, CONNECTED, DISCONNECTED, FAIL, REMOVE, TRAP, name, value};
use crate::shown::{self, Sums};
use bytes::{BufMut, Bytes, BytesMut};
use rtdb_determinism::header::{self, CallHeader, NO_RECEIPT};
use rtdb_determinism::{CONFLICT, DISCONNECT, IDENTIFY, MARK, REPLAY, SKIPPED, Successes};
use rtdb_protocol::reply::Outcome;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

/// What a module that trapped is answered with.
pub const TRAPPED: &str = "The Wasm instance encountered a fatal error: unreachable";

/// A row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// The number that the database has given it.
    pub number: u64,
    /// What it is known by; empty for a client that came or went.
    pub name: String,
    /// What was added.
    pub value: i64,
    /// When the call was made, as it was told.
    pub timestamp_us: i64,
    /// Who made it.
    pub sender: [u8; 32],
}

/// The row of `rtdb_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The position of the last call that is part of the database.
    pub index: u64,
    /// Of all that was written.
    pub digest: u64,
    /// The position of the module's publication.
    pub module: u64,
    /// The calls that are part of the database.
    pub successes: Successes,
}

/// A database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// Its owner's identity.
    pub owner: Bytes,
    /// The number of the module that runs.
    pub module: u64,
    /// The hash of its bytes.
    pub program: [u8; 32],
    /// Its hidden row.
    pub state: Option<State>,
    /// Its rows, by the positions of the calls.
    pub rows: BTreeMap<u64, Row>,
    /// The last call of each session that wants to know.
    pub receipts: BTreeMap<u64, u64>,
    next: u64,
    /// Of all rows, whatever their order.
    sum: u64,
    /// What clients' queries show.
    pub shown: Sums,
}

/// How a commit is taken back.
#[derive(Clone, Debug)]
pub struct Undo {
    state: Option<State>,
    row: Option<u64>,
    removed: Option<(u64, Row)>,
    receipt: Option<(u64, Option<u64>)>,
    module: u64,
    program: [u8; 32],
}

fn hash(value: &impl Hash) -> u64 {
    // Its keys are always the same.
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}

impl Database {
    /// A new one.
    pub fn new(owner: Bytes, module: u64, program: [u8; 32]) -> Self {
        Self {
            owner,
            module,
            program,
            ..Self::default()
        }
    }

    /// A hash of all rows, hidden ones among them.
    pub fn hash(&self) -> u64 {
        self.sum
    }

    /// Replaces the module.
    pub fn update(&mut self, module: u64, program: [u8; 32]) -> Undo {
        let undo = self.undo();
        (self.module, self.program) = (module, program);
        undo
    }

    fn undo(&self) -> Undo {
        Undo {
            state: self.state,
            row: None,
            removed: None,
            receipt: None,
            module: self.module,
            program: self.program,
        }
    }

    /// Takes the last commit back.
    pub fn revert(&mut self, undo: Undo) {
        (self.state, self.module, self.program) = (undo.state, undo.module, undo.program);
        if let Some(index) = undo.row
            && let Some(row) = self.rows.remove(&index)
        {
            self.next = row.number - 1;
            self.count(index, &row, false);
        }
        if let Some((index, row)) = undo.removed {
            self.count(index, &row, true);
            self.rows.insert(index, row);
        }
        if let Some((session, before)) = undo.receipt {
            self.receive(session, before);
        }
    }

    /// The name of the row that the last commit has removed.
    pub fn removed(undo: &Undo) -> Option<&str> {
        undo.removed.as_ref().map(|(_, row)| row.name.as_str())
    }

    /// What the last commit has changed.
    pub fn changes(&self, undo: &Undo) -> Changes {
        let mut changes = Changes::default();
        let came = undo.row.and_then(|index| self.rows.get(&index));
        changes.come(Table::Counter, came.and_then(Row::encoded));
        let left = undo.removed.as_ref().and_then(|(_, row)| row.encoded());
        changes.leave(Table::Counter, left);
        if let Some((session, before)) = undo.receipt {
            let receipt = |index| receipt(session, index);
            changes.leave(Table::Receipts, before.map(receipt));
            let now = self.receipts.get(&session).copied();
            changes.come(Table::Receipts, now.map(receipt));
        }
        changes
    }

    /// The rows that a query shows.
    pub fn rows_of(&self, query: &Query) -> Vec<Bytes> {
        let rows: Vec<Bytes> = match query.table {
            Table::Counter => self.rows.values().filter_map(Row::encoded).collect(),
            Table::Receipts => self
                .receipts
                .iter()
                .map(|(session, index)| receipt(*session, *index))
                .collect(),
        };
        rows.into_iter().filter(|row| query.shows(row)).collect()
    }

    /// Takes a row into the sums that has come, or out of them one that has left. Gives its hash.
    fn count(&mut self, index: u64, row: &Row, comes: bool) -> u64 {
        let hash = hash(&(index, row));
        let add = |sum: &mut u64, hash: u64| {
            *sum = match comes {
                true => sum.wrapping_add(hash),
                false => sum.wrapping_sub(hash),
            };
        };
        add(&mut self.sum, hash);
        if let Some(row) = row.encoded() {
            let sums = self.shown.iter_mut().zip(shown::queries());
            for (sum, _) in sums.filter(|(_, query)| query.shows(&row)) {
                add(sum, shown::hash_of(&row));
            }
        }
        hash
    }

    /// Sets a session's receipt, or deletes it; gives the one before.
    fn receive(&mut self, session: u64, index: Option<u64>) -> Option<u64> {
        let before = match index {
            Some(index) => self.receipts.insert(session, index),
            None => self.receipts.remove(&session),
        };
        for (index, is_new) in [(before, false), (index, true)] {
            let hash = index.map_or(0, |index| hash(&(session, index)));
            self.sum = match is_new {
                true => self.sum.wrapping_add(hash),
                false => self.sum.wrapping_sub(hash),
            };
        }
        before
    }

    /// Makes a call; also gives how it is taken back, if there is anything to take back.
    pub fn call(&mut self, reducer: &str, args: &[u8]) -> (Outcome, Option<Undo>) {
        let (Some(header), Some(own)) = (CallHeader::decode(args), args.get(header::LEN..)) else {
            return (Outcome::Rejected("invalid arguments".to_owned()), None);
        };
        let is_hidden = [MARK, DISCONNECT, IDENTIFY].contains(&reducer);
        if self.state.is_some_and(|state| header.index <= state.index) {
            return match is_hidden {
                true => (done(0), None),
                false => (failed(SKIPPED), None),
            };
        }
        let mut state = self.state.unwrap_or(State {
            index: 0,
            digest: 0,
            module: 0,
            successes: Successes::default(),
        });
        let mut removed = None;
        let row = match reducer {
            IDENTIFY => return (done(0), None),
            // What has been done says what is written.
            REPLAY => {
                let read = own
                    .split_first_chunk()
                    .and_then(|(base, rest)| Some((u64::from_le_bytes(*base), rest.get(4..)?)));
                match read {
                    Some((base, done)) if base == state.index => {
                        Some(String::from_utf8_lossy(done).into_owned())
                    }
                    _ => return (failed(CONFLICT), None),
                }
            }
            ADD => Some(name(args).unwrap_or_default().to_owned()),
            FAIL => return (failed(name(args).unwrap_or_default()), None),
            TRAP => return (Outcome::Internal(TRAPPED.to_owned()), None),
            BURN => return (Outcome::OutOfEnergy, None),
            // Some clients can't go in peace.
            DISCONNECTED if is_stubborn(&header) => return (failed("stay"), None),
            CONNECTED | DISCONNECTED => Some(String::new()),
            REMOVE => {
                let number = value(args).unwrap_or_default();
                let mut rows = self.rows.iter();
                let is_it = |row: &Row| !row.name.is_empty() && row.number as i64 == number;
                match rows.find(|(_, row)| is_it(row)) {
                    Some((index, _)) => {
                        removed = Some(*index);
                        None
                    }
                    None => return (failed(&format!("no counter {number}")), None),
                }
            }
            MARK => {
                if own.first() == Some(&1) {
                    state.module = header.index;
                }
                None
            }
            DISCONNECT => None,
            _ => return (Outcome::Rejected(format!("no such reducer: {reducer}")), None),
        };
        let mut undo = self.undo();
        if let Some(name) = row {
            let timestamp_us = header.timestamp_us;
            let row = Row {
                number: self.next + 1,
                name,
                value: value(args).unwrap_or_default(),
                timestamp_us,
                sender: header.sender,
            };
            let hash = self.count(header.index, &row, true);
            state.digest = mixed(state.digest, hash);
            self.next += 1;
            self.rows.insert(header.index, row);
            undo.row = Some(header.index);
        }
        if let Some(index) = removed
            && let Some(row) = self.rows.remove(&index)
        {
            let hash = self.count(index, &row, false);
            state.digest = mixed(state.digest, !hash);
            undo.removed = Some((index, row));
        }
        let session = header.session;
        if [DISCONNECT, DISCONNECTED].contains(&reducer) {
            undo.receipt = Some((session, self.receive(session, None)));
        } else if session > 0 && session & NO_RECEIPT == 0 {
            undo.receipt = Some((session, self.receive(session, Some(header.index))));
        }
        state.index = header.index;
        state.successes.add(header.index);
        self.state = Some(state);
        (done(header.index), Some(undo))
    }
}

impl Row {
    /// As the server shows it; `None` for one that stands in another table.
    fn encoded(&self) -> Option<Bytes> {
        if self.name.is_empty() {
            return None;
        }
        let mut row = BytesMut::with_capacity(64 + self.name.len());
        row.put_u64_le(self.number);
        row.put_u32_le(self.name.len() as u32);
        row.put_slice(self.name.as_bytes());
        row.put_i64_le(self.value);
        row.put_i64_le(self.timestamp_us);
        row.put_slice(&self.sender);
        Some(row.freeze())
    }
}

/// A row of `rtdb_session`.
fn receipt(session: u64, index: u64) -> Bytes {
    [session.to_le_bytes(), index.to_le_bytes()].concat().into()
}

fn mixed(digest: u64, hash: u64) -> u64 {
    (digest ^ hash)
        .rotate_left(29)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether the client's departure fails.
fn is_stubborn(header: &CallHeader) -> bool {
    header
        .sender
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
        % 4
        == 0
}

/// A call that went well says where it stands, so that an answer is known to be its own.
fn done(index: u64) -> Outcome {
    Outcome::Ok {
        return_value: Bytes::copy_from_slice(&index.to_le_bytes()),
        execution_us: 1,
        energy: index.into(),
    }
}

fn failed(message: &str) -> Outcome {
    Outcome::Failed {
        message: message.to_owned(),
        execution_us: 1,
        energy: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args;

    fn call(
        database: &mut Database,
        reducer: &str,
        index: u64,
        session: u64,
        name: &str,
    ) -> (Outcome, Option<Undo>) {
        let mut args = args(session, name).to_vec();
        args[56..64].copy_from_slice(&index.to_le_bytes());
        if reducer == REMOVE {
            // The first row.
            let end = args.len();
            args[end - 8..].copy_from_slice(&1_i64.to_le_bytes());
        }
        database.call(reducer, &args)
    }

    #[test]
    fn a_position_is_applied_once_and_commits_can_be_taken_back() {
        let mut database = Database::default();
        let mut states = vec![database.clone()];
        let mut undos = Vec::new();
        let all = Query::parse("SELECT * FROM counter").expect("a query");
        let mut rows: Vec<Bytes> = Vec::new();
        let calls = [
            (ADD, 5, 0),
            (ADD, 6, 3),
            (MARK, 7, 0),
            (ADD, 8, 3),
            (REMOVE, 9, 3),
            (ADD, 10, 0),
            (DISCONNECTED, 11, 3),
        ];
        for (reducer, index, session) in calls {
            let before = database.clone();
            let (outcome, undo) = call(&mut database, reducer, index, session, "a");
            if let Some(undo) = &undo {
                let changes = database.changes(undo);
                let (came, left) = all.seen(&changes);
                rows.retain(|row| !left.contains(&row.as_ref()));
                rows.extend(came.into_iter().map(Bytes::copy_from_slice));
                assert_eq!(rows, database.rows_of(&all), "what is told is what happens");
            }
            assert!(matches!(outcome, Outcome::Ok { .. }) || reducer == DISCONNECTED);
            match undo {
                Some(undo) => {
                    undos.push(undo);
                    states.push(database.clone());
                }
                None => assert_eq!(database, before),
            }
            let (again, undo) = call(&mut database, ADD, index.min(8), 0, "b");
            assert_eq!((again, undo.is_none()), (failed(SKIPPED), true));
        }
        for (undo, before) in undos.into_iter().zip(states).rev() {
            database.revert(undo);
            assert_eq!(database, before);
        }
    }
}
