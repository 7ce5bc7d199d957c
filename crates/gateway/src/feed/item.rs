use super::batch::Batch;
use crate::close::CloseReason;
use bytes::Bytes;
use std::sync::Arc;

/// What a member hears of its feed, each at its place among the updates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// A subscription that it asked for begins.
    Joined {
        /// The member's number for its request.
        ticket: u32,
        /// The feed's number of the query set.
        set: u32,
        /// The rows to begin with, as [`rtdb_protocol::reply::applied_rows`].
        rows: Bytes,
    },
    /// What it asked for is not shared: it is to subscribe by itself.
    Declined {
        /// The member's number for its request.
        ticket: u32,
    },
    /// A subscription that it let go of has ended.
    Left {
        /// The member's number for its request.
        ticket: u32,
        /// What its last rows were, if it wants to know, as [`rtdb_protocol::reply::applied_rows`].
        rows: Bytes,
    },
    /// Updates.
    Batch(Arc<Batch>),
    /// The connection was lost, and is there again.
    Restored {
        /// What was missed.
        missed: Option<Arc<Batch>>,
        /// The rows of the session's calls up to here are among them.
        receipt: u64,
    },
    /// It is to go on by itself.
    Evicted,
    /// It does, and hears nothing more.
    Moved {
        /// What its query sets show here, as [`rtdb_protocol::reply::applied_rows`] of those that begin.
        shown: Vec<(u32, Bytes)>,
    },
    /// The feed can't go on.
    Closed(CloseReason),
}
