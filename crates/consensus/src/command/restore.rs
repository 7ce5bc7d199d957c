//! What a restored database begins with.

use bytes::Bytes;

/// The most bytes of rows that a [`Load`] carries.
pub const LOAD_BYTES_MAX: usize = 2 << 20;

/// The most sessions that a [`Load`] names: each takes a position in the entry.
pub const LOAD_DEPARTED_MAX: usize = 1_000;

/// Rows, as they are, for a database that a [`Publish`](super::Publish) has begun to restore. The last one opens it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Load {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The position of the publication that they belong to.
    #[prost(fixed64, tag = "2")]
    pub of: u64,
    /// The place of this among the loads of the publication, from 0.
    #[prost(uint64, tag = "3")]
    pub number: u64,
    /// The rows.
    #[prost(message, repeated, tag = "4")]
    pub tables: Vec<TableRows>,
    /// Clients that were connected when the rows were as they are: what [`client_disconnected`](super::Disconnect) does for them is
    /// still to be done, once the database is open. Each has a session of its own, whose id is the next position in the entry.
    #[prost(message, repeated, tag = "5")]
    pub departed: Vec<Departed>,
    /// Whether it is the last one.
    #[prost(bool, tag = "6")]
    pub last: bool,
    /// With the last one: what each of the module's tables holds by then.
    #[prost(message, repeated, tag = "7")]
    pub sums: Vec<TableSum>,
}

/// Rows of one table.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TableRows {
    /// The table's name.
    #[prost(string, tag = "1")]
    pub table: String,
    /// The rows in BSATN.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub rows: Vec<Bytes>,
}

/// A client that was connected.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Departed {
    /// Its identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub sender: Bytes,
    /// Its connection id, 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub connection: Bytes,
    /// What its token said; empty if nothing is known of that.
    #[prost(string, tag = "3")]
    pub claims: String,
}

/// What a table holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TableSum {
    /// The table's name.
    #[prost(string, tag = "1")]
    pub table: String,
    /// How many rows.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// The sum of their hashes, 16 bytes: equal where the rows are, whatever their order.
    #[prost(bytes = "bytes", tag = "3")]
    pub sum: Bytes,
}
