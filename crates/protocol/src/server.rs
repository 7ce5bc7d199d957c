//! What SpacetimeDB sends: payloads split into messages, each one classified and, where hidden tables show in it,
//! rewritten without them.

mod changes;
mod difference;
pub(crate) mod rows;
mod tables;
pub(crate) mod update;
pub(crate) mod v1;
pub(crate) mod v2;

pub use changes::{Change, Changes};
pub use difference::{TableDifference, put_difference};
pub use rows::RowList;
pub use update::Update;

use crate::reader::Reader;
use crate::reply::Outcome;
use crate::{ConnectionId, FrameError, Identity, Subprotocol, Text};
use bytes::Bytes;

/// One message of SpacetimeDB. `raw` is always fit to be sent on: hidden tables are gone from it.
#[derive(Clone, Debug)]
pub enum ServerMessage {
    /// The first message on a connection (v1 `IdentityToken`, v2 `InitialConnection`).
    Hello {
        /// Who the client is.
        identity: Identity,
        /// The client's token.
        token: Text,
        /// The connection's id.
        connection: ConnectionId,
    },
    /// A committed transaction's rows; in v1 also what became of this connection's own call.
    Update(Update),
    /// What became of this connection's own call (v2 and v3).
    CallResult(CallResult),
    /// The answer to a subscribe or unsubscribe.
    SubscribeReply {
        /// The request it answers. v1 leaves it out of some errors.
        request_id: Option<u32>,
        /// The query set (v1: query id) it speaks of; none in v1's legacy answers.
        query_set: Option<u32>,
        /// Whether the request failed.
        error: bool,
        /// The rows that came or left with it, hidden tables' included.
        changes: Changes,
        /// The message.
        raw: Bytes,
    },
    /// The answer to a one-off query.
    QueryReply {
        /// Why there are no rows.
        error: Option<Text>,
        /// The rows, hidden tables' included.
        changes: Changes,
        /// The message.
        raw: Bytes,
    },
    /// A subscription ended by itself, because a query failed while a transaction was evaluated. No request waits for
    /// this.
    SubscriptionLost {
        /// Which query set; `None` (v1): every subscription of the connection, the receipts' among them.
        query_set: Option<u32>,
        /// The message.
        raw: Bytes,
    },
    /// What has become of a procedure.
    Procedure(ProcedureResult),
}

/// What has become of a procedure.
#[derive(Clone, Debug)]
pub struct ProcedureResult {
    /// The number of the call, as the caller gave it.
    pub request_id: u32,
    /// What it returned, or why it did not.
    pub outcome: ProcedureOutcome,
    /// How long it took, in microseconds.
    pub duration_us: i64,
    /// The message.
    pub raw: Bytes,
}

/// What a procedure returned, or why it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcedureOutcome {
    /// A value in BSATN.
    Returned(Bytes),
    /// It was stopped, or was not called.
    Internal(Text),
    /// It has used too much (v1).
    OutOfEnergy,
}

/// v2 and v3 `ReducerResult`.
#[derive(Clone, Debug)]
pub struct CallResult {
    /// The number of the call, as the caller gave it.
    pub request_id: u32,
    /// When the reducer started, in microseconds since the Unix epoch.
    pub timestamp_us: i64,
    /// What became of the call.
    pub outcome: Outcome,
    /// The rows that the call changed in the caller's own subscriptions.
    pub changes: Changes,
}

/// What became of a call, as the connection that made it hears it; see [`ServerMessage::into_applied`].
///
/// SpacetimeDB answers the calls of a connection in their order, with one exception: the answer to a call that never ran
/// (v1 [`Outcome::Rejected`], v2 and v3 [`Outcome::Internal`]) may overtake those of earlier calls.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedCall {
    /// The number of the call. A v1 server loses it: 1.2.0 says 0 for every call that fails, and every v1 server says 0
    /// for [`Outcome::Rejected`].
    pub request_id: u32,
    /// `rtdb_index` of the call header in the call's arguments (v1 only, and not for [`Outcome::Rejected`]).
    pub index: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
}

/// Reads what follows the outcome: when it began, how long it took, and the call's number.
fn procedure_result(
    reader: &mut Reader<'_>,
    outcome: ProcedureOutcome,
    start: usize,
) -> Result<ProcedureResult, FrameError> {
    reader.i64()?;
    let duration_us = reader.i64()?;
    let request_id = reader.u32()?;
    Ok(ProcedureResult {
        request_id,
        outcome,
        duration_us,
        raw: reader.since(start),
    })
}

impl ServerMessage {
    /// Whether this is the one answer to an outstanding [`crate::client::Read`].
    pub fn answers_read(&self) -> bool {
        matches!(self, Self::SubscribeReply { .. } | Self::QueryReply { .. })
    }

    /// What became of this connection's own call. `None` for everything else.
    pub fn into_applied(self) -> Option<AppliedCall> {
        match self {
            Self::CallResult(CallResult {
                request_id, outcome, ..
            }) => Some(AppliedCall {
                request_id,
                index: None,
                outcome,
            }),
            Self::Update(update) => update.applied(),
            _ => None,
        }
    }
}

/// The messages of one payload, in order; see [`split`].
#[derive(Debug)]
pub struct Messages {
    subprotocol: Subprotocol,
    payload: Bytes,
    at: usize,
    done: bool,
}

/// Splits a payload of SpacetimeDB: the compression byte, which must be 0, then one message, or with v3 one or more.
/// After an error the iterator ends.
pub fn split(subprotocol: Subprotocol, payload: Bytes) -> Messages {
    Messages {
        subprotocol,
        payload,
        at: 0,
        done: false,
    }
}

impl Iterator for Messages {
    type Item = Result<ServerMessage, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let message = self.read();
        self.done = message.is_err() || self.at == self.payload.len();
        Some(message)
    }
}

impl Messages {
    fn read(&mut self) -> Result<ServerMessage, FrameError> {
        if self.at == 0 {
            match self.payload.first() {
                Some(0) => self.at = 1,
                Some(&scheme) => return Err(FrameError::Compressed { scheme }),
                None => {}
            }
        }
        if self.at == self.payload.len() {
            return Err(FrameError::Empty);
        }
        let mut reader = Reader::new(&self.payload, self.at);
        let message = match self.subprotocol {
            Subprotocol::V1 => v1::read(&mut reader)?,
            Subprotocol::V2 | Subprotocol::V3 => v2::read(&mut reader)?,
        };
        if self.subprotocol != Subprotocol::V3 && reader.left() > 0 {
            return Err(FrameError::Trailing { count: reader.left() });
        }
        self.at = reader.at();
        Ok(message)
    }
}
