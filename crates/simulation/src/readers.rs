//! Readers: who asks any node how far the log is committed hears of no less than anybody has been told before.

use crate::cluster::Cluster;
use crate::network::id;
use rtdb_consensus::Propose;
use rtdb_runtime::{sim, sleep, timeout};
use std::sync::Arc;
use std::time::Duration;

/// How many there are.
pub const COUNT: u64 = 4;

/// Between two of a reader's questions, at most, in milliseconds.
const PAUSE_MAX_MS: u64 = 300;

/// How long it waits for an answer: its node may be gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks one node after the other.
pub async fn run(cluster: Arc<Cluster>) {
    let nodes: Vec<u64> = cluster.nodes().collect();
    loop {
        sleep(Duration::from_millis(sim::draw(PAUSE_MAX_MS))).await;
        let node = nodes[sim::draw(nodes.len() as u64) as usize];
        let Some(group) = cluster.manager(node).map(|manager| manager.shard().clone()) else {
            continue;
        };
        let told = cluster.truth.told_last();
        // The question dies with the node's process, as all that asks raft must.
        let asked = sim::spawn_on(id(node), async move { group.read_index().await });
        if let Ok(Ok(Ok(index))) = timeout(PATIENCE, asked).await {
            assert!(
                index >= told.index(),
                "node {node} says that the log is committed up to {index}, and {told} was acknowledged before"
            );
        }
    }
}
