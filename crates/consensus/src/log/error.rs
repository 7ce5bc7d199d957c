//! Why a data directory can't be used.

use super::broken::WAY_BACK;
use std::path::PathBuf;
use thiserror::Error;

/// Why a data directory can't be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{} is in use by another process: stop it, or choose another --data-dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "{} was written by a newer version (format {found}, this program reads up to {supported}): update this node",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this program reads.
        supported: u32,
    },
    /// An older program wrote it, in a form that is not read any more.
    #[error(
        "{} was written by an older version (format {found}), which this one can't read (it reads format {supported}): \
         start this node, and all others of its cluster, with an empty --data-dir, and publish anew",
        path.display()
    )]
    Older {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format this program reads.
        supported: u32,
    },
    /// It is something else's directory.
    #[error("{} is not empty and is not a RaftTimeDB data directory: choose another --data-dir", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// Its cluster is founded by other nodes.
    #[error(
        "the cluster is founded by nodes {found}, not by {wanted}: run `rtdb init` with the same ones again, or \
         start all of them with empty data directories"
    )]
    OtherFounders {
        /// The nodes that found it.
        found: String,
        /// Those that were to.
        wanted: String,
    },
    /// It is another node's.
    #[error(
        "{} belongs to node {found}, not to node {wanted}: a node's data can't be handed to another id",
        path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// The node it belongs to.
        found: u64,
        /// The node that was to start.
        wanted: u64,
    },
    /// The node belongs to another cluster.
    #[error("this node belongs to cluster {found}, not to {wanted}")]
    OtherCluster {
        /// The cluster it belongs to.
        found: String,
        /// The cluster it was to join.
        wanted: String,
    },
    /// It is not what was written.
    #[error(
        "{} is damaged: {reason}. This node may have forgotten what it acknowledged, and must not start with it. {WAY_BACK}",
        path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer program wrote to its log.
    #[error("{}: {reason}: a newer version wrote it; update this node", path.display())]
    NewerLog {
        /// The directory.
        path: PathBuf,
        /// What is not known.
        reason: String,
    },
    /// The disk refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The disk's error.
        source: std::io::Error,
    },
    /// The store has stopped after an error.
    #[error("the log store has stopped: {0}")]
    Stopped(String),
}
