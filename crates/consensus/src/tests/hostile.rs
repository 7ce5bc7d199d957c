//! What a stranger says in a member's name.

use super::cluster::{Cluster, Node, call, config, settings};
use super::hub::Hub;
use super::run;
use crate::record::{LogIdRecord, LogRecord, VoteRecord};
use crate::transport::wire::{Answer, Append, Appended, Ask, Header, Hello, Join, Reply, Request, VoteAsk};
use crate::{EncodedBatch, Group, GroupId, PROTOCOL, PeerError, Propose};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::sync::Arc;

/// Who somebody says he is.
pub(super) fn header(from: u64, to: u64) -> Header {
    Header {
        protocol: PROTOCOL,
        protocol_min: PROTOCOL,
        cluster: settings().cluster_id,
        from,
        instance: 99,
        to,
        group: GroupId::SHARD.0,
    }
}

/// A number that is likely to be of this cluster, or to be at an end of all numbers.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..12,
        Just(u64::MAX),
        Just(1 << 40),
        Just(u64::MAX - 1),
        any::<u64>()
    ]
}

fn log_id() -> impl Strategy<Value = LogIdRecord> {
    (number(), 1u64..5, number()).prop_map(|(term, node, index)| LogIdRecord { term, node, index })
}

fn vote() -> impl Strategy<Value = VoteRecord> {
    // Not a term that would be believed of a leader: what a leader may do is not the question.
    let term = prop_oneof![
        Just(u64::MAX),
        Just(1 << 62),
        any::<u64>().prop_map(|term| term | 1 << 50)
    ];
    (term, 1u64..5, any::<bool>()).prop_map(|(term, node, committed)| VoteRecord {
        term,
        node,
        committed,
    })
}

#[test]
fn a_cluster_goes_on_whatever_a_stranger_says() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let mut runner = TestRunner::deterministic();
        let ids = proptest::collection::vec(log_id(), 0..4);
        let said = (vote(), proptest::option::of(log_id()), ids, number(), number());
        for round in 0..600u64 {
            let (vote, prev, ids, first_seq, epoch) = said.new_tree(&mut runner).unwrap().current();
            let (from, to) = (round % 5 + 1, round / 5 % 3 + 1);
            let service = cluster.nodes[&to].manager.service().clone();
            let entries = ids.iter().map(|id| LogRecord {
                log_id: Some(*id),
                ..LogRecord::default()
            });
            let append = Append {
                vote: Some(VoteRecord { node: from, ..vote }),
                prev,
                entries: entries.collect(),
                commit: prev,
            };
            if let Ok(replies) = service.append(&header(from, to), futures::stream::iter([append]).boxed()) {
                drop(replies.collect::<Vec<_>>().await);
            }
            for ask in [Ask::Vote, Ask::PreVote] {
                let ask = ask(VoteAsk {
                    vote: Some(VoteRecord { node: from, ..vote }),
                    last: prev,
                    transfer: round % 2 == 0,
                });
                drop(service.call(header(from, to), Request { ask: Some(ask) }).await);
            }
            let batch = EncodedBatch {
                node: from,
                epoch: epoch.max(1 << 60),
                first_seq,
                commands: vec![Bytes::from_static(&[0xfa, 0x3f, 0x00])],
            };
            if let Ok(replies) = service.propose(&header(from, to), futures::stream::iter([batch]).boxed()) {
                drop(replies.collect::<Vec<_>>().await);
            }
        }
        for node in cluster.nodes.values() {
            assert_eq!(*node.manager.fatal().borrow(), None);
            assert!(
                node.manager.shard().status().term < 1 << 40,
                "a term that nobody can reach"
            );
        }
        // Nothing of it was kept, either.
        for id in 1..=3 {
            cluster.stop_node(id).await;
        }
        for id in 1..=3 {
            cluster.start_node(id).await;
        }
        let leader = cluster.leader(|_| true).await;
        let shard = cluster.nodes[&leader].manager.shard().clone();
        shard.submit(call("after")).unwrap().await.unwrap();
        drop(shard);
        cluster.stop().await;
    });
}

/// What a group answers to messages on one stream in the name of a member.
pub(super) async fn say(
    cluster: &Cluster,
    (from, to): (u64, u64),
    messages: Vec<Append>,
) -> Vec<Result<Appended, PeerError>> {
    let service = cluster.nodes[&to].manager.service().clone();
    let messages = futures::stream::iter(messages).boxed();
    service
        .append(&header(from, to), messages)
        .unwrap()
        .collect()
        .await
}

/// The ids of all entries that are committed on a node, in its log's order.
async fn committed(group: &Group) -> Vec<LogIdRecord> {
    let ids = group.raft().with_raft_state(|state| {
        let last = state.local_committed().map_or(0, |id| id.index);
        (0..=last)
            .filter_map(|index| state.log_ids.get(index))
            .map(LogIdRecord::from)
            .collect()
    });
    ids.await.unwrap()
}

