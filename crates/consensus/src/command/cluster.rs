//! What is ordered for the cluster: its settings, its nodes, and its databases and their names.

use super::Owner;
use bytes::Bytes;

/// Bytes of an address that a node announces: the longest name of DNS (253), a colon and a port (5).
pub const NODE_ADDR_BYTES_MAX: usize = 259;

/// Bytes of each other text that a node announces.
pub const NODE_TEXT_BYTES_MAX: usize = 128;

/// A node has been gone for longer than its lease: its epoch ends here, and the leader disconnects its sessions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpireNode {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// The last epoch that has ended.
    #[prost(fixed64, tag = "2")]
    pub epoch: u64,
    /// The term in which the proposer led. In an entry of another term the command has no effect: a leader that was
    /// cut off takes everybody else for gone, and proposes so again when it is back.
    #[prost(uint64, tag = "3")]
    pub term: u64,
}

/// The cluster's settings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InitCluster {
    /// The cluster's id, a UUID.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// The public half of the key that signs tokens (ES256, PEM), the same for every SpacetimeDB of the cluster.
    #[prost(string, tag = "2")]
    pub jwt_public_key: String,
    /// The private half, when the nodes manage their SpacetimeDB themselves; empty when operators hand it out.
    #[prost(string, tag = "3")]
    pub jwt_private_key: String,
}

/// A node: where and what it is, as it announces itself. Refused if a text is longer than its limit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetNode {
    /// The node's id.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Where its peers reach it, `host:port`.
    #[prost(string, tag = "2")]
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    #[prost(string, tag = "3")]
    pub client_addr: String,
    /// Its RaftTimeDB's version.
    #[prost(string, tag = "4")]
    pub version: String,
    /// The version of the SpacetimeDB that was last behind it; empty as long as none was.
    #[prost(string, tag = "5")]
    pub spacetimedb_version: String,
    /// The kind of its CPU: the architecture, and what is known of vendor, family and model.
    #[prost(string, tag = "6")]
    pub cpu: String,
    /// Its [`FEATURE_LEVEL`](super::FEATURE_LEVEL).
    #[prost(uint32, tag = "7")]
    pub feature_level: u32,
}

impl SetNode {
    /// The first text that is longer than its limit, and the limit in bytes.
    pub(crate) fn too_long(&self) -> Option<(&'static str, usize)> {
        let texts = [
            ("the raft address", &self.raft_addr, NODE_ADDR_BYTES_MAX),
            ("the client address", &self.client_addr, NODE_ADDR_BYTES_MAX),
            ("the version", &self.version, NODE_TEXT_BYTES_MAX),
            (
                "SpacetimeDB's version",
                &self.spacetimedb_version,
                NODE_TEXT_BYTES_MAX,
            ),
            ("the kind of CPU", &self.cpu, NODE_TEXT_BYTES_MAX),
        ];
        let found = texts.into_iter().find(|(_, text, max)| text.len() > *max);
        found.map(|(what, _, max)| (what, max))
    }
}

/// A database's place in the cluster. Refused if one of the names is another database's.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterDatabase {
    /// The identity to use if the database is new, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Who owns it.
    #[prost(message, optional, tag = "2")]
    pub owner: Option<Owner>,
    /// The name it is published under, empty for none.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The shard it belongs to.
    #[prost(uint64, tag = "4")]
    pub shard: u64,
    /// Whether the database, if it is new, has this command's position as its birth. Of [`ENDS_LEVEL`](super::ENDS_LEVEL).
    #[prost(bool, tag = "5")]
    pub has_birth: bool,
}

/// Replaces a database's names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetNames {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// All its names, the first one first.
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
    /// What is replaced: refused if the database has other names by now, or is another one. Of
    /// [`ENDS_LEVEL`](super::ENDS_LEVEL); `None` if whatever is there is.
    #[prost(message, optional, tag = "3")]
    pub replaced: Option<Names>,
}

/// A database's names, as whoever wants to change them knows them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Names {
    /// The database's birth.
    #[prost(fixed64, tag = "1")]
    pub born: u64,
    /// Its names.
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
}

/// A database ends: from here on nobody finds it. What its shard still has of it is deleted by whoever proposes this, and if
/// he can't any more, by the shard's leader. Of [`ENDS_LEVEL`](super::ENDS_LEVEL).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndDatabase {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Its birth: refused if that database has ended already.
    #[prost(fixed64, tag = "2")]
    pub born: u64,
}

/// Locks a database, so that it is neither deleted nor cleared, or unlocks it. Of
/// [`MIGRATION_LEVEL`](super::MIGRATION_LEVEL).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetLock {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Whether it is locked from now on.
    #[prost(bool, tag = "2")]
    pub locked: bool,
    /// Its birth: refused if that database has ended, as its identity may be somebody else's by now.
    #[prost(fixed64, tag = "3")]
    pub born: u64,
}
