use crate::Subprotocol;
use crate::server::rows::put_rows;
use crate::server::{v1, v2};
use crate::writer::Write;
use bytes::{BufMut, Bytes, BytesMut};

/// Rows of one table that a subscription begins or ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableRows<'a> {
    /// The table.
    pub table: &'a str,
    /// Its number (v1).
    pub table_id: u32,
    /// The rows, in BSATN.
    pub rows: Vec<&'a [u8]>,
}

/// Which way the rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A subscription begins.
    Come,
    /// It ends.
    Leave,
}

/// The answer to a subscribe or unsubscribe with a list of queries, up to its rows: [`applied_rows`] follow. They are the same
/// for all who have the same queries. In v1 the server's time is given as 0.
pub fn applied_head(
    subprotocol: Subprotocol,
    direction: Direction,
    request_id: u32,
    query_set: u32,
) -> Bytes {
    let mut out = BytesMut::with_capacity(24);
    let come = direction == Direction::Come;
    match subprotocol {
        Subprotocol::V1 => {
            out.put_u8(if come {
                v1::SUBSCRIBE_MULTI_APPLIED
            } else {
                v1::UNSUBSCRIBE_MULTI_APPLIED
            });
            out.put_u32_le(request_id);
            out.put_u64_le(0);
            out.put_u32_le(query_set);
        }
        Subprotocol::V2 | Subprotocol::V3 => {
            out.put_u8(if come {
                v2::SUBSCRIBE_APPLIED
            } else {
                v2::UNSUBSCRIBE_APPLIED
            });
            out.put_u32_le(request_id);
            out.put_u32_le(query_set);
        }
    }
    out.freeze()
}

/// The rows of such an answer; `None`: they are not told (v2 and v3, of a subscription that ends).
pub fn applied_rows(
    subprotocol: Subprotocol,
    direction: Direction,
    tables: Option<&[TableRows<'_>]>,
) -> Bytes {
    let mut out = BytesMut::new();
    if subprotocol != Subprotocol::V1 && direction == Direction::Leave {
        // An option: 0 is some.
        out.put_u8(u8::from(tables.is_none()));
        if tables.is_none() {
            return out.freeze();
        }
    }
    let tables = tables.unwrap_or_default();
    out.put_count(tables.len());
    for TableRows {
        table,
        table_id,
        rows,
    } in tables
    {
        match subprotocol {
            Subprotocol::V1 => {
                let (inserts, deletes) = match direction {
                    Direction::Come => (rows.as_slice(), &[][..]),
                    Direction::Leave => (&[][..], rows.as_slice()),
                };
                out.put_u32_le(*table_id);
                out.put_bytes_bsatn(table.as_bytes());
                out.put_u64_le(rows.len() as u64);
                // One update, not compressed.
                out.put_count(1);
                out.put_u8(0);
                put_rows(&mut out, deletes);
                put_rows(&mut out, inserts);
            }
            Subprotocol::V2 | Subprotocol::V3 => {
                out.put_bytes_bsatn(table.as_bytes());
                put_rows(&mut out, rows);
            }
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{ServerMessage, split};

    #[test]
    fn an_answer_reads_back() {
        let tables = [
            TableRows {
                table: "a",
                table_id: 0,
                rows: vec![b"one", b"two"],
            },
            TableRows {
                table: "b",
                table_id: 0,
                rows: vec![b"", b"longer"],
            },
            TableRows {
                table: "empty",
                ..TableRows::default()
            },
        ];
        for subprotocol in Subprotocol::ALL {
            for direction in [Direction::Come, Direction::Leave] {
                let head = applied_head(subprotocol, direction, 7, 9);
                let body = applied_rows(subprotocol, direction, Some(&tables));
                let payload = [&[0][..], &head, &body].concat();
                let mut messages = split(subprotocol, payload.into());
                let Some(Ok(ServerMessage::SubscribeReply {
                    request_id: Some(7),
                    query_set: Some(9),
                    error: false,
                    changes,
                    ..
                })) = messages.next()
                else {
                    panic!("not an answer")
                };
                let read: Vec<_> = changes.iter().collect();
                assert_eq!(read.len(), tables.len());
                for (change, table) in read.iter().zip(&tables) {
                    let (rows, others) = match direction {
                        Direction::Come => (&change.inserts, &change.deletes),
                        Direction::Leave => (&change.deletes, &change.inserts),
                    };
                    assert_eq!(&*change.table, table.table);
                    assert!(rows.iter().eq(table.rows.iter().copied()));
                    assert!(others.is_empty());
                }
                assert!(messages.next().is_none());
            }
        }
    }

    #[test]
    fn rows_that_are_not_told_read_back() {
        let head = applied_head(Subprotocol::V2, Direction::Leave, 7, 9);
        let body = applied_rows(Subprotocol::V2, Direction::Leave, None);
        let payload = [&[0][..], &head, &body].concat();
        let mut messages = split(Subprotocol::V2, payload.into());
        assert!(matches!(
            messages.next(),
            Some(Ok(ServerMessage::SubscribeReply { error: false, .. }))
        ));
    }
}
