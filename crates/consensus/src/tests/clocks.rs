//! Clocks that are wrong, or were; and disks that are low besides.

use super::cluster::{call, connect, publish, settings};
use super::hub::addr;
use super::nodes::Nodes;
use super::run;
use crate::vitals::Clock;
use crate::{ClockVerdict, Propose, Role, SystemClock, Timing, WallClock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const YEAR_S: i64 = 365 * 86_400;

/// One of three is away for a while, the leader's clock is wrong for a while; then all is well again.
#[test]
fn a_cluster_that_is_healthy_again_goes_on() {
    run(async {
        let three = Nodes::start(3).await;
        let leader = three.leader().await;
        let away = (leader + 1) % 3;
        three.hub.isolate(away as u64 + 1, 1..=3);
        tokio::time::sleep(Duration::from_secs(6)).await;
        three.clocks[leader].0.store(YEAR_S, SeqCst);
        tokio::time::sleep(Duration::from_secs(3)).await;
        three.call(leader, "wrong clock", 3).await;
        three.clocks[leader].0.store(0, SeqCst);
        tokio::time::sleep(Duration::from_secs(2)).await;
        three.hub.heal();
        assert!(three.until(15, Nodes::all_good).await);
        let went = three.call((leader + 2) % 3, "all is well", 20).await;
        assert!(went.is_some(), "three healthy nodes, and no call gets through");
    });
}

/// The same with two nodes.
#[test]
fn two_nodes_go_on_by_the_slower_clock() {
    run(async {
        let two = Nodes::start(2).await;
        let leader = two.leader().await;
        two.clocks[leader].0.store(3600, SeqCst);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let went = two.call(1 - leader, "by the slower clock", 15).await;
        two.clocks[leader].0.store(0, SeqCst);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let later = two.call(1 - leader, "clocks are right again", 15).await;
        assert!(later.is_some(), "clocks are right, and no call gets through");
        assert!(went.is_some(), "no call gets through while the clocks differ");
    });
}

#[derive(Debug)]
struct Set(AtomicU64);

impl WallClock for Set {
    fn now_us(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// Comparisons from before the jump vouch for the clock after it.
#[tokio::test(start_paused = true)]
async fn an_old_comparison_does_not_vouch_for_a_clock_that_has_jumped() {
    const NOW: u64 = 1_000_000_000;
    const HOUR: u64 = 3_600_000_000;
    let wall = Arc::new(Set(AtomicU64::new(NOW)));
    let clock = Clock::new(1, wall.clone());
    let voters = (1..=3).collect();
    for node in [2, 3] {
        clock.note(node, Duration::from_millis(1), NOW, true);
    }
    assert_eq!(clock.judge(&voters), ClockVerdict::Good);
    tokio::time::advance(Duration::from_secs(1)).await;
    wall.0.store(NOW + HOUR + 1_000_000, SeqCst);
    // As `compare_clocks` does: it judges after each answer. The other one has not answered yet, or never does.
    clock.note(2, Duration::from_millis(1), NOW + 1_000_000, true);
    let verdict = clock.judge(&voters);
    let stamp = clock.stamp_us();
    assert!(
        stamp.is_none_or(|stamp| stamp < (NOW + HOUR / 2) as i64),
        "{verdict:?}, and the stamp is {stamp:?}: an hour ahead"
    );
}

/// The same in a cluster: the leader's clock jumps while one follower is just going away.
#[test]
fn a_clock_that_jumps_while_a_follower_goes_away_does_not_stop_the_rest() {
    run(async {
        let three = Nodes::start(3).await;
        let leader = three.leader().await;
        let away = (leader + 1) % 3;
        three.hub.isolate(away as u64 + 1, 1..=3);
        three.clocks[leader].0.store(3600, SeqCst);
        for _ in 0..12 {
            three.nodes[leader].manager.shard().submit(call("x")).unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        three.clocks[leader].0.store(0, SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        three.hub.heal();
        assert!(three.until(15, Nodes::all_good).await);
        let went = three.call((leader + 2) % 3, "all is well", 20).await;
        assert!(went.is_some(), "three healthy nodes, and no call gets through");
    });
}

/// A link with a round trip of 420 ms, and timeouts that suit it (`--heartbeat-ms 1000 --election-timeout-ms 5000`):
/// raft gets on, and nothing is ever stamped.
fn slow_link(delay_ms: u64) {
    run(async move {
        let timing = Timing {
            heartbeat_ms: 1_000,
            election_ms_min: 2_000,
            election_ms_max: 3_000,
            ..Timing::default()
        };
        let it = Nodes::new(3, timing, Duration::from_millis(delay_ms)).await;
        let members = (1..=3).map(|id| (id, addr(id))).collect();
        let init = it.nodes[0].manager.init(members, settings());
        let done = tokio::time::timeout(Duration::from_secs(40), init).await;

        assert!(done.is_ok(), "nothing gets through");
    });
}

#[test]
fn a_slow_link_does_not_stop_everything() {
    slow_link(210);
}

#[test]
fn control_a_link_that_is_a_little_faster() {
    slow_link(180);
}

/// The leader's clock is wrong, and the others' disks are low.
#[test]
fn a_leader_with_a_wrong_clock_gives_way_to_one_with_a_low_disk() {
    run(async {
        let three = Nodes::start(3).await;
        let leader = three.leader().await;
        let session = three.nodes[leader]
            .manager
            .shard()
            .submit(connect())
            .unwrap()
            .await
            .unwrap();
        for place in (0..3).filter(|place| *place != leader) {
            three.disks[place].0.store(1 << 20, SeqCst);
        }
        let low = |three: &Nodes| {
            three
                .nodes
                .iter()
                .filter(|node| node.manager.status().space.is_low)
                .count()
                == 2
        };
        assert!(three.until(5, low).await);
        tokio::time::sleep(Duration::from_secs(2)).await;
        three.clocks[leader].0.store(3600, SeqCst);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let disconnect = crate::command::Body::Disconnect(crate::command::Disconnect {
            session: session.position.0,
            refused: false,
        });
        let pending = three.nodes[(leader + 1) % 3]
            .manager
            .shard()
            .submit(disconnect.into())
            .unwrap();
        let done = tokio::time::timeout(Duration::from_secs(20), pending).await;
        assert!(done.is_ok(), "what frees does not get through");
    });
}

/// No clock is so late that the time runs over.
#[tokio::test(start_paused = true)]
async fn the_largest_clock_does_not_overflow() {
    let clock = Clock::new(1, Arc::new(Set(AtomicU64::new(u64::MAX))));
    clock.judge(&[1].into());
    tokio::time::advance(Duration::from_millis(1)).await;
    let stamp = clock.stamp_us();
    assert!(stamp.is_none_or(|stamp| stamp > 0), "{stamp:?}");
}

/// A node whose clock shows a time that no stamp can have waits until it shows another.
#[test]
fn a_node_with_the_largest_clock_lives() {
    run(async {
        let one = Nodes::new(1, super::cluster::timing(), Duration::ZERO).await;
        one.clocks[0].0.store(i64::MAX, SeqCst);
        let members: std::collections::BTreeMap<_, _> = [(1, addr(1))].into();
        let init = one.nodes[0].manager.init(members.clone(), settings());
        let stamped = tokio::time::timeout(Duration::from_secs(2), init).await;
        assert!(stamped.is_err(), "there is no such time");
        assert!(one.nodes[0].manager.fatal().borrow().is_none());
        one.clocks[0].0.store(0, SeqCst);
        one.nodes[0].manager.init(members, settings()).await.unwrap();
    });
}

/// A node that was started once with a clock ahead.
fn once_ahead(wrong_s: i64) {
    run(async move {
        let mut three = Nodes::start(3).await;
        let leader = three.leader().await;
        let place = (leader + 1) % 3;
        three.nodes[place]
            .manager
            .shard()
            .submit(connect())
            .unwrap()
            .await
            .unwrap();
        for wrong_s in [wrong_s, 0] {
            let gone = three.nodes.remove(place);
            three.hub.disconnect(place as u64 + 1);
            gone.stop().await;
            three.clocks[place].0.store(wrong_s, SeqCst);
            let node = three.node(place, Duration::ZERO).await;
            three.nodes.insert(place, node);
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert!(three.until(15, Nodes::all_good).await);
        assert_ne!(three.leader().await, place);
        let went = three.call(place, "again", 20).await;
        let sessions = three.nodes[leader].manager.shard().status().sessions;
        assert!(went.is_some(), "its clock is right, and it can't propose");
        assert_eq!(sessions, 0);
    });
}

#[test]
fn a_node_whose_clock_was_wrong_once_can_propose_again() {
    once_ahead(2 * 86_400);
}

#[test]
fn control_a_node_whose_clock_was_wrong_by_an_hour() {
    once_ahead(3600);
}

/// Two disks are low, and the third node, which is fit, does not have the log yet.
#[test]
fn leadership_is_not_given_to_one_who_can_not_take_it() {
    run(async {
        let three = Nodes::start(3).await;
        let leader = three.leader().await;
        let (behind, other) = ((leader + 1) % 3, (leader + 2) % 3);
        three.hub.swallow(behind as u64 + 1);
        for number in 0..20 {
            assert!(three.call(leader, &number.to_string(), 10).await.is_some());
        }
        let term = three.nodes[leader].manager.shard().status().term;
        for place in [leader, other] {
            three.disks[place].0.store(1 << 20, SeqCst);
        }
        // The one that is behind has room, and so may propose.
        let (mut done, mut tried) = (0, 0);
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        while tokio::time::Instant::now() < end {
            let session = crate::command::Body::Disconnect(crate::command::Disconnect {
                session: 1,
                refused: false,
            });
            let pending = three.nodes[leader]
                .manager
                .shard()
                .submit(session.into())
                .unwrap();
            tried += 1;
            done += u32::from(
                tokio::time::timeout(Duration::from_secs(1), pending)
                    .await
                    .is_ok(),
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let now = three.nodes[leader].manager.shard().status().term;
        assert!(
            now - term <= 3 && done * 10 >= tried * 9,
            "leadership goes to and fro"
        );
    });
}

/// The first start of two nodes, one of them a year ahead.
#[test]
fn a_wrong_clock_at_the_start_does_not_move_the_log() {
    run(async {
        let it = Nodes::new(2, super::cluster::timing(), Duration::ZERO).await;
        it.clocks[0].0.store(YEAR_S, SeqCst);
        let before = SystemClock.now_us() as i64;
        let members = (1..=2).map(|id| (id, addr(id))).collect();
        let init = it.nodes[0].manager.init(members, settings());
        drop(tokio::time::timeout(Duration::from_secs(10), init).await);
        let published = it.nodes[1].manager.shard().submit(publish()).unwrap();
        let at = tokio::time::timeout(Duration::from_secs(10), published).await;
        let at = at.ok().map(|at| at.unwrap().timestamp_us);
        assert!(at.is_some_and(|at| at - before < 1_000_000_000));
    });
}

/// All clocks are set forward by an hour together, and back again, while calls come in.
#[test]
fn clocks_that_are_all_set_back_together_do_not_stop_the_log() {
    run(async {
        let three = Nodes::new(3, super::cluster::timing(), Duration::ZERO).await;
        let members = (1..=3).map(|id| (id, addr(id))).collect();
        three.nodes[0].manager.init(members, settings()).await.unwrap();
        three.nodes[0]
            .manager
            .shard()
            .submit(publish())
            .unwrap()
            .await
            .unwrap();
        let set = |wrong_s| {
            three
                .clocks
                .iter()
                .for_each(|clock| clock.0.store(wrong_s, SeqCst))
        };
        for round in 0..3 {
            set(3600);
            tokio::time::sleep(Duration::from_millis(3_000 + 100 * round)).await;
            let leader = three.leader().await;
            assert!(three.call(leader, "before", 10).await.is_some());
            set(0);
            for _ in 0..60 {
                three.nodes[leader].manager.shard().submit(call("x")).unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(three.until(15, Nodes::all_good).await);
            let went = three.call((leader + 1) % 3, "all is well", 15).await;
            assert!(went.is_some(), "three healthy nodes, and no call gets through");
        }
    });
}

/// The clocks of all were a year ahead for a while, so that there are entries of next year, which are committed. Then a
/// node that was away must get them from one that has just started.
fn taken_from_one_that_has_just_started(wrong_s: i64) {
    run(async move {
        let mut three = Nodes::new(3, super::cluster::timing(), Duration::ZERO).await;
        for clock in &three.clocks {
            clock.0.store(wrong_s, SeqCst);
        }
        let members = (1..=3).map(|id| (id, addr(id))).collect();
        three.nodes[0].manager.init(members, settings()).await.unwrap();
        three.nodes[0]
            .manager
            .shard()
            .submit(publish())
            .unwrap()
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let leader = three.leader().await;
        let away = (leader + 1) % 3;
        three.hub.isolate(away as u64 + 1, 1..=3);
        for number in 0..5 {
            assert!(three.call(leader, &number.to_string(), 10).await.is_some());
        }
        // All stop; the clocks are set right; two start again, one of which was away.
        for id in (0..3).rev() {
            let gone = three.nodes.remove(id);
            three.hub.disconnect(id as u64 + 1);
            gone.stop().await;
        }
        three.hub.heal();
        for clock in &three.clocks {
            clock.0.store(0, SeqCst);
        }
        // The one that was away first, so that it has compared clocks as soon as the other is there.
        for place in [away, leader] {
            let node = three.node(place, Duration::ZERO).await;
            three.nodes.push(node);
        }
        let stable = three.until(20, |three| {
            three.nodes.iter().all(|node| {
                let shard = node.manager.shard().status();
                shard.role == Role::Leader || shard.leader.is_some()
            })
        });
        assert!(stable.await);
        tokio::time::sleep(Duration::from_secs(15)).await;
        let last = |place: usize| three.nodes[place].manager.shard().status().last_log;
        let committed = three.nodes[1].manager.shard().status().committed;
        assert_eq!(
            last(0),
            last(1),
            "what was committed is refused (now committed: {committed})"
        );
    });
}

#[test]
fn committed_entries_are_taken_from_a_leader_that_has_just_started() {
    taken_from_one_that_has_just_started(YEAR_S);
}

#[test]
fn control_entries_of_today_are_taken_from_it_too() {
    taken_from_one_that_has_just_started(0);
}

/// A node that stops in order hands over to the one whose clock is wrong.
#[test]
fn a_node_that_stops_does_not_hand_over_to_one_with_a_wrong_clock() {
    run(async {
        let three = Nodes::start(3).await;
        while three.leader().await == 2 {
            three.nodes[2].manager.transfer_leadership().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        three.clocks[2].0.store(3600, SeqCst);
        let off = |three: &Nodes| !three.nodes[2].manager.status().troubles.is_empty();
        assert!(three.until(10, off).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let leader = three.leader().await;
        assert_ne!(leader, 2);
        let watch = async {
            let mut led_ms = 0;
            for _ in 0..300 {
                led_ms += 10 * u32::from(three.nodes[2].manager.shard().status().role == Role::Leader);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            led_ms
        };
        let (_, led_ms) = tokio::join!(three.nodes[leader].manager.transfer_leadership(), watch);
        assert_eq!(
            led_ms, 0,
            "the node with the wrong clock led for about {led_ms} ms"
        );
    });
}
