use super::rows::put_rows;
use super::{v1, v2};
use crate::Subprotocol;
use crate::writer::Write;
use bytes::{BufMut, Bytes, BytesMut};

/// What separates the rows that a client has of one table from those it should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDifference<'a> {
    /// The query set (v2 and v3).
    pub query_set: u32,
    /// The table.
    pub table: &'a str,
    /// Its number (v1).
    pub table_id: u32,
    /// Rows that the client lacks, in BSATN.
    pub inserts: Vec<&'a [u8]>,
    /// Rows that it has too many.
    pub deletes: Vec<&'a [u8]>,
}

/// An update that comes of no call which the client could know: v1 `TransactionUpdateLight`, v2 and v3
/// `TransactionUpdate`. Tables of one query set stand side by side.
pub fn put_difference(subprotocol: Subprotocol, tables: &[TableDifference<'_>]) -> Bytes {
    let mut out = BytesMut::new();
    match subprotocol {
        Subprotocol::V1 => {
            out.put_u8(v1::TRANSACTION_UPDATE_LIGHT);
            out.put_u32_le(0);
            out.put_count(tables.len());
            for table in tables {
                out.put_u32_le(table.table_id);
                out.put_bytes_bsatn(table.table.as_bytes());
                out.put_u64_le((table.inserts.len() + table.deletes.len()) as u64);
                // One update, not compressed.
                out.put_count(1);
                out.put_u8(0);
                put_rows(&mut out, &table.deletes);
                put_rows(&mut out, &table.inserts);
            }
        }
        Subprotocol::V2 | Subprotocol::V3 => {
            out.put_u8(v2::TRANSACTION_UPDATE);
            let sets = || tables.chunk_by(|a, b| a.query_set == b.query_set);
            out.put_count(sets().count());
            for set in sets() {
                out.put_u32_le(set[0].query_set);
                out.put_count(set.len());
                for table in set {
                    out.put_bytes_bsatn(table.table.as_bytes());
                    // One update, of a table whose rows stay.
                    out.put_count(1);
                    out.put_u8(0);
                    put_rows(&mut out, &table.inserts);
                    put_rows(&mut out, &table.deletes);
                }
            }
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::super::{ServerMessage, split};
    use super::*;

    #[test]
    fn a_difference_reads_back_as_an_update() {
        let tables = [
            TableDifference {
                query_set: 3,
                table: "a",
                table_id: 0,
                inserts: vec![b"one", b"", b"three"],
                deletes: vec![],
            },
            TableDifference {
                query_set: 3,
                table: "b",
                table_id: 0,
                inserts: vec![],
                deletes: vec![b"gone"],
            },
            TableDifference {
                query_set: 5,
                table: "a",
                table_id: 0,
                inserts: vec![b"one"],
                deletes: vec![b"two"],
            },
        ];
        for subprotocol in Subprotocol::ALL {
            let is_v1 = subprotocol == Subprotocol::V1;
            let payload = [&[0][..], &put_difference(subprotocol, &tables)].concat();
            let mut messages = split(subprotocol, payload.into());
            let Some(Ok(ServerMessage::Update(update))) = messages.next() else {
                panic!("not an update")
            };
            let read: Vec<_> = update.changes().iter().collect();
            assert_eq!(read.len(), tables.len());
            for (change, table) in read.iter().zip(&tables) {
                assert_eq!(&*change.table, table.table);
                assert_eq!(change.query_set, (!is_v1).then_some(table.query_set));
                assert!(change.inserts.iter().eq(table.inserts.iter().copied()));
                assert!(change.deletes.iter().eq(table.deletes.iter().copied()));
            }
            assert!(messages.next().is_none());
        }
    }
}
