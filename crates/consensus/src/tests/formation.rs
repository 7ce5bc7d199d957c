//! Clusters that come to be without anybody who says so.

use super::cluster::{Node, config, settings};
use super::hub::{Hub, addr};
use super::run;
use crate::transport::wire::{Answer, Ask, Greeting, Request};
use crate::{Bootstrap, BootstrapError, Manager, PeerError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Bootstrapping = JoinHandle<Result<(), BootstrapError>>;

/// Nodes that look for a cluster.
struct Forming {
    hub: Arc<Hub>,
    dirs: BTreeMap<u64, TempDir>,
    nodes: BTreeMap<u64, (Node, Bootstrapping)>,
}

fn plan(electors: &[u64]) -> Bootstrap {
    Bootstrap {
        looks: true,
        electors: electors.iter().copied().collect(),
        window: Duration::from_secs(2),
        share: 0.8,
        alone: false,
    }
}

async fn bootstrap(
    manager: Arc<Manager>,
    plan: Bootstrap,
    addrs: BTreeSet<String>,
) -> Result<(), BootstrapError> {
    let (_keep, addrs) = watch::channel(addrs);
    manager.bootstrap(plan, addrs, || Ok(settings())).await
}

impl Forming {
    fn new(count: u64) -> Self {
        Self {
            hub: Arc::default(),
            dirs: (1..=count).map(|id| (id, tempfile::tempdir().unwrap())).collect(),
            nodes: BTreeMap::new(),
        }
    }

    async fn start(&mut self, id: u64, plan: Bootstrap, looks_at: &[u64]) {
        let node = Node::start(config(id, &self.dirs[&id]), Arc::new(self.hub.clone())).await;
        self.hub.connect(id, node.manager.service());
        let addrs = looks_at.iter().map(|id| addr(*id)).collect();
        let bootstrapping = tokio::spawn(bootstrap(node.manager.clone(), plan, addrs));
        self.nodes.insert(id, (node, bootstrapping));
    }

    async fn stop(&mut self, id: u64) {
        let (node, bootstrapping) = self.nodes.remove(&id).unwrap();
        self.hub.disconnect(id);
        bootstrapping.abort();
        // It was ended, or has done its work.
        let ended = bootstrapping.await;
        assert!(ended.is_err() || matches!(ended, Ok(Ok(()))), "{ended:?}");
        node.stop().await;
    }

    fn manager(&self, id: u64) -> &Arc<Manager> {
        &self.nodes[&id].0.manager
    }

    /// Waits until all that run are in one cluster with these voters and its settings.
    async fn is_one(&self, voters: &[u64]) -> String {
        loop {
            let is_done = self.nodes.values().all(|(node, _)| {
                let groups = node.manager.status().groups;
                let has = groups
                    .iter()
                    .all(|group| group.voters == voters && group.leader.is_some());
                has && node.manager.meta().meta().cluster().is_some()
            });
            if is_done {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let clusters: BTreeSet<_> = self
            .nodes
            .values()
            .map(|(node, _)| node.manager.cluster())
            .collect();
        assert_eq!(clusters.len(), 1, "{clusters:?}");
        clusters.into_iter().next().flatten().unwrap()
    }

    async fn end(mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}

#[test]
fn nodes_that_start_at_once_are_a_cluster() {
    run(async {
        let mut forming = Forming::new(3);
        // Each knows one other only.
        for (id, other) in [(1, 2), (2, 3), (3, 1)] {
            forming.start(id, plan(&[1, 2, 3]), &[other]).await;
        }
        let cluster = forming.is_one(&[1, 2, 3]).await;
        // They are one again after a restart, whatever they are started with.
        for id in 1..=3 {
            forming.stop(id).await;
            forming.start(id, Bootstrap::default(), &[]).await;
        }
        assert_eq!(forming.is_one(&[1, 2, 3]).await, cluster);
        while !forming.nodes.values().all(|(_, it)| it.is_finished()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        forming.end().await;
    });
}

#[test]
fn late_ones_are_taken_in_and_removed_ones_again() {
    run(async {
        let mut forming = Forming::new(4);
        forming.start(2, plan(&[1, 2, 3]), &[1, 2, 3]).await;
        forming.start(3, plan(&[1, 2, 3]), &[1, 2, 3]).await;
        let cluster = forming.is_one(&[2, 3]).await;
        // One of the electors, and one that only joins.
        forming.start(1, plan(&[1, 2, 3]), &[1, 2, 3]).await;
        assert_eq!(forming.is_one(&[1, 2, 3]).await, cluster);
        forming.start(4, plan(&[]), &[3]).await;
        assert_eq!(forming.is_one(&[1, 2, 3, 4]).await, cluster);

        let gone = crate::transport::wire::MemberChange::Remove(crate::transport::wire::RemoveMember {
            node: 2,
            force: false,
        });
        forming.manager(3).change_members(gone, None).await.unwrap();
        forming.stop(2).await;
        forming.dirs.insert(2, tempfile::tempdir().unwrap());
        forming.start(2, plan(&[1, 2, 3]), &[1]).await;
        assert_eq!(forming.is_one(&[1, 2, 3, 4]).await, cluster);
        forming.end().await;
    });
}

#[test]
fn a_member_that_has_lost_its_disk_is_told_so() {
    run(async {
        let mut forming = Forming::new(3);
        for id in 1..=3 {
            forming.start(id, plan(&[1, 2, 3]), &[1, 2, 3]).await;
        }
        forming.is_one(&[1, 2, 3]).await;
        forming.stop(2).await;
        forming.dirs.insert(2, tempfile::tempdir().unwrap());
        forming.start(2, plan(&[1, 2, 3]), &[1, 2, 3]).await;
        loop {
            let told = forming.manager(2).formation().unwrap_or_default();
            if told.contains("rtdb remove-node --node-id 2") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(forming.manager(2).cluster(), None);
        forming.end().await;
    });
}

/// It has no pledge to a cluster of others, and nobody is told what its cluster is called.
#[test]
fn one_alone_founds_a_cluster_if_it_is_told_to() {
    run(async {
        let mut forming = Forming::new(2);
        let alone = Bootstrap {
            alone: true,
            ..plan(&[1, 2, 3])
        };
        forming.start(2, alone, &[]).await;
        forming.is_one(&[2]).await;
        let ask = Some(Ask::Greet(Greeting::default()));
        let header = crate::transport::wire::Header {
            cluster: String::new(),
            ..super::hostile::header(9, 2)
        };
        let answer = forming.manager(2).service().call(header, Request { ask }).await;
        let Some(Answer::Greet(greeted)) = answer.unwrap().answer else {
            panic!("another answer");
        };
        assert!(greeted.in_cluster && greeted.accepted.is_none() && greeted.seen.is_empty());
        forming.end().await;
    });
}

#[test]
fn what_is_set_up_wrongly_is_refused() {
    run(async {
        let mut forming = Forming::new(3);
        forming.start(1, plan(&[1, 2, 3]), &[1, 2, 3]).await;
        forming.start(2, plan(&[1, 2, 3, 4, 5]), &[1, 2, 3]).await;
        for id in [1, 2] {
            loop {
                let told = forming.manager(id).formation().unwrap_or_default();
                if told.contains("the same --bootstrap-expect") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        // A second node 1, at another address.
        let mut twin = config(1, &forming.dirs[&3]);
        twin.raft_addr = addr(9);
        let twin = Node::start(twin, Arc::new(forming.hub.clone())).await;
        let looks = bootstrap(twin.manager.clone(), plan(&[1, 2, 3]), [addr(1)].into()).await;
        let Err(BootstrapError::Peer {
            source: PeerError::SameId { node: 1 },
            ..
        }) = looks
        else {
            panic!("{looks:?}");
        };
        twin.stop().await;
        forming.end().await;
    });
}
