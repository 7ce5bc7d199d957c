//! What a node says of itself: the body of `GET /cluster/status`.

use serde::Serialize;

/// A node's status.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeStatus {
    /// This node's id.
    pub(crate) node_id: u64,
    /// The cluster's id; `None` until `rtdb init`.
    pub(crate) cluster_id: Option<String>,
    /// The version of this program.
    pub(crate) version: &'static str,
    /// Whether clients are served.
    pub(crate) ready: bool,
    /// For how long, in milliseconds, a command waits here until it is applied.
    pub(crate) lag_ms: u64,
    /// What the node waits for before it serves clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_for: Option<String>,
    /// Why this node should not lead: a wrong clock, a disk that is nearly full.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) troubles: Vec<String>,
    /// By how many milliseconds a quorum's clocks are ahead of this node's, if that is too much; 0 if not.
    pub(crate) clock_off_ms: i64,
    /// Free bytes of the disk that holds the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_free_bytes: Option<u64>,
    /// Bytes of commands that wait at this node, as a leader, for their entries.
    pub(crate) waiting_bytes: usize,
    /// Bytes of entries on their way to other nodes.
    pub(crate) append_bytes: usize,
    /// The server behind this node.
    pub(crate) spacetimedb: ServerStatus,
    /// The node's raft groups.
    pub(crate) groups: Vec<GroupStatus>,
    /// The databases on this node.
    pub(crate) databases: Vec<DatabaseStatus>,
    /// In what the nodes differ although their replicas must not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    /// The nodes of the cluster.
    pub(crate) nodes: Vec<MemberStatus>,
    /// Clients connected to this node.
    pub(crate) sessions: usize,
    /// Outside issuers of tokens whose keys all nodes know.
    pub(crate) issuers: usize,
}

/// The server behind a node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ServerStatus {
    /// Where it is; `None` for a managed one that has not been started yet.
    pub(crate) url: Option<String>,
    /// Its version, if it said.
    pub(crate) version: Option<String>,
    /// `starting`, `up` or `down`.
    pub(crate) state: String,
}

/// One raft group, as this node sees it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GroupStatus {
    /// `meta` or `shard-N`.
    pub(crate) group: String,
    /// The current term.
    pub(crate) term: u64,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub(crate) state: String,
    /// The leader, if this node knows one.
    pub(crate) leader: Option<NodeAddrs>,
    /// The last entry in this node's log.
    pub(crate) last_log_index: u64,
    /// The last entry that this node knows to be committed.
    pub(crate) committed_index: u64,
    /// The last entry that this node has applied to its SpacetimeDB.
    pub(crate) applied_index: u64,
    /// The members that vote.
    pub(crate) voters: Vec<u64>,
    /// The members that do not.
    pub(crate) learners: Vec<u64>,
}

/// One database, as it stands on this node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DatabaseStatus {
    /// Its identity, in hex.
    pub(crate) identity: String,
    /// Its names.
    pub(crate) names: Vec<String>,
    /// The last command that changed it: `entry.command`, or `generation:entry.command` once the database has moved.
    pub(crate) applied: String,
    /// The same as a number: the `rtdb_index`.
    pub(crate) index: u64,
    /// The digest of all writes up to there, in hex, as it was read last: at the same index it is the same on every node.
    /// `None` if it has not been read yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    /// Something was applied since the digest was read.
    pub(crate) digest_is_old: bool,
    /// Why the database is set aside on this node: neither applied nor served here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) set_aside: Option<String>,
    /// The last position at which a majority of the replicas held the same, as a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agreed_index: Option<u64>,
    /// The replicas that have diverged, of all nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) diverged: Vec<DivergedReplica>,
    /// Replicas that contradict each other without a majority: the database takes no calls until one is said to be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) split: Option<SplitReplicas>,
    /// Calls sent to the server whose results are not there yet.
    pub(crate) in_flight: usize,
    /// Commands that are in the log and not in this node's SpacetimeDB yet.
    pub(crate) lag_commands: u64,
    /// How long ago the oldest of them came into the log, in milliseconds.
    pub(crate) lag_ms: u64,
    /// Whether this node slows the database's calls, since most of its replicas are far behind.
    pub(crate) slowed: bool,
    /// Calls that were given up since the node started, because they ran for too long.
    pub(crate) overlong_calls: u64,
    /// The command that stops this node's server each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stuck: Option<StuckStatus>,
}

/// A command that stops a node's server each time.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StuckStatus {
    /// Where it stands.
    pub(crate) position: String,
    /// How often it has stopped the server.
    pub(crate) attempts: u32,
    /// The nodes that are stuck at it, as the log has it.
    pub(crate) nodes: Vec<u64>,
}

/// A replica that holds something else than the majority.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DivergedReplica {
    /// Its node.
    pub(crate) node: u64,
    /// The last position at which it was known to be the same, `entry.command`.
    pub(crate) after: String,
    /// The first at which it is known to differ.
    pub(crate) by: String,
}

/// Replicas that contradict each other.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SplitReplicas {
    /// The last position at which a majority agreed, `entry.command`.
    pub(crate) after: String,
    /// The position at which they differ.
    pub(crate) by: String,
    /// The nodes that have said what they hold there.
    pub(crate) nodes: Vec<u64>,
}

/// A node, as it announced itself.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MemberStatus {
    /// Its id and addresses.
    #[serde(flatten)]
    pub(crate) addrs: NodeAddrs,
    /// Its RaftTimeDB's version.
    pub(crate) version: String,
    /// Its SpacetimeDB's version; empty as long as it has met none.
    pub(crate) spacetimedb_version: String,
    /// The kind of its CPU.
    pub(crate) cpu: String,
}

/// A member of the cluster: the body of `GET /cluster/members` has a list of them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Membership {
    /// Its id and addresses.
    #[serde(flatten)]
    pub(crate) addrs: NodeAddrs,
    /// Whether it votes in all groups.
    pub(crate) votes: bool,
    /// Whether it is never to: if not, it votes once it has caught up.
    pub(crate) never_votes: bool,
    /// The groups that it leads.
    pub(crate) leads: Vec<String>,
}

/// A node's addresses.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct NodeAddrs {
    /// Its id.
    pub(crate) id: u64,
    /// Where the other nodes reach it.
    pub(crate) raft_addr: String,
    /// Where clients reach it.
    pub(crate) client_addr: String,
}
