//! How a replica is doing, for `/cluster/status` and the metrics.

use crate::server::ServerState;
use crate::{DatabaseId, Quarantine};
use rtdb_consensus::{Lag, LogIndex, Position};

/// How a replica is doing.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The local server.
    pub server: ServerState,
    /// The local server's version, if it is known.
    pub server_version: Option<String>,
    /// The log index up to which everything is applied.
    pub applied: LogIndex,
    /// The databases, by identity.
    pub databases: Vec<DatabaseStatus>,
}

/// How a database is doing.
#[derive(Clone, Debug)]
pub struct DatabaseStatus {
    /// Which one.
    pub identity: DatabaseId,
    /// What its applier is doing.
    pub phase: Phase,
    /// The position of the last command whose outcome is known.
    pub applied: Position,
    /// Calls that wait for the server's answer.
    pub in_flight: usize,
    /// Their bytes.
    pub in_flight_bytes: usize,
    /// How far it lags behind what is resolved.
    pub lag: Lag,
    /// How many calls were given up, since the node started, because they ran for longer than they may.
    pub overlong_calls: u64,
    /// The rolling digest as it was read last, and its position: equal on all replicas at the same position. `None` if
    /// the server did not say.
    pub digest: Option<Digest>,
    /// Something was applied since the digest was read.
    pub digest_is_old: bool,
}

/// A digest and where it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The position of the last command in it.
    pub position: Position,
    /// The digest.
    pub value: u64,
}

/// What a database's applier is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the server, or reading where to go on.
    Connecting,
    /// The server is further than the log that this node has so far.
    AheadOfLog,
    /// Applying commands.
    Applying,
    /// There is no such database at this place in the log.
    Absent,
    /// A command stops the server each time; it is tried again after long pauses.
    Stuck {
        /// Where it stands.
        position: Position,
        /// How often it has stopped the server.
        attempts: u32,
    },
    /// The connection is lost; the error. It will be tried again.
    Retrying(String),
    /// Set aside: neither applied nor served here.
    Quarantined(Quarantine),
}
