//! A node whose disk fails.

use super::cluster::{Cluster, call, config, publish, settings};
use super::hub::{Hub, addr};
use super::run;
use crate::batcher::Refused;
use crate::log::troubled::{Trouble, Troubled};
use crate::{Disk, EncodedBatch, Manager, Propose, StartError, StoreError};
use bytes::Bytes;
use std::sync::Arc;

#[test]
fn a_node_whose_disk_is_full_says_so_and_acknowledges_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let hub: Arc<Hub> = Arc::default();
        let disk = Troubled::new();
        let manager = Manager::start_with(config(1, &dir), Arc::new(hub), disk.clone())
            .await
            .unwrap();
        manager.init([(1, addr(1))].into(), settings()).await.unwrap();
        let replica = super::replica::Replica::start(manager.shard().clone());
        manager.shard().submit(publish()).unwrap().await.unwrap();
        disk.set(Trouble::Full);
        let pending = manager.shard().submit(call("lost")).unwrap();
        let mut fatal = manager.fatal();
        let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(
            reason.contains("can't be written") || reason.contains("has stopped"),
            "{reason}"
        );
        manager.shutdown().await;
        assert!(pending.await.is_err());
        replica.stop().await;
    });
}

#[test]
fn a_cluster_is_initialised_once_and_the_same_again() {
    run(async {
        let cluster = Cluster::start(3).await;
        let members = || (1..=3).map(|id| (id, addr(id))).collect();
        let first = &cluster.nodes[&1].manager;
        let mut other = settings();
        other.cluster_id = "another".to_owned();
        assert_eq!(
            first.init(members(), other).await.unwrap(),
            "c0ffee",
            "it has its id already"
        );
        assert_eq!(
            cluster.nodes[&2]
                .manager
                .init(members(), settings())
                .await
                .unwrap(),
            "c0ffee"
        );
        let error = first
            .init([(1, addr(1))].into(), settings())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("initialised already"), "{error}");
        let error = first
            .init([(2, addr(2))].into(), settings())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("not among"), "{error}");
        for (id, node) in &cluster.nodes {
            let meta = node.manager.meta();
            let mut resolved = crate::Follow::resolved(&**meta);
            let announced = |_: &u64| meta.meta().nodes().count() == 3;
            resolved.wait_for(announced).await.unwrap();
            assert_eq!(meta.meta().node(*id).unwrap().client_addr, format!("c{id}"));
            assert_eq!(meta.meta().cluster().unwrap().cluster_id, "c0ffee");
            assert_eq!(node.manager.cluster().as_deref(), Some("c0ffee"));
        }
        cluster.stop().await;
    });
}

#[test]
fn a_data_directory_in_use_is_refused() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let start = || Manager::start_with(config(1, &dir), Arc::new(Arc::<Hub>::default()), Disk);
        let manager = start().await.unwrap();
        assert!(matches!(
            start().await.err(),
            Some(StartError::Store(StoreError::Locked { .. }))
        ));
        manager.shutdown().await;
    });
}

#[test]
fn a_node_stops_at_a_command_of_a_newer_version() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let manager = Manager::start_with(config(1, &dir), Arc::new(Arc::<Hub>::default()), Disk)
            .await
            .unwrap();
        manager.init([(1, addr(1))].into(), settings()).await.unwrap();
        manager.shard().submit(publish()).unwrap();
        let refused = Arc::new(Refused::default());
        // No known kind of command.
        let commands = vec![Bytes::from_static(&[0xfa, 0x3f, 0x00])];
        let batch = EncodedBatch {
            node: 9,
            epoch: 1,
            first_seq: 1,
            commands,
        };
        assert!(manager.shard().batcher().put(batch, &refused).await);
        let reason = manager
            .fatal()
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(reason.contains("update it"), "{reason}");
        assert!(!manager.shard().status().running);
        manager.shutdown().await;
    });
}
