//! Members that come and go.

use super::cluster::{Node, config, connect, publish, settings};
use super::hostile::header;
use super::hub::{Hub, addr};
use super::nodes::Nodes;
use super::run;
use crate::command::{FEATURE_LEVEL, SetNode};
use crate::record::{LogIdRecord, LogRecord, MembershipRecord, VoteRecord};
use crate::transport::wire::{
    AddMember, Answer, Append, Appended, Ask, Header, Join, MemberChange, Pong, ProposeReply, RemoveMember,
    Reply, Request, VoteAsk,
};
use crate::transport::{PeerError, Replies, Transport};
use crate::types::Membership;
use crate::{
    ChangeError, EncodedBatch, GroupId, Manager, Member, Propose, Role, SystemClock, Unapplied, WallClock,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// The places of the leader and the two others.
async fn places(nodes: &Nodes) -> (usize, usize, usize) {
    let leader = nodes.leader().await;
    (leader, (leader + 1) % 3, (leader + 2) % 3)
}

/// Its vote counts for entries that it does not have any more.
#[test]
fn a_voter_that_has_lost_its_data_does_not_go_on_as_the_one_it_was() {
    run(async {
        let mut nodes = three_of(3).await;
        let (leader, lost, other) = places(&nodes).await;
        let id = lost as u64 + 1;
        nodes.start_empty(lost).await;
        let again = nodes.nodes[leader]
            .manager
            .change_members(added(id, false), None)
            .await;
        assert_eq!(nodes.nodes[lost].manager.cluster(), None, "{again:?}");
        let Err(ChangeError::Refused { reason, .. }) = again else {
            panic!("{again:?}");
        };
        assert!(reason.contains("rtdb remove-node"), "{reason}");
        // Nor does it by founding the cluster once more.
        let founders = (1..=3).map(|id| (id, addr(id))).collect();
        let again = nodes.nodes[leader].manager.init(founders, settings()).await;
        assert!(again.is_err(), "{again:?}");
        assert_eq!(nodes.nodes[lost].manager.cluster(), None);

        change(&nodes.nodes[other].manager, removed(id, false)).await;
        change(&nodes.nodes[other].manager, added(id, false)).await;
        assert!(nodes.until(30, |it| has(it, lost, &[1, 2, 3], &[])).await);
        nodes.call(lost, "with new data", 10).await.unwrap();
        nodes.stop().await;
    });
}

#[test]
fn two_removals_at_once_leave_a_majority() {
    run(async {
        let nodes = three_of(4).await;
        change(&nodes.nodes[0].manager, added(4, false)).await;
        assert!(nodes.until(30, |it| has(it, 0, &[1, 2, 3, 4], &[])).await);
        let leader = nodes.leader().await;
        let [silent, first, second] = [1, 2, 3].map(|step| (leader + step) % 4);
        // Whoever asks which nodes answer waits for this one.
        nodes.hub.swallow(silent as u64 + 1);
        nodes.hub.hang(silent as u64 + 1);
        let manager = &nodes.nodes[leader].manager;
        let group = Some(GroupId::SHARD);
        let both = futures::future::join(
            manager.change_members(removed(first as u64 + 1, false), group),
            async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                manager
                    .change_members(removed(second as u64 + 1, false), group)
                    .await
            },
        )
        .await;
        let voters = manager.shard().status().voters;
        assert!(
            voters.len() >= 3,
            "{both:?}: of {voters:?} node {} is gone",
            silent + 1
        );
        nodes.call(leader, "by those that are left", 10).await.unwrap();
    });
}

#[test]
fn a_member_has_another_address_at_once() {
    run(async {
        let nodes = three_of(3).await;
        let (leader, moved, other) = places(&nodes).await;
        let id = moved as u64 + 1;
        nodes.hub.leave(&addr(id));
        nodes.hub.isolate(id, 1..=3);
        // Until the streams to it are cut.
        tokio::time::sleep(Duration::from_millis(300)).await;
        nodes.hub.heal();
        let elsewhere = MemberChange::Add(AddMember {
            node: id,
            addr: format!("n0{id}"),
            never_votes: false,
        });
        change(&nodes.nodes[other].manager, elsewhere).await;
        nodes.call(other, "after it has moved", 20).await.unwrap();
        let last = nodes.nodes[other].manager.shard().status().last_log;
        let has_come = |it: &Nodes| it.nodes[moved].manager.shard().status().resolved >= last;
        assert!(
            nodes.until(15, has_come).await,
            "nothing comes to the new address"
        );
        assert_eq!(nodes.leader().await, leader);
        nodes.call(moved, "from where it is now", 20).await.unwrap();
        nodes.stop().await;
    });
}

