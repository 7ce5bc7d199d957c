use super::rows::RowList;
use super::tables::{Table, Tables};
use super::{v1, v2};
use crate::reader::Reader;
use crate::writer::Write;
use crate::{RECEIPT_QUERY_SET, Refreshed, Text, hidden};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;

/// Rows that a message brings or takes away, by table, as one connection's subscriptions see them.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    payload: Bytes,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    /// v1 `DatabaseUpdate`.
    Flat(Tables),
    /// v2 `TransactionUpdate`: its place if it is all of it, then each query set with its tables.
    Nested(Option<Range<usize>>, Vec<(u32, Tables)>),
    /// v2 `QueryRows`, by query set: one row list a table.
    Lists(Direction, Vec<(u32, Tables)>),
}

/// Which way the rows of a [`Shape::Lists`] go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Come,
    Leave,
}

impl Default for Shape {
    fn default() -> Self {
        Self::Flat(Tables::default())
    }
}

/// The rows that came to one query, or left it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The query set; none in v1.
    pub query_set: Option<u32>,
    /// The table.
    pub table: Text,
    /// The table's number; 0 in v2, which knows tables by name alone.
    pub table_id: u32,
    /// The rows are an event table's: nobody keeps them.
    pub events: bool,
    /// Rows that came; an event table's events.
    pub inserts: RowList,
    /// Rows that left.
    pub deletes: RowList,
}

impl Changes {
    pub(super) fn flat(payload: &Bytes, tables: Tables) -> Self {
        Self {
            payload: payload.clone(),
            shape: Shape::Flat(tables),
        }
    }

    pub(super) fn nested(payload: &Bytes, place: Range<usize>, sets: Vec<(u32, Tables)>) -> Self {
        Self {
            payload: payload.clone(),
            shape: Shape::Nested(Some(place), sets),
        }
    }

    /// Those of the query sets that `numbers` has, under the number that it gives them. It is sorted by the number that they
    /// have here. v1 does not tell query sets apart: there it is all of it.
    pub(super) fn renumbered(&self, numbers: &[(u32, u32)]) -> Self {
        let shape = match &self.shape {
            Shape::Nested(_, sets) => {
                let known = sets.iter().filter_map(|(set, tables)| {
                    let at = numbers.binary_search_by_key(set, |(here, _)| *here).ok()?;
                    Some((numbers[at].1, tables.clone()))
                });
                Shape::Nested(None, known.collect())
            }
            shape => shape.clone(),
        };
        Self {
            payload: self.payload.clone(),
            shape,
        }
    }

