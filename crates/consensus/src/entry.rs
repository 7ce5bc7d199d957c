//! What stands in an entry of the log, on disk and on the wire: batches of commands. Fields are never renumbered or retyped,
//! and a new one that must not be passed over has its `version` raised.

use crate::Command;
use crate::version::{self, RecordError};
use bytes::Bytes;
use prost::Message;
use std::fmt;

/// The application's part of a log entry: batches of commands, and the leader's clock.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// The version, [`ENTRY_VERSION`](crate::ENTRY_VERSION) as this node writes it.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The leader's clock when it formed the entry, in microseconds since the Unix epoch.
    #[prost(sfixed64, tag = "2")]
    pub timestamp_us: i64,
    /// The batches, in the order in which the leader took them.
    #[prost(message, repeated, tag = "3")]
    pub batches: Vec<Batch>,
}

/// A run of commands from one origin's stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// The node that proposed them.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// The node's epoch.
    #[prost(fixed64, tag = "2")]
    pub epoch: u64,
    /// The number of the first command; the others follow without gaps. The stream begins with 1.
    #[prost(uint64, tag = "3")]
    pub first_seq: u64,
    /// The commands. Empty to announce a new epoch.
    #[prost(message, repeated, tag = "4")]
    pub commands: Vec<Command>,
}

/// An [`Entry`] whose commands are still encoded: the same bytes on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EncodedEntry {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(sfixed64, tag = "2")]
    pub(crate) timestamp_us: i64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) batches: Vec<EncodedBatch>,
}

/// A [`Batch`] whose commands are still encoded: the same bytes on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncodedBatch {
    /// The node that proposed them.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// The node's epoch.
    #[prost(fixed64, tag = "2")]
    pub epoch: u64,
    /// The number of the first command.
    #[prost(uint64, tag = "3")]
    pub first_seq: u64,
    /// The commands, each an encoded [`Command`].
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub commands: Vec<Bytes>,
}

impl EncodedBatch {
    /// About how many bytes it takes, in an entry or in a message.
    pub(crate) fn size(&self) -> usize {
        const COMMAND_OVERHEAD: usize = 6;
        32 + self
            .commands
            .iter()
            .map(|command| command.len() + COMMAND_OVERHEAD)
            .sum::<usize>()
    }
}

/// An [`Entry`] as the leader encoded it. It is encoded once, by the leader, and decoded once
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

impl Proposal {
    /// Decodes the entry.
    ///
    /// # Errors
    /// [`RecordError`] if it, or a command in it, is damaged or of a version that this program does not read: the node must
    /// stop then, since passing over a command would make it differ from the others.
    pub fn decode(&self) -> Result<Entry, RecordError> {
        let entry = Entry::decode(self.0.clone())?;
        version::check_entry(entry.version)?;
        let mut commands = entry.batches.iter().flat_map(|batch| &batch.commands);
        commands.try_for_each(|command| version::check(command.version))?;
        Ok(entry)
    }
}
