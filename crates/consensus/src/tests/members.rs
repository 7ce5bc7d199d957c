//! Members that come and go.

use super::cluster::{connect, settings};
use super::hub::addr;
use super::nodes::Nodes;
use super::run;
use crate::command::FEATURE_LEVEL;
use crate::transport::wire::{AddMember, MemberChange, RemoveMember};
use crate::{ChangeError, GroupId, Manager, Propose, Role};
use std::time::Duration;

/// Three nodes that are a cluster, and others that are in none.
async fn three_of(count: usize) -> Nodes {
    let nodes = Nodes::new(count, super::cluster::timing(), Duration::ZERO).await;
    let founders = (1..=3).map(|id| (id, addr(id))).collect();
    nodes.nodes[0].manager.init(founders, settings()).await.unwrap();
    let published = nodes.nodes[0].manager.shard().submit(super::cluster::publish());
    published.unwrap().await.unwrap();
    nodes
}

fn added(node: u64, never_votes: bool) -> MemberChange {
    let addr = addr(node);
    MemberChange::Add(AddMember {
        node,
        addr,
        never_votes,
    })
}

fn removed(node: u64, force: bool) -> MemberChange {
    MemberChange::Remove(RemoveMember { node, force })
}

/// Asks for a change, and again where it could not be finished in time.
async fn change(manager: &Manager, change: MemberChange) {
    loop {
        match manager.change_members(change.clone(), None).await {
            Ok(()) => return,
            Err(ChangeError::Unfinished { .. } | ChangeError::Peer { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether these vote on a node's word, in both groups, and these only follow.
fn has(nodes: &Nodes, place: usize, voters: &[u64], learners: &[u64]) -> bool {
    let groups = nodes.nodes[place].manager.status().groups;
    groups
        .iter()
        .all(|group| group.voters == voters && group.learners == learners)
}

#[test]
fn a_node_comes_catches_up_and_votes() {
    run(async {
        let nodes = three_of(4).await;
        for number in 0..50 {
            nodes
                .call(number % 3, &format!("before {number}"), 10)
                .await
                .unwrap();
        }
        // Any node may be asked, more than once.
        for place in [0, 1, 2, 3] {
            change(&nodes.nodes[place].manager, added(4, false)).await;
        }
        assert!(
            nodes
                .until(30, |it| (0..4).all(|place| has(it, place, &[1, 2, 3, 4], &[])))
                .await
        );
        nodes.call(3, "through the new one", 10).await.unwrap();
        let last = nodes.nodes[0].manager.shard().status().last_log;
        nodes.reaches(3, |status| status.groups[1].resolved >= last).await;
        assert_eq!(nodes.nodes[3].manager.feature_level(), FEATURE_LEVEL);
        assert_eq!(nodes.nodes[3].manager.cluster().as_deref(), Some("c0ffee"));

        // With it there is a majority without two of the founders.
        change(&nodes.nodes[0].manager, MemberChange::Lead(4)).await;
        assert_eq!(nodes.nodes[3].manager.shard().status().role, Role::Leader);
        nodes.stop().await;
    });
}

#[test]
fn one_that_never_votes_follows_until_it_is_promoted() {
    run(async {
        let nodes = three_of(4).await;
        change(&nodes.nodes[0].manager, added(4, true)).await;
        nodes.call(3, "through a learner", 20).await.unwrap();
        let later = Duration::from_secs(3);
        tokio::time::sleep(later).await;
        assert!(has(&nodes, 3, &[1, 2, 3], &[4]));
        let voter = nodes.nodes[0].manager.change_members(added(2, true), None).await;
        assert!(matches!(voter, Err(ChangeError::Refused { .. })), "{voter:?}");

        change(&nodes.nodes[1].manager, MemberChange::Promote(4)).await;
        assert!(nodes.until(20, |it| has(it, 0, &[1, 2, 3, 4], &[])).await);
        let demoted = RemoveMember {
            node: 2,
            force: false,
        };
        change(&nodes.nodes[2].manager, MemberChange::Demote(demoted)).await;
        assert!(
            nodes
                .until(20, |it| (0..4).all(|place| has(it, place, &[1, 3, 4], &[2])))
                .await
        );
        nodes.call(1, "through one that votes no more", 10).await.unwrap();
        nodes.stop().await;
    });
}

#[test]
fn a_removed_node_stops_its_sessions_end_and_another_takes_its_place() {
    run(async {
        let mut nodes = three_of(4).await;
        for place in 0..3 {
            let connected = nodes.nodes[place].manager.shard().submit(connect());
            connected.unwrap().await.unwrap();
        }
        let leader = nodes.leader().await;
        let gone = leader as u64 + 1;
        let rest: Vec<u64> = (1..=3).filter(|node| *node != gone).collect();
        let asked = (leader + 1) % 3;
        change(&nodes.nodes[asked].manager, removed(gone, false)).await;
        assert!(nodes.until(20, |it| has(it, asked, &rest, &[])).await);
        let sessions = |it: &Nodes| it.nodes[asked].manager.shard().status().sessions;
        assert!(
            nodes.until(20, |it| sessions(it) == 2).await,
            "{}",
            sessions(&nodes)
        );
        let mut fatal = nodes.nodes[leader].manager.fatal();
        let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(reason.contains("was removed"), "{reason}");
        nodes.call(asked, "without it", 10).await.unwrap();

        // Of the two that remain, too, one may go.
        let other = rest.iter().find(|node| **node != asked as u64 + 1).unwrap();
        change(&nodes.nodes[asked].manager, removed(*other, false)).await;
        change(&nodes.nodes[asked].manager, added(4, false)).await;
        assert!(
            nodes
                .until(30, |it| it.nodes[3].manager.shard().status().voters.contains(&4))
                .await
        );
        nodes.call(3, "through the one in its place", 10).await.unwrap();
        let gone = nodes.nodes.remove(leader);
        gone.stop().await;
        nodes.stop().await;
    });
}

/// Its own log does not say that the leader is a member.
#[test]
fn who_was_away_hears_from_a_leader_that_has_come_meanwhile() {
    run(async {
        let mut nodes = three_of(4).await;
        let away = nodes.nodes.remove(2);
        nodes.hub.disconnect(3);
        away.stop().await;
        change(&nodes.nodes[0].manager, added(4, false)).await;
        let votes = |it: &Nodes| {
            it.nodes[2]
                .manager
                .status()
                .groups
                .iter()
                .all(|group| group.voters.contains(&4))
        };
        assert!(nodes.until(30, votes).await);
        change(&nodes.nodes[0].manager, MemberChange::Lead(4)).await;
        let back = nodes.node(2, Duration::ZERO).await;
        nodes.nodes.push(back);
        assert!(nodes.until(30, |it| has(it, 3, &[1, 2, 3, 4], &[])).await);
        nodes.call(3, "through the one that was away", 10).await.unwrap();
        assert_eq!(nodes.nodes[2].manager.shard().status().role, Role::Leader);
        nodes.stop().await;
    });
}

/// Whoever has asked for it has died between the two groups.
#[test]
fn a_change_that_has_come_to_one_group_alone_comes_to_the_other_or_is_undone() {
    run(async {
        let nodes = three_of(4).await;
        let only = async |change: MemberChange, group| loop {
            match nodes.nodes[0]
                .manager
                .change_members(change.clone(), Some(group))
                .await
            {
                Err(ChangeError::Unfinished { .. }) => {}
                changed => break changed.unwrap(),
            }
        };
        only(removed(3, false), GroupId::SHARD).await;
        only(added(4, false), GroupId::META).await;
        assert!(
            nodes
                .until(30, |it| (0..4).all(|place| has(it, place, &[1, 2, 3, 4], &[])))
                .await
        );
        nodes.call(3, "through the new one", 10).await.unwrap();
        nodes.stop().await;
    });
}

#[test]
fn without_a_majority_of_the_rest_nobody_is_removed() {
    run(async {
        let mut nodes = three_of(3).await;
        let leader = nodes.leader().await;
        let silent = (leader + 1) % 3;
        let node = nodes.nodes.remove(silent);
        nodes.hub.disconnect(silent as u64 + 1);
        node.stop().await;
        let place = nodes.leader().await;
        let other = 6 - (silent as u64 + 1) - (leader as u64 + 1);
        let refused = nodes.nodes[place]
            .manager
            .change_members(removed(other, false), None)
            .await;
        let Err(ChangeError::Refused { group, reason }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(group, GroupId::SHARD);
        assert!(reason.contains("no majority"), "{reason}");
        // The one that is gone may be removed.
        change(&nodes.nodes[place].manager, removed(silent as u64 + 1, false)).await;
        nodes.call(place, "by two", 10).await.unwrap();
        nodes.stop().await;
    });
}

#[test]
fn who_can_not_come_is_told_why() {
    run(async {
        let nodes = three_of(4).await;
        let manager = &nodes.nodes[0].manager;
        let why = async |change| {
            manager
                .change_members(change, None)
                .await
                .unwrap_err()
                .to_string()
        };
        let elsewhere = |node, at| {
            MemberChange::Add(AddMember {
                node,
                addr: addr(at),
                never_votes: false,
            })
        };
        assert!(why(elsewhere(5, 4)).await.contains("node 4 answers"));
        assert!(
            why(elsewhere(4, 2))
                .await
                .contains("node 2 has that address already")
        );
        assert!(why(added(9, false)).await.contains("node 9 at"));
        assert!(why(added(0, false)).await.contains("a number from 1"));
        assert!(why(MemberChange::Lead(9)).await.contains("no member"));
        assert!(why(MemberChange::Promote(9)).await.contains("no member"));
        let stranger = nodes.nodes[3].manager.change_members(added(4, false), None).await;
        assert!(matches!(stranger, Err(ChangeError::NoCluster)), "{stranger:?}");
        let nowhere = manager
            .change_members(MemberChange::Lead(2), GroupId::shard(7))
            .await;
        assert!(matches!(nowhere, Err(ChangeError::UnknownGroup)), "{nowhere:?}");
        nodes.stop().await;
    });
}
