//! A node's settings.

use crate::vitals::{FreeSpace, WallClock};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A node's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's id, from 1.
    pub node: u64,
    /// Where the log and the node's identity are kept.
    pub data_dir: PathBuf,
    /// Where peers reach this node, `host:port`.
    pub raft_addr: String,
    /// Where clients reach this node, `host:port`.
    pub client_addr: String,
    /// The version of the program.
    pub version: String,
    /// The kind of the machine's CPU: its architecture, and what is known of vendor, family and model.
    pub cpu: String,
    /// How long things may take.
    pub timing: Timing,
    /// How much may wait.
    pub limits: Limits,
    /// The bytes of the disk that must stay free: below, nothing is taken that makes the log grow.
    pub disk_reserve_bytes: u64,
    /// What time it is.
    pub wall_clock: Arc<dyn WallClock>,
    /// How much room the disk has.
    pub free_space: Arc<dyn FreeSpace>,
}

/// How long things may take.
///
/// A follower that hears nothing asks for votes after `election_ms_max` (the leader's lease, in openraft's terms)
/// plus a random time from `election_ms_min` to `election_ms_max`: by default after 1.25 to 1.5 s. One whose leader's process
/// is gone does not wait.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The leader's heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest wait before an election, in milliseconds.
    pub election_ms_min: u64,
    /// The longest wait before an election, and the leader's lease, in milliseconds.
    pub election_ms_max: u64,
    /// For how long a node may be silent before its sessions are ended, in milliseconds.
    pub lease_ms: u64,
    /// The first wait before a refused proposal is sent again, in milliseconds. It doubles, up to a second, until
    /// the log has more of this node's proposals or another node leads.
    pub retry_ms: u64,
    /// For how long proposals may make no progress before they are sent again, in milliseconds; longer for large
    /// ones, and after each time.
    pub progress_ms: u64,
    /// For how long a peer may take to answer, in milliseconds.
    pub answer_ms: u64,
    /// For how long the disk may be busy with one write before the node stops, in milliseconds. (CockroachDB's
    /// `storage.max_sync_duration` is as long.)
    pub disk_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 150,
            election_ms_min: 500,
            election_ms_max: 750,
            lease_ms: 10_000,
            retry_ms: 50,
            progress_ms: 2_000,
            answer_ms: 1_000,
            disk_ms: 20_000,
        }
    }
}

impl Timing {
    pub(crate) fn retry(&self) -> Duration {
        Duration::from_millis(self.retry_ms)
    }

    pub(crate) fn progress(&self) -> Duration {
        Duration::from_millis(self.progress_ms)
    }

    pub(crate) fn answer(&self) -> Duration {
        Duration::from_millis(self.answer_ms)
    }

    pub(crate) fn disk(&self) -> Duration {
        Duration::from_millis(self.disk_ms)
    }

    /// How long it may take until another node leads that was asked to.
    pub(crate) fn another_leads(&self) -> Duration {
        Duration::from_millis(self.election_ms_max * 2)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// Bytes of batches that may wait at a leader for their entries, of all shards together.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Bytes of batches that may wait at the leader of the meta group for their entries. They have a budget of their own:
/// what a shard does must not hold them up.
pub(crate) const META_WAITING_BYTES_MAX: usize = 4 << 20;

/// Bytes of entries that may be on their way to one follower, of all groups together.
const PEER_BYTES_MAX: usize = 16 << 20;

/// How much may wait.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Commands from this node that are not in the log yet, in each group.
    pub outstanding_count_max: usize,
    /// Their bytes, until they are in the log, in each group.
    pub outstanding_bytes_max: usize,
    /// Bytes of a single command.
    pub command_bytes_max: usize,
    /// Bytes of batches that wait for their entries where this node leads, from all nodes and of all shards together.
    /// A larger command is let through alone.
    pub waiting_bytes_max: usize,
    /// Bytes of entries that were sent to one follower and that it has not answered for, of all groups together. A
    /// larger entry is let through alone. Another message of each group may wait to be sent.
    pub peer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            outstanding_count_max: 65_536,
            outstanding_bytes_max: 64 << 20,
            command_bytes_max: 48 << 20,
            waiting_bytes_max: WAITING_BYTES_MAX,
            peer_bytes_max: PEER_BYTES_MAX,
        }
    }
}
