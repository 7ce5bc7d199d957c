use super::{Read, ReadKind, v1, v2};
use crate::writer::Write;
use crate::{RECEIPT_QUERY_SET, Subprotocol, hidden};
use bytes::{BufMut, Bytes, BytesMut};

/// How many bytes [`call_reducer`] appends for a call whose arguments have `args_bytes` bytes: the same in every
/// subprotocol.
pub fn call_reducer_bytes(reducer: &str, args_bytes: usize) -> usize {
    1 + 4 + reducer.len() + 4 + args_bytes + 4 + 1
}

/// Appends a reducer call to `out`, its arguments being `args` one after the other (call header, then the client's
/// own). With v3 several calls may share a frame; with v1 and v2 `out` must be empty.
pub fn call_reducer(
    subprotocol: Subprotocol,
    out: &mut BytesMut,
    reducer: &str,
    args: &[&[u8]],
    request_id: u32,
) {
    let args_len = args.iter().map(|part| part.len()).sum::<usize>();
    out.reserve(call_reducer_bytes(reducer, args_len));
    match subprotocol {
        Subprotocol::V1 => {
            out.put_u8(v1::CALL_REDUCER);
            out.put_bytes_bsatn(reducer.as_bytes());
            put_parts(out, args_len, args);
            out.put_u32_le(request_id);
            out.put_u8(0);
        }
        Subprotocol::V2 | Subprotocol::V3 => {
            out.put_u8(v2::CALL_REDUCER);
            out.put_u32_le(request_id);
            out.put_u8(0);
            out.put_bytes_bsatn(reducer.as_bytes());
            put_parts(out, args_len, args);
        }
    }
}

