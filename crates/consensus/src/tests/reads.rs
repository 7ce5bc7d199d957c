//! How far the log is committed, as any node says.

use super::cluster::{Cluster, call};
use super::run;
use crate::{NoReadIndex, Propose};
use std::time::Duration;

#[test]
fn every_node_finds_the_index_of_what_any_has_acknowledged() {
    run(async {
        let cluster = Cluster::start(3).await;
        for round in 0..3 {
            for writer in cluster.nodes.values() {
                let shard = writer.manager.shard();
                let acknowledged = shard.submit(call("add")).unwrap().await.unwrap();
                for reader in cluster.nodes.values() {
                    let index = reader.manager.shard().read_index().await.unwrap();
                    assert!(index >= acknowledged.position.index(), "round {round}");
                }
            }
        }
        // Many ask at once.
        let shard = cluster.nodes[&2].manager.shard();
        let acknowledged = shard.submit(call("add")).unwrap().await.unwrap();
        let reads = (0..100).map(|_| shard.read_index());
        for index in futures::future::join_all(reads).await {
            assert!(index.unwrap() >= acknowledged.position.index());
        }
        cluster.stop().await;
    });
}

#[test]
fn a_leader_that_is_cut_off_says_nothing_of_what_is_committed() {
    run(async {
        let cluster = Cluster::start(3).await;
        let old = cluster.leader(|_| true).await;
        cluster.hub.isolate(old, (1..=3).filter(|id| *id != old));
        let new = cluster.leader(|id| id != old).await;
        let shard = cluster.nodes[&new].manager.shard();
        let acknowledged = shard.submit(call("add")).unwrap().await.unwrap();
        // It may think that it leads for a while yet.
        let index = cluster.nodes[&old].manager.shard().read_index().await;
        assert_eq!(index, Err(NoReadIndex));
        let index = shard.read_index().await.unwrap();
        assert!(index >= acknowledged.position.index());

        // Who asks while nobody answers hears once it can be answered.
        let cut_off = cluster.nodes[&old].manager.shard().clone();
        let asking = tokio::spawn(async move { cut_off.read_index().await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.hub.heal();
        let index = asking.await.unwrap();
        assert!(index.is_ok_and(|index| index >= acknowledged.position.index()));
        cluster.stop().await;
    });
}
