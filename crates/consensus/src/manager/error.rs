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
    /// A node's data directory is empty, of a cluster that works.
    #[error("node {0} has lost its data: remove it with `rtdb remove-node`, and add it with `rtdb add-node`")]
    Lost(u64),
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

/// Why a node that looks for a cluster, or founds one, can't go on.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// Another node has its id, or is not what it should be.
    #[error("{addr}: {source}")]
    Peer {
        /// Its address.
        addr: String,
        /// What it is.
        source: PeerError,
    },
    /// It has bound itself to something else before.
    #[error("{0}")]
    Pledged(String),
    /// It can't be bound to the cluster.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its disk refuses.
    #[error("the node's pledge can't be written: {0}")]
    Disk(#[from] std::io::Error),
    /// Raft refused.
    #[error("{group} can't be begun: {reason}")]
    Raft {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// There are no settings for the new cluster.
    #[error("{0}")]
    Settings(String),
}

/// Why the members do not change.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// There is no cluster.
    #[error("this node is in no cluster yet: run `rtdb init`")]
    NoCluster,
    /// A number or an address can't be one.
    #[error("a node's id is a number from 1, and its address host:port of at most 260 bytes")]
    Unsound,
    /// There is no such group.
    #[error("there is no such group: `rtdb status` shows them")]
    UnknownGroup,
    /// The node that is to come does not take part.
    #[error("node {node} at {addr}: {source}")]
    Peer {
        /// The node.
        node: u64,
        /// Its address.
        addr: String,
        /// Why.
        source: PeerError,
    },
    /// Another one answers there.
    #[error("node {found} answers at {addr}, not node {wanted}: check its --node-id")]
    OtherNode {
        /// The address.
        addr: String,
        /// The node that answered.
        found: u64,
        /// The node that is to come.
        wanted: u64,
    },
    /// It does not understand what is in the log.
    #[error(
        "node {node} runs a version that is too old for this cluster (feature level {has} of {wants}): update it"
    )]
    TooOld {
        /// The node.
        node: u64,
        /// What it can apply.
        has: u32,
        /// What it must be able to apply.
        wants: u32,
    },
    /// The group's leader does not do it.
    #[error("{reason} ({group})")]
    Refused {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// It was not done in time.
    #[error(
        "{group} has not changed yet: {reason}. See that a majority of its nodes runs, and run this again"
    )]
    Unfinished {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
}
