//! A query set: who has it, and what it shows.

use crate::budget::Budget;
use crate::rows::Rows;
use bytes::Bytes;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client;
use rtdb_protocol::reply::{Direction, TableRows, applied_rows};
use rtdb_protocol::sql::Query;
use std::sync::Arc;

/// How far a query set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its rows are to be counted when it is its turn.
    New,
    /// Its rows are being counted.
    Counting,
    /// It is to be subscribed to once the upstream is open, and it is its turn.
    Wanted,
    /// The answer is due.
    Asked,
    /// Its updates come.
    Live,
    /// Its updates come, but its rows are more than are kept: nobody joins any more, and its members can't be told what they
    /// miss when the upstream is lost.
    Unkept,
    /// They come no more: its members go on by themselves.
    Frozen,
}

/// What a query set without rows costs, in rows.
const ROWS_OF_ANY_SET: u64 = 16;

/// A session that waits for a query set to begin.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) session: u64,
    pub(super) ticket: u32,
    /// The fence that it waits for; 0: it asked before the set was subscribed to.
    pub(super) fence: u32,
}

/// A list of queries that members are subscribed to.
pub(super) struct Set {
    pub(super) queries: Arc<[Query]>,
    pub(super) state: State,
    pub(super) members: Vec<u64>,
    pub(super) waiting: Vec<Joiner>,
    pub(super) rows: Rows,
    /// How many rows it had when they were counted.
    pub(super) counted: u64,
    /// The tables of its first answer: some may be empty.
    pub(super) tables: Vec<(Box<str>, u32)>,
    /// What it shows now, as members are told when they join, and when they leave.
    pub(super) come: Option<Bytes>,
    pub(super) leave: Option<Bytes>,
}

impl Set {
    /// The session that asked for it first.
    pub(super) fn first(&self) -> u64 {
        self.waiting.first().map_or(0, |joiner| joiner.session)
    }

    /// What its answer costs those who wait behind it: a little, and its rows.
    pub(super) fn cost(&self) -> u64 {
        ROWS_OF_ANY_SET + self.counted
    }

    fn texts(&self) -> Vec<&str> {
        self.queries.iter().map(Query::text).collect()
    }

    fn rows(&self, subprotocol: Subprotocol, direction: Direction) -> Bytes {
        let shown = self.rows.shown();
        let empty = self.tables.iter().filter(|(name, _)| {
            let mut tables = shown.iter();
            tables.all(|rows| *rows.table != **name)
        });
        let empty = empty.map(|(name, table_id)| TableRows {
            table: name,
            table_id: *table_id,
            rows: Vec::new(),
        });
        let tables: Vec<_> = shown.iter().cloned().chain(empty).collect();
        applied_rows(subprotocol, direction, Some(&tables))
    }

    /// What it shows now.
    pub(super) fn snapshot(
        &mut self,
        subprotocol: Subprotocol,
        direction: Direction,
        budget: &Budget,
    ) -> Bytes {
        let made = match direction {
            Direction::Come => &self.come,
            Direction::Leave => &self.leave,
        };
        if let Some(snapshot) = made {
            return snapshot.clone();
        }
        let snapshot = budget.shared(self.rows(subprotocol, direction));
        *match direction {
            Direction::Come => &mut self.come,
            Direction::Leave => &mut self.leave,
        } = Some(snapshot.clone());
        snapshot
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.rows.bytes()
    }

    pub(super) fn forget_snapshot(&mut self) {
        (self.come, self.leave) = (None, None);
    }

    /// Bytes that have to be gone through before those can be let in who wait for a fence up to this one.
    pub(super) fn bytes_to_admit(&self, fence: u32) -> usize {
        let waits = self.waiting.iter().any(|joiner| joiner.fence <= fence);
        match waits && self.come.is_none() {
            true => self.rows.bytes(),
            false => 0,
        }
    }
}

/// The subscription to a query set. Its number is the request's, too.
pub(super) fn subscribe(subprotocol: Subprotocol, number: u32, set: &Set) -> Bytes {
    client::subscribe(subprotocol, &set.texts(), number, number)
}
