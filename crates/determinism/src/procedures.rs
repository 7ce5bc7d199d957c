//! Procedures. Unlike a reducer a procedure runs once, on one node. What a transaction of it writes is noted, call by call of
//! the functions that write, and taken back; then the calls go through the log, and every replica makes them again, that
//! node's too ([`REPLAY`](crate::REPLAY)). They leave the same rows and numbers, because they count only if the database is
//! as the procedure has seen it: if its last call that succeeded is still the same, the *base*.
//!
//! The procedure waits. What it has written is found in the table [`OUTBOX`], and what becomes of it is told by
//! [`SETTLE`](crate::SETTLE).

use crate::section;

/// The hidden table with a row, which [`Transaction::decode`] reads, for each procedure of this node that waits.
pub const OUTBOX: &str = "rtdb_outbox";

/// The hidden table that says what has become of transactions.
pub(crate) const VERDICT: &str = "rtdb_verdict";

/// Whether a table's rows are each node's own, so that they differ from node to node.
pub fn is_nodes_own(table: &str) -> bool {
    [OUTBOX, VERDICT].contains(&table)
}

/// The section by which a prepared module says that it has procedures. Its contents are one byte.
pub(crate) const SECTION: &str = "rtdb_procedures";
pub(crate) const RUNS: u8 = 1;

/// The bytes of a row of [`OUTBOX`] before the operations themselves.
const HEAD_BYTES: usize = 28;

/// A transaction that a procedure would commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// The `index` of the header that the procedure was called with.
    pub run: u64,
    /// Its number among the procedure's transactions, from 1 on.
    pub seq: u64,
    /// The index of the last call that succeeded before it.
    pub base: u64,
    /// What it has done.
    pub operations: &'a [u8],
}

impl<'a> Transaction<'a> {
    /// Reads a row of [`OUTBOX`].
    pub fn decode(row: &'a [u8]) -> Option<Self> {
        let (head, operations) = row.split_at_checked(HEAD_BYTES)?;
        let word = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let len = u32::from_le_bytes(*head.last_chunk()?);
        (len as usize == operations.len()).then_some(())?;
        Some(Self {
            run: word(0)?,
            seq: word(8)?,
            base: word(16)?,
            operations,
        })
    }
}

/// What becomes of a procedure's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionVerdict {
    /// Nobody waits for it any more: the procedure has ended.
    Over = 0,
    /// It is committed.
    Committed = 1,
    /// Calls have come between, and it has no effect: the procedure runs it once more.
    Conflict = 2,
    /// It is not known what became of it, or it can't be committed: the procedure traps.
    Lost = 3,
}

/// The own arguments of [`REPLAY`](crate::REPLAY).
pub fn replay_args(base: u64, operations: &[u8]) -> Vec<u8> {
    let len = operations.len() as u32;
    [&base.to_le_bytes()[..], &len.to_le_bytes(), operations].concat()
}

/// The own arguments of [`SETTLE`](crate::SETTLE): what has become of the transaction `seq` of `run`. Of the run 0, of which
/// there is none: forgets all verdicts.
pub fn settle_args(run: u64, seq: u64, verdict: TransactionVerdict) -> Vec<u8> {
    [&run.to_le_bytes()[..], &seq.to_le_bytes(), &[verdict as u8]].concat()
}

/// Whether a prepared module has procedures.
pub fn runs_procedures(wasm: &[u8]) -> bool {
    section::of(wasm, SECTION) == Some(&[RUNS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_to_replay() {
        let row = [
            &7_u64.to_le_bytes()[..],
            &2_u64.to_le_bytes(),
            &replay_args(9, b"done"),
        ]
        .concat();
        let read = Transaction::decode(&row);
        let expected = Transaction {
            run: 7,
            seq: 2,
            base: 9,
            operations: b"done",
        };
        assert_eq!(read, Some(expected));
        for cut in [0, 27, row.len() - 1] {
            assert_eq!(Transaction::decode(&row[..cut]), None);
        }
    }
}
