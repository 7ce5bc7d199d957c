//! What procedures do.

use super::Timer;
use bytes::Bytes;

/// A transaction of a procedure, which has run on one node and was taken back there: every replica does what it has done. It
/// fails if calls have come between.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transaction {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The hash of the module that the procedure is of, 32 bytes: fails if another one runs.
    #[prost(bytes = "bytes", tag = "2")]
    pub program: Bytes,
    /// Who has called the procedure, 32 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub sender: Bytes,
    /// The position of the last call that had succeeded.
    #[prost(uint64, tag = "4")]
    pub base: u64,
    /// What it has done, as the prepared module has noted it.
    #[prost(bytes = "bytes", tag = "5")]
    pub operations: Bytes,
    /// The session that wants a receipt, 0 for none. Refused if it is over.
    #[prost(uint64, tag = "6")]
    pub session: u64,
    /// The position of the [`Turn`] that it ends, 0 for none: it is done there, and here nothing is.
    #[prost(uint64, tag = "7")]
    pub turn: u64,
    /// The row that is due whose procedure runs if this is done, which takes the row before all else. It counts where a
    /// [`Timer`] of its own would. From [`CLAIM_LEVEL`](super::CLAIM_LEVEL) on.
    #[prost(message, optional, tag = "8")]
    pub claim: Option<Timer>,
}

impl Transaction {
    /// Ends a turn in which nothing is done.
    pub fn nothing(database: Bytes, turn: u64) -> Self {
        Self {
            database,
            turn,
            ..Self::default()
        }
    }

    /// Whether it does nothing but end a turn.
    pub fn is_nothing(&self) -> bool {
        self.turn != 0 && self.operations.is_empty()
    }
}

/// A procedure whose transaction has met a conflict has it run where no call can come between: from here on the database is
/// held, on every replica, until the first [`Transaction`] of this turn.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Turn {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The hash of the module that the procedure is of, 32 bytes: over at once if another one runs.
    #[prost(bytes = "bytes", tag = "2")]
    pub program: Bytes,
    /// What the node that has proposed it knows the procedure by.
    #[prost(uint64, tag = "3")]
    pub run: u64,
}
