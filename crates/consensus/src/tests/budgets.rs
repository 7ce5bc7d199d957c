//! What a node holds for others that do not get on.

use super::cluster::{Cluster, DATABASE, settings};
use super::run;
use crate::command::{Body, Call};
use crate::transport::wire::Header;
use crate::{Command, EncodedBatch, GroupId, Limits, PROTOCOL, Propose};
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes of a large command.
const LARGE: usize = 512 << 10;

/// Bytes that a budget has in these tests.
const BUDGET: usize = 4 << 20;

/// More of them than fit any budget.
const COUNT: usize = 32;

/// What a message has beside its commands, in bytes; more than enough.
const OVERHEAD: usize = 64 << 10;

fn large() -> Command {
    Body::Call(Call {
        database: DATABASE,
        reducer: "large".to_owned(),
        args: Bytes::from(vec![0; LARGE]),
        ..Call::default()
    })
    .into()
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets a node have entries again.
async fn revive(cluster: &Cluster, nodes: &[u64]) {
    cluster.hub.disgorge();
    for node in nodes {
        cluster.hub.isolate(*node, cluster.nodes.keys().copied());
    }
    let held = || {
        let statuses = cluster.nodes.values().map(|node| node.manager.status());
        statuses.map(|status| status.append_bytes).sum::<usize>()
    };
    until(|| held() == 0).await;
    cluster.hub.heal();
}

#[test]
fn a_follower_that_answers_nothing_costs_the_leader_no_more_than_its_budget() {
    run(async {
        let limits = Limits {
            peer_bytes_max: BUDGET,
            ..Limits::default()
        };
        let cluster = Cluster::start_with(3, limits).await;
        let leader = cluster.leader(|_| true).await;
        let stuck = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
        cluster.hub.swallow(stuck);
        let manager = &cluster.nodes[&leader].manager;
        let pending: Vec<_> = (0..COUNT)
            .map(|_| manager.shard().submit(large()).unwrap())
            .collect();
        for pending in pending {
            pending.await.unwrap();
        }
        assert_eq!(
            manager.shard().status().leader.unwrap().0,
            leader,
            "it leads all the time"
        );
        let (sent, held) = (
            cluster.hub.swallowed(stuck),
            manager.peers().appends.of(stuck).held_max(),
        );
        assert!(held > LARGE && held <= BUDGET, "{held} bytes were held");
        assert!(sent <= BUDGET + OVERHEAD, "{sent} bytes were sent");
        revive(&cluster, &[stuck]).await;
        assert_eq!(cluster.converge().await.len(), 1 + COUNT);
        cluster.stop().await;
    });
}

#[test]
fn what_waits_at_a_leader_that_does_not_get_on_is_bounded() {
    run(async {
        let limits = Limits {
            waiting_bytes_max: BUDGET,
            ..Limits::default()
        };
        let cluster = Cluster::start_with(3, limits).await;
        let leader = cluster.leader(|_| true).await;
        let followers: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
        for follower in &followers {
            cluster.hub.swallow(*follower);
        }
        let manager = &cluster.nodes[&leader].manager;
        let header = Header {
            protocol_min: PROTOCOL,
            protocol: PROTOCOL,
            cluster: settings().cluster_id,
            from: followers[0],
            instance: 1,
            to: leader,
            group: GroupId::SHARD.0,
        };
        // Out of turn, so that they have no effect.
        let origin = followers[0];
        let batch = move |number: usize| EncodedBatch {
            node: origin,
            epoch: 1,
            first_seq: 2 + number as u64,
            commands: vec![large().encode_to_vec().into()],
        };
        let read = Arc::new(AtomicUsize::new(0));
        let counter = read.clone();
        let batches = futures::stream::iter((0..COUNT).map(batch)).inspect(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let mut replies = manager.service().propose(&header, batches.boxed()).unwrap();
        let proposing = tokio::spawn(async move { replies.next().await });
        let budget = manager.waiting();
        until(|| budget.held() > BUDGET / 2).await;
        // This node's own wait as well.
        let pending: Vec<_> = (0..COUNT)
            .map(|_| manager.shard().submit(large()).unwrap())
            .collect();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let read = read.load(Ordering::Relaxed);
        assert!(
            read <= BUDGET / LARGE + 1,
            "{read} batches were read, and one may be in the hand"
        );
        assert!(
            budget.held_max() <= BUDGET,
            "{} bytes were held",
            budget.held_max()
        );

        revive(&cluster, &followers).await;
        for pending in pending {
            pending.await.unwrap();
        }
        until(|| manager.status().waiting_bytes == 0).await;
        proposing.abort();
        cluster.stop().await;
    });
}
