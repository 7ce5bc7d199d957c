//! Why a node does not start, or a cluster is not made.

use crate::group_id::GroupId;
use crate::log::StoreError;
use crate::transport::PeerError;
use crate::{NotProposed, Unapplied};
use std::collections::BTreeSet;
use thiserror::Error;

/// Why a node can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk hangs.
    #[error("{reason}")]
    Disk {
        /// What it does not do.
        reason: String,
    },
    /// A group can't start.
    #[error("{group} can't start: {source}")]
    Group {
        /// The group.
        group: GroupId,
        /// Why.
        source: std::io::Error,
    },
}

/// Why a cluster can't be initialised.
#[derive(Debug, Error)]
pub enum InitError {
    /// The node that was asked is not one of the nodes.
    #[error("node {0} is not among the nodes of the new cluster: ask one of them")]
    NotAmongNodes(u64),
    /// It has other members.
    #[error("the cluster {cluster} has been initialised already, with the nodes {members:?}")]
    AlreadyInitialised {
        /// The cluster's id.
        cluster: String,
        /// Its members.
        members: BTreeSet<u64>,
    },
    /// Another node has begun.
    #[error(
        "node {0} belongs to a cluster already: if it was begun there, run `rtdb init` with that node as the first"
    )]
    Begun(u64),
    /// One of the nodes does not take part.
    #[error("node {node} at {addr}: {source}")]
    Peer {
        /// The node.
        node: u64,
        /// Its address.
        addr: String,
        /// Why.
        source: PeerError,
    },
    /// This node's data directory is another cluster's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Raft refused.
    #[error("{group} can't be initialised: {reason}")]
    Raft {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// The settings were not taken.
    #[error("the cluster's settings can't be proposed: {0}")]
    NotProposed(#[from] NotProposed),
    /// The settings were refused.
    #[error("the cluster's settings: {0}")]
    Unapplied(#[from] Unapplied),
}
