//! What is wrong with a log that can't be read.

use std::io;
use thiserror::Error;

/// Why a segment can't be read.
#[derive(Debug, Error)]
pub(crate) enum Broken {
    /// The disk refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not hold what was written.
    #[error("{0}")]
    Damaged(String),
    /// A newer program wrote it.
    #[error("{0}")]
    Newer(String),
}

/// What to do with a log that is damaged.
pub(crate) const WAY_BACK: &str = "The other nodes have it all: keep the directory aside, take the node out of the \
    cluster, and let it join again with an empty --data-dir (this version can't change the members yet)";

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Io(error) => error,
            Broken::Damaged(reason) => Self::new(
                io::ErrorKind::InvalidData,
                format!("the log is damaged: {reason}. {WAY_BACK}"),
            ),
            Broken::Newer(reason) => Self::new(io::ErrorKind::InvalidData, reason),
        }
    }
}
