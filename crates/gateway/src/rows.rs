//! The rows that clients have been shown, so that they can be told what they missed when their upstream was away.
//!
//! The server says of a new subscription what *is*; a client that was subscribed before must hear what *differs* from
//! what it has, and of a row that is gone it must hear all its bytes. Those the server no longer has: so they are kept
//! here. Only clients with subscriptions pay for it, a row's bytes and about [`ROW_OVERHEAD_BYTES`] each.

use crate::limits::{CLIENT_BYTES_MAX, ROWS_BYTES_MAX, ROWS_TOTAL_BYTES_MAX};
use bytes::Bytes;
use indexmap::IndexMap;
use prometheus::IntGauge;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::reply::TableRows;
use rtdb_protocol::server::{Change, Changes, RowList, TableDifference, put_difference};
use std::collections::BTreeMap;

/// What a row costs besides its own bytes: its place in the table (32 bytes, and 8 with one of control in the index, a load of
/// about two thirds) and the allocator's share of its bytes.
const ROW_OVERHEAD_BYTES: usize = 80;

/// Which rows are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Those that the client has been shown.
    Shown,
    /// Those that the new upstream has told of since it was opened.
    Told,
}

/// How many copies there are of a row. A client that is subscribed by two queries has a row twice.
#[derive(Clone, Copy, Debug, Default)]
struct Copies {
    shown: u32,
    told: u32,
}

#[derive(Debug, Default)]
struct Table {
    /// The table's number, as the server last said (v1).
    id: u32,
    rows: IndexMap<Box<[u8]>, Copies>,
}

/// The rows of one client, or of one subscription that clients share, by query set and table. v1 does not tell query sets apart: there all rows are of set 0.
#[derive(Debug)]
pub(crate) struct Rows {
    sets: BTreeMap<u32, BTreeMap<Box<str>, Table>>,
    bytes: usize,
    /// How many of `bytes` are in `total`.
    counted: usize,
    /// A client that has been shown more than is kept is given a connection of its own all the same: until it has been told
    /// what it missed, they are part of what is held for it, and limited like that.
    moving: bool,
    /// The bytes of all clients of the node.
    total: IntGauge,
}

impl Rows {
    /// None yet. What they take is counted in `total`.
    pub(crate) fn new(total: IntGauge) -> Self {
        Self {
            sets: BTreeMap::new(),
            bytes: 0,
            counted: 0,
            moving: false,
            total,
        }
    }

    /// They are kept, whatever they take, until [`Rows::moved`].
    pub(crate) fn moving(&mut self) {
        self.moving = true;
    }

    /// False if there are too many to be kept any longer.
    pub(crate) fn moved(&mut self) -> bool {
        self.moving = false;
        self.count()
    }

    /// What they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes note of rows that came and left. False if these are more than are kept: then the client can't be told
    /// any more what it misses.
    #[must_use]
    pub(crate) fn apply(&mut self, changes: &Changes, side: Side) -> bool {
        let changes: Vec<_> = changes.visible().collect();
        self.apply_all(&changes, side)
    }

    /// The same, of changes that are to be shown.
    #[must_use]
    pub(crate) fn apply_all(&mut self, changes: &[Change], side: Side) -> bool {
        let changes = || changes.iter().filter(|change| !change.events);
        // Of what can't be kept nothing is copied, or no more than is kept.
        let all =
            |rows: fn(&Change) -> &RowList| changes().map(|change| cost_of(rows(change))).sum::<usize>();
        let max = if self.moving {
            CLIENT_BYTES_MAX
        } else {
            ROWS_BYTES_MAX
        };
        let most = max + all(|change| &change.deletes);
        if all(|change| &change.inserts) > most || !self.count() {
            return false;
        }
        // A row can come by one query and leave by another in the same update: first what came.
        for change in changes() {
            if change.inserts.is_empty() {
                continue;
            }
            let set = self.sets.entry(change.query_set.unwrap_or(0)).or_default();
            if !set.contains_key(&*change.table) {
                set.insert((&*change.table).into(), Table::default());
            }
            if let Some(table) = set.get_mut(&*change.table) {
                table.id = change.table_id;
                self.bytes += table.insert(&change.inserts, side, most.saturating_sub(self.bytes));
            }
            if self.bytes > most {
                let _ = self.count();
                return false;
            }
        }
        for change in changes() {
            let set = self.sets.get_mut(&change.query_set.unwrap_or(0));
            if let Some(table) = set.and_then(|set| set.get_mut(&*change.table)) {
                table.id = change.table_id;
                self.bytes -= table.delete(&change.deletes, side);
            }
        }
        self.count()
    }

    /// The client has let go of a whole query set.
    pub(crate) fn forget(&mut self, query_set: u32) {
        for table in self.sets.remove(&query_set).unwrap_or_default().values() {
            self.bytes -= table.rows.keys().map(|row| cost(row)).sum::<usize>();
        }
        let _ = self.count();
    }

