//! What a replica must not go on from.

use rtdb_consensus::{Position, ReadError};
use thiserror::Error;

/// Why the node has to stop: going on would leave this replica different from the others.
#[derive(Debug, Error)]
pub enum Fatal {
    /// The log holds a command that this version does not know.
    #[error("the command at {position} is of a newer version of RaftTimeDB: update this node")]
    NewerCommand {
        /// Where it stands.
        position: Position,
    },
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The task that looks through the log for databases ended by itself.
    #[error("looking through the log for databases failed: {reason}")]
    Scout {
        /// Its last words.
        reason: String,
    },
    /// A task of ours ended by itself.
    #[error("an applier failed: {reason}")]
    Applier {
        /// Its last words.
        reason: String,
    },
}
