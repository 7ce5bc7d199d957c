//! What an elector has bound itself to.

use super::{Ballot, Founding, Proposed};
use bytes::Bytes;
use std::collections::BTreeSet;
use thiserror::Error;

/// Rounds that a ballot may be ahead of the last one: whoever makes rounds up can't use them up.
const ROUND_STEP_MAX: u64 = 1 << 32;

/// What a node has bound itself to, on its disk: Paxos's acceptor.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PledgeRecord {
    /// The data directory's number.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) directory: Bytes,
    /// The electors to whom it has pledged itself.
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) electors: Vec<u64>,
    /// It agrees to no ballot before this one.
    #[prost(message, optional, tag = "3")]
    pub(crate) promised: Option<Ballot>,
    /// What it has agreed to.
    #[prost(message, optional, tag = "4")]
    pub(crate) accepted: Option<Proposed>,
    /// Whether that is decided: the directory belongs to that cluster.
    #[prost(bool, tag = "5")]
    pub(crate) is_decided: bool,
    /// The version that a reader must know.
    #[prost(uint32, tag = "15")]
    pub(crate) version: u32,
}

/// Why a node does not pledge itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refused {
    /// It has agreed to a founding by others.
    #[error(
        "this node has agreed to a cluster of which nodes {0} are to be the founders: start it with the same --bootstrap-expect and \
         --peers as then, or with an empty data directory"
    )]
    OtherElectors(String),
    /// A later ballot has begun.
    #[error("a later attempt has begun")]
    Later,
    /// No ballot, or no founding, that a healthy node proposes.
    #[error("no node proposes this")]
    Unsound,
}

impl PledgeRecord {
    pub(crate) fn new(directory: Bytes) -> Self {
        Self {
            directory,
            ..Self::default()
        }
    }

    /// What it has agreed to.
    pub(crate) fn founding(&self) -> Option<&Founding> {
        self.accepted.as_ref()?.founding.as_ref()
    }

    /// The pledge to agree to no ballot before this one.
    pub(crate) fn promise(&self, electors: &BTreeSet<u64>, ballot: Ballot) -> Result<Self, Refused> {
        self.check(electors, ballot)?;
        if self.promised.is_some_and(|promised| promised >= ballot) {
            return Err(Refused::Later);
        }
        Ok(Self {
            electors: electors.iter().copied().collect(),
            promised: Some(ballot),
            ..self.clone()
        })
    }

    /// The pledge to a founding.
    pub(crate) fn accept(
        &self,
        electors: &BTreeSet<u64>,
        ballot: Ballot,
        founding: &Founding,
    ) -> Result<Self, Refused> {
        self.check(electors, ballot)?;
        if !founding.is_sound(electors) {
            return Err(Refused::Unsound);
        }
        if self.promised.is_some_and(|promised| promised > ballot) {
            return Err(Refused::Later);
        }
        Ok(Self {
            electors: electors.iter().copied().collect(),
            promised: Some(ballot),
            accepted: Some(Proposed {
                ballot: Some(ballot),
                founding: Some(founding.clone()),
            }),
            ..self.clone()
        })
    }

    /// A node may be started with other electors as long as it has agreed to nothing. It keeps its ballot, for the first ones may
    /// be its electors again.
    pub(crate) fn check_electors(&self, electors: &BTreeSet<u64>) -> Result<(), Refused> {
        let known: BTreeSet<u64> = self.electors.iter().copied().collect();
        match self.accepted.is_none() || known == *electors {
            true => Ok(()),
            false => Err(Refused::OtherElectors(super::listed(&known))),
        }
    }

    fn check(&self, electors: &BTreeSet<u64>, ballot: Ballot) -> Result<(), Refused> {
        self.check_electors(electors)?;
        let last = self.promised.map_or(0, |promised| promised.round);
        let is_sound = electors.contains(&ballot.node)
            && ballot.round > 0
            && ballot.round <= last.saturating_add(ROUND_STEP_MAX);
        is_sound.then_some(()).ok_or(Refused::Unsound)
    }
}
