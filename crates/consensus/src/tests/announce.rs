//! What nodes say of themselves.

use super::cluster::Cluster;
use super::run;
use crate::command::{Body, FEATURE_LEVEL, NODE_ADDR_BYTES_MAX, SetNode};
use crate::{Follow, Propose, Refusal, Unapplied};

#[test]
fn every_node_knows_what_the_others_are() {
    run(async {
        let cluster = Cluster::start(3).await;
        let meta = cluster.nodes[&1].manager.meta();
        let mut resolved = meta.resolved();
        let announced = |_: &u64| meta.meta().nodes().count() == 3;
        resolved.wait_for(announced).await.unwrap();
        for id in 1..=3 {
            let node = meta.meta().node(id).cloned().unwrap();
            let expected = SetNode {
                node: id,
                raft_addr: format!("n{id}"),
                client_addr: format!("c{id}"),
                version: "test".to_owned(),
                spacetimedb_version: String::new(),
                cpu: "cpu".to_owned(),
                feature_level: FEATURE_LEVEL,
            };
            assert_eq!(node, expected);
        }
        assert_eq!(meta.feature_level(), FEATURE_LEVEL);
        assert_eq!(meta.meta().feature_level(&[1, 2], &[3]), FEATURE_LEVEL);
        assert_eq!(
            meta.meta().feature_level(&[1, 4], &[]),
            0,
            "nobody knows what node 4 is"
        );
        assert_eq!(meta.meta().feature_level(&[], &[]), 0);
        cluster.nodes[&2]
            .manager
            .set_spacetimedb_version("2.8.3".to_owned());
        let known = |_: &u64| meta.meta().node(2).unwrap().spacetimedb_version == "2.8.3";
        resolved.wait_for(known).await.unwrap();
        cluster.stop().await;
    });
}

#[test]
fn a_node_that_says_too_much_is_refused() {
    run(async {
        let cluster = Cluster::start(1).await;
        let meta = cluster.nodes[&1].manager.meta();
        let node = |length| SetNode {
            node: 9,
            raft_addr: "a".repeat(length),
            ..SetNode::default()
        };
        let set = async |node| meta.submit(Body::SetNode(node).into()).unwrap().await;
        assert!(set(node(NODE_ADDR_BYTES_MAX)).await.is_ok());
        let refused = set(node(NODE_ADDR_BYTES_MAX + 1)).await.unwrap_err();
        let Unapplied::Refused(Refusal::TooLong { what, max }) = refused else {
            panic!("{refused}");
        };
        assert_eq!((what, max), ("the raft address", NODE_ADDR_BYTES_MAX));
        assert_eq!(
            meta.meta().node(9).unwrap().raft_addr.len(),
            NODE_ADDR_BYTES_MAX,
            "what was said before stands"
        );
        cluster.stop().await;
    });
}
