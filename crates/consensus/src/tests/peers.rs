//! Who is let in, and whom a node would vote for.

use super::cluster::{Cluster, settings};
use super::run;
use crate::record::VoteRecord;
use crate::transport::wire::{Answer, Ask, Header, Request, VoteAsk};
use crate::{GroupId, PROTOCOL, PROTOCOL_MIN, PeerError};
use std::time::Duration;

/// Asks whether a node would vote in a later term.
fn pre_vote() -> Request {
    let vote = Some(VoteRecord {
        term: 1_000,
        node: 3,
        committed: false,
    });
    let last = Some(crate::record::LogIdRecord {
        term: 999,
        node: 3,
        index: 1_000_000,
    });
    Request {
        ask: Some(Ask::PreVote(VoteAsk {
            vote,
            last,
            transfer: false,
        })),
    }
}

fn header() -> Header {
    let cluster = settings().cluster_id;
    Header {
        protocol: PROTOCOL,
        protocol_min: PROTOCOL_MIN,
        cluster,
        from: 3,
        instance: 3,
        to: 2,
        group: GroupId::SHARD.0,
    }
}

#[test]
fn whoever_does_not_belong_is_refused_with_the_reason() {
    run(async {
        let cluster = Cluster::start(3).await;
        let service = cluster.nodes[&2].manager.service();
        let refused = async |header| service.call(header, pre_vote()).await.unwrap_err();
        let error = refused(Header {
            cluster: "other".to_owned(),
            ..header()
        })
        .await;
        assert!(matches!(error, PeerError::OtherCluster { .. }), "{error}");
        // Version 1, which knew no range, and one that has left ours behind.
        for (oldest, newest) in [(0, 1), (PROTOCOL + 1, PROTOCOL + 2)] {
            let error = refused(Header {
                protocol: newest,
                protocol_min: oldest,
                ..header()
            })
            .await;
            let ours = newest;
            let theirs = PROTOCOL;
            assert_eq!(error, PeerError::OtherProtocol { ours, theirs });
        }
        let newer = Header {
            protocol: PROTOCOL + 1,
            ..header()
        };
        assert!(service.call(newer, pre_vote()).await.is_ok());
        assert_eq!(
            refused(Header { from: 2, ..header() }).await,
            PeerError::SameId { node: 2 }
        );
        assert_eq!(
            refused(Header { to: 1, ..header() }).await,
            PeerError::OtherNode { wanted: 1, found: 2 }
        );
        assert_eq!(
            refused(Header { group: 7, ..header() }).await,
            PeerError::UnknownGroup { group: 7 }
        );
        assert_eq!(
            service.call(header(), Request { ask: None }).await,
            Err(PeerError::Garbled)
        );
        cluster.stop().await;
    });
}

#[test]
fn a_follower_of_a_live_leader_refuses_to_pre_vote() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        // Not node 2, which is asked.
        let leader = loop {
            let leader = cluster.leader(|_| true).await;
            if leader != 2 {
                break leader;
            }
            cluster.nodes[&2].manager.transfer_leadership().await;
        };
        let granted = async |cluster: &Cluster| {
            let reply = cluster.nodes[&2]
                .manager
                .service()
                .call(header(), pre_vote())
                .await
                .unwrap();
            matches!(reply.answer, Some(Answer::Vote(answer)) if answer.granted)
        };
        let term = cluster.nodes[&2].manager.shard().status().term;
        assert!(!granted(&cluster).await, "it hears from its leader");
        assert_eq!(
            cluster.nodes[&2].manager.shard().status().term,
            term,
            "asking has no effect"
        );
        // With both others gone there is no leader any more, and the newer log would get the vote.
        cluster.stop_node(leader).await;
        cluster.stop_node(4 - leader).await;
        while !granted(&cluster).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.stop().await;
    });
}
