//! Rows that change as somebody else says than the module, and how [`APPLY`](crate::APPLY) is told of them.

use crate::section;

/// The section by which a prepared module says that it has this reducer. Its contents are one byte.
pub(crate) const SECTION: &str = "rtdb_rows";
pub(crate) const TAKES: u8 = 1;

/// What becomes of one table's rows: some are deleted, then others inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChanges<R> {
    /// The table's place in the definition.
    pub table: u32,
    /// Rows in BSATN: each of them must be there.
    pub deleted: Vec<R>,
    /// Rows in BSATN.
    pub inserted: Vec<R>,
}

/// The own arguments of [`APPLY`](crate::APPLY).
///
/// In them stand, behind their length, the number of tables, and of each the number by which the module knows it (from 1
/// on), the length of what is deleted, which is an array of rows or nothing, and how many rows are inserted, each behind
/// its length. All numbers are of four bytes.
pub fn encode_changes<R: AsRef<[u8]>>(changes: &[RowChanges<R>]) -> Vec<u8> {
    let mut args = vec![0; 4];
    put(&mut args, changes.len());
    for RowChanges {
        table,
        deleted,
        inserted,
    } in changes
    {
        args.extend(table.saturating_add(1).to_le_bytes());
        let bytes: usize = deleted.iter().map(|row| row.as_ref().len()).sum();
        match deleted.len() {
            0 => put(&mut args, 0),
            rows => {
                put(&mut args, 4 + bytes);
                put(&mut args, rows);
            }
        }
        deleted.iter().for_each(|row| args.extend(row.as_ref()));
        put(&mut args, inserted.len());
        for row in inserted {
            put(&mut args, row.as_ref().len());
            args.extend(row.as_ref());
        }
    }
    let len = (args.len() - 4) as u32;
    args[..4].copy_from_slice(&len.to_le_bytes());
    args
}

/// Whether a prepared module has [`APPLY`](crate::APPLY): those of earlier versions of this program have not.
pub fn takes_rows(wasm: &[u8]) -> bool {
    section::of(wasm, SECTION) == Some(&[TAKES])
}

fn put(args: &mut Vec<u8>, number: usize) {
    args.extend((number as u32).to_le_bytes());
}
