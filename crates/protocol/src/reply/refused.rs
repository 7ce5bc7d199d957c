use super::{CallReply, Outcome, call_result};
use crate::Subprotocol;
use crate::client::{Read, ReadKind};
use crate::server::{v1, v2};
use crate::writer::Write;
use crate::{ConnectionId, Identity};
use bytes::{BufMut, Bytes, BytesMut};

const SOME: u8 = 0;
const NONE: u8 = 1;

/// The answer to a read that the gateway refuses by itself: the error that SpacetimeDB would give for a bad query.
/// `sender`, `connection` and `timestamp_us` are the client's own and now; a v1 legacy subscribe is answered so.
pub fn read_refused(
    subprotocol: Subprotocol,
    read: &Read,
    sender: &Identity,
    connection: &ConnectionId,
    timestamp_us: i64,
    message: &str,
) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + message.len());
    let request_id = read.request_id.unwrap_or_default();
    let query_set = read.query_sets.first().copied().unwrap_or_default();
    match (subprotocol, read.kind) {
        (Subprotocol::V1, ReadKind::SubscribeLegacy) => {
            let outcome = Outcome::Rejected(message.to_owned());
            let reply = CallReply {
                request_id,
                timestamp_us,
                sender,
                connection,
                reducer: v1::NO_REDUCER[0],
                reducer_id: u32::MAX,
                args: &[],
                no_success_notify: false,
                outcome: &outcome,
            };
            return call_result(subprotocol, &reply).unwrap_or_default();
        }
        (Subprotocol::V1, ReadKind::OneOffQuery) => {
            out.put_u8(v1::ONE_OFF_QUERY_RESPONSE);
            out.put_bytes_bsatn(&read.message_id);
            out.put_u8(SOME);
            out.put_bytes_bsatn(message.as_bytes());
            out.put_count(0);
            out.put_i64_le(0);
        }
        (Subprotocol::V1, _) => {
            out.put_u8(v1::SUBSCRIPTION_ERROR);
            out.put_u64_le(0);
            out.put_u8(SOME);
            out.put_u32_le(request_id);
            out.put_u8(SOME);
            out.put_u32_le(query_set);
            out.put_u8(NONE);
            out.put_bytes_bsatn(message.as_bytes());
        }
        (_, ReadKind::OneOffQuery) => {
            out.put_u8(v2::ONE_OFF_QUERY_RESULT);
            out.put_u32_le(request_id);
            out.put_u8(1);
            out.put_bytes_bsatn(message.as_bytes());
        }
        (_, ReadKind::SubscribeBatch) => {
            out.put_u8(v2::SUBSCRIBE_BATCH_APPLIED);
            out.put_u32_le(request_id);
            out.put_count(read.query_sets.len());
            for query_set in &read.query_sets {
                out.put_u32_le(*query_set);
                out.put_u8(1);
                out.put_bytes_bsatn(message.as_bytes());
            }
        }
        _ => {
            out.put_u8(v2::SUBSCRIPTION_ERROR);
            out.put_u8(SOME);
            out.put_u32_le(request_id);
            out.put_u32_le(query_set);
            out.put_bytes_bsatn(message.as_bytes());
        }
    }
    out.freeze()
}

/// A subscription has ended by itself: what SpacetimeDB says when a query fails while a transaction is evaluated.
pub fn subscription_lost(subprotocol: Subprotocol, query_set: u32, message: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(32 + message.len());
    match subprotocol {
        Subprotocol::V1 => {
            out.put_u8(v1::SUBSCRIPTION_ERROR);
            out.put_u64_le(0);
            out.put_u8(NONE);
            out.put_u8(SOME);
            out.put_u32_le(query_set);
            out.put_u8(NONE);
        }
        Subprotocol::V2 | Subprotocol::V3 => {
            out.put_u8(v2::SUBSCRIPTION_ERROR);
            out.put_u8(NONE);
            out.put_u32_le(query_set);
        }
    }
    out.put_bytes_bsatn(message.as_bytes());
    out.freeze()
}

/// The answer to a procedure call: an internal error, with the Unix epoch as its time as SpacetimeDB has it for a call
/// that never ran.
pub fn procedure_refused(subprotocol: Subprotocol, request_id: u32, message: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(32 + message.len());
    let (message_tag, internal_error) = match subprotocol {
        Subprotocol::V1 => (v1::PROCEDURE_RESULT, 2),
        Subprotocol::V2 | Subprotocol::V3 => (v2::PROCEDURE_RESULT, 1),
    };
    out.put_u8(message_tag);
    out.put_u8(internal_error);
    out.put_bytes_bsatn(message.as_bytes());
    out.put_i64_le(0);
    out.put_i64_le(0);
    out.put_u32_le(request_id);
    out.freeze()
}
