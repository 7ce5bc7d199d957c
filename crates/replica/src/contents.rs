//! All rows of a database at one position, to be compared with what other replicas hold there.

use rtdb_consensus::Position;
use std::collections::BTreeMap;

/// Bytes of rows, as text, that are held for a comparison of one database; what is beyond is not compared.
pub(crate) const CONTENTS_BYTES_MAX: usize = 64 << 20;
/// The same of a comparison that nobody has asked for.
pub(crate) const SCRUB_BYTES_MAX: usize = 8 << 20;
/// Rows of a table. A larger one is not compared.
pub(crate) const CONTENTS_ROWS_MAX: usize = 1_000_000;
/// The same of a comparison that nobody has asked for.
pub(crate) const SCRUB_ROWS_MAX: usize = 50_000;

/// All rows of a database at one position.
#[derive(Debug, Default)]
pub struct Contents {
    /// The position.
    pub position: Position,
    /// What was found of each table, by name.
    pub tables: BTreeMap<String, Result<TableContents, String>>,
    /// Why nothing could be read.
    pub unread: Option<&'static str>,
}

/// A table's rows.
#[derive(Debug, Default)]
pub struct TableContents {
    /// The rows in JSON, sorted.
    pub rows: Vec<String>,
}

impl Contents {
    /// A hash of all rows; `None` if some could not be read, or there are too many.
    pub(crate) fn hash(&self) -> Option<u64> {
        if self.unread.is_some() {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for (name, table) in &self.tables {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(table.as_ref().ok()?.hash().as_bytes());
        }
        let hash = *hasher.finalize().as_bytes();
        hash.first_chunk().copied().map(u64::from_le_bytes)
    }
}

impl TableContents {
    pub(crate) fn new(mut rows: Vec<String>) -> Self {
        rows.sort_unstable();
        Self { rows }
    }

    /// A hash of all rows: equal where the rows are.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for row in &self.rows {
            hasher.update(&(row.len() as u64).to_le_bytes());
            hasher.update(row.as_bytes());
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_is_not_compared() {
        let of = |table: Result<TableContents, String>| Contents {
            tables: [("a".to_owned(), table)].into(),
            ..Contents::default()
        };
        let rows = |row: &str| Ok(TableContents::new(vec![row.to_owned()]));
        assert_eq!(of(Err("too large".into())).hash(), None);
        assert_eq!(of(rows("[1]")).hash(), of(rows("[1]")).hash());
        assert_ne!(of(rows("[1]")).hash(), of(rows("[2]")).hash());
    }

    #[test]
    fn the_hash_is_of_the_rows_whatever_their_order() {
        let of = |rows: &[&str]| TableContents::new(rows.iter().map(ToString::to_string).collect()).hash();
        assert_eq!(of(&["[1]", "[2]"]), of(&["[2]", "[1]"]));
        assert_ne!(of(&["[1]", "[2]"]), of(&["[1][2]"]));
        assert_ne!(of(&["[1]", "[1]"]), of(&["[1]"]));
    }
}
