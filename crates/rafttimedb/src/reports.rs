//! What the replica has to say, on its way into the log.

use rtdb_consensus::command::{Body, POISON_LEVEL};
use rtdb_consensus::{Manager, Propose};
use rtdb_replica::Report;
use std::sync::Arc;

/// Proposes to the shard, once all nodes know the kind of command.
pub(crate) struct Reports(pub(crate) Arc<Manager>);

impl Report for Reports {
    fn report(&self, body: Body) {
        if self.0.feature_level() < POISON_LEVEL {
            return tracing::warn!(
                "not all nodes are of a version that knows what this replica has to report"
            );
        }
        // What came of it, the replica reads in the log.
        if let Err(error) = self.0.shard().submit(body.into()) {
            tracing::warn!(%error, "a report of the replica is not proposed");
        }
    }
}