#[test]
fn what_is_committed_is_not_contradicted() {
    run(async {
        let cluster = Cluster::start(3).await;
        let leader = cluster.leader(|_| true).await;
        let shard = cluster.nodes[&leader].manager.shard().clone();
        for n in 0..5 {
            shard.submit(call(&format!("call{n}"))).unwrap().await.unwrap();
        }
        cluster.converge().await;
        let mut followers = cluster.nodes.keys().copied().filter(|id| *id != leader);
        let (from, to) = (followers.next().unwrap(), followers.next().unwrap());
        let victim = cluster.nodes[&to].manager.shard().clone();
        let known = committed(&victim).await;
        let (last, before) = (known[known.len() - 1], known[known.len() - 2]);
        // A term that could be: the others are only disturbed by it.
        let mut term = last.term;
        let mut lie = |prev, ids: &[LogIdRecord], commit| {
            term += 1;
            let entries = ids.iter().map(|id| LogRecord {
                log_id: Some(*id),
                ..LogRecord::default()
            });
            Append {
                vote: Some(VoteRecord {
                    term,
                    node: from,
                    committed: true,
                }),
                prev: Some(prev),
                entries: entries.collect(),
                commit,
            }
        };
        let other = |id: LogIdRecord| LogIdRecord {
            term: id.term + 1,
            node: from,
            ..id
        };
        let older = |id: LogIdRecord| LogIdRecord { term: 0, ..id };
        let behind = LogIdRecord {
            index: last.index + 1,
            ..last
        };
        let lies = [
            lie(before, &[other(last)], None),
            lie(other(last), &[], None),
            lie(
                older(last),
                &[LogIdRecord {
                    index: last.index + 1,
                    ..older(last)
                }],
                None,
            ),
            lie(last, &[], Some(other(before))),
            lie(older(behind), &[], None),
        ];
        for lie in lies {
            let index = lie.prev.unwrap().index;
            let answers = say(&cluster, (from, to), vec![lie]).await;
            assert!(
                matches!(&answers[..], [Err(PeerError::Unsound { .. })]),
                "behind {index}: {answers:?}"
            );
        }
        // What is committed by one message is so for the next, whether it goes on from there or not.
        let next = LogIdRecord {
            term: last.term,
            node: last.node,
            index: last.index + 1,
        };
        let true_so_far = lie(last, &[next], Some(next));
        let answers = say(
            &cluster,
            (from, to),
            vec![true_so_far, lie(last, &[other(next)], None)],
        )
        .await;
        assert!(
            matches!(&answers[..], [Ok(_), Err(PeerError::Unsound { .. })]),
            "{answers:?}"
        );
        let found = committed(&victim).await;
        assert!(found.starts_with(&known) && found.contains(&next));
        for node in cluster.nodes.values() {
            assert_eq!(*node.manager.fatal().borrow(), None);
        }
        drop((shard, victim));
        cluster.stop().await;
    });
}

#[test]
fn a_new_node_listens_to_those_that_it_founds_the_cluster_with() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let hub: Arc<Hub> = Arc::default();
        let node = Node::start(config(2, &dir), Arc::new(hub)).await;
        let service = node.manager.service().clone();
        let join = async |from, founders: &[u64]| {
            let ask = Some(Ask::Join(Join {
                founders: founders.to_vec(),
                taken_in: None,
                ..Join::default()
            }));
            service.call(header(from, 2), Request { ask }).await
        };
        for (from, founders) in [
            (1, &[1, 3][..]),
            (1, &[]),
            (4, &[1, 2, 3]),
            (1, &[0, 1, 2]),
            (1, &[1, 2, 2]),
        ] {
            let answer = join(from, founders).await;
            assert!(
                matches!(answer, Err(PeerError::Unsound { .. })),
                "{founders:?}: {answer:?}"
            );
            assert_eq!(node.manager.cluster(), None);
        }
        join(1, &[1, 2, 3]).await.unwrap();
        join(3, &[3, 2, 1]).await.unwrap();
        let others = join(1, &[1, 2, 4]).await;
        assert!(
            matches!(others, Err(PeerError::OtherFounders { .. })),
            "{others:?}"
        );
        let heard = async |from| {
            let ask = VoteAsk {
                vote: Some(VoteRecord {
                    term: 1,
                    node: from,
                    committed: false,
                }),
                last: Some(LogIdRecord {
                    term: 0,
                    node: 0,
                    index: 0,
                }),
                transfer: false,
            };
            service
                .call(
                    header(from, 2),
                    Request {
                        ask: Some(Ask::PreVote(ask)),
                    },
                )
                .await
        };
        assert_eq!(heard(4).await, Err(PeerError::NotMember { node: 4 }));
        assert!(heard(3).await.is_ok());
        node.stop().await;

        // And so it does when it was started again.
        let node = Node::start(config(2, &dir), Arc::new(Arc::<Hub>::default())).await;
        let ask = Request {
            ask: Some(Ask::PreVote(VoteAsk::default())),
        };
        let refused = node.manager.service().call(header(4, 2), ask).await;
        assert_eq!(refused, Err(PeerError::NotMember { node: 4 }));
        node.stop().await;
    });
}

#[test]
fn nobody_is_told_the_name_of_the_cluster() {
    run(async {
        let cluster = Cluster::start(1).await;
        let service = cluster.nodes[&1].manager.service().clone();
        let hello = async |name: &str| {
            let cluster = name.to_owned();
            let ask = Some(Ask::Hello(Hello::default()));
            service
                .call(
                    Header {
                        cluster,
                        ..header(9, 0)
                    },
                    Request { ask },
                )
                .await
        };
        let name = settings().cluster_id;
        for asked in ["", "other"] {
            let answer = hello(asked).await;
            assert!(!format!("{answer:?}").contains(&name), "{answer:?}");
        }
        assert!(matches!(
            hello("other").await,
            Err(PeerError::OtherCluster { .. })
        ));
        for asked in ["", &name] {
            let Ok(Reply {
                answer: Some(Answer::Hello(found)),
            }) = hello(asked).await
            else {
                panic!("no answer");
            };
            assert!(found.in_cluster);
        }
        drop(service);
        cluster.stop().await;
    });
}
