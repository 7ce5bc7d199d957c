//! Tells the other nodes how far this node's replicas lag, and holds clients' calls back where most replicas do.

use crate::node::big_endian_hex;
use rtdb_consensus::Manager;
use rtdb_gateway::{Gateway, Slowed};
use rtdb_replica::{DatabaseId, Replica};
use spacetimedb_lib::Identity;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// The task that keeps the log no further ahead than the replicas can follow.
pub(crate) struct Pacer {
    pub(crate) manager: Arc<Manager>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) gateway: Gateway,
}

impl Pacer {
    /// Looks for as long as it is polled.
    pub(crate) async fn run(self) {
        let mut known = BTreeSet::new();
        loop {
            self.manager.set_lags(self.replica.lags());
            let slowed = self.manager.slowed();
            let now: BTreeSet<DatabaseId> = slowed.iter().map(|slowed| slowed.database).collect();
            say(&known, &now);
            known = now;
            let slowed = slowed.into_iter().map(|slowed| Slowed {
                database: Identity::from_byte_array(slowed.database),
                calls: slowed.calls,
            });
            self.gateway.slow(&slowed.collect::<Vec<_>>());
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn say(known: &BTreeSet<DatabaseId>, now: &BTreeSet<DatabaseId>) {
    for database in now.difference(known) {
        tracing::warn!(
            database = big_endian_hex(*database),
            "most of the database's replicas are far behind: its clients' calls are slowed until they have caught up"
        );
    }
    for database in known.difference(now) {
        tracing::info!(
            database = big_endian_hex(*database),
            "the database's replicas have caught up: its calls are not slowed any more"
        );
    }
}
