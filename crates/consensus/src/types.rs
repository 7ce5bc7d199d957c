//! How openraft is configured: the types of a log, and the runtime.

use crate::runtime::Runtime;
use bytes::Bytes;
use openraft::{BasicNode, EntryPayload};
use std::cmp::Ordering;
use std::fmt;

/// The largest id of a shard: 32 bits, so that every program reads it exactly, whatever its numbers are. What lies above
/// is for groups of the cluster's own.
pub const SHARD_ID_MAX: u64 = u32::MAX as u64;

/// A raft group on a node. The meta group comes before all shards, whatever its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The group of the cluster's own settings: nodes, databases, names.
    pub const META: Self = Self(u64::MAX);
    /// The shard that every database belongs to unless it is told otherwise.
    pub const SHARD: Self = Self(0);

    /// The shard of that id; `None` if no shard can have it.
    pub fn shard(id: u64) -> Option<Self> {
        (id <= SHARD_ID_MAX).then_some(Self(id))
    }
}

impl Ord for GroupId {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |id: &Self| (*id != Self::META, id.0);
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for GroupId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As operators see it, in the status and in the metrics.
impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::META => f.write_str("meta"),
            Self(id) if id > SHARD_ID_MAX => write!(f, "group-{id}"),
            Self(id) => write!(f, "shard-{id}"),
        }
    }
}

openraft::declare_raft_types!(
    /// The types of every group's log.
    pub TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, crate::machine::Machine>;
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = EntryPayload<Proposal, u64, BasicNode>;
pub(crate) type RaftEntry = openraft::Entry<LeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, BasicNode>;

/// An [`Entry`](crate::record::Entry) as the leader encoded it. It is encoded once, by the leader, and decoded once
/// on each node, when it is resolved.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_shard_is_the_first_and_no_shard_is_the_meta_group() {
        assert_eq!(GroupId::shard(0), Some(GroupId::SHARD));
        assert_eq!(GroupId::shard(SHARD_ID_MAX), Some(GroupId(SHARD_ID_MAX)));
        for id in [SHARD_ID_MAX + 1, GroupId::META.0] {
            assert_eq!(GroupId::shard(id), None);
        }
    }

    #[test]
    fn groups_are_listed_with_the_meta_group_first() {
        let mut groups = [
            GroupId(SHARD_ID_MAX + 1),
            GroupId(12),
            GroupId::SHARD,
            GroupId::META,
        ];
        groups.sort();
        assert_eq!(
            groups.map(|group| group.to_string()),
            ["meta", "shard-0", "shard-12", "group-4294967296"]
        );
    }
}
