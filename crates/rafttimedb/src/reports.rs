//! What the replica has to say, on its way into the log.

use rtdb_consensus::command::{Body, JUDGEMENT_LEVEL, POISON_LEVEL};
use rtdb_consensus::{Manager, Position, Propose};
use rtdb_replica::Report;
use std::sync::Arc;

/// Proposes to the shard, once all nodes know the kind of command.
pub(crate) struct Reports(pub(crate) Arc<Manager>);

impl Report for Reports {
    fn report(&self, body: Body) -> bool {
        if self.0.feature_level() < POISON_LEVEL {
            tracing::warn!("not all nodes are of a version that knows what this replica has to report");
            return false;
        }
        // What came of it, the replica reads in the log.
        match self.0.shard().submit(body.into()) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "a report of the replica is not proposed");
                false
            }
        }
    }

    fn majority(&self) -> Option<usize> {
        if self.0.feature_level() < JUDGEMENT_LEVEL {
            return None;
        }
        let voters = self.0.shard().with_shard(|shard| shard.voters().len());
        voters.filter(|voters| *voters > 0).map(|voters| voters / 2 + 1)
    }

    fn wants(&self, position: Position) -> bool {
        let wants = self.0.shard().with_shard(|shard| shard.wants_outcome(position));
        wants.unwrap_or_default()
    }
}