/// A network on which somebody else answers at node 1's address, if it is asked for the time.
struct Liar(Arc<Hub>, Arc<AtomicBool>);

impl Transport for Liar {
    fn call(
        &self,
        to: &str,
        header: Header,
        request: Request,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let is_lie = self.1.load(Ordering::SeqCst) && to == addr(1);
        if !is_lie || !matches!(request.ask, Some(Ask::Ping(_))) {
            return self.0.call(to, header, request);
        }
        let pong = Pong {
            clock_us: SystemClock.now_us(),
            is_fit: true,
            members_at: 1 << 40,
            ..Pong::default()
        };
        let answer = Some(Answer::Pong(pong));
        Box::pin(async move { Ok(Reply { answer }) })
    }

    fn append(
        &self,
        addr: &str,
        header: Header,
        entries: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<Replies<Appended>, PeerError>> {
        self.0.append(addr, header, entries)
    }

    fn propose(
        &self,
        addr: &str,
        header: Header,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, Result<Replies<ProposeReply>, PeerError>> {
        self.0.propose(addr, header, batches)
    }
}

#[test]
fn whom_the_cluster_serves_does_not_believe_one_that_it_was_removed() {
    run(async {
        let (hub, lies) = (Arc::<Hub>::default(), Arc::<AtomicBool>::default());
        let (mut nodes, mut dirs) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            let dir = tempfile::tempdir().unwrap();
            let transport = Arc::new(Liar(hub.clone(), lies.clone()));
            let node = Node::start(config(id, &dir), transport).await;
            hub.connect(id, node.manager.service());
            nodes.push(node);
            dirs.push(dir);
        }
        let founders = (1..=3).map(|id| (id, addr(id))).collect();
        nodes[0].manager.init(founders, settings()).await.unwrap();
        let published = nodes[0].manager.shard().submit(publish());
        published.unwrap().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        lies.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(4)).await;
        for node in nodes {
            assert_eq!(*node.manager.fatal().borrow(), None);
            node.stop().await;
        }
    });
}

/// Who comes back empty under its old id does not know yet who votes. With its help, whoever else does not know it either
/// would be a cluster of its own.
#[test]
fn who_has_come_back_empty_elects_nobody_before_it_has_caught_up() {
    run(async {
        let mut nodes = three_of(3).await;
        let (leader, lost, other) = places(&nodes).await;
        let [id, from] = [lost, other].map(|place| place as u64 + 1);
        nodes.call(leader, "before", 10).await.unwrap();
        change(&nodes.nodes[leader].manager, removed(id, false)).await;
        nodes.start_empty(lost).await;
        nodes.hub.swallow(id);
        change(&nodes.nodes[leader].manager, added(id, false)).await;
        nodes.hub.isolate(id, 1..=3);
        // Until it takes the leader for dead.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let term = nodes.nodes[leader].manager.shard().status().term + 5;
        let service = nodes.nodes[lost].manager.service();
        let ask = VoteAsk {
            vote: Some(VoteRecord {
                term,
                node: from,
                committed: false,
            }),
            last: Some(LogIdRecord {
                term: 1,
                node: 1,
                index: 1,
            }),
            transfer: false,
        };
        for ask in [Ask::PreVote(ask.clone()), Ask::Vote(ask)] {
            let answer = service
                .call(header(from, id), Request { ask: Some(ask) })
                .await
                .unwrap();
            let Some(Answer::Vote(answer)) = answer.answer else {
                panic!("{answer:?}");
            };
            assert!(!answer.is_granted(), "{answer:?}");
        }
        nodes.hub.disgorge();
        nodes.hub.heal();
        assert!(nodes.until(40, |it| has(it, lost, &[1, 2, 3], &[])).await);
        nodes.stop().await;
    });
}

