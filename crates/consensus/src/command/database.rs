//! What becomes of a shard's databases.

use bytes::Bytes;

/// A module is published.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Publish {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The owner, by whose name each replica publishes.
    #[prost(message, optional, tag = "2")]
    pub owner: Option<Owner>,
    /// The database's names, the first one first.
    #[prost(string, repeated, tag = "3")]
    pub names: Vec<String>,
    /// The prepared module.
    #[prost(bytes = "bytes", tag = "4")]
    pub module: Bytes,
    /// The original module's `RawModuleDef`, in BSATN, as its `__describe_module__` wrote it.
    #[prost(bytes = "bytes", tag = "5")]
    pub original_def: Bytes,
    /// Whether all rows are thrown away first.
    #[prost(bool, tag = "6")]
    pub clear: bool,
    /// Whether the first [`Judgement`](super::Judgement) in the log says if it is taken; else each replica's server does, as
    /// it was before [`JUDGEMENT_LEVEL`](super::JUDGEMENT_LEVEL).
    #[prost(bool, tag = "7")]
    pub judged: bool,
    /// The hash of the original module, 32 bytes; empty before [`MIGRATION_LEVEL`](super::MIGRATION_LEVEL).
    #[prost(bytes = "bytes", tag = "8")]
    pub program: Bytes,
    /// The token by which its owner agrees to what an update does to clients, 32 bytes: without one, nothing that breaks
    /// them is taken. Of [`MIGRATION_LEVEL`](super::MIGRATION_LEVEL).
    #[prost(bytes = "bytes", tag = "9")]
    pub token: Bytes,
    /// The birth of the database that is meant, as its record in the meta group has it. Refused if that one has been deleted
    /// and another has taken its place. Of [`ENDS_LEVEL`](super::ENDS_LEVEL); 0 for a database from before.
    #[prost(fixed64, tag = "12")]
    pub born: u64,
    /// Whether the database is restored: it has no rows of its own making, is nobody's yet, and [`Load`](super::Load)s follow. Of
    /// [`RESTORE_LEVEL`](super::RESTORE_LEVEL), and only with `clear`.
    #[prost(bool, tag = "13")]
    pub loads: bool,
}

/// Who owns a database: enough to mint the owner's token on any node.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
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

/// A database is deleted; its sessions end with it. Follows an [`EndDatabase`](super::EndDatabase).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Delete {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Only a database that was born before this is deleted; 0 if any is. Of [`ENDS_LEVEL`](super::ENDS_LEVEL).
    #[prost(fixed64, tag = "2")]
    pub before: u64,
}
