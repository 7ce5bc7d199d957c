//! What replicas say of what they hold, and of what their servers said.

use bytes::Bytes;

/// Databases in one [`Reports`].
pub const REPORTS_MAX: usize = 1024;

/// Bytes of a [`Judgement::refusal`].
pub const REFUSAL_BYTES_MAX: usize = 2048;

/// Positions in one [`Trapped`].
pub const TRAPPED_MAX: usize = 1024;

/// What the proposing node's replicas hold. Of the first [`LEVEL_REPORTS`](super::LEVEL_REPORTS); at most [`REPORTS_MAX`] of
/// them count.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reports {
    /// Each at a position where all replicas report.
    #[prost(message, repeated, tag = "1")]
    pub reports: Vec<Report>,
}

/// What a replica of a database holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Report {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The position of the last command that changed it.
    #[prost(fixed64, tag = "2")]
    pub position: u64,
    /// The digest of all writes up to there.
    #[prost(fixed64, tag = "3")]
    pub digest: u64,
    /// Whether it is a hash of all rows instead, as they are stored: what was read at the [`Verify`] at `position`. Of
    /// [`JUDGEMENT_LEVEL`](super::JUDGEMENT_LEVEL).
    #[prost(bool, tag = "4")]
    pub of_rows: bool,
    /// The position of the command before which the replica was looked at: every replica has come to the same commands
    /// there, whether they have succeeded on it or not. 0 for a look at rest. Of [`JUDGEMENT_LEVEL`](super::JUDGEMENT_LEVEL).
    #[prost(fixed64, tag = "5")]
    pub place: u64,
}

/// Which replica of a split database is right: an operator's word. Refused if the database is not split, or that replica
/// has not reported where the others differ.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resolve {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The node whose replica is right.
    #[prost(uint64, tag = "2")]
    pub node: u64,
}

/// Every replica reads all rows of a database as they are here, to be compared. Of the first
/// [`LEVEL_REPORTS`](super::LEVEL_REPORTS).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Verify {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Whether the cluster asks of itself: then only a small database is read.
    #[prost(bool, tag = "2")]
    pub scrub: bool,
}

/// What the proposer's SpacetimeDB says of a publication. The first one in the log holds for every replica: whatever their
/// own servers say, they go on with the same module. Of [`JUDGEMENT_LEVEL`](super::JUDGEMENT_LEVEL).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Judgement {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The publication's position.
    #[prost(fixed64, tag = "2")]
    pub position: u64,
    /// Why the module is refused, in the server's words, at most [`REFUSAL_BYTES_MAX`]; `None` if it is not.
    #[prost(string, optional, tag = "3")]
    pub refusal: Option<String>,
    /// Whether the update breaks clients: all that came before it are disconnected. Of
    /// [`MIGRATION_LEVEL`](super::MIGRATION_LEVEL).
    #[prost(bool, tag = "4")]
    pub breaks: bool,
}

/// Calls to which the proposer's SpacetimeDB, rather than their reducers, has given an answer: they trapped, ran out of
/// energy or memory, or the server had troubles of its own. A caller is told once a majority of the replicas says the same.
/// Of [`JUDGEMENT_LEVEL`](super::JUDGEMENT_LEVEL).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Trapped {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The calls' positions; at most [`TRAPPED_MAX`] of them count.
    #[prost(fixed64, repeated, tag = "2")]
    pub positions: Vec<u64>,
}
