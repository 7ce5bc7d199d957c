//! What a database's owner does by SQL.

use super::CallKey;
use bytes::Bytes;

/// Rows of one table change. What the statement says of values and columns is of a certain module's types; which rows it is
/// about, each replica finds out at the command's position.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Write {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The hash of the module that the statement was read for, 32 bytes: fails if another one runs.
    #[prost(bytes = "bytes", tag = "2")]
    pub program: Bytes,
    /// Who writes, 32 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub sender: Bytes,
    /// The table's place in the module's definition.
    #[prost(uint32, tag = "4")]
    pub table: u32,
    /// What is done.
    #[prost(oneof = "WriteKind", tags = "5, 6, 7")]
    pub kind: Option<WriteKind>,
    /// The writer's key for it, if it is to count once however often it is made. Of [`KEYS_LEVEL`](super::KEYS_LEVEL).
    #[prost(message, optional, tag = "8")]
    pub key: Option<CallKey>,
}

/// What a [`Write`] does.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum WriteKind {
    /// Rows come.
    #[prost(message, tag = "5")]
    Insert(InsertRows),
    /// Rows change.
    #[prost(message, tag = "6")]
    Update(UpdateRows),
    /// Rows go.
    #[prost(message, tag = "7")]
    Delete(DeleteRows),
}

/// `INSERT`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InsertRows {
    /// The rows in BSATN.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub rows: Vec<Bytes>,
}

/// `UPDATE`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateRows {
    /// The query that gives the rows.
    #[prost(string, tag = "1")]
    pub query: String,
    /// What becomes of their columns; of two for the same column the first one counts.
    #[prost(message, repeated, tag = "2")]
    pub assignments: Vec<Assignment>,
}

/// A column and its new value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Assignment {
    /// The column's place.
    #[prost(uint32, tag = "1")]
    pub column: u32,
    /// The value in BSATN.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `DELETE`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteRows {
    /// The query that gives the rows.
    #[prost(string, tag = "1")]
    pub query: String,
}
