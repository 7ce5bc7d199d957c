//! Nodes that can be started, stopped and cut off.

use super::hub::{Hub, addr};
use super::replica::Replica;
use crate::command::{Body, Call, Connect, InitCluster, Publish};
use crate::{Command, Config, Disk, Files, Limits, Manager, Role, Timing, Transport};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(super) const DATABASE: Bytes = Bytes::from_static(&[7; 32]);

/// Short enough for tests, and long enough for a slow machine.
pub(super) fn timing() -> Timing {
    Timing {
        lease_ms: 2_000,
        ..Timing::default()
    }
}

pub(super) fn config(node: u64, dir: &TempDir) -> Config {
    Config {
        node,
        data_dir: dir.path().to_owned(),
        raft_addr: addr(node),
        client_addr: format!("c{node}"),
        version: "test".to_owned(),
        cpu: "cpu".to_owned(),
        timing: timing(),
        limits: Limits::default(),
        disk_reserve_bytes: crate::DISK_RESERVE_BYTES,
        wall_clock: Arc::new(crate::SystemClock),
        free_space: Arc::new(crate::SystemSpace),
    }
}

pub(super) fn settings() -> InitCluster {
    InitCluster {
        cluster_id: "c0ffee".to_owned(),
        jwt_public_key: "pem".to_owned(),
        jwt_private_key: String::new(),
    }
}

pub(super) fn publish() -> Command {
    let module = Bytes::from_static(b"module");
    Body::Publish(Publish {
        database: DATABASE,
        module,
        ..Publish::default()
    })
    .into()
}

pub(super) fn call(name: &str) -> Command {
    call_in(0, name)
}

pub(super) fn call_in(session: u64, name: &str) -> Command {
    Body::Call(Call {
        database: DATABASE,
        session,
        reducer: name.to_owned(),
        ..Call::default()
    })
    .into()
}

pub(super) fn connect() -> Command {
    Body::Connect(Connect {
        database: DATABASE,
        ..Connect::default()
    })
    .into()
}

/// A running node.
pub(super) struct Node {
    pub(super) manager: Arc<Manager>,
    pub(super) replica: Replica,
}

impl Node {
    pub(super) async fn start(config: Config, transport: Arc<dyn Transport>) -> Self {
        Self::start_on(config, transport, Disk).await
    }

    pub(super) async fn start_on(config: Config, transport: Arc<dyn Transport>, files: impl Files) -> Self {
        let manager = Manager::start_with(config, transport, files).await.unwrap();
        let replica = Replica::start(manager.shard().clone());
        Self { manager, replica }
    }

    pub(super) async fn stop(self) {
        self.replica.stop().await;
        self.manager.shutdown().await;
        let closed = self.manager.closed();
        drop(self.manager);
        closed.await;
    }
}

/// Nodes on a network in memory.
pub(super) struct Cluster {
    pub(super) hub: Arc<Hub>,
    pub(super) nodes: BTreeMap<u64, Node>,
    dirs: BTreeMap<u64, TempDir>,
    limits: Limits,
}

impl Cluster {
    /// Starts and initialises a cluster with a database.
    pub(super) async fn start(count: u64) -> Self {
        Self::start_with(count, Limits::default()).await
    }

    pub(super) async fn start_with(count: u64, limits: Limits) -> Self {
        let dirs = (1..=count).map(|id| (id, tempfile::tempdir().unwrap())).collect();
        let mut cluster = Self {
            hub: Arc::default(),
            nodes: BTreeMap::new(),
            dirs,
            limits,
        };
        for id in 1..=count {
            cluster.start_node(id).await;
        }
        let members = (1..=count).map(|id| (id, addr(id))).collect();
        cluster.nodes[&1].manager.init(members, settings()).await.unwrap();
        use crate::Propose;
        cluster.nodes[&1]
            .manager
            .shard()
            .submit(publish())
            .unwrap()
            .await
            .unwrap();
        cluster
    }

    pub(super) async fn start_node(&mut self, id: u64) {
        let limits = self.limits.clone();
        let config = Config {
            limits,
            ..config(id, &self.dirs[&id])
        };
        let node = Node::start(config, Arc::new(self.hub.clone())).await;
        self.hub.connect(id, node.manager.service());
        self.nodes.insert(id, node);
    }

    pub(super) async fn stop_node(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        self.hub.disconnect(id);
        node.stop().await;
    }

    /// The shard's leader that the others follow, once there is one and `is_right` likes it.
    pub(super) async fn leader(&self, is_right: impl Fn(u64) -> bool) -> u64 {
        loop {
            let leader = self.nodes.iter().find(|(id, node)| {
                let status = node.manager.shard().status();
                is_right(**id) && status.role == Role::Leader && status.leader.is_some()
            });
            if let Some((id, _)) = leader {
                return *id;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every node that runs has applied what any of them has resolved, and checks that they agree.
    pub(super) async fn converge(&self) -> Vec<crate::ResolvedCommand> {
        let index = self
            .nodes
            .values()
            .map(|node| node.manager.shard().status().resolved)
            .max()
            .unwrap();
        let mut histories = Vec::new();
        for node in self.nodes.values() {
            node.replica.wait(index).await;
            let mut history = node.replica.history();
            history.retain(|command| command.position.index() <= index);
            histories.push(history);
        }
        let first = histories.pop().unwrap();
        super::replica::check_order(&first);
        assert!(
            histories.iter().all(|history| *history == first),
            "the replicas differ"
        );
        first
    }

    pub(super) async fn stop(mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop_node(id).await;
        }
    }
}
