//! What becomes of a leader's place when its process is gone, and when it only seems so.

use super::cluster::{call, config, publish, settings, timing};
use super::hub::addr;
use super::loopback::{free_addr, serve_with};
use super::nodes::Nodes;
use super::run;
use crate::{ClockVerdict, Config, Manager, NodeStatus, Propose, Role, Timing};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

const ALL: RangeInclusive<u64> = 1..=3;

/// Long enough for an election that nothing holds up, and shorter than a node's lease.
const WHILE: Duration = Duration::from_millis(700);

/// With these, nobody is elected because a leader is silent before the test is over.
fn patient() -> Timing {
    Timing {
        election_ms_min: 300_000,
        election_ms_max: 600_000,
        ..timing()
    }
}

/// Founds a cluster that a node leads.
async fn found(first: &Manager, members: BTreeMap<u64, String>) {
    let elected = async {
        loop {
            for group in [first.meta(), first.shard()] {
                if group.status().role != Role::Leader && group.status().voters.len() == members.len() {
                    group.raft().trigger().elect(false).await.unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let founded = async {
        first.init(members.clone(), settings()).await.unwrap();
        first.shard().submit(publish()).unwrap().await.unwrap();
    };
    tokio::select! {
        () = elected => unreachable!(),
        () = founded => {}
    }
}

/// Three nodes, the first of which leads.
async fn led_by_the_first() -> Nodes {
    let three = Nodes::new(3, patient(), Duration::ZERO).await;
    found(&three.nodes[0].manager, ALL.map(|id| (id, addr(id))).collect()).await;
    // All have heard who leads, and who is fit to.
    for place in 0..3 {
        three.reaches(place, follows_the_first).await;
    }
    three
}

fn follows_the_first(status: &NodeStatus) -> bool {
    let leads = |(id, _): &(u64, String)| *id == 1;
    let follow = status
        .groups
        .iter()
        .all(|group| group.leader.as_ref().is_some_and(leads));
    follow && status.clock == ClockVerdict::Good
}

fn terms(three: &Nodes) -> Vec<u64> {
    let groups = three.nodes.iter().flat_map(|node| node.manager.status().groups);
    groups.map(|group| group.term).collect()
}

#[test]
fn a_leader_whose_process_is_gone_is_succeeded_at_once() {
    run(async {
        let three = led_by_the_first().await;
        let under_way = three.nodes[1].manager.shard().submit(call("before")).unwrap();
        three.hub.kill(1, ALL);
        under_way.await.unwrap();
        for place in [1, 2] {
            let manager = &three.nodes[place].manager;
            manager.shard().submit(call("after")).unwrap().await.unwrap();
            assert!(
                three
                    .until(60, |_| manager
                        .meta()
                        .status()
                        .leader
                        .is_some_and(|(id, _)| id != 1))
                    .await
            );
        }
        three.stop().await;
    });
}

#[test]
fn a_leader_that_is_cut_off_is_waited_for() {
    run(async {
        let three = led_by_the_first().await;
        let before = terms(&three);
        three.hub.isolate(1, ALL);
        let waiting = three.nodes[1].manager.shard().submit(call("waiting")).unwrap();
        tokio::time::sleep(WHILE).await;
        assert_eq!(terms(&three), before);
        three.hub.heal();
        waiting.await.unwrap();
        assert_eq!(terms(&three), before);
        three.stop().await;
    });
}

#[test]
fn one_node_that_sees_a_live_leader_gone_disturbs_nobody() {
    run(async {
        let three = led_by_the_first().await;
        let before = terms(&three);
        three.hub.show_gone(3, 1);
        for round in 0..20 {
            let place = round % 3;
            let pending = three.nodes[place]
                .manager
                .shard()
                .submit(call("goes on"))
                .unwrap();
            pending.await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(terms(&three), before);
        // Later it is gone, and the others don't mind that one of them has been wrong before.
        three.hub.kill(1, ALL);
        three.nodes[2]
            .manager
            .shard()
            .submit(call("after"))
            .unwrap()
            .await
            .unwrap();
        three.stop().await;
    });
}

#[test]
fn a_live_leader_that_all_others_see_gone_is_replaced_once() {
    run(async {
        let three = led_by_the_first().await;
        let before = terms(&three);
        for node in [2, 3] {
            three.hub.show_gone(node, 1);
        }
        let new = three.other_leader(0).await;
        for place in 0..3 {
            three.nodes[place]
                .manager
                .shard()
                .submit(call("goes on"))
                .unwrap()
                .await
                .unwrap();
        }
        let follows = |three: &Nodes| {
            terms(three)
                .iter()
                .zip(&before)
                .all(|(now, before)| now == &(before + 1))
        };
        assert!(
            three.until(60, follows).await,
            "{:?} after {before:?}",
            terms(&three)
        );
        tokio::time::sleep(WHILE).await;
        assert!(follows(&three), "{:?} after {before:?}", terms(&three));
        assert_eq!(three.leader_now(), Some(new));
        three.stop().await;
    });
}

/// The first node has a runtime of its own: all its sockets are closed when that ends, as those of a process are.
#[test]
fn a_process_that_ends_is_seen_over_tcp() {
    let process = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    run(async move {
        let (mut nodes, mut members, mut dirs) = (Vec::new(), BTreeMap::new(), Vec::new());
        for id in ALL {
            let (addr, dir) = (free_addr().await, tempfile::tempdir().unwrap());
            let config = Config {
                timing: patient(),
                ..config(id, &dir)
            };
            let serving = serve_with(addr, config);
            nodes.push(match id {
                1 => process.spawn(serving).await.unwrap(),
                _ => serving.await,
            });
            members.insert(id, addr.to_string());
            dirs.push(dir);
        }
        found(&nodes[0].node.manager, members).await;
        for served in &nodes {
            while !follows_the_first(&served.node.manager.status()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        process.shutdown_background();
        for served in &nodes[1..] {
            let shard = served.node.manager.shard();
            shard.submit(call("after")).unwrap().await.unwrap();
        }
        for served in nodes.into_iter().skip(1) {
            served.stop().await;
        }
    });
}
