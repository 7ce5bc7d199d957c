//! All rows of a database at one position, to be compared with what other replicas hold there.

use rtdb_consensus::Position;
use std::collections::BTreeMap;

/// Bytes of rows, as text, that are held for a comparison of one database; what is beyond is not compared.
pub(crate) const CONTENTS_BYTES_MAX: usize = 64 << 20;

/// All rows of a database at one position.
#[derive(Debug, Default)]
pub struct Contents {
    /// The position.
    pub position: Position,
    /// What was found of each table, by name.
    pub tables: BTreeMap<String, Result<TableContents, String>>,
}

/// A table's rows.
#[derive(Debug, Default)]
pub struct TableContents {
    /// The rows in JSON, sorted.
    pub rows: Vec<String>,
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
    fn the_hash_is_of_the_rows_whatever_their_order() {
        let of = |rows: &[&str]| TableContents::new(rows.iter().map(ToString::to_string).collect()).hash();
        assert_eq!(of(&["[1]", "[2]"]), of(&["[2]", "[1]"]));
        assert_ne!(of(&["[1]", "[2]"]), of(&["[1][2]"]));
        assert_ne!(of(&["[1]", "[1]"]), of(&["[1]"]));
    }
}
