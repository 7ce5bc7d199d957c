//! The two sides of a group, as the crates above see it: proposing commands, and following what became of them.

use crate::{Command, LogIndex, Outcome, Position, Unapplied};
use futures::future::BoxFuture;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

/// A command under way. Resolves when the command was applied on this node or when that can't be told any more.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Outcome>);

impl Pending {
    /// A command under way, and what completes it.
    pub fn new() -> (oneshot::Sender<Outcome>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }
}

impl Pending {
    /// Whether it has an outcome, which is thrown away.
    pub fn is_done(&mut self) -> bool {
        !matches!(self.0.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

impl Future for Pending {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|done| done.unwrap_or(Err(Unapplied::unknown("the node is stopping"))))
    }
}

/// A proposal that was not taken: nothing was written, and it may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotProposed {
    /// Too much is under way already.
    #[error("overloaded: {count} commands of {bytes} bytes wait on this node already; try again later")]
    Overloaded {
        /// Commands under way.
        count: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The command is larger than an entry may be.
    #[error("the command has {size} bytes, and an entry holds at most {max}")]
    TooLarge {
        /// The command's bytes.
        size: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The disk is nearly full.
    #[error(
        "this node's disk is nearly full ({} MiB left, {} MiB must stay free): make room, or turn to another node",
        free_bytes >> 20,
        reserve_bytes >> 20
    )]
    DiskLow {
        /// Free bytes.
        free_bytes: u64,
        /// The bytes that must stay free.
        reserve_bytes: u64,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Nobody can say how far the log is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no leader is found that a majority of the nodes follows: try again later, or turn to another node")]
pub struct NoReadIndex;

/// Proposes commands to one group.
pub trait Propose: Send + Sync {
    /// Takes a command into the node's ordered stream of proposals: commands take effect in the order in which this
    /// was called, each once, through any number of leader changes.
    ///
    /// # Errors
    /// [`NotProposed`], when nothing was taken.
    fn submit(&self, command: Command) -> Result<Pending, NotProposed>;

    /// Waits until there is room for another command.
    fn ready(&self) -> BoxFuture<'_, ()>;

    /// Asks the leader, and it a majority, for an index up to which at least the log is committed now: who reads once that is
    /// applied misses nothing that anybody has been told.
    fn read_index(&self) -> BoxFuture<'_, Result<LogIndex, NoReadIndex>>;
}

/// Who proposed a command: a node, in one of its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The node's id.
    pub node: u64,
    /// The node's life: larger after each start, and after each expiry.
    pub epoch: u64,
}

/// An entry of the log with what the log's rules made of it: the same on every node, each time it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedEntry {
    /// The entry's index.
    pub index: LogIndex,
    /// Its commands, without those that were duplicates or came out of turn.
    pub commands: Vec<ResolvedCommand>,
}

/// A command that takes effect.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedCommand {
    /// Its place in the log.
    pub position: Position,
    /// Its time, in microseconds since the Unix epoch: strictly increasing along the log.
    pub timestamp_us: i64,
    /// Who proposed it.
    pub origin: Origin,
    /// Its number in that origin's stream.
    pub seq: u64,
    /// What it is.
    pub command: Command,
    /// For a `Disconnect`: the session that it ended.
    pub session: Option<Session>,
}

/// A client's session, as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id: the position of its `Connect`.
    pub id: u64,
    /// The node the client is connected to.
    pub origin: Origin,
    /// The database's identity, 32 bytes.
    pub database: bytes::Bytes,
    /// The client's identity, 32 bytes.
    pub sender: bytes::Bytes,
    /// The client's connection id, 16 bytes.
    pub connection: bytes::Bytes,
}

/// Why the log could not be read.
#[derive(Debug, Error)]
#[error("the log can't be read: {0}")]
pub struct ReadError(pub String);

/// Follows a group's log, as far as it is committed and resolved.
pub trait Follow: Send + Sync {
    /// The index up to which the log is resolved; changes as it grows.
    fn resolved(&self) -> watch::Receiver<LogIndex>;

    /// Reads resolved entries from index `from` on, at least one if there is one, and no more than about
    /// `bytes_max` bytes. Entries without commands may be left out.
    fn read(
        &self,
        from: LogIndex,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>>;

    /// Tells this node's own proposer what became of its command. Others' commands are passed over.
    fn complete(&self, origin: Origin, seq: u64, outcome: Outcome);

    /// Says that this node has applied everything up to `index`.
    fn applied(&self, index: LogIndex);
}
