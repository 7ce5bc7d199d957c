//! Three nodes with the real disk and the real transport.

use super::cluster::{DATABASE, Node, call, config, publish, settings};
use super::replica::{check_order, name};
use super::run;
use crate::command::{Body, Call, ExpireNode};
use crate::{Config, Group, Grpc, Manager, PeerError, Propose, Role};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(super) struct Served {
    pub(super) node: Node,
    server: JoinHandle<()>,
}

/// A port that is free now. Bound with SO_REUSEADDR by tokio, it can be bound again after a restart.
pub(super) async fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn serve(id: u64, addr: SocketAddr, dir: &TempDir) -> Served {
    serve_with(addr, config(id, dir)).await
}

pub(super) async fn serve_with(addr: SocketAddr, config: Config) -> Served {
    let listener = TcpListener::bind(addr).await.unwrap();
    let config = Config {
        raft_addr: addr.to_string(),
        ..config
    };
    let node = Node::start(config, Arc::new(Grpc::default())).await;
    let router = node.manager.router();
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Served { node, server }
}

impl Served {
    pub(super) async fn stop(self) {
        self.server.abort();
        drop(self.server.await);
        self.node.stop().await;
    }
}

/// Three nodes of a cluster with a database, and where their data are.
pub(super) async fn serve_three() -> (BTreeMap<u64, Served>, BTreeMap<u64, TempDir>) {
    let (mut nodes, mut dirs, mut members) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for id in 1..=3 {
        let (addr, dir) = (free_addr().await, tempfile::tempdir().unwrap());
        nodes.insert(id, serve(id, addr, &dir).await);
        members.insert(id, addr.to_string());
        dirs.insert(id, dir);
    }
    let first = &nodes[&1].node.manager;
    first.init(members, settings()).await.unwrap();
    first.shard().submit(publish()).unwrap().await.unwrap();
    (nodes, dirs)
}

#[test]
fn ten_thousand_proposals_through_restarts_are_applied_once_and_in_order() {
    const NODES: u64 = 3;
    const EACH: usize = 3_400;
    const RESTARTS: usize = 3;
    run(async {
        let mut addrs = BTreeMap::new();
        for id in 1..=NODES {
            addrs.insert(id, free_addr().await);
        }
        let dirs: BTreeMap<u64, TempDir> = (1..=NODES).map(|id| (id, tempfile::tempdir().unwrap())).collect();
        let mut nodes = BTreeMap::new();
        for (id, addr) in &addrs {
            nodes.insert(*id, serve(*id, *addr, &dirs[id]).await);
        }
        let members = addrs.iter().map(|(id, addr)| (*id, addr.to_string())).collect();
        nodes[&1].node.manager.init(members, settings()).await.unwrap();
        nodes[&1]
            .node
            .manager
            .shard()
            .submit(publish())
            .unwrap()
            .await
            .unwrap();

        // A node that is stopped loses what it had under way: its clients proposed it and heard `Unknown`.
        let mut proposed = BTreeMap::from([(1, 0), (2, 0), (3, 0)]);
        let mut acknowledged = BTreeSet::new();
        for round in 0..=RESTARTS {
            let target = EACH * (round + 1) / (RESTARTS + 1);
            let mut pending = Vec::new();
            for (id, served) in &nodes {
                let shard = served.node.manager.shard();
                let count = proposed.get_mut(id).unwrap();
                while *count < target {
                    shard.ready().await;
                    let name = format!("{id}/{count}");
                    let waiter = shard.submit(call(&name)).unwrap();
                    pending.push(async move { waiter.await.ok().map(|_| name) });
                    *count += 1;
                }
            }
            let stopped = (round < RESTARTS).then(|| {
                let leads = |served: &Served| served.node.manager.shard().status().role == Role::Leader;
                nodes
                    .iter()
                    .find(|(_, served)| leads(served))
                    .map_or(1, |(id, _)| *id)
            });
            if let Some(id) = stopped {
                nodes.remove(&id).unwrap().stop().await;
            }
            let outcomes = futures::future::join_all(pending).await;
            acknowledged.extend(outcomes.into_iter().flatten());
            if let Some(id) = stopped {
                nodes.insert(id, serve(id, addrs[&id], &dirs[&id]).await);
            }
        }
        let last = nodes
            .values()
            .map(|served| served.node.manager.shard().status().resolved)
            .max()
            .unwrap();
        let mut histories = Vec::new();
        for served in nodes.values() {
            served.node.replica.wait(last).await;
            let mut history = served.node.replica.history();
            history.retain(|command| command.position.index() <= last);
            check_order(&history);
            histories.push(history);
        }
        assert!(
            histories.windows(2).all(|pair| pair[0] == pair[1]),
            "the replicas differ"
        );
        let applied: Vec<&str> = histories[0]
            .iter()
            .map(name)
            .filter(|name| name.contains('/'))
            .collect();
        let distinct: BTreeSet<&str> = applied.iter().copied().collect();
        assert_eq!(distinct.len(), applied.len(), "something was applied twice");
        let lost = acknowledged.iter().find(|name| !distinct.contains(name.as_str()));
        assert_eq!(lost, None, "acknowledged and lost");
        assert!(
            acknowledged.len() > EACH,
            "only {} were acknowledged",
            acknowledged.len()
        );
        for served in nodes.into_values() {
            served.stop().await;
        }
    });
}