    /// The query sets that it tells of; none in v1.
    pub fn query_sets(&self) -> impl Iterator<Item = u32> + '_ {
        let sets = match &self.shape {
            Shape::Flat(_) => &[][..],
            Shape::Nested(_, sets) | Shape::Lists(_, sets) => sets.as_slice(),
        };
        sets.iter().map(|(set, _)| *set)
    }

    pub(super) fn lists(payload: &Bytes, direction: Direction, sets: Vec<(u32, Tables)>) -> Self {
        Self {
            payload: payload.clone(),
            shape: Shape::Lists(direction, sets),
        }
    }

    /// What a client that may not see hidden tables is shown.
    pub fn visible(&self) -> impl Iterator<Item = Change> + '_ {
        self.iter().filter(|change| {
            change.query_set != Some(RECEIPT_QUERY_SET) && !hidden::is_hidden(change.table.as_bytes())
        })
    }

    /// Every change, the hidden tables' included.
    pub fn iter(&self) -> impl Iterator<Item = Change> + '_ {
        let (flat, nested) = match &self.shape {
            Shape::Flat(tables) => (Some((None, tables)), &[][..]),
            Shape::Nested(_, sets) | Shape::Lists(_, sets) => (None, sets.as_slice()),
        };
        let nested = nested
            .iter()
            .map(|(query_set, tables)| (Some(*query_set), tables));
        flat.into_iter()
            .chain(nested)
            .flat_map(move |(query_set, tables)| {
                tables
                    .tables
                    .iter()
                    .flat_map(move |table| self.table(query_set, table))
            })
    }

    fn table(&self, query_set: Option<u32>, table: &Table) -> Vec<Change> {
        let name = self.payload.slice(table.name.clone());
        let Ok(name) = Text::new(name, table.name.start) else {
            return Vec::new();
        };
        let mut reader = Reader::new(&self.payload, table.updates.start);
        let changes = match self.shape {
            Shape::Flat(_) => v1::changes(&mut reader),
            Shape::Nested(..) => v2::changes(&mut reader),
            Shape::Lists(direction, _) => RowList::read(&mut reader).map(|rows| {
                let (mut inserts, mut deletes) = (rows, RowList::default());
                if direction == Direction::Leave {
                    std::mem::swap(&mut inserts, &mut deletes);
                }
                vec![TableRows {
                    inserts,
                    deletes,
                    events: false,
                }]
            }),
        };
        let table_id = match self.shape {
            Shape::Flat(_) => Reader::new(&self.payload, table.place.start)
                .u32()
                .unwrap_or_default(),
            Shape::Nested(..) | Shape::Lists(..) => 0,
        };
        // The walk that found the table has been over these very bytes.
        let changes = changes.unwrap_or_default().into_iter();
        changes
            .map(|rows| Change {
                query_set,
                table: name.clone(),
                table_id,
                events: rows.events,
                inserts: rows.inserts,
                deletes: rows.deletes,
            })
            .collect()
    }

    /// `rtdb_index` in the receipt of `session`, if one is among the rows.
    pub fn receipt(&self, session: u64) -> Option<u64> {
        self.receipts()
            .find_map(|(of, index)| (of == session).then_some(index))
    }

    /// The receipts among the rows: each with its session and `rtdb_index`.
    pub fn receipts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let index_of = |row: Bytes| {
            let (session, index) = row.split_first_chunk()?;
            let index = u64::from_le_bytes(index.try_into().ok()?);
            Some((u64::from_le_bytes(*session), index))
        };
        self.ours(hidden::RECEIPT_TABLE).filter_map(index_of)
    }

    /// Which views the transaction has brought up to date, if it is a refresh.
    pub fn refreshed(&self) -> Option<Refreshed> {
        let mut rows = self.ours(hidden::REFRESH_TABLE);
        let key = u64::from_le_bytes(rows.next()?[..].try_into().ok()?);
        Some(Refreshed::of(key))
    }

    /// The rows that came to one of our own tables, by our own subscription.
    fn ours(&self, table: &'static str) -> impl Iterator<Item = Bytes> + '_ {
        let ours = match &self.shape {
            Shape::Flat(tables) => Some(tables),
            Shape::Nested(_, sets) | Shape::Lists(_, sets) => {
                let ours = sets.iter().find(|(id, _)| *id == RECEIPT_QUERY_SET);
                ours.map(|(_, tables)| tables)
            }
        };
        let is_it = move |of: &&Table| of.hidden && self.payload[of.name.clone()] == *table.as_bytes();
        let tables = ours.into_iter().flat_map(|tables| &tables.tables);
        let changes = tables.filter(is_it).flat_map(|table| self.table(None, table));
        changes.flat_map(|change| change.inserts.iter().collect::<Vec<_>>())
    }

    /// Writes these and `later` as those of one transaction (v2 `TransactionUpdate`), the hidden tables of `later` left out.
    /// `None` in v1, and if both have rows of one table for one query set.
    pub(super) fn put_with(&self, later: &Self, out: &mut BytesMut) -> Option<()> {
        let (Shape::Nested(_, sets), Shape::Nested(_, later_sets)) = (&self.shape, &later.shape) else {
            return None;
        };
        let of = |set: u32, sets: &'_ [(u32, Tables)]| sets.iter().position(|(id, _)| *id == set);
        let new = || visible_sets(later_sets).filter(|(set, _)| of(*set, sets).is_none());
        out.put_count(sets.len() + new().count());
        for (set, tables) in sets {
            let added = of(*set, later_sets).filter(|_| *set != RECEIPT_QUERY_SET);
            let added = added.map_or(&[][..], |at| &later_sets[at].1.tables);
            let added = added.iter().filter(|table| !table.hidden);
            let name = |table: &Table| &later.payload[table.name.clone()];
            let is_here = |name: &[u8]| {
                tables
                    .tables
                    .iter()
                    .any(|table| self.payload[table.name.clone()] == *name)
            };
            if added.clone().any(|table| is_here(name(table))) {
                return None;
            }
            out.put_u32_le(*set);
            out.put_count(tables.tables.len() + added.clone().count());
            tables
                .tables
                .iter()
                .for_each(|table| out.put_slice(&self.payload[table.place.clone()]));
            added.for_each(|table| out.put_slice(&later.payload[table.place.clone()]));
        }
        for (set, tables) in new() {
            out.put_u32_le(*set);
            tables.put_visible(&later.payload, out);
        }
        Some(())
    }

    /// Whether all of it may be shown.
    pub(super) fn all_visible(&self) -> bool {
        match &self.shape {
            Shape::Flat(tables) => !tables.any_hidden(),
            Shape::Nested(None, _) => false,
            Shape::Nested(Some(_), sets) | Shape::Lists(_, sets) => sets
                .iter()
                .all(|(id, tables)| *id != RECEIPT_QUERY_SET && !tables.any_hidden()),
        }
    }

    /// Whether any of it may be shown.
    pub(super) fn any_visible(&self) -> bool {
        match &self.shape {
            Shape::Flat(tables) => tables.visible().next().is_some(),
            Shape::Nested(_, sets) | Shape::Lists(_, sets) => visible_sets(sets).next().is_some(),
        }
    }

    /// Writes what may be shown, in its own shape (v1 `DatabaseUpdate`, v2 `TransactionUpdate`).
    pub(super) fn put_visible(&self, out: &mut BytesMut) {
        match &self.shape {
            // A default value has no place in any payload.
            Shape::Flat(tables) if tables.place.is_empty() => out.put_count(0),
            Shape::Flat(tables) => tables.put_visible(&self.payload, out),
            Shape::Nested(Some(place), _) if self.all_visible() => {
                out.put_slice(&self.payload[place.clone()])
            }
            // Only of updates is anything written anew.
            Shape::Lists(..) => out.put_count(0),
            Shape::Nested(_, sets) => {
                out.put_count(visible_sets(sets).count());
                for (id, tables) in visible_sets(sets) {
                    out.put_u32_le(*id);
                    tables.put_visible(&self.payload, out);
                }
            }
        }
    }
}

/// One table's rows in one update.
pub(super) struct TableRows {
    pub(super) inserts: RowList,
    pub(super) deletes: RowList,
    pub(super) events: bool,
}

/// The client's own query sets, those left out of which nothing would remain.
fn visible_sets(sets: &[(u32, Tables)]) -> impl Iterator<Item = &(u32, Tables)> {
    sets.iter()
        .filter(|(id, tables)| *id != RECEIPT_QUERY_SET && tables.visible().next().is_some())
}
