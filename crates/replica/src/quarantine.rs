//! A database that this node neither applies nor serves any more.

use std::fmt;

/// Why one database is set aside on this node; everything else goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quarantine {
    /// What the node holds differs from what a majority of the replicas does, or does not follow from the log.
    Diverged(String),
    /// The local server's database was not published through the cluster.
    Foreign(String),
    /// The local server breaks the rules that the replica relies on, again and again.
    Misbehaves(String),
}

impl Quarantine {
    /// Whether a publication that clears the database, or its deletion, makes this replica right again.
    pub(crate) fn ends_anew(&self) -> bool {
        !matches!(self, Self::Foreign(_))
    }
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diverged(reason) => write!(f, "this node's replica has diverged: {reason}"),
            Self::Foreign(reason) => write!(
                f,
                "the database on the local SpacetimeDB was not published through the cluster ({reason}): delete it there, or \
                 give the node another SpacetimeDB"
            ),
            Self::Misbehaves(reason) => {
                write!(f, "the local SpacetimeDB does not behave as expected: {reason}")
            }
        }
    }
}
