//! What raft writes and sends, around the [entries](crate::entry): ids, votes and members. Fields are never renumbered or
//! retyped, and a new one that must not be passed over has its `version` raised.

use crate::entry::Proposal;
use crate::member::Member;
use crate::types::{LeaderId, LogId, Membership, Payload, RaftEntry, StoredMembership, Vote};
use crate::version::{self, RecordError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// A raft log id.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct LogIdRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) node: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
}

impl From<LogId> for LogIdRecord {
    fn from(id: LogId) -> Self {
        Self {
            term: id.leader_id.term,
            node: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(id: LogIdRecord) -> Self {
        Self {
            leader_id: LeaderId {
                term: id.term,
                node_id: id.node,
            },
            index: id.index,
        }
    }
}

/// A raft vote.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct VoteRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) node: u64,
    #[prost(bool, tag = "3")]
    pub(crate) committed: bool,
}

impl From<Vote> for VoteRecord {
    fn from(vote: Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(vote: VoteRecord) -> Self {
        Self {
            leader_id: LeaderId {
                term: vote.term,
                node_id: vote.node,
            },
            committed: vote.committed,
        }
    }
}

/// A group's members.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MembershipRecord {
    #[prost(message, repeated, tag = "1")]
    pub(crate) configs: Vec<VoterSet>,
    /// The entry the membership stands in; only in the state.
    #[prost(message, optional, tag = "3")]
    pub(crate) log_id: Option<LogIdRecord>,
    /// All members, by id. (In tag 2 there were once their bare addresses.)
    #[prost(btree_map = "uint64, message", tag = "4")]
    pub(crate) members: BTreeMap<u64, MemberRecord>,
    /// The version that a reader must know.
    #[prost(uint32, tag = "15")]
    pub(crate) version: u32,
}

/// A member of a group.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MemberRecord {
    /// Where the others reach it, `host:port`.
    #[prost(string, tag = "1")]
    pub(crate) addr: String,
    /// It only follows, for good. Whoever passes this over has it vote no sooner than he is asked to.
    #[prost(bool, tag = "2")]
    pub(crate) never_votes: bool,
}

/// Whom a node listens to before its own log says who the members are: those that found the cluster, or those that it was taken
/// in by.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FoundersRecord {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) nodes: Vec<u64>,
    /// How far the meta group's log was committed when the node was taken in; not set of a founder.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) taken_in: Option<u64>,
    /// Of a node that was taken in, for each group: the term of the group's leader then, and what was committed.
    #[prost(btree_map = "uint64, message", tag = "3")]
    pub(crate) floors: BTreeMap<u64, LogIdRecord>,
}

/// Voters of one configuration.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct VoterSet {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) voters: Vec<u64>,
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership
                .get_joint_config()
                .iter()
                .map(|set| VoterSet {
                    voters: set.iter().copied().collect(),
                })
                .collect(),
            log_id: None,
            members: membership
                .nodes()
                .map(|(id, member)| (*id, member.into()))
                .collect(),
            version: 0,
        }
    }
}

impl From<&Member> for MemberRecord {
    fn from(member: &Member) -> Self {
        Self {
            addr: member.addr.clone(),
            never_votes: member.never_votes,
        }
    }
}

impl From<MemberRecord> for Member {
    fn from(member: MemberRecord) -> Self {
        Self {
            addr: member.addr,
            never_votes: member.never_votes,
        }
    }
}

impl From<&StoredMembership> for MembershipRecord {
    fn from(stored: &StoredMembership) -> Self {
        Self {
            log_id: stored.log_id().map(Into::into),
            ..stored.membership().into()
        }
    }
}

impl MembershipRecord {
    pub(crate) fn membership(self) -> Result<Membership, RecordError> {
        version::check(self.version)?;
        let configs: Vec<BTreeSet<u64>> = self
            .configs
            .into_iter()
            .map(|set| set.voters.into_iter().collect())
            .collect();
        let members = self.members.into_iter();
        let nodes: BTreeMap<u64, Member> = members.map(|(id, member)| (id, member.into())).collect();
        if configs.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|_| RecordError::Missing("a member's address"))
    }

    pub(crate) fn stored(self) -> Result<StoredMembership, RecordError> {
        let log_id = self.log_id.map(Into::into);
        Ok(StoredMembership::new(log_id, self.membership()?))
    }
}

/// A raft entry, on disk and on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LogRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) log_id: Option<LogIdRecord>,
    /// Neither of the two: an entry that only marks a new leader.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) entry: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub(crate) membership: Option<MembershipRecord>,
}

impl From<&RaftEntry> for LogRecord {
    fn from(entry: &RaftEntry) -> Self {
        let (bytes, membership) = match &entry.payload {
            Payload::Blank => (None, None),
            Payload::Normal(proposal) => (Some(proposal.0.clone()), None),
            Payload::Membership(membership) => (None, Some(membership.into())),
        };
        Self {
            log_id: Some(entry.log_id.into()),
            entry: bytes,
            membership,
        }
    }
}

impl TryFrom<LogRecord> for RaftEntry {
    type Error = RecordError;

    fn try_from(record: LogRecord) -> Result<Self, RecordError> {
        let log_id = record.log_id.ok_or(RecordError::Missing("a log id"))?.into();
        let payload = match (record.entry, record.membership) {
            (Some(bytes), _) => Payload::Normal(Proposal(bytes)),
            (None, Some(membership)) => Payload::Membership(membership.membership()?),
            (None, None) => Payload::Blank,
        };
        Ok(Self { log_id, payload })
    }
}
