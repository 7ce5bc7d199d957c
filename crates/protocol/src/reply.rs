//! What the gateway answers in SpacetimeDB's place, shaped as SpacetimeDB would have: the greeting, the results of
//! calls, refusals.
//!
//! Where 1.2.0 and 2.8.3 differ on v1, 2.8.3 is followed; where that is so, the code says it.

mod applied;
mod refused;

pub use applied::{Direction, TableRows, applied_head, applied_rows};
pub use refused::{procedure_refused, read_refused, subscription_lost};

use crate::server::update::Status;
use crate::server::{Changes, v1, v2};
use crate::writer::Write;
use crate::{ConnectionId, Identity, Subprotocol};
use bytes::{BufMut, Bytes, BytesMut};

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reducer ran, and its transaction is committed.
    Ok {
        /// What it returned, in BSATN; empty for nothing, and always with v1.
        return_value: Bytes,
        /// How long it ran, in microseconds; 0 if the server did not say (v2 and v3 don't).
        execution_us: u64,
        /// The energy it took; 0 if the server did not say.
        energy: u128,
    },
    /// The reducer returned an error, and its transaction was rolled back. In v1 a trap looks the same.
    Failed {
        /// The error.
        message: String,
        /// How long it ran, in microseconds; 0 if the server did not say (v2 and v3 don't).
        execution_us: u64,
        /// The energy it took; 0 if the server did not say.
        energy: u128,
    },
    /// The reducer trapped, or the server failed; rolled back. In v2 and v3 [`Outcome::Rejected`] looks the same.
    Internal(String),
    /// The reducer used up its energy; rolled back.
    OutOfEnergy,
    /// The call never ran: no such reducer, arguments that are not its own, a lifecycle reducer.
    Rejected(String),
}

/// A call and what became of it: what its caller is told.
#[derive(Clone, Copy, Debug)]
pub struct CallReply<'a> {
    /// The caller's number for the call.
    pub request_id: u32,
    /// The call's time in the log, in microseconds since the Unix epoch.
    pub timestamp_us: i64,
    /// Who called.
    pub sender: &'a Identity,
    /// On which connection.
    pub connection: &'a ConnectionId,
    /// The reducer's name.
    pub reducer: &'a str,
    /// The reducer's number in the module (v1); `u32::MAX` if there is no such reducer.
    pub reducer_id: u32,
    /// The reducer's own arguments, without the call header.
    pub args: &'a [u8],
    /// The caller wants no answer of its own (v1): it gets the rows as any other subscriber would, and hears of no
    /// failure, unless the call is [`Outcome::Rejected`].
    pub no_success_notify: bool,
    /// What became of it.
    pub outcome: &'a Outcome,
}

/// The result of a call that changed nothing the caller could see: any failure, and every call of a client without
/// subscriptions. `None` if the caller wants none.
pub fn call_result(subprotocol: Subprotocol, reply: &CallReply<'_>) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(128 + reply.reducer.len() + reply.args.len());
    match subprotocol {
        Subprotocol::V1 if reply.no_success_notify && !matches!(reply.outcome, Outcome::Rejected(_)) => {
            return None;
        }
        Subprotocol::V1 => put_v1(&mut out, reply),
        Subprotocol::V2 | Subprotocol::V3 => put_v2(&mut out, reply),
    }
    Some(out.freeze())
}

fn put_v1(out: &mut BytesMut, reply: &CallReply<'_>) {
    let mut call = v1_call(reply);
    let status = match reply.outcome {
        Outcome::Ok { .. } => Status::Committed,
        Outcome::Failed { message, .. } | Outcome::Internal(message) => {
            Status::Failed(message.as_str().into())
        }
        // 1.2.0 leaves the caller without an answer.
        Outcome::OutOfEnergy => Status::OutOfEnergy,
        Outcome::Rejected(message) => {
            call.request_id = 0;
            call.args = &[];
            Status::Failed(message.as_str().into())
        }
    };
    v1::put_update(out, &status, &Changes::default(), &call);
}

/// The caller's view of its call. 1.2.0 says 0 for the number of a call that failed.
pub(crate) fn v1_call<'a>(reply: &CallReply<'a>) -> v1::Call<'a> {
    let (energy, execution_us) = match reply.outcome {
        Outcome::Ok {
            execution_us, energy, ..
        }
        | Outcome::Failed {
            execution_us, energy, ..
        } => (*energy, i64::try_from(*execution_us).unwrap_or(i64::MAX)),
        _ => (0, 0),
    };
    v1::Call {
        timestamp_us: reply.timestamp_us,
        sender: reply.sender,
        connection: reply.connection,
        reducer: reply.reducer,
        reducer_id: reply.reducer_id,
        args: reply.args,
        request_id: reply.request_id,
        energy,
        execution_us,
    }
}

fn put_v2(out: &mut BytesMut, reply: &CallReply<'_>) {
    match reply.outcome {
        Outcome::Ok { .. } => v2::put_ok(out, reply, &Changes::default()),
        Outcome::Failed { message, .. } => {
            v2::put_result(out, reply, v2::OUTCOME_ERR);
            // The error's BSATN, as a byte string.
            out.put_count(4 + message.len());
            out.put_bytes_bsatn(message.as_bytes());
        }
        Outcome::Internal(message) | Outcome::Rejected(message) => put_internal(out, reply, message),
        Outcome::OutOfEnergy => put_internal(out, reply, "reducer ran out of energy"),
    }
}

fn put_internal(out: &mut BytesMut, reply: &CallReply<'_>, message: &str) {
    v2::put_result(out, reply, v2::OUTCOME_INTERNAL_ERROR);
    out.put_bytes_bsatn(message.as_bytes());
}

/// The first message on every connection.
pub fn hello(subprotocol: Subprotocol, identity: &Identity, token: &str, connection: &ConnectionId) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + 32 + 16 + 4 + token.len());
    match subprotocol {
        Subprotocol::V1 => {
            out.put_u8(v1::IDENTITY_TOKEN);
            out.put_slice(identity);
            out.put_bytes_bsatn(token.as_bytes());
            out.put_slice(connection);
        }
        Subprotocol::V2 | Subprotocol::V3 => {
            out.put_u8(v2::INITIAL_CONNECTION);
            out.put_slice(identity);
            out.put_slice(connection);
            out.put_bytes_bsatn(token.as_bytes());
        }
    }
    out.freeze()
}
