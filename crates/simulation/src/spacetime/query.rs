//! The queries that the model of a server knows, and what of a commit they show.

use bytes::Bytes;

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `counter`.
    Counter,
    /// `rtdb_session`.
    Receipts,
}

/// What must be so of a row: of its first column, or its third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    All,
    FirstBelow(u64),
    FirstIs(u64),
    ValueIs(i64),
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What it reads.
    pub table: Table,
    /// It asks how many rows there are.
    pub counts: bool,
    filter: Filter,
}

/// The rows that a commit has brought and taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows that are there now.
    pub came: Vec<(Table, Bytes)>,
    /// Rows that are no more.
    pub left: Vec<(Table, Bytes)>,
}

impl Table {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Receipts => "rtdb_session",
        }
    }

    /// Its number, as a server may have it.
    pub fn number(self) -> u32 {
        4_096 + self as u32
    }
}

impl Query {
    /// Reads a query; what is wrong with it, else.
    ///
    /// # Errors
    /// In a server's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = text.replace(['"', '(', ')'], " ");
        let words: Vec<&str> = plain.split_whitespace().collect();
        let (counts, rest) = match words.as_slice() {
            ["SELECT", "*", "FROM", rest @ ..] => (false, rest),
            ["SELECT", "COUNT", "*", "AS", _, "FROM", rest @ ..] => (true, rest),
            _ => return Err(format!("Unsupported: {text}")),
        };
        let (name, condition) = rest.split_first().ok_or("Unsupported: no table")?;
        let table = match *name {
            "counter" => Table::Counter,
            "rtdb_session" => Table::Receipts,
            name => {
                return Err(format!(
                    "no such table: `{name}`. If the table exists, it may be marked private."
                ));
            }
        };
        let number = |text: &str| text.parse().map_err(|_| format!("Unsupported: {text}"));
        let filter = match condition {
            [] => Filter::All,
            ["WHERE", "id", "<", end] => Filter::FirstBelow(number(end)?),
            ["WHERE", "session", "=", session] => Filter::FirstIs(number(session)?),
            ["WHERE", "value", "=", value] => Filter::ValueIs(number(value)? as i64),
            _ => return Err(format!("Unsupported: {text}")),
        };
        Ok(Self {
            table,
            counts,
            filter,
        })
    }

    /// Whether it shows a row of its table.
    pub fn shows(&self, row: &[u8]) -> bool {
        let first = || row.first_chunk().map(|first| u64::from_le_bytes(*first));
        match self.filter {
            Filter::All => true,
            Filter::FirstBelow(end) => first().is_some_and(|first| first < end),
            Filter::FirstIs(number) => first() == Some(number),
            Filter::ValueIs(wanted) => value(row) == Some(wanted),
        }
    }

    /// What it sees of a commit: rows that came, and rows that left.
    pub fn seen<'a>(&self, changes: &'a Changes) -> (Vec<&'a [u8]>, Vec<&'a [u8]>) {
        let seen = |rows: &'a [(Table, Bytes)]| {
            let rows = rows
                .iter()
                .filter(|(table, row)| *table == self.table && self.shows(row));
            rows.map(|(_, row)| row.as_ref()).collect()
        };
        (seen(&changes.came), seen(&changes.left))
    }
}

impl Changes {
    pub(super) fn come(&mut self, table: Table, row: Option<Bytes>) {
        self.came.extend(row.map(|row| (table, row)));
    }

    pub(super) fn leave(&mut self, table: Table, row: Option<Bytes>) {
        self.left.extend(row.map(|row| (table, row)));
    }
}

/// The value in a row of `counter`.
fn value(row: &[u8]) -> Option<i64> {
    let (len, rest) = row.get(8..)?.split_first_chunk()?;
    let value = rest.get(u32::from_le_bytes(*len) as usize..)?;
    Some(i64::from_le_bytes(*value.first_chunk()?))
}
