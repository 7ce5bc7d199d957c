//! Databases that end, and whoever ended them has not come to deleting them.

use super::cluster::{Cluster, DATABASE};
use super::run;
use crate::command::{Body, EndDatabase, Publish, RegisterDatabase};
use crate::{Command, Follow, Propose, Reply};
use bytes::Bytes;

const OTHER: Bytes = Bytes::from_static(&[9; 32]);

fn publish(born: u64) -> Command {
    Body::Publish(Publish {
        database: OTHER,
        born,
        ..Publish::default()
    })
    .into()
}

/// Waits until a node's shard has the database, or has it no more.
async fn wait_for(cluster: &Cluster, node: u64, is_there: bool) {
    let shard = cluster.nodes[&node].manager.shard();
    let mut resolved = Follow::resolved(&**shard);
    let has = || shard.with_shard(|shard| shard.databases().any(|database| *database == OTHER));
    while has() != Some(is_there) {
        resolved.changed().await.unwrap();
    }
}

#[test]
fn what_is_left_of_a_database_that_has_ended_is_deleted() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let register = Body::RegisterDatabase(RegisterDatabase {
            database: OTHER,
            name: "other".to_owned(),
            has_birth: true,
            ..RegisterDatabase::default()
        });
        let meta = cluster.nodes[&1].manager.meta().clone();
        let registered = meta.submit(register.into()).unwrap().await.unwrap();
        let Reply::Database { born, .. } = registered.reply else {
            panic!("{registered:?}")
        };
        let shard = cluster.nodes[&1].manager.shard().clone();
        shard.submit(publish(born)).unwrap().await.unwrap();
        wait_for(&cluster, 2, true).await;
        let leader = cluster.leader(|_| true).await;
        let end = Body::EndDatabase(EndDatabase {
            database: OTHER,
            born,
        });
        // Nothing more is done by who ended it, and the leader goes.
        meta.submit(end.into()).unwrap().await.unwrap();
        drop((meta, shard));
        cluster.stop_node(leader).await;
        let left: Vec<u64> = cluster.nodes.keys().copied().collect();
        for node in &left {
            wait_for(&cluster, *node, false).await;
        }
        // A publication comes late.
        let shard = cluster.nodes[&left[0]].manager.shard().clone();
        shard.submit(publish(born)).unwrap().await.unwrap();
        drop(shard);
        cluster.start_node(leader).await;
        for node in 1..=3 {
            wait_for(&cluster, node, false).await;
        }
        // What nobody has ended stays, also what the meta group never knew.
        let databases = cluster.nodes[&1]
            .manager
            .shard()
            .with_shard(|shard| shard.databases().cloned().collect::<Vec<_>>());
        assert_eq!(databases, Some(vec![DATABASE]));
        cluster.stop().await;
    });
}
