//! How nodes that nobody leads yet agree on one cluster: pure, with time and randomness passed in.
//!
//! N nodes are the *electors*, and each knows all N ids. A cluster is founded by Paxos of one value (Lamport, "Paxos Made Simple"),
//! the [`Founding`]: the cluster's id and who founds it. An elector [pledges](PledgeRecord) itself on its disk, first to a ballot,
//! then to a founding; what a majority of the N is pledged to is decided, and whoever proposes later finds and proposes the same.
//! So fewer than a majority never found anything, two halves never found two clusters, and one who dies in the middle leaves
//! nothing that others can't finish.
//!
//! A founder is named with its *directory*, a random number on its disk: a node that has lost its disk since is not the one that
//! was meant, and may have voted already. When to propose, and whom, the [`Outlook`] says.

mod attempt;
mod outlook;
mod pledge;
#[cfg(test)]
mod tests;

pub(crate) use attempt::Attempt;
pub(crate) use outlook::{Outlook, Step, Window};
pub(crate) use pledge::{PledgeRecord, Refused};

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Electors that a cluster may have.
pub const ELECTORS_MAX: usize = 31;

/// Bytes of a directory's number.
pub(crate) const DIRECTORY_BYTES: usize = 16;

/// Bytes of a node's address: a host name of the greatest length, and a port.
pub(crate) const ADDR_BYTES_MAX: usize = 260;

/// Bytes of a cluster's id.
const CLUSTER_BYTES_MAX: usize = 64;

/// An attempt to found a cluster. Of two, the later one has the higher round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Ballot {
    #[prost(uint64, tag = "1")]
    pub(crate) round: u64,
    /// Whose it is.
    #[prost(uint64, tag = "2")]
    pub(crate) node: u64,
}

/// A node that founds a cluster, or may.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Founder {
    #[prost(uint64, tag = "1")]
    pub(crate) node: u64,
    /// Where the others reach it, `host:port`.
    #[prost(string, tag = "2")]
    pub(crate) addr: String,
    /// Its data directory: sixteen random bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) directory: Bytes,
}

impl Founder {
    pub(crate) fn is_sound(&self) -> bool {
        let has_addr = (1..=ADDR_BYTES_MAX).contains(&self.addr.len());
        self.node > 0 && has_addr && self.directory.len() == DIRECTORY_BYTES
    }
}

/// A cluster to be.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Founding {
    /// Its id.
    #[prost(string, tag = "1")]
    pub(crate) cluster: String,
    /// Who founds it: its first members. Each once, a majority of the electors.
    #[prost(message, repeated, tag = "2")]
    pub(crate) founders: Vec<Founder>,
}

impl Founding {
    /// Whether these electors can have decided it.
    pub(crate) fn is_sound(&self, electors: &BTreeSet<u64>) -> bool {
        let nodes: BTreeSet<u64> = self.founders.iter().map(|founder| founder.node).collect();
        (1..=CLUSTER_BYTES_MAX).contains(&self.cluster.len())
            && nodes.len() == self.founders.len()
            && nodes.is_subset(electors)
            && nodes.len() >= majority(electors)
            && self.founders.iter().all(Founder::is_sound)
    }

    /// Whether a node founds it with this directory.
    pub(crate) fn names(&self, node: u64, directory: &[u8]) -> bool {
        let mut founders = self.founders.iter();
        founders.any(|founder| founder.node == node && founder.directory == directory)
    }

    /// The founders' addresses.
    pub(crate) fn addrs(&self) -> BTreeMap<u64, String> {
        let founders = self.founders.iter();
        founders
            .map(|founder| (founder.node, founder.addr.clone()))
            .collect()
    }
}

/// What a node says of itself to others while a cluster is founded, or looked for; and what it asks for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Greeting {
    /// Where the others reach it, and its directory; not set by one that founds nothing.
    #[prost(message, optional, tag = "1")]
    pub(crate) me: Option<Founder>,
    /// Its electors; none of one that founds nothing.
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) electors: Vec<u64>,
    /// That the other pledges itself to a ballot.
    #[prost(message, optional, tag = "3")]
    pub(crate) prepare: Option<Ballot>,
    /// That the other pledges itself to a founding.
    #[prost(message, optional, tag = "4")]
    pub(crate) accept: Option<Proposed>,
}

/// A founding that is proposed in a ballot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Proposed {
    #[prost(message, optional, tag = "1")]
    pub(crate) ballot: Option<Ballot>,
    #[prost(message, optional, tag = "2")]
    pub(crate) founding: Option<Founding>,
}

/// How a node answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Greeted {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub(crate) node: u64,
    /// Whether it is in a cluster. Then it says nothing of what is below, except to a founder that was not told yet.
    #[prost(bool, tag = "2")]
    pub(crate) in_cluster: bool,
    /// Where the others reach it, and its directory; not set by one that founds nothing.
    #[prost(message, optional, tag = "3")]
    pub(crate) me: Option<Founder>,
    /// Its electors; none of one that founds nothing.
    #[prost(uint64, repeated, tag = "4")]
    pub(crate) electors: Vec<u64>,
    /// Electors that answer it.
    #[prost(message, repeated, tag = "5")]
    pub(crate) seen: Vec<Founder>,
    /// The highest ballot that it is pledged to.
    #[prost(message, optional, tag = "6")]
    pub(crate) promised: Option<Ballot>,
    /// The founding that it is pledged to, and in which ballot it came to be. Of one in a cluster: the cluster's.
    #[prost(message, optional, tag = "7")]
    pub(crate) accepted: Option<Proposed>,
    /// Whether it has done what was asked for.
    #[prost(bool, tag = "8")]
    pub(crate) agrees: bool,
}

/// How many of the electors decide.
pub(crate) fn majority(electors: &BTreeSet<u64>) -> usize {
    electors.len() / 2 + 1
}

/// Ids, for people.
pub(crate) fn listed(nodes: &BTreeSet<u64>) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    nodes.join(", ")
}
