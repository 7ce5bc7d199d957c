//! A database that this node neither applies nor serves any more.

use std::fmt;
use std::time::Duration;

/// The pause before a server that has refused what the others run is asked again.
const REFUSES_PAUSE: Duration = Duration::from_secs(60);

/// Why one database is set aside on this node; everything else goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quarantine {
    /// The log says that what the node holds differs from what a majority of the replicas does. It may take that back.
    Outvoted(String),
    /// What the node holds does not follow from the log.
    Diverged(String),
    /// The local server's database was not published through the cluster.
    Foreign(String),
    /// The local server does not take the module that the others run; it is asked again now and then.
    Refuses(String),
    /// The local server breaks the rules that the replica relies on, again and again.
    Misbehaves(String),
}

impl Quarantine {
    /// How long it is waited until the replica is tried once more, without anything having changed.
    pub(crate) fn pause(&self) -> Option<Duration> {
        matches!(self, Self::Refuses(_)).then_some(REFUSES_PAUSE)
    }

    /// Whether a publication that clears the database, or its deletion, makes this replica right again.
    pub(crate) fn ends_anew(&self) -> bool {
        !matches!(self, Self::Foreign(_))
    }
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outvoted(reason) | Self::Diverged(reason) => {
                write!(f, "this node's replica has diverged: {reason}")
            }
            Self::Foreign(reason) => write!(
                f,
                "the database on the local SpacetimeDB was not published through the cluster ({reason}): delete it there, or \
                 give the node another SpacetimeDB"
            ),
            Self::Refuses(reason) => write!(
                f,
                "the local SpacetimeDB does not take the module that the other nodes run: {reason}"
            ),
            Self::Misbehaves(reason) => {
                write!(f, "the local SpacetimeDB does not behave as expected: {reason}")
            }
        }
    }
}