/// A cluster that began with one node, which came back empty: its log begins with a group of its own.
#[test]
fn who_has_come_back_empty_does_not_lead_the_group_that_there_was_once() {
    run(async {
        let mut nodes = Nodes::new(3, super::cluster::timing(), Duration::ZERO).await;
        let founders = [(1, addr(1))].into();
        nodes.nodes[0].manager.init(founders, settings()).await.unwrap();
        for node in [2, 3] {
            change(&nodes.nodes[0].manager, added(node, false)).await;
        }
        assert!(nodes.until(30, |it| has(it, 0, &[1, 2, 3], &[])).await);
        change(&nodes.nodes[1].manager, removed(1, false)).await;
        nodes.start_empty(0).await;
        nodes.hub.swallow(1);
        change(&nodes.nodes[1].manager, added(1, false)).await;

        // Of the log it has the first entry.
        let leader = [1, 2].into_iter().find(|place| {
            let status = nodes.nodes[*place].manager.shard().status();
            status.role == Role::Leader
        });
        let shard = nodes.nodes[leader.unwrap()].manager.shard();
        let known = shard
            .raft()
            .with_raft_state(|state| (*state.vote_ref(), state.log_ids.get(0)));
        let (vote, first) = known.await.unwrap();
        let membership = Membership::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, Member::at(addr(1)))]),
        )
        .unwrap();
        let append = Append {
            vote: Some(vote.into()),
            prev: None,
            entries: vec![LogRecord {
                log_id: first.map(Into::into),
                entry: None,
                membership: Some(MembershipRecord::from(&membership)),
            }],
            commit: None,
        };
        let service = nodes.nodes[0].manager.service();
        let from = vote.leader_id.node_id;
        let replies = service
            .append(&header(from, 1), futures::stream::iter([append]).boxed())
            .unwrap();
        let replies: Vec<_> = replies.collect().await;
        assert!(nodes.until(5, has_first).await, "{replies:?}");
        nodes.hub.isolate(1, 1..=3);
        nodes.hub.show_gone(1, from);
        let leads = |it: &Nodes| it.nodes[0].manager.shard().status().role == Role::Leader;
        assert!(!nodes.until(8, leads).await, "it leads a group of its own");
        nodes.hub.disgorge();
        nodes.hub.heal();
        assert!(nodes.until(40, |it| has(it, 0, &[1, 2, 3], &[])).await);
        nodes.stop().await;
    });
}

fn has_first(nodes: &Nodes) -> bool {
    nodes.nodes[0].manager.shard().status().voters == [1]
}

/// What a node said of itself before it was removed does not hold when it comes again.
#[test]
fn the_feature_level_does_not_fall_when_a_node_comes_again() {
    run(async {
        let nodes = three_of(4).await;
        let manager = &nodes.nodes[0].manager;
        let long_ago = SetNode {
            node: 4,
            raft_addr: addr(4),
            client_addr: "c4".to_owned(),
            feature_level: 1,
            ..SetNode::default()
        };
        let said = manager
            .meta()
            .submit(crate::command::Body::SetNode(long_ago).into());
        let said: Result<_, Unapplied> = said.unwrap().await;
        said.unwrap();
        assert!(
            nodes
                .until(20, |it| it.nodes[0].manager.feature_level() == FEATURE_LEVEL)
                .await
        );
        nodes.hub.swallow(4);
        change(manager, added(4, false)).await;
        assert_eq!(manager.feature_level(), FEATURE_LEVEL);
        nodes.stop().await;
    });
}

/// Who knows the cluster's id can't have its members wait for what never comes.
#[test]
fn a_member_is_not_taken_in_again_by_whoever_says_so() {
    run(async {
        let nodes = three_of(3).await;
        let never = LogIdRecord {
            term: 1 << 30,
            node: 0,
            index: 1 << 40,
        };
        for node in 1..=3 {
            let join = Ask::Join(Join {
                founders: vec![1, 2, 3],
                taken_in: Some(7),
                floors: [(GroupId::META.0, never), (GroupId::SHARD.0, never)].into(),
            });
            let from = node % 3 + 1;
            let service = nodes.nodes[node as usize - 1].manager.service();
            let said = service
                .call(header(from, node), Request { ask: Some(join) })
                .await;
            assert!(said.is_ok(), "{said:?}");
        }
        let leader = nodes.leader().await;
        nodes.hub.kill(leader as u64 + 1, 1..=3);
        let next = nodes.other_leader(leader).await;
        nodes.call(next, "by the next leader", 20).await.unwrap();
    });
}
