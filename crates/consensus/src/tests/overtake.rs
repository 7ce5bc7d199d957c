//! A node that is behind, and whose disk fills up meanwhile.

use super::cluster::{DATABASE, Node, call, config, publish, settings};
use super::hub::{Hub, addr};
use super::run;
use crate::command::{Body, Call};
use crate::log::troubled::{Trouble, Troubled};
use crate::{Command, Disk, Follow, Manager, Propose, Role};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

fn big(name: &str) -> Command {
    Body::Call(Call {
        database: DATABASE,
        reducer: name.to_owned(),
        args: Bytes::from(vec![7; 6 << 20]),
        ..Call::default()
    })
    .into()
}

/// What the resolver has made of entries must not be on disk before them.
#[test]
fn a_follower_whose_disk_fills_up_while_it_is_behind_keeps_its_log() {
    run(async {
        let hub: Arc<Hub> = Arc::default();
        let dirs = [0; 3].map(|_| tempfile::tempdir().unwrap());
        let disk = Troubled::new();
        let mut nodes = Vec::new();
        for id in 1..=2u64 {
            let mut config = config(id, &dirs[id as usize - 1]);
            // Otherwise the third node would not be sent what it can't write.
            config.limits.peer_bytes_max = 128 << 20;
            let node = Node::start(config, Arc::new(hub.clone())).await;
            hub.connect(id, node.manager.service());
            nodes.push(node);
        }
        let third = Manager::start_with(config(3, &dirs[2]), Arc::new(hub.clone()), disk.clone())
            .await
            .unwrap();
        hub.connect(3, third.service());
        let members = (1..=3).map(|id| (id, addr(id))).collect();
        nodes[0].manager.init(members, settings()).await.unwrap();
        let shard = nodes[0].manager.shard().clone();
        shard.submit(publish()).unwrap().await.unwrap();
        while third.shard().status().role == Role::Leader {
            third.transfer_leadership().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        shard.submit(call("before")).unwrap().await.unwrap();
        let settled = shard.status().resolved;
        third
            .shard()
            .resolved()
            .wait_for(|at| *at >= settled)
            .await
            .unwrap();

        // The third node's disk is slow for a moment; the others go on, and it resolves what it has not written.
        disk.set(Trouble::Hangs);
        for n in 0..8 {
            shard.submit(big(&format!("big{n}"))).unwrap().await.unwrap();
        }
        let last = shard.status().resolved;
        third.shard().resolved().wait_for(|at| *at >= last).await.unwrap();
        // And then it takes two writes more, and is full.
        disk.set(Trouble::FullAfter(2));
        third.fatal().wait_for(Option::is_some).await.unwrap();
        hub.disconnect(3);
        third.shutdown().await;
        let closed = third.closed();
        drop(third);
        closed.await;

        // Space is made, and it is started again, alone: it has its log.
        let again = Manager::start_with(config(3, &dirs[2]), Arc::new(Arc::<Hub>::default()), Disk)
            .await
            .unwrap();
        let read = again.shard().read(1, 1 << 20).await;
        assert!(!read.unwrap().is_empty(), "its log is gone");
        again.shutdown().await;
        drop(shard);
        for node in nodes {
            node.stop().await;
        }
    });
}
