//! What a client is told, the same for every subprotocol.

use bytes::Bytes;

/// One message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer to a call of this connection.
    Reply(Reply),
    /// Rows changed by someone else's call.
    Update(Vec<TableChange>),
    /// A subscription's first rows.
    Subscribed {
        /// As given to [`super::Client::subscribe`].
        request_id: u32,
        /// Only inserts.
        tables: Vec<TableChange>,
    },
    /// A subscription refused.
    SubscribeFailed(String),
    /// The answer to a one-off query.
    QueryReply(Result<Vec<TableChange>, String>),
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// As returned by [`super::Client::call`]; see [`Self::answers`].
    pub request_id: u32,
    /// `ctx.timestamp` of the call, in microseconds since 1970.
    pub timestamp_us: i64,
    /// The error is the reducer's message, or what stopped it.
    pub result: Result<Committed, String>,
}

impl Reply {
    /// Whether this answers the call `request_id`, if that is the oldest one without an answer. A 1.2.0 server answers
    /// a failed call with a request id of 0.
    pub fn answers(&self, request_id: u32) -> bool {
        self.request_id == request_id || (self.request_id == 0 && self.result.is_err())
    }
}

/// What a successful call did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The subscribed rows it changed.
    pub tables: Vec<TableChange>,
    /// What the reducer returned; not in v1.
    pub return_value: Option<Bytes>,
}

/// Rows of one table, in BSATN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableChange {
    /// The table's name.
    pub table: String,
    /// Rows that are there now.
    pub inserts: Vec<Bytes>,
    /// Rows that are gone.
    pub deletes: Vec<Bytes>,
}
