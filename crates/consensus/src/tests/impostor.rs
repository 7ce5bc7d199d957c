//! What somebody can do in a member's name who knows the cluster's id.

use super::cluster::{Cluster, Node, call, config, settings};
use super::hostile::{header, say};
use super::hub::{Hub, addr};
use super::run;
use crate::command::{Body, Call};
use crate::entry::EncodedEntry;
use crate::record::{LogIdRecord, LogRecord, VoteRecord};
use crate::transport::wire::{Append, Appended, Ask, Header, Join, ProposeReply, Reply, Request, VoteAsk};
use crate::transport::{Replies, Transport};
use crate::{Command, ENTRY_VERSION, EncodedBatch, Group, GroupId, PeerError, Propose};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

async fn last(group: &Group) -> (LogIdRecord, LogIdRecord) {
    let ids = group.raft().with_raft_state(|state| {
        let last = state.log_ids.last().copied().unwrap();
        let committed = state.local_committed().copied().unwrap();
        (LogIdRecord::from(last), LogIdRecord::from(committed))
    });
    ids.await.unwrap()
}

/// A cluster of three whose logs agree, its leader, and two followers.
async fn three() -> (Cluster, u64, u64, u64) {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(|_| true).await;
    let shard = cluster.nodes[&leader].manager.shard().clone();
    for n in 0..5 {
        shard.submit(call(&format!("call{n}"))).unwrap().await.unwrap();
    }
    cluster.converge().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut followers = cluster.nodes.keys().copied().filter(|id| *id != leader);
    let (from, to) = (followers.next().unwrap(), followers.next().unwrap());
    (cluster, leader, from, to)
}

/// Three nodes that are in no cluster yet.
async fn unfounded(transport: impl Fn(Arc<Hub>) -> Arc<dyn Transport>) -> (Vec<Node>, Vec<TempDir>) {
    let hub = Arc::<Hub>::default();
    let (mut nodes, mut dirs) = (Vec::new(), Vec::new());
    for id in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(config(id, &dir), transport(hub.clone())).await;
        hub.connect(id, node.manager.service());
        nodes.push(node);
        dirs.push(dir);
    }
    (nodes, dirs)
}

async fn check_alive(cluster: &Cluster) {
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for (id, node) in &cluster.nodes {
        assert_eq!(*node.manager.fatal().borrow(), None, "node {id}");
    }
}

fn unknown_command() -> Bytes {
    Bytes::from_static(&[0xfa, 0x3f, 0x00])
}

/// Proposals in a member's name, in the epoch that it will take next.
#[test]
fn proposals_in_its_name_do_not_stop_a_node() {
    run(async {
        let (cluster, leader, _, victim) = three().await;
        let service = cluster.nodes[&leader].manager.service().clone();
        let propose = async |epoch: u64, commands: Vec<Bytes>| {
            let batch = EncodedBatch {
                node: victim,
                epoch,
                first_seq: 1,
                commands,
            };
            let stream = futures::stream::iter([batch]).boxed();
            let replies = service.propose(&header(victim, leader), stream).unwrap();
            drop(replies.collect::<Vec<_>>().await);
        };
        let high = 1u64 << 62;
        propose(high, vec![]).await;
        let mut epoch = cluster.nodes[&victim].manager.shard().epoch();
        epoch.wait_for(|epoch| *epoch > high).await.unwrap();
        assert_eq!(*epoch.borrow(), high + 1);
        propose(high + 1, vec![call("forged").encode_to_vec().into()]).await;
        check_alive(&cluster).await;
    });
}

fn entry_of(commands: Vec<Bytes>) -> Bytes {
    let batch = EncodedBatch {
        node: 1,
        epoch: 1 << 61,
        first_seq: 1,
        commands,
    };
    EncodedEntry {
        version: ENTRY_VERSION,
        timestamp_us: 0,
        batches: vec![batch],
    }
    .encode_to_vec()
    .into()
}

