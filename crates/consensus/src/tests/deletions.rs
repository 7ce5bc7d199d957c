//! Databases that end, and whoever ended them has not come to deleting them.

use super::cluster::{Cluster, DATABASE, config, settings};
use super::hub::{Hub, addr};
use super::run;
use crate::command::{Body, EndDatabase, Load, Publish, RegisterDatabase};
use crate::warden::DELETES_MAX;
use crate::{Command, Disk, Follow, Manager, Propose, Reply};
use bytes::Bytes;
use futures::future::join_all;
use std::sync::Arc;

const OTHER: Bytes = Bytes::from_static(&[9; 32]);

fn publish(born: u64) -> Command {
    publish_to(OTHER, born)
}

fn publish_to(database: Bytes, born: u64) -> Command {
    Body::Publish(Publish {
        database,
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

#[test]
fn what_a_node_has_restored_by_half_goes_with_the_node() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader(|_| true).await;
        let restorer = (1..=3).find(|node| *node != leader).unwrap();
        let meta = cluster.nodes[&restorer].manager.meta().clone();
        let register = Body::RegisterDatabase(RegisterDatabase {
            database: OTHER,
            has_birth: true,
            ..RegisterDatabase::default()
        });
        let registered = meta.submit(register.into()).unwrap().await.unwrap();
        let Reply::Database { born, .. } = registered.reply else {
            panic!("{registered:?}")
        };
        let shard = cluster.nodes[&restorer].manager.shard().clone();
        let publish = Body::Publish(Publish {
            database: OTHER,
            clear: true,
            loads: true,
            born,
            ..Publish::default()
        });
        let of = shard.submit(publish.into()).unwrap().await.unwrap().position.0;
        let load = Body::Load(Load {
            database: OTHER,
            of,
            ..Load::default()
        });
        shard.submit(load.into()).unwrap().await.unwrap();
        wait_for(&cluster, leader, true).await;
        drop((meta, shard));
        cluster.stop_node(restorer).await;
        let left: Vec<u64> = cluster.nodes.keys().copied().collect();
        for node in &left {
            wait_for(&cluster, *node, false).await;
        }
        let known = cluster.nodes[&left[0]].manager.meta().meta();
        assert!(known.database(&OTHER).is_none());
        cluster.start_node(restorer).await;
        wait_for(&cluster, restorer, false).await;
        cluster.stop().await;
    });
}

#[test]
fn deletions_that_the_leaders_replica_does_not_come_to_hold_up_no_others() {
    run(async {
        // Nobody applies anything here.
        let dir = tempfile::tempdir().unwrap();
        let hub: Arc<Hub> = Arc::default();
        let manager = Manager::start_with(config(1, &dir), Arc::new(hub), Disk)
            .await
            .unwrap();
        manager.init([(1, addr(1))].into(), settings()).await.unwrap();
        let (meta, shard) = (manager.meta().clone(), manager.shard().clone());
        let databases =
            (0..DELETES_MAX as u64 + 6).map(|number| Bytes::from([number.to_le_bytes(); 4].concat()));
        let databases: Vec<_> = databases.collect();
        let registered = databases.iter().map(|database| {
            let register = Body::RegisterDatabase(RegisterDatabase {
                database: database.clone(),
                has_birth: true,
                ..RegisterDatabase::default()
            });
            meta.submit(register.into()).unwrap()
        });
        let registered = join_all(registered.collect::<Vec<_>>()).await;
        let births: Vec<u64> = registered
            .into_iter()
            .map(|registered| match registered.unwrap().reply {
                Reply::Database { born, .. } => born,
                other => panic!("{other:?}"),
            })
            .collect();
        for (database, born) in databases.iter().zip(&births) {
            drop(shard.submit(publish_to(database.clone(), *born)).unwrap());
        }
        let mut resolved = Follow::resolved(&*shard);
        let count = || shard.with_shard(|shard| shard.databases().count()).unwrap();
        while count() < databases.len() {
            resolved.changed().await.unwrap();
        }
        for (database, born) in databases.into_iter().zip(births) {
            drop(
                meta.submit(Body::EndDatabase(EndDatabase { database, born }).into())
                    .unwrap(),
            );
        }
        while count() > 0 {
            resolved.changed().await.unwrap();
        }
        manager.shutdown().await;
    });
}
