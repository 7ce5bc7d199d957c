//! What a stranger says in a member's name.

use super::cluster::{Cluster, call, settings};
use super::run;
use crate::record::{LogIdRecord, LogRecord, VoteRecord};
use crate::transport::wire::{Append, Ask, Header, Request, VoteAsk};
use crate::{EncodedBatch, GroupId, PROTOCOL, Propose};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

fn header(from: u64, to: u64) -> Header {
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
