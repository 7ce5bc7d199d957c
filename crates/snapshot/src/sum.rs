//! What a table holds, whatever its order.

use crate::TableSum;
use bytes::Bytes;

/// The rows of a table, added up: the sum, modulo 2^128, of the first 16 bytes of each row's blake3 hash. Tables are sets of rows,
/// and so two of them with equal sums hold the same ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    rows: u64,
    bytes: u64,
    hashes: u128,
}

impl Sum {
    /// A row comes.
    pub fn add(&mut self, row: &[u8]) {
        let hash = blake3::hash(row);
        let half = hash.as_bytes().first_chunk().copied().unwrap_or_default();
        self.hashes = self.hashes.wrapping_add(u128::from_le_bytes(half));
        self.rows += 1;
        self.bytes += row.len() as u64;
    }

    /// As it is written.
    pub fn of_table(self, table: String) -> TableSum {
        TableSum {
            table,
            rows: self.rows,
            bytes: self.bytes,
            sum: Bytes::copy_from_slice(&self.hashes.to_le_bytes()),
        }
    }
}
