//! What a snapshot consists of. Prost messages: a field is never renumbered or retyped, and a reader passes over what it does not
//! know, unless the header's format is newer than its own.

use bytes::Bytes;

/// A piece of a snapshot.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one header, and pieces are not kept"
)]
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Piece {
    /// The first one.
    #[prost(message, tag = "1")]
    Header(Header),
    /// Rows.
    #[prost(message, tag = "2")]
    Rows(Rows),
    /// The last one.
    #[prost(message, tag = "3")]
    End(End),
    /// Who was connected.
    #[prost(message, tag = "4")]
    Clients(Clients),
}

/// A piece, as it is written.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Framed {
    #[prost(oneof = "Piece", tags = "1, 2, 3, 4")]
    pub(crate) piece: Option<Piece>,
}

/// What the database is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Header {
    /// The version of the format.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// What a cluster's nodes must be able to apply, to go on with it.
    #[prost(uint32, tag = "2")]
    pub level: u32,
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub database: Bytes,
    /// Whose it is.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<Owner>,
    /// Its names, the first one first.
    #[prost(string, repeated, tag = "5")]
    pub names: Vec<String>,
    /// The prepared module.
    #[prost(bytes = "bytes", tag = "6")]
    pub module: Bytes,
    /// The original module's definition, in BSATN.
    #[prost(bytes = "bytes", tag = "7")]
    pub original_def: Bytes,
    /// The original module's hash, 32 bytes; empty if it is not known.
    #[prost(bytes = "bytes", tag = "8")]
    pub program: Bytes,
    /// The position of the last command that is part of it, in the log that it comes from.
    #[prost(fixed64, tag = "9")]
    pub position: u64,
    /// When it was taken: microseconds since the Unix epoch, by the clock of the node that has taken it.
    #[prost(sfixed64, tag = "10")]
    pub taken_us: i64,
    /// The program that has written it.
    #[prost(string, tag = "11")]
    pub written_by: String,
    /// The version of its SpacetimeDB.
    #[prost(string, tag = "12")]
    pub spacetimedb: String,
    /// How many rows there are, as far as that was known before they were read.
    #[prost(uint64, tag = "14")]
    pub rows: u64,
}

/// Who owns a database.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Owner {
    /// The owner's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub identity: Bytes,
    /// The token's issuer.
    #[prost(string, tag = "2")]
    pub issuer: String,
    /// The token's subject.
    #[prost(string, tag = "3")]
    pub subject: String,
}

/// Clients that were connected.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Clients {
    /// In the order in which they came.
    #[prost(message, repeated, tag = "1")]
    pub clients: Vec<Departed>,
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

/// Rows of one table.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rows {
    /// The table's name.
    #[prost(string, tag = "1")]
    pub table: String,
    /// The rows in BSATN, in any order.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub rows: Vec<Bytes>,
}

/// What came.
#[derive(Clone, PartialEq, prost::Message)]
pub struct End {
    /// Each table that has rows.
    #[prost(message, repeated, tag = "1")]
    pub tables: Vec<TableSum>,
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
    /// Their bytes.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// The sum of their hashes, 16 bytes: see [`Sum`](crate::Sum).
    #[prost(bytes = "bytes", tag = "4")]
    pub sum: Bytes,
}
