//! About commands that stop SpacetimeDB.

use bytes::Bytes;

/// About a command that stops SpacetimeDB each time it is tried.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Poison {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The command's position.
    #[prost(fixed64, tag = "2")]
    pub position: u64,
    /// What is said of it. `None` is something of a newer version: the node stops rather than skip it.
    #[prost(oneof = "PoisonStep", tags = "3, 4, 5")]
    pub step: Option<PoisonStep>,
}

/// What a [`Poison`] says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum PoisonStep {
    /// The proposer's replica is stuck at the command, or is not any more.
    #[prost(message, tag = "3")]
    Stuck(Stuck),
    /// The leader has found all voters stuck at the command: it has failed, and is passed over.
    #[prost(message, tag = "4")]
    Failed(Failed),
    /// An operator wants the command passed over, wherever the replicas are.
    #[prost(message, tag = "5")]
    Skipped(Skipped),
}

/// A replica has not got past a command, and promises not to try it again before it has taken this back.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Stuck {
    /// How often the command has stopped the replica's server; 0 takes the report back.
    #[prost(uint32, tag = "1")]
    pub attempts: u32,
}

/// All voters have reported that they are stuck at a command. Without effect unless they still are, and the proposer
/// leads.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failed {
    /// The term in which the proposer led.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// The voters.
    #[prost(uint64, repeated, tag = "2")]
    pub voters: Vec<u64>,
}

/// An operator's decision.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Skipped {}

impl Poison {
    /// Whether it decides that the command has failed.
    pub fn decides(&self) -> bool {
        self.failure().is_some()
    }

    /// What callers of the command hear, if it decides that the command has failed.
    pub fn failure(&self) -> Option<&'static str> {
        match self.step.as_ref()? {
            PoisonStep::Stuck(_) => None,
            PoisonStep::Failed(_) => Some("this call stopped SpacetimeDB on every node"),
            PoisonStep::Skipped(_) => Some("this call stopped SpacetimeDB and was skipped by an operator"),
        }
    }
}