/// The call of a procedure, its arguments being `args` one after the other.
pub fn call_procedure(subprotocol: Subprotocol, procedure: &str, args: &[&[u8]], request_id: u32) -> Bytes {
    let args_len = args.iter().map(|part| part.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(call_reducer_bytes(procedure, args_len));
    match subprotocol {
        Subprotocol::V1 => {
            out.put_u8(v1::CALL_PROCEDURE);
            out.put_bytes_bsatn(procedure.as_bytes());
            put_parts(&mut out, args_len, args);
            out.put_u32_le(request_id);
            out.put_u8(0);
        }
        Subprotocol::V2 | Subprotocol::V3 => {
            out.put_u8(v2::CALL_PROCEDURE);
            out.put_u32_le(request_id);
            out.put_u8(0);
            out.put_bytes_bsatn(procedure.as_bytes());
            put_parts(&mut out, args_len, args);
        }
    }
    out.freeze()
}

fn put_parts(out: &mut BytesMut, length: usize, parts: &[&[u8]]) {
    out.put_count(length);
    parts.iter().for_each(|part| out.put_slice(part));
}

/// A subscription to `queries` under `query_set` (v1: `SubscribeMulti`).
pub fn subscribe(subprotocol: Subprotocol, queries: &[&str], query_set: u32, request_id: u32) -> Bytes {
    let mut out = BytesMut::new();
    let put_queries = |out: &mut BytesMut| {
        out.put_count(queries.len());
        queries
            .iter()
            .for_each(|query| out.put_bytes_bsatn(query.as_bytes()));
    };
    match subprotocol {
        Subprotocol::V1 => {
            out.put_u8(v1::SUBSCRIBE_MULTI);
            put_queries(&mut out);
            out.put_u32_le(request_id);
            out.put_u32_le(query_set);
        }
        Subprotocol::V2 | Subprotocol::V3 => {
            out.put_u8(v2::SUBSCRIBE);
            out.put_u32_le(request_id);
            out.put_u32_le(query_set);
            put_queries(&mut out);
        }
    }
    out.freeze()
}

/// Appends a one-off query to `out`, which must be empty with v1 and v2.
pub fn one_off_query(subprotocol: Subprotocol, out: &mut BytesMut, query: &str) {
    match subprotocol {
        Subprotocol::V1 => {
            out.put_u8(v1::ONE_OFF_QUERY);
            out.put_bytes_bsatn(&[]);
        }
        Subprotocol::V2 | Subprotocol::V3 => {
            out.put_u8(v2::ONE_OFF_QUERY);
            out.put_u32_le(0);
        }
    }
    out.put_bytes_bsatn(query.as_bytes());
}

/// The same subscription to other queries; `None` if it is no subscription to a list of queries.
pub fn subscribe_instead(subprotocol: Subprotocol, read: &Read, queries: &[&str]) -> Option<Bytes> {
    let request_id = read.request_id?;
    match (read.kind, read.query_sets.as_slice()) {
        (ReadKind::SubscribeMulti, [query_set]) => {
            Some(subscribe(subprotocol, queries, *query_set, request_id))
        }
        (ReadKind::SubscribeLegacy, _) => {
            let mut out = BytesMut::new();
            out.put_u8(v1::SUBSCRIBE);
            out.put_count(queries.len());
            queries
                .iter()
                .for_each(|query| out.put_bytes_bsatn(query.as_bytes()));
            out.put_u32_le(request_id);
            Some(out.freeze())
        }
        _ => None,
    }
}

/// The gateway's own subscription, on a client's upstream connection, to the receipts of that client's session. Its
/// answer carries [`RECEIPT_QUERY_SET`] as query set and as request id. With `refreshes` it is to those of views, too.
pub fn subscribe_receipts(subprotocol: Subprotocol, session: u64, refreshes: bool) -> Bytes {
    let receipts = receipts_of(session);
    let refreshed = format!("SELECT * FROM {}", hidden::REFRESH_TABLE);
    let queries = [receipts.as_str(), &refreshed];
    let queries = if refreshes { &queries[..] } else { &queries[..1] };
    subscribe(subprotocol, queries, RECEIPT_QUERY_SET, RECEIPT_QUERY_SET)
}

/// The same under another query set, for a connection that several clients share.
pub fn subscribe_receipts_as(subprotocol: Subprotocol, session: u64, query_set: u32) -> Bytes {
    subscribe(subprotocol, &[&receipts_of(session)], query_set, query_set)
}

/// The same to the receipts of all sessions, for a connection that many clients share.
pub fn subscribe_all_receipts(subprotocol: Subprotocol) -> Bytes {
    let query = format!("SELECT * FROM {}", hidden::RECEIPT_TABLE);
    subscribe(subprotocol, &[&query], RECEIPT_QUERY_SET, RECEIPT_QUERY_SET)
}

/// A subscription to nothing, under `query_set`: its answer stands behind all that was committed before it was asked for.
pub fn subscribe_nothing(subprotocol: Subprotocol, query_set: u32, request_id: u32) -> Bytes {
    subscribe(subprotocol, &[&receipts_of(0)], query_set, request_id)
}

fn receipts_of(session: u64) -> String {
    format!(
        "SELECT * FROM {} WHERE session = {session}",
        hidden::RECEIPT_TABLE
    )
}

/// Ends the subscription of `query_set`, which was made by a message of this kind. Its answer carries
/// [`RECEIPT_QUERY_SET`] as request id.
pub fn unsubscribe(subprotocol: Subprotocol, kind: ReadKind, query_set: u32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(match (subprotocol, kind) {
        (Subprotocol::V1, ReadKind::SubscribeSingle) => v1::UNSUBSCRIBE,
        (Subprotocol::V1, _) => v1::UNSUBSCRIBE_MULTI,
        (Subprotocol::V2 | Subprotocol::V3, _) => v2::UNSUBSCRIBE,
    });
    out.put_u32_le(RECEIPT_QUERY_SET);
    out.put_u32_le(query_set);
    if subprotocol != Subprotocol::V1 {
        // The rows need not be told.
        out.put_u8(0);
    }
    out.freeze()
}
