//! Raft groups: commands, log store, transport, membership.
//!
//! Knows nothing of SpacetimeDB: a command is carried, ordered, stamped and counted here, and what it means is the
//! replica's and the gateway's affair.
//!
//! One command's way: [`Propose::submit`] numbers it in this node's stream (`proposer`); the `courier` carries it to the
//! leader, where the `batcher` puts it into an entry; openraft replicates the entry through the `transport` and the `log`;
//! once committed, the `machine` has the `resolver` decide, the same on every node, whether and as what it takes effect; the
//! replica reads what is resolved with [`Follow::read`] at its own pace and says what became of it with
//! [`Follow::complete`].
//!
//! The modules are listed in layers: formats, the log's rules, raft's types, the node's settings and state, the log on disk,
//! the streams into it and out of it, peers, groups, and the manager of them all. Each module knows its own layer and those
//! before it, and there are no circles: `tests/order.rs` sees to that.
//!
//! The log is kept whole: there are no snapshots yet, and nothing is ever purged.

// Tests have time and tasks of their own.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::disallowed_types
    )
)]

// What is proposed, what comes of it, and how both are written.
pub mod command;
mod entry;
mod group_id;
mod outcome;
mod position;
mod propose;
mod version;

// The log's rules: pure.
mod resolver;

// What the rest stands on: tasks that are watched, bytes that are counted.
mod budget;
mod fatal;
mod supervisor;

// How a cluster is founded: pure.
mod founding;

// Raft's types, the runtime that it has here, and what it writes and sends.
mod member;
mod record;
mod runtime;
mod types;

// The node's settings, and how it is.
mod config;
mod vitals;

// The log on disk.
mod log;

// This node's stream of proposals, what comes of it, and the machine between.
mod machine;
mod proposer;
mod resolved;

// What is said to peers.
mod transport;

// The tasks of a group: what makes entries, what carries proposals to the leader, and what sees to a new one.
mod batcher;
mod courier;
mod succession;

// A group.
mod group;
mod reads;
mod status;

// What is done with groups: members come and go, peers are answered, shards are looked after.
mod membership;
mod service;
mod warden;

// All of a node.
mod manager;

#[cfg(test)]
mod tests;

pub use command::Command;
pub use config::{Config, Limits, Timing};
pub use entry::{Batch, EncodedBatch, Entry};
pub use founding::ELECTORS_MAX;
pub use group::Group;
pub use group_id::{GroupId, NotAGroup, SHARD_ID_MAX};
pub use log::{DataFile, Disk, Files, Store, StoreError, WriteStats};
pub use manager::{Bootstrap, BootstrapError, ChangeError, InitError, Manager, StartError};
pub use member::Member;
pub use outcome::{Applied, Outcome, Refusal, Reply, Unapplied};
pub use position::{COMMANDS_PER_ENTRY_MAX, Generation, LOG_INDEX_MAX, LogIndex, NotAPosition, Position};
pub use propose::{
    Follow, NoReadIndex, NotProposed, Origin, Pending, Propose, ReadError, ResolvedCommand, ResolvedEntry,
    Session,
};
pub use resolver::{
    Audit, Contest, Database, Divergence, Holding, Issuer, KEY_KEPT_US_MAX, KEY_KEPT_US_MIN, KEYS_MAX,
    KEYS_PER_CALLER_MAX, KEYS_PER_DATABASE_MAX, KeyedCall, MetaState, ShardState, StuckReplica,
};
pub use service::Service;
pub use status::{GroupStatus, NodeStatus, Role};
pub use transport::{Grpc, PROTOCOL, PROTOCOL_MIN, PeerError, PeerInfo, Replies, Transport, wire};
pub use version::{ENTRY_VERSION, RecordError};
pub use vitals::{
    CLOCK_OFFSET_MAX, ClockVerdict, DISK_RESERVE_BYTES, DiskSpace, FreeSpace, LAG_MS_MAX, LAG_POSITIONS_MAX,
    LAG_POSITIONS_MIN, Lag, SLOWED_CALLS_PER_SECOND_MIN, Slowed, SystemClock, SystemSpace, WallClock,
};