/// A node that does not lead, after the first one leads both groups.
async fn follower_of_one_leader(nodes: &BTreeMap<u64, Served>) -> (u64, u64) {
    let leads = |id: u64, group: &Arc<Group>| {
        let status = group.status();
        status.role == Role::Leader && status.leader.is_some_and(|(leader, _)| leader == id)
    };
    loop {
        let leader = |group: fn(&Manager) -> &Arc<Group>| {
            let found = nodes
                .iter()
                .find(|(id, served)| leads(**id, group(&served.node.manager)));
            found.map(|(id, _)| *id)
        };
        match (leader(Manager::shard), leader(Manager::meta)) {
            (Some(shard), Some(meta)) if shard == meta => {
                let follower = nodes.keys().find(|id| **id != shard).unwrap();
                return (shard, *follower);
            }
            (Some(shard), Some(meta)) => {
                let raft = nodes[&meta].node.manager.meta().raft();
                raft.trigger().transfer_leader(shard).await.unwrap();
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_shard_whose_leader_has_no_room_does_not_hold_up_the_meta_group() {
    const COUNT: usize = 16;
    const BYTES: usize = 512 << 10;
    run(async {
        let (nodes, _dirs) = serve_three().await;
        let (leader, follower) = follower_of_one_leader(&nodes).await;
        // Others have taken the leader's whole budget.
        let budget = nodes[&leader].node.manager.waiting();
        let pool = budget.share().acquire(usize::MAX / 2).await;
        let reserve = budget.share().acquire(usize::MAX / 2).await;
        let manager = &nodes[&follower].node.manager;
        let large = || {
            let args = Bytes::from(vec![0; BYTES]);
            let call = Call {
                database: DATABASE,
                args,
                ..Call::default()
            };
            manager.shard().submit(Body::Call(call).into()).unwrap()
        };
        let pending: Vec<_> = (0..COUNT).map(|_| large()).collect();
        for epoch in 0..20 {
            // Without effect: there is no such node.
            let expire = ExpireNode {
                node: 99,
                epoch,
                term: 0,
            };
            let submitted = manager.meta().submit(Body::ExpireNode(expire).into());
            submitted.unwrap().await.unwrap();
        }
        assert_eq!(manager.shard().status().outstanding_count, COUNT);
        drop((pool, reserve));
        for pending in pending {
            pending.await.unwrap();
        }
        for served in nodes.into_values() {
            served.stop().await;
        }
    });
}

#[test]
fn peers_that_do_not_belong_are_told_so() {
    run(async {
        let (addr, other_addr) = (free_addr().await, free_addr().await);
        let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = serve(1, addr, &dir).await;
        let same = serve(1, other_addr, &other_dir).await;
        let found = first.node.manager.hello(&other_addr.to_string()).await;
        assert_eq!(found, Err(PeerError::SameId { node: 1 }));
        assert_eq!(first.node.manager.hello(&addr.to_string()).await.unwrap().node, 1);
        same.stop().await;

        let other_dir = tempfile::tempdir().unwrap();
        let other = serve(2, other_addr, &other_dir).await;
        let one = |id: u64, addr: SocketAddr| BTreeMap::from([(id, addr.to_string())]);
        first.node.manager.init(one(1, addr), settings()).await.unwrap();
        let mut theirs = settings();
        theirs.cluster_id = "other".to_owned();
        other.node.manager.init(one(2, other_addr), theirs).await.unwrap();
        let both = BTreeMap::from([(1, addr.to_string()), (2, other_addr.to_string())]);
        let error = first
            .node
            .manager
            .init(both, settings())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("initialised already"), "{error}");
        let nobody = free_addr().await.to_string();
        let error = first.node.manager.hello(&nobody).await.unwrap_err();
        assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
        first.stop().await;
        other.stop().await;
        tokio::time::timeout(Duration::from_secs(10), TcpListener::bind(addr))
            .await
            .unwrap()
            .unwrap();
    });
}