/// A command that nodes stop at, in an entry instead of in a proposal.
#[test]
fn a_command_of_no_known_kind_does_not_get_into_the_log() {
    run(async {
        let (cluster, _, from, to) = three().await;
        let (end, _) = last(cluster.nodes[&to].manager.shard()).await;
        let id = LogIdRecord {
            term: end.term + 1,
            node: from,
            index: end.index + 1,
        };
        let message = Append {
            vote: Some(VoteRecord {
                term: end.term + 1,
                node: from,
                committed: true,
            }),
            prev: Some(end),
            entries: vec![LogRecord {
                log_id: Some(id),
                entry: Some(entry_of(vec![unknown_command()])),
                membership: None,
            }],
            commit: Some(id),
        };
        drop(say(&cluster, (from, to), vec![message]).await);
        check_alive(&cluster).await;
    });
}

/// An entry of the same term by a lower node.
#[test]
fn leaders_of_one_term_do_not_go_back() {
    run(async {
        let (cluster, _, from, to) = three().await;
        let (end, _) = last(cluster.nodes[&to].manager.shard()).await;
        let id = LogIdRecord {
            term: end.term,
            node: 0,
            index: end.index + 1,
        };
        let message = Append {
            vote: Some(VoteRecord {
                term: end.term + 1,
                node: from,
                committed: true,
            }),
            prev: Some(end),
            entries: vec![LogRecord {
                log_id: Some(id),
                ..LogRecord::default()
            }],
            commit: None,
        };
        drop(say(&cluster, (from, to), vec![message]).await);
        check_alive(&cluster).await;
    });
}

/// What is said to be committed lies behind the log, and is of an earlier term than its end.
#[test]
fn nothing_is_applied_that_is_not_in_the_log() {
    run(async {
        let (cluster, _, from, to) = three().await;
        let (end, _) = last(cluster.nodes[&to].manager.shard()).await;
        let id = LogIdRecord {
            term: end.term + 1,
            node: from,
            index: end.index + 1,
        };
        let message = Append {
            vote: Some(VoteRecord {
                term: end.term + 1,
                node: from,
                committed: true,
            }),
            prev: Some(end),
            entries: vec![LogRecord {
                log_id: Some(id),
                ..LogRecord::default()
            }],
            commit: Some(LogIdRecord {
                index: end.index + 100,
                ..end
            }),
        };
        drop(say(&cluster, (from, to), vec![message]).await);
        check_alive(&cluster).await;
    });
}