    /// The client has let go of everything.
    pub(crate) fn clear(&mut self) {
        self.sets.clear();
        self.bytes = 0;
        let _ = self.count();
    }

    /// A new upstream, which has told of nothing yet.
    pub(crate) fn forget_told(&mut self) {
        self.settle(|copies| copies.told = 0);
    }

    /// What the new upstream has told of becomes what the client is shown: by this message, if there is a difference.
    pub(crate) fn show_told(&mut self, subprotocol: Subprotocol) -> Option<Bytes> {
        let tables = self.difference();
        let message = (!tables.is_empty()).then(|| put_difference(subprotocol, &tables));
        self.take_told();
        message
    }

    /// What leads from what is shown to what the new upstream has told of.
    pub(crate) fn difference(&self) -> Vec<TableDifference<'_>> {
        let mut tables = Vec::new();
        for (&query_set, set) in &self.sets {
            for (name, table) in set {
                let mut difference = TableDifference {
                    query_set,
                    table: name,
                    table_id: table.id,
                    ..TableDifference::default()
                };
                for (row, copies) in &table.rows {
                    let more = copies.told.saturating_sub(copies.shown);
                    let fewer = copies.shown.saturating_sub(copies.told);
                    difference.inserts.extend((0..more).map(|_| row.as_ref()));
                    difference.deletes.extend((0..fewer).map(|_| row.as_ref()));
                }
                if !difference.inserts.is_empty() || !difference.deletes.is_empty() {
                    tables.push(difference);
                }
            }
        }
        tables
    }

    /// What the new upstream has told of is shown.
    pub(crate) fn take_told(&mut self) {
        self.settle(|copies| (copies.shown, copies.told) = (copies.told, 0));
    }

    /// What is shown of all query sets: tables with their numbers and rows.
    pub(crate) fn shown(&self) -> Vec<TableRows<'_>> {
        let tables = self.sets.values().flatten();
        tables
            .map(|(name, table)| TableRows {
                table: name,
                table_id: table.id,
                rows: table
                    .rows
                    .iter()
                    .flat_map(|(row, copies)| (0..copies.shown).map(|_| &**row))
                    .collect(),
            })
            .collect()
    }

    /// Changes every row's copies, and drops the rows that have none.
    fn settle(&mut self, change: impl Fn(&mut Copies)) {
        let mut freed = 0;
        for set in self.sets.values_mut() {
            for table in set.values_mut() {
                table.rows.retain(|row, copies| {
                    change(copies);
                    let kept = copies.any();
                    freed += if kept { 0 } else { cost(row) };
                    kept
                });
            }
            set.retain(|_, table| !table.rows.is_empty());
        }
        self.sets.retain(|_, set| !set.is_empty());
        self.bytes -= freed;
        let _ = self.count();
    }

    /// Counts what has changed in the node's total; whether all limits are kept.
    fn count(&mut self) -> bool {
        if self.bytes != self.counted {
            self.total.add(self.bytes as i64 - self.counted as i64);
            self.counted = self.bytes;
        }
        if self.moving {
            return self.bytes <= CLIENT_BYTES_MAX;
        }
        self.bytes <= ROWS_BYTES_MAX && self.total.get() <= ROWS_TOTAL_BYTES_MAX as i64
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.total.sub(self.counted as i64);
    }
}

impl Copies {
    fn of(&mut self, side: Side) -> &mut u32 {
        match side {
            Side::Shown => &mut self.shown,
            Side::Told => &mut self.told,
        }
    }

    fn any(self) -> bool {
        self.shown > 0 || self.told > 0
    }
}

impl Table {
    /// The bytes that these rows cost more. It ends when that is more than there is room for.
    fn insert(&mut self, rows: &RowList, side: Side, room: usize) -> usize {
        let mut more = 0;
        for row in rows.iter() {
            if more > room {
                break;
            }
            if let Some(copies) = self.rows.get_mut(&*row) {
                *copies.of(side) += 1;
                continue;
            }
            more += cost(&row);
            let mut copies = Copies::default();
            *copies.of(side) = 1;
            // Copied out: the message they came in is larger.
            self.rows.insert(row.as_ref().into(), copies);
        }
        more
    }

    /// The bytes that are free without these rows. One that is not there is passed over, as SDKs do.
    fn delete(&mut self, rows: &RowList, side: Side) -> usize {
        let mut less = 0;
        for row in rows.iter() {
            let Some(copies) = self.rows.get_mut(&*row) else {
                continue;
            };
            *copies.of(side) = copies.of(side).saturating_sub(1);
            if !copies.any() {
                self.rows.swap_remove(&*row);
                less += cost(&row);
            }
        }
        if self.rows.capacity() > 64 && self.rows.len() < self.rows.capacity() / 4 {
            self.rows.shrink_to(self.rows.len() * 2);
        }
        less
    }
}

/// What rows cost at most.
fn cost_of(rows: &RowList) -> usize {
    rows.bytes() + rows.len() * ROW_OVERHEAD_BYTES
}

fn cost(row: &[u8]) -> usize {
    row.len() + ROW_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
