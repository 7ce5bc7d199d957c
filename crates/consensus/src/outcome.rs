//! What became of a command, as its proposer hears it: committed, not committed, or unknown.

use crate::Position;
use bytes::Bytes;
use thiserror::Error;

/// What became of a proposed command.
pub type Outcome = Result<Applied, Unapplied>;

/// The command is in the log and was applied on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where it stands in the log.
    pub position: Position,
    /// The time the log gave it, in microseconds since the Unix epoch.
    pub timestamp_us: i64,
    /// What it gave back.
    pub reply: Reply,
}

/// What an applied command gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It had nothing to say.
    Done,
    /// A reducer ran and its transaction is part of the database.
    Call {
        /// What the reducer returned, in BSATN; empty for nothing.
        return_value: Bytes,
        /// How long the local server ran it, in microseconds; 0 if the server did not say.
        execution_us: u64,
        /// The energy the local server counted; 0 if it did not say.
        energy: u128,
    },
    /// The name was free, or was this owner's already.
    Database {
        /// The database's identity, 32 bytes.
        identity: Bytes,
        /// Whether this command made it.
        created: bool,
        /// Its birth; 0 for a database of before there were births.
        born: u64,
    },
    /// Rows were changed by SQL.
    Rows {
        /// How many came.
        inserted: u64,
        /// How many went.
        deleted: u64,
        /// How many changed.
        updated: u64,
    },
    /// A module was published.
    Published {
        /// Whether the database is new, not updated.
        created: bool,
    },
}

/// The command was not applied, or this node can't say whether it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unapplied {
    /// Not committed: the reducer failed, and its transaction was rolled back.
    #[error("{message}")]
    Reducer {
        /// Where the call stands in the log.
        position: Position,
        /// The time the log gave it, in microseconds since the Unix epoch.
        timestamp_us: i64,
        /// Whether it trapped (or the server refused it) rather than returned an error of its own.
        trapped: bool,
        /// What it, or the server, said.
        message: String,
        /// How long the local server ran it, in microseconds; 0 if the server did not say.
        execution_us: u64,
        /// The energy the local server counted; 0 if it did not say.
        energy: u128,
    },
    /// Not committed: the log's own rules refused the command.
    #[error("{0}")]
    Refused(Refusal),
    /// Unknown: the node stopped, or was expired by the others, with the command under way.
    #[error("the outcome is unknown: {why}")]
    Unknown {
        /// Why.
        why: &'static str,
        /// Where the command stands in the log, if this node knows.
        position: Option<Position>,
    },
}

impl Unapplied {
    /// [`Unapplied::Unknown`] of a command that may not be in the log at all.
    pub fn unknown(why: &'static str) -> Self {
        Self::Unknown { why, position: None }
    }
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The session has been disconnected.
    #[error("the session has ended")]
    SessionGone,
    /// A leader of another term wrote the entry.
    #[error("the node that saw the row due did not lead any more")]
    Deposed,
    /// The module is another one by now.
    #[error("another module has been published meanwhile")]
    OtherModule,
    /// There is no such database.
    #[error("no such database")]
    NoSuchDatabase,
    /// The log has let a client in, at this position, and the replicas have no such database, since its creation was refused: the
    /// session has to be ended.
    #[error("no such database")]
    NothingToEnter(Position),
    /// The cluster has no such shard.
    #[error("the cluster has no shard {0}")]
    NoSuchShard(u64),
    /// The name belongs to a database of another owner.
    #[error("the name `{0}` is taken")]
    NameTaken(String),
    /// The names to be replaced are others by now.
    #[error("the database's names have been changed meanwhile")]
    NamesChanged,
    /// Another session has the connection id.
    #[error("the connection id is another session's")]
    ConnectionTaken,
    /// What was of that identity before is not deleted yet.
    #[error("the database that had this identity before is still being deleted: try again")]
    StillThere,
    /// The database's rows are still coming.
    #[error("the database is being restored: try again when that is done, or delete it")]
    Restoring,
    /// The rows do not follow those that have come.
    #[error(
        "the database is not being restored by these rows any more: it was deleted, or is restored by somebody else"
    )]
    NotRestoring,
    /// The database belongs to somebody else.
    #[error("the database is another identity's")]
    NotOwner,
    /// The database is locked.
    #[error("Database is locked and cannot be deleted. Run `spacetime unlock` first.")]
    Locked,
    /// The local server refused the module; its own words.
    #[error("{0}")]
    Module(String),
    /// A text is longer than it may be.
    #[error("{what} has more than {max} bytes")]
    TooLong {
        /// Which one.
        what: &'static str,
        /// The limit, in bytes.
        max: usize,
    },
    /// The replicas differ, and none is known to be right.
    #[error(
        "the database is read-only: its replicas differ, and no majority of them agrees. Compare them with `rtdb verify` and \
         say which is right with `rtdb resolve`"
    )]
    Split,
    /// A majority of the replicas agrees, or all do: there is nothing to resolve.
    #[error("the database is not split: a majority of its replicas agrees")]
    NotSplit,
    /// The replica said to be right has not reported where the others differ.
    #[error("node {0} has not reported what its replica holds where the others differ")]
    NotReported(u64),
    /// The command is not one at which all voters are stuck.
    #[error("not all voters are stuck at this command")]
    NotStuck,
    /// There is no such command yet.
    #[error("the log has not come to this position yet")]
    NotYet,
    /// A row of a schedule table is not due yet, by the log's time.
    #[error("the log's time has not come to when the row is due")]
    NotDue,
    /// A call with this key has taken effect before: what came of it is in the log's state, or will be.
    #[error("a call with this idempotency key is under way: try again")]
    Repeated,
    /// The key is another call's.
    #[error("this idempotency key was used for another call: a call of its own needs a key of its own")]
    KeyTaken,
    /// The caller, or all callers of the database, have more keys than are kept.
    #[error(
        "{whose} more calls with idempotency keys than are remembered: try again later, or without a key"
    )]
    TooManyKeys {
        /// Whose they are.
        whose: &'static str,
    },
    /// The cluster already has its settings.
    #[error("the cluster has been initialised already")]
    AlreadyInitialised,
}
