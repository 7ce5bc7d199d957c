//! Databases as bytes: taken from this node's replica, and restored through the log.

mod import;
mod restore;
mod send;
mod take;

pub(crate) use restore::Target;

use crate::node::Refused;
use axum::http::StatusCode;
use rtdb_replica::SnapshotError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Snapshots that are taken or restored on a node at a time: the rows of one are held in memory.
const AT_A_TIME: usize = 1;

/// How long whoever takes or sends a snapshot may do nothing.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Pieces on their way to or from whoever takes or sends a snapshot.
const PIECES_WAITING: usize = 4;

/// Whose turn it is on this node.
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

fn refused(status: StatusCode, reason: impl Into<String>) -> Refused {
    let reason = reason.into();
    Refused { status, reason }
}

fn unavailable(reason: impl Into<String>) -> Refused {
    refused(StatusCode::SERVICE_UNAVAILABLE, reason)
}

fn conflict(reason: impl Into<String>) -> Refused {
    refused(StatusCode::CONFLICT, reason)
}

impl From<SnapshotError> for Refused {
    fn from(error: SnapshotError) -> Self {
        let status = match error {
            SnapshotError::TooLarge | SnapshotError::RowTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            SnapshotError::Refused(_) | SnapshotError::NoState => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        refused(status, error.to_string())
    }
}
