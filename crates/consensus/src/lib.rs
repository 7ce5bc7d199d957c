//! Raft groups: commands, log store, transport, membership.
//!
//! Knows nothing of SpacetimeDB: a command is carried, ordered, stamped and counted here, and what it means is the
//! replica's and the gateway's affair.
//!
//! One command's way: [`Propose::submit`] numbers it in this node's stream (`proposer`), carries it to the leader,
//! where the batcher puts it into an entry; openraft replicates the entry through the `transport` and the `log`; once
//! committed, the `resolver` decides, the same on every node, whether and as what it takes effect; the replica reads
//! what is resolved with [`Follow::read`] at its own pace and says what became of it with [`Follow::complete`].
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

mod batcher;
mod budget;
mod clock;
pub mod command;
mod config;
mod courier;
mod entry;
mod fatal;
mod group;
mod group_id;
mod lag;
mod lasting;
mod log;
mod machine;
mod manager;
mod outcome;
mod position;
mod propose;
mod proposer;
mod record;
mod resolved;
mod resolver;
mod runtime;
mod service;
mod space;
mod status;
mod succession;
mod supervisor;
#[cfg(test)]
mod tests;
mod transport;
mod types;
mod version;
mod vitals;
mod warden;

pub use clock::{CLOCK_OFFSET_MAX, ClockVerdict, SystemClock, WallClock};
pub use command::Command;
pub use config::{Config, Limits, Timing};
pub use entry::{Batch, EncodedBatch, Entry};
pub use group::Group;
pub use group_id::{GroupId, SHARD_ID_MAX};
pub use lag::{LAG_MS_MAX, LAG_POSITIONS_MAX, LAG_POSITIONS_MIN, Lag, SLOWED_CALLS_PER_SECOND_MIN, Slowed};
pub use log::{DataFile, Disk, Files, Store, StoreError, WriteStats};
pub use manager::{InitError, Manager, StartError};
pub use outcome::{Applied, Outcome, Refusal, Reply, Unapplied};
pub use position::{COMMANDS_PER_ENTRY_MAX, Generation, LOG_INDEX_MAX, LogIndex, NotAPosition, Position};
pub use propose::{
    Follow, NotProposed, Origin, Pending, Propose, ReadError, ResolvedCommand, ResolvedEntry, Session,
};
pub use resolver::{Audit, Contest, Database, Divergence, Holding, MetaState, ShardState, StuckReplica};
pub use service::Service;
pub use space::{DISK_RESERVE_BYTES, DiskSpace, FreeSpace, SystemSpace};
pub use status::{GroupStatus, NodeStatus, Role};
pub use transport::{Grpc, PROTOCOL, PROTOCOL_MIN, PeerError, PeerInfo, Replies, Transport, wire};
pub use version::{ENTRY_VERSION, RecordError};
