//! Tasks that end without having been told to.

use super::cluster::{Cluster, call, config, publish, settings};
use super::hub::{Hub, addr};
use super::run;
use crate::{Disk, Manager, Propose};
use std::sync::Arc;

/// A node alone, with a database.
async fn start(dir: &tempfile::TempDir) -> Arc<Manager> {
    let hub: Arc<Hub> = Arc::default();
    let manager = Manager::start_with(config(1, dir), Arc::new(hub), Disk)
        .await
        .unwrap();
    manager.init([(1, addr(1))].into(), settings()).await.unwrap();
    manager.shard().submit(publish()).unwrap();
    manager
}

async fn reason(manager: &Manager) -> String {
    let mut fatal = manager.fatal();
    let reason = fatal.wait_for(Option::is_some).await.unwrap().clone();
    reason.unwrap().as_ref().to_owned()
}

#[test]
fn a_raft_core_that_panics_is_fatal() {
    run(async {
        let cluster = Cluster::start(3).await;
        let node = &cluster.nodes[&2].manager;
        let core = node.shard().raft();
        let answer = core.with_raft_state(|_| panic!("the core is rotten")).await;
        assert!(answer.is_err());
        assert_eq!(
            reason(node).await,
            "raft (shard-0) has panicked: the core is rotten"
        );
        assert!(!node.shard().status().running);
        cluster.stop().await;
    });
}

#[test]
fn a_state_machine_that_panics_is_fatal() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let manager = start(&dir).await;
        let is_sound = false;
        let rotten = manager
            .shard()
            .raft()
            .with_state_machine(move |_| Box::pin(async move { assert!(is_sound, "the machine is rotten") }));
        assert!(rotten.await.is_err());
        assert_eq!(
            reason(&manager).await,
            "raft (shard-0) has panicked: the machine is rotten"
        );
        manager.shutdown().await;
    });
}

#[test]
fn a_raft_core_that_ends_unasked_is_fatal() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let manager = start(&dir).await;
        manager.meta().raft().shutdown().await.unwrap();
        assert_eq!(reason(&manager).await, "meta has stopped: raft stopped");
        manager.shutdown().await;
    });
}

#[test]
fn a_courier_a_batcher_or_a_warden_that_ends_is_fatal() {
    run(async {
        for task in ["courier", "batcher", "warden", "raft"] {
            let dir = tempfile::tempdir().unwrap();
            let manager = start(&dir).await;
            assert_eq!(*manager.fatal().borrow(), None);
            let name = format!("the {task} of shard-0");
            manager.shard().supervisor().kill(&name);
            assert_eq!(
                reason(&manager).await,
                format!("{name} was dropped, which it must not be")
            );
            manager.shutdown().await;
        }
    });
}

#[test]
fn a_node_that_is_told_to_stop_gives_no_reason() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let manager = start(&dir).await;
        let pending = manager.shard().submit(call("late")).unwrap();
        manager.shutdown().await;
        drop(pending.await);
        assert_eq!(*manager.fatal().borrow(), None);
        assert!(manager.shard().submit(call("later")).is_err());
    });
}