/// One message in the leader's name, with its own vote: everything counts as committed from then on.
#[test]
fn what_no_quorum_has_is_not_committed() {
    run(async {
        let cluster = Cluster::start(5).await;
        let leader = cluster.leader(|_| true).await;
        let shard = cluster.nodes[&leader].manager.shard().clone();
        shard.submit(call("first")).unwrap().await.unwrap();
        cluster.converge().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let victim = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
        let group = cluster.nodes[&victim].manager.shard().clone();
        let (end, _) = last(&group).await;
        let term = shard.status().term;
        let message = Append {
            vote: Some(VoteRecord {
                term,
                node: leader,
                committed: true,
            }),
            prev: None,
            entries: vec![],
            commit: Some(LogIdRecord {
                term,
                node: leader,
                index: end.index + 1_000,
            }),
        };
        drop(say(&cluster, (leader, victim), vec![message]).await);
        for id in cluster
            .nodes
            .keys()
            .copied()
            .filter(|id| ![leader, victim].contains(id))
        {
            cluster.hub.isolate(id, [leader, victim].into_iter());
        }
        let _pending = shard.submit(call("of no quorum")).unwrap();
        tokio::time::sleep(Duration::from_millis(800)).await;
        let (_, committed) = last(&group).await;
        let leaders = last(&shard).await;
        // The other three elect a leader and go on; then the two come back.
        let other = cluster.leader(|id| ![leader, victim].contains(&id)).await;
        let third = cluster.nodes[&other].manager.shard().clone();
        third.submit(call("of the quorum")).unwrap().await.unwrap();
        cluster.hub.heal();
        let others = third.status().resolved;
        let waited = tokio::time::timeout(Duration::from_secs(15), async {
            while group.status().resolved < others || last(&group).await.1.term < third.status().term {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let caught_up = waited.await.is_ok();
        assert!(
            caught_up && committed.index <= leaders.1.index,
            "caught up: {caught_up}; committed {committed:?} with no quorum"
        );
        cluster.converge().await;
    });
}

/// The hub, on which node 3 answers one stream with a vote of the highest term that is believed.
struct Liar {
    hub: Arc<Hub>,
    lies: Arc<AtomicBool>,
}

impl Transport for Liar {
    fn call(
        &self,
        addr: &str,
        header: Header,
        request: Request,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        self.hub.call(addr, header, request)
    }

    fn append(
        &self,
        to: &str,
        header: Header,
        entries: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<Replies<Appended>, PeerError>> {
        if to == addr(3) && header.group == GroupId::SHARD.0 && self.lies.swap(false, Ordering::AcqRel) {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap();
            // As `sanity::term_max`, and the slack.
            let term = (now.as_secs() - 1_577_836_800) * 10 + 90;
            let higher = Some(VoteRecord {
                term,
                node: 3,
                committed: false,
            });
            let lie = Appended {
                higher,
                ..Appended::default()
            };
            return Box::pin(async move {
                let lie = entries.map(move |_| Ok(lie.clone()));
                Ok(lie.boxed())
            });
        }
        self.hub.append(to, header, entries)
    }

    fn propose(
        &self,
        to: &str,
        header: Header,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, Result<Replies<ProposeReply>, PeerError>> {
        self.hub.propose(to, header, batches)
    }
}

/// One answer in a member's name.
#[test]
fn a_term_that_an_answer_brings_can_be_gone_on_from() {
    run(async {
        let lies = Arc::<AtomicBool>::default();
        let (nodes, _dirs) = unfounded(|hub| {
            let lies = lies.clone();
            Arc::new(Liar { hub, lies })
        })
        .await;
        let members = (1..=3).map(|id| (id, addr(id))).collect();
        nodes[0].manager.init(members, settings()).await.unwrap();
        let shard = nodes[0].manager.shard().clone();
        shard.submit(super::cluster::publish()).unwrap().await.unwrap();
        lies.store(true, Ordering::Release);
        let calls = async {
            let mut n = 0;
            let begin = std::time::Instant::now();
            while lies.load(Ordering::Acquire) || begin.elapsed() < Duration::from_secs(3) {
                n += 1;
                shard.submit(call(&format!("{n}"))).unwrap().await.unwrap();
            }
            for n in 0..5 {
                shard.submit(call(&format!("after{n}"))).unwrap().await.unwrap();
            }
        };
        let goes_on = tokio::time::timeout(Duration::from_secs(40), calls).await;
        let terms: Vec<_> = nodes
            .iter()
            .map(|node| {
                (
                    node.manager.shard().status().term,
                    node.manager.shard().status().leader,
                )
            })
            .collect();
        assert!(goes_on.is_ok(), "no leader any more; terms {terms:?}");
    });
}

/// A vote before the log's first entry.
#[test]
fn init_succeeds_after_a_vote_in_a_founders_name() {
    run(async {
        let (nodes, _dirs) = unfounded(|hub| Arc::new(hub)).await;
        // An init that stopped in the middle: node 1 belongs to the cluster.
        let service = nodes[0].manager.service().clone();
        let join = Ask::Join(Join {
            founders: vec![1, 2, 3],
            taken_in: None,
            ..Join::default()
        });
        service
            .call(header(3, 1), Request { ask: Some(join) })
            .await
            .unwrap();
        let ask = VoteAsk {
            vote: Some(VoteRecord {
                term: 1,
                node: 3,
                committed: false,
            }),
            last: None,
            transfer: true,
        };
        let header = Header {
            group: GroupId::META.0,
            ..header(3, 1)
        };
        drop(
            service
                .call(
                    header,
                    Request {
                        ask: Some(Ask::Vote(ask)),
                    },
                )
                .await,
        );
        let members = (1..=3).map(|id| (id, addr(id))).collect();
        let done = tokio::time::timeout(
            Duration::from_secs(20),
            nodes[0].manager.init(members, settings()),
        )
        .await;
        assert!(done.is_ok(), "init waits for ever");
        done.unwrap().unwrap();
    });
}

/// `init` on another node than the first time says what to do.
#[test]
fn init_on_another_node_says_what_to_do() {
    run(async {
        let (nodes, _dirs) = unfounded(|hub| Arc::new(hub)).await;
        // An init on node 1 that stopped behind its first step.
        let service = nodes[0].manager.service().clone();
        let join = Ask::Join(Join {
            founders: vec![1, 2, 3],
            taken_in: None,
            ..Join::default()
        });
        service
            .call(header(3, 1), Request { ask: Some(join) })
            .await
            .unwrap();
        let members: std::collections::BTreeMap<_, _> = (1..=3).map(|id| (id, addr(id))).collect();
        let other = crate::command::InitCluster {
            cluster_id: "made-up-just-now".to_owned(),
            ..settings()
        };
        let error = nodes[1]
            .manager
            .init(members, other)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("rtdb init") && !error.contains("made-up-just-now"),
            "{error}"
        );
    });
}

#[test]
fn nothing_that_healthy_nodes_say_is_refused() {
    use rand::RngExt;
    run(async {
        let mut cluster = Cluster::start(3).await;
        let begin = std::time::Instant::now();
        let mut n = 0;
        while begin.elapsed() < Duration::from_secs(15) {
            let kind = rand::rng().random_range(0..6);
            let victim = rand::rng().random_range(1..=3u64);
            match kind {
                0 | 1 => cluster.hub.isolate(victim, 1..=3),
                2 => {
                    cluster.stop_node(victim).await;
                }
                3 => {
                    // The leader is cut off with calls under way.
                    if let Ok(leader) =
                        tokio::time::timeout(Duration::from_secs(3), cluster.leader(|_| true)).await
                    {
                        let shard = cluster.nodes[&leader].manager.shard().clone();
                        for _ in 0..20 {
                            n += 1;
                            drop(shard.submit(call(&format!("{n}"))));
                        }
                        cluster.hub.isolate(leader, 1..=3);
                        for _ in 0..20 {
                            n += 1;
                            drop(shard.submit(call(&format!("{n}"))));
                        }
                    }
                }
                4 => {
                    cluster.nodes[&victim].manager.transfer_leadership().await;
                }
                _ => {}
            }
            for node in cluster.nodes.values() {
                for _ in 0..30 {
                    n += 1;
                    drop(node.manager.shard().submit(call(&format!("{n}"))));
                }
            }
            let pause = rand::rng().random_range(50..2_500);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            for id in 1..=3 {
                if !cluster.nodes.contains_key(&id) {
                    cluster.start_node(id).await;
                }
            }
            cluster.hub.heal();
            let pause = rand::rng().random_range(0..1_500);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        cluster.hub.heal();
        let leader = cluster.leader(|_| true).await;
        let pending = cluster.nodes[&leader]
            .manager
            .shard()
            .submit(call("end"))
            .unwrap();
        tokio::time::timeout(Duration::from_secs(20), pending)
            .await
            .expect("no progress")
            .unwrap();
        cluster.converge().await;
    });
}

/// A batch that a message just holds makes an entry that no message holds.
#[test]
fn an_entry_can_be_sent_on() {
    run(async {
        let (nodes, _dirs) = super::loopback::serve_three().await;
        let leader = loop {
            let leads = nodes.iter().find(|(_, served)| {
                let status = served.node.manager.shard().status();
                status.role == crate::Role::Leader && status.leader.is_some()
            });
            if let Some((id, _)) = leads {
                break *id;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let from = nodes.keys().copied().find(|id| *id != leader).unwrap();
        let shard = nodes[&leader].node.manager.shard().clone();
        let to = shard.status().leader.unwrap().1;
        let sized = |len: usize| {
            let command: Command = Body::Call(Call {
                database: super::cluster::DATABASE,
                reducer: "large".to_owned(),
                args: Bytes::from(vec![0; len]),
                ..Call::default()
            })
            .into();
            EncodedBatch {
                node: from,
                epoch: 1,
                first_seq: 1,
                commands: vec![command.encode_to_vec().into()],
            }
        };
        let whole: usize = 64 << 20;
        let rough = whole - 1_000;
        let batch = sized(rough + whole - 8 - sized(rough).encoded_len());
        let header = Header {
            cluster: nodes[&leader].node.manager.cluster().unwrap(),
            ..header(from, leader)
        };
        let stranger = crate::Grpc::default();
        let replies = stranger
            .propose(&to, header, futures::stream::iter([batch]).boxed())
            .await
            .unwrap();
        drop(tokio::time::timeout(Duration::from_secs(5), replies.collect::<Vec<_>>()).await);
        let after = shard.submit(call("after")).unwrap();
        let done = tokio::time::timeout(Duration::from_secs(60), after).await;
        let status = shard.status();
        assert!(
            done.is_ok(),
            "nothing is committed any more: {} of {}, role {:?}",
            status.committed,
            status.last_log,
            status.role
        );
        drop(shard);
        for (_, served) in nodes {
            served.stop().await;
        }
    });
}

/// Two messages in a member's name move the log's time for good: what they say is committed is not looked at.
#[test]
fn the_logs_time_does_not_leave_the_clocks() {
    run(async {
        let (cluster, _, _, _) = three().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (end, _) = last(cluster.nodes[&1].manager.shard()).await;
        let id = LogIdRecord {
            term: end.term + 1,
            node: 3,
            index: end.index + 1,
        };
        let batch = EncodedBatch {
            node: 1,
            epoch: 1,
            first_seq: 1,
            commands: vec![call("x").encode_to_vec().into()],
        };
        let entry = EncodedEntry {
            version: ENTRY_VERSION,
            timestamp_us: i64::MAX,
            batches: vec![batch],
        };
        for to in [1, 2] {
            let message = Append {
                vote: Some(VoteRecord {
                    term: end.term + 1,
                    node: 3,
                    committed: true,
                }),
                prev: Some(end),
                entries: vec![LogRecord {
                    log_id: Some(id),
                    entry: Some(entry.encode_to_vec().into()),
                    membership: None,
                }],
                commit: Some(id),
            };
            drop(say(&cluster, (3, to), vec![message]).await);
        }
        let applied = cluster.nodes[&1]
            .manager
            .shard()
            .submit(call("after"))
            .unwrap()
            .await
            .unwrap();
        assert!(
            applied.timestamp_us < 4_000_000_000_000_000,
            "the time is {}",
            applied.timestamp_us
        );
    });
}

/// A leader that was deposed learns it from an answer, whatever it still sends.
#[test]
fn a_deposed_leader_is_told_of_the_higher_vote() {
    run(async {
        let (cluster, leader, _, to) = three().await;
        let (end, _) = last(cluster.nodes[&leader].manager.shard()).await;
        cluster.hub.isolate(leader, 1..=3);
        let other = cluster.leader(|id| id != leader).await;
        cluster.nodes[&other]
            .manager
            .shard()
            .submit(call("newer"))
            .unwrap()
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        // What openraft sends of a tail that nobody else has.
        let id = LogIdRecord {
            index: end.index + 1,
            ..end
        };
        let message = Append {
            vote: Some(VoteRecord {
                term: end.term,
                node: leader,
                committed: true,
            }),
            prev: Some(end),
            entries: vec![LogRecord {
                log_id: Some(id),
                ..LogRecord::default()
            }],
            commit: Some(end),
        };
        let answers = say(&cluster, (leader, to), vec![message]).await;
        assert!(
            matches!(&answers[..], [Ok(Appended { higher: Some(_), .. })]),
            "{answers:?}"
        );
    });
}
