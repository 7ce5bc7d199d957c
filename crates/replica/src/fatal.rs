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
    /// The local server has a database of that identity which did not come from the log.
    #[error(
        "database {database} on the local SpacetimeDB was not published through the cluster ({reason}): delete it \
         there, or give the node another SpacetimeDB"
    )]
    Foreign {
        /// The database, in hexadecimal.
        database: String,
        /// What shows it.
        reason: String,
    },
    /// The local server's database does not belong to this log.
    #[error(
        "database {database} on the local SpacetimeDB does not follow from this node's log ({reason}): the node's \
         data directory and its SpacetimeDB do not belong together"
    )]
    Diverged {
        /// The database, in hexadecimal.
        database: String,
        /// What shows it.
        reason: String,
    },
    /// The local server breaks the rules that the replica relies on, again and again.
    #[error("database {database}: the local SpacetimeDB does not behave as expected: {reason}")]
    Misbehaves {
        /// The database, in hexadecimal.
        database: String,
        /// What it did.
        reason: String,
    },
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
