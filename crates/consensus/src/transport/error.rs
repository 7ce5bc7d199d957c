//! Why a peer did not take a message.

use crate::GroupId;
use prost::Message;
use thiserror::Error;

/// Why a peer did not take a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// It belongs to another cluster.
    #[error("the peer belongs to another cluster than this node, which is of {ours}: check --peers")]
    OtherCluster {
        /// The sender's cluster. The receiver tells nobody which one it is of.
        ours: String,
    },
    /// It founds the cluster with other nodes.
    #[error(
        "the peer was told that nodes {known} found the cluster: run `rtdb init` with the same ones, or start all of them \
         with empty data directories"
    )]
    OtherFounders {
        /// The ids that it was told.
        known: String,
    },
    /// It speaks another version of the protocol.
    #[error("the peer speaks version {theirs} of the protocol, and this node {ours}: update the older one")]
    OtherProtocol {
        /// The sender's version.
        ours: u32,
        /// The receiver's version.
        theirs: u32,
    },
    /// Two nodes have one id.
    #[error("two nodes have the id {node}: give each its own --node-id")]
    SameId {
        /// The id.
        node: u64,
    },
    /// Another node answers at the address.
    #[error("node {found} answers where node {wanted} was expected: check --peers")]
    OtherNode {
        /// The node that was called.
        wanted: u64,
        /// The node that answered.
        found: u64,
    },
    /// It is in no cluster yet.
    #[error("the peer is in no cluster yet: run `rtdb init`")]
    NoCluster,
    /// It does not have the group.
    #[error("the peer does not have {}", GroupId(*group))]
    UnknownGroup {
        /// The group.
        group: u64,
    },
    /// It has stopped, or its disk refuses.
    #[error("the peer has stopped: {reason}")]
    Stopped {
        /// What it says.
        reason: String,
    },
    /// It can't be reached, or does not answer in time.
    #[error("the peer can't be reached: {reason}")]
    Unreachable {
        /// What went wrong.
        reason: String,
    },
    /// What was said can't be true.
    #[error("the peer does not believe it: {reason}")]
    Unsound {
        /// What it says.
        reason: String,
    },
    /// The sender is no member of the group.
    #[error("node {node} is no member of the group: the peer does not listen to it")]
    NotMember {
        /// The sender.
        node: u64,
    },
    /// It says something that this node does not understand.
    #[error("the peer's answer is not understood")]
    Garbled,
}

/// A [`PeerError`] on the wire.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorRecord {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, tag = "2")]
    first: u64,
    #[prost(uint64, tag = "3")]
    second: u64,
    #[prost(string, tag = "4")]
    ours: String,
    #[prost(string, tag = "5")]
    theirs: String,
}

impl PeerError {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let record = |kind| ErrorRecord {
            kind,
            ..ErrorRecord::default()
        };
        match self.clone() {
            Self::OtherCluster { ours } => ErrorRecord { ours, ..record(1) },
            Self::OtherFounders { known } => ErrorRecord {
                theirs: known,
                ..record(12)
            },
            Self::OtherProtocol { ours, theirs } => ErrorRecord {
                first: ours.into(),
                second: theirs.into(),
                ..record(2)
            },
            Self::SameId { node } => ErrorRecord {
                first: node,
                ..record(3)
            },
            Self::OtherNode { wanted, found } => ErrorRecord {
                first: wanted,
                second: found,
                ..record(4)
            },
            Self::NoCluster => record(5),
            Self::UnknownGroup { group } => ErrorRecord {
                first: group,
                ..record(6)
            },
            Self::Stopped { reason } => ErrorRecord {
                theirs: reason,
                ..record(7)
            },
            Self::Unreachable { reason } => ErrorRecord {
                theirs: reason,
                ..record(8)
            },
            Self::Garbled => record(9),
            Self::Unsound { reason } => ErrorRecord {
                theirs: reason,
                ..record(10)
            },
            Self::NotMember { node } => ErrorRecord {
                first: node,
                ..record(11)
            },
        }
        .encode_to_vec()
    }

    /// `None` for what a newer version may have meant.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let record = ErrorRecord::decode(bytes).ok()?;
        Some(match record.kind {
            1 => Self::OtherCluster { ours: record.ours },
            12 => Self::OtherFounders { known: record.theirs },
            2 => Self::OtherProtocol {
                ours: record.first as u32,
                theirs: record.second as u32,
            },
            3 => Self::SameId { node: record.first },
            4 => Self::OtherNode {
                wanted: record.first,
                found: record.second,
            },
            5 => Self::NoCluster,
            6 => Self::UnknownGroup { group: record.first },
            7 => Self::Stopped {
                reason: record.theirs,
            },
            8 => Self::Unreachable {
                reason: record.theirs,
            },
            9 => Self::Garbled,
            10 => Self::Unsound {
                reason: record.theirs,
            },
            11 => Self::NotMember { node: record.first },
            _ => return None,
        })
    }

    pub(crate) fn unreachable(reason: impl ToString) -> Self {
        Self::Unreachable {
            reason: reason.to_string(),
        }
    }

    pub(crate) fn stopped(reason: impl ToString) -> Self {
        Self::Stopped {
            reason: reason.to_string(),
        }
    }
}

impl From<super::sanity::Unsound> for PeerError {
    fn from(unsound: super::sanity::Unsound) -> Self {
        Self::Unsound {
            reason: unsound.to_string(),
        }
    }
}
