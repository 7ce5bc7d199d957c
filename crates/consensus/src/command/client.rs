//! What clients do: they come, call, and go.

use super::CallKey;
use bytes::Bytes;

/// A call of a reducer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    /// The database's identity, 32 bytes as in BSATN (little endian).
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The session that calls: the position of its [`Connect`]; 0 for none (an HTTP call of a module without
    /// lifecycle reducers).
    #[prost(fixed64, tag = "2")]
    pub session: u64,
    /// The reducer's name.
    #[prost(string, tag = "3")]
    pub reducer: String,
    /// The call header (72 bytes, its timestamp and index still zero), then the reducer's own arguments in BSATN.
    #[prost(bytes = "bytes", tag = "4")]
    pub args: Bytes,
    /// The number by which the client knows the call.
    #[prost(uint32, tag = "5")]
    pub request_id: u32,
    /// If there is no session: what the client's token says, in JSON.
    #[prost(string, tag = "6")]
    pub claims: String,
    /// The caller's key for it, if it is to count once however often it is made. Of [`KEYS_LEVEL`](super::KEYS_LEVEL).
    #[prost(message, optional, tag = "7")]
    pub key: Option<CallKey>,
}

/// A client's arrival. Its position in the log is the session's id.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Connect {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The client's identity, 32 bytes as in BSATN.
    #[prost(bytes = "bytes", tag = "2")]
    pub sender: Bytes,
    /// The client's connection id, 16 bytes as in BSATN.
    #[prost(bytes = "bytes", tag = "3")]
    pub connection: Bytes,
    /// What the client's token says, in JSON; empty for none.
    #[prost(string, tag = "4")]
    pub claims: String,
    /// Whether the client is refused while another session of the database has its connection id. Of
    /// [`ENDS_LEVEL`](super::ENDS_LEVEL).
    #[prost(bool, tag = "5")]
    pub unique: bool,
}

/// A client's departure. Passed over if the session is not there (any more).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Disconnect {
    /// The session that ends.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Whether the client was refused by `client_connected`, so that `client_disconnected` must not run.
    #[prost(bool, tag = "2")]
    pub refused: bool,
}
