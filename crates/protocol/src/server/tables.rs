use crate::FrameError;
use crate::hidden;
use crate::reader::Reader;
use crate::writer::Write;
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;

/// The places, in a payload, of an array of tables: the one shape in which rows come in every message.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// The array, its count included.
    pub(super) place: Range<usize>,
    pub(super) tables: Vec<Table>,
}

/// The place of one table and of its rows.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) place: Range<usize>,
    pub(super) name: Range<usize>,
    /// What follows the name (v1: the row count): the array of updates.
    pub(super) updates: Range<usize>,
    pub(super) hidden: bool,
}

impl Table {
    /// A table at `place` in the payload, whose updates begin at `updates`.
    pub(super) fn new(payload: &Bytes, place: Range<usize>, name: Range<usize>, updates: usize) -> Self {
        Self {
            updates: updates..place.end,
            hidden: hidden::is_hidden(&payload[name.clone()]),
            place,
            name,
        }
    }
}

impl Tables {
    /// A single table, which stands in no array.
    pub(super) fn one(table: Table) -> Self {
        Self {
            place: table.place.clone(),
            tables: vec![table],
        }
    }

    /// `read` gives the place of the table's name and where its updates start, and leaves the reader behind the table,
    /// which takes at least `least` bytes.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        payload: &Bytes,
        least: usize,
        mut read: impl FnMut(&mut Reader<'_>) -> Result<(Range<usize>, usize), FrameError>,
    ) -> Result<Self, FrameError> {
        let start = reader.at();
        let count = reader.count(least)?;
        let mut tables = Vec::with_capacity(count);
        for _ in 0..count {
            let from = reader.at();
            let (name, updates) = read(reader)?;
            tables.push(Table::new(payload, from..reader.at(), name, updates));
        }
        Ok(Self {
            place: start..reader.at(),
            tables,
        })
    }

    pub(super) fn visible(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| !table.hidden)
    }

    pub(super) fn any_hidden(&self) -> bool {
        self.tables.iter().any(|table| table.hidden)
    }

    /// Writes the array without its hidden tables.
    pub(super) fn put_visible(&self, payload: &Bytes, out: &mut BytesMut) {
        if !self.any_hidden() {
            return out.put_slice(&payload[self.place.clone()]);
        }
        out.put_count(self.visible().count());
        self.visible()
            .for_each(|table| out.put_slice(&payload[table.place.clone()]));
    }

    /// The message at `message`, in which this array stands, without the array's hidden tables.
    pub(super) fn strip(&self, payload: &Bytes, message: Range<usize>) -> Bytes {
        if !self.any_hidden() {
            return payload.slice(message);
        }
        let mut out = BytesMut::with_capacity(message.len());
        out.put_slice(&payload[message.start..self.place.start]);
        self.put_visible(payload, &mut out);
        out.put_slice(&payload[self.place.end..message.end]);
        out.freeze()
    }
}
