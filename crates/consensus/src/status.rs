//! How a node does, for operators.

use crate::group_id::GroupId;
use crate::log::WriteStats;
use crate::member::Member;
use crate::vitals::{ClockVerdict, DiskSpace};
use std::collections::BTreeMap;

/// How a node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node's id.
    pub node: u64,
    /// Its cluster; `None` before `rtdb init`.
    pub cluster: Option<String>,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
    /// Bytes of batches that wait for their entries in the groups that it leads.
    pub waiting_bytes: usize,
    /// Bytes of entries that are on their way to its followers.
    pub append_bytes: usize,
    /// What its log store has written.
    pub writes: WriteStats,
    /// What a quorum says of its clock.
    pub clock: ClockVerdict,
    /// Its disk's room.
    pub space: DiskSpace,
    /// Why it should not lead, for people.
    pub troubles: Vec<String>,
}

/// How a group does on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Raft's term.
    pub term: u64,
    /// What the node is in the group.
    pub role: Role,
    /// Who leads, and its raft address; `None` if the node does not know.
    pub leader: Option<(u64, String)>,
    /// The last entry of this node's log.
    pub last_log: u64,
    /// The last entry that this node knows to be committed.
    pub committed: u64,
    /// The last entry that the log's rules were applied to.
    pub resolved: u64,
    /// The last entry that the replica has applied.
    pub applied: u64,
    /// Sessions in the log.
    pub sessions: usize,
    /// Commands under way from this node.
    pub outstanding_count: usize,
    /// Their bytes that are not in the log yet.
    pub outstanding_bytes: usize,
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that only follow.
    pub learners: Vec<u64>,
    /// All members.
    pub members: BTreeMap<u64, Member>,
    /// Whether raft runs; `false` after an error that the node can't go on from.
    pub running: bool,
}

/// What a node is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It asks for votes.
    Candidate,
    /// It follows.
    Follower,
    /// It does not vote, or is in no cluster yet.
    Learner,
}
