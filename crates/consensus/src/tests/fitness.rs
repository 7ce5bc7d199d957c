//! Who may lead, and what a wrong clock, a full disk and a pause do.

use super::cluster::{Node, call, config, connect, publish, settings};
use super::hub::{Hub, addr};
use super::run;
use crate::{ClockVerdict, FreeSpace, NotProposed, Propose, Role, SystemClock, WallClock};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A clock that is wrong by so many seconds.
#[derive(Debug, Default)]
struct Wrong(AtomicI64);

impl WallClock for Wrong {
    fn now_us(&self) -> u64 {
        let wrong_us = self.0.load(Ordering::SeqCst) * 1_000_000;
        SystemClock.now_us().saturating_add_signed(wrong_us)
    }
}

/// A disk with so many bytes left.
#[derive(Debug)]
struct Left(AtomicU64);

impl FreeSpace for Left {
    fn free_bytes(&self, _path: &Path) -> std::io::Result<u64> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

struct Three {
    nodes: Vec<Node>,
    clocks: [Arc<Wrong>; 3],
    disks: [Arc<Left>; 3],
    _dirs: [TempDir; 3],
}

impl Three {
    async fn start() -> Self {
        let hub: Arc<Hub> = Arc::default();
        let dirs = [0; 3].map(|_| tempfile::tempdir().unwrap());
        let clocks = [0; 3].map(|_| Arc::<Wrong>::default());
        let disks = [0; 3].map(|_| Arc::new(Left(AtomicU64::new(1 << 40))));
        let mut nodes = Vec::new();
        for place in 0..3 {
            let mut config = config(place as u64 + 1, &dirs[place]);
            config.wall_clock = clocks[place].clone();
            config.free_space = disks[place].clone();
            let node = Node::start(config, Arc::new(hub.clone())).await;
            hub.connect(place as u64 + 1, node.manager.service());
            nodes.push(node);
        }
        let members = (1..=3).map(|id| (id, addr(id))).collect();
        nodes[0].manager.init(members, settings()).await.unwrap();
        nodes[0].manager.shard().submit(publish()).unwrap().await.unwrap();
        Self {
            nodes,
            clocks,
            disks,
            _dirs: dirs,
        }
    }

    /// The place of the shard's leader, once there is one that is not at `other`.
    async fn leader(&self, other: Option<usize>) -> usize {
        loop {
            let leads = |node: &Node| node.manager.shard().status().role == Role::Leader;
            let leader = self.nodes.iter().position(leads);
            if let Some(leader) = leader.filter(|leader| Some(*leader) != other) {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&self, place: usize, is_so: impl Fn(&crate::NodeStatus) -> bool) {
        while !is_so(&self.nodes[place].manager.status()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

#[test]
fn a_leader_whose_clock_jumps_gives_way_and_stamps_nothing() {
    run(async {
        let three = Three::start().await;
        let old = three.leader(None).await;
        three.clocks[old].0.store(3600, Ordering::SeqCst);
        let before = SystemClock.now_us() as i64;
        // It may take the call before it knows; its stamp is not of that clock.
        let at_once = three.nodes[old].manager.shard().submit(call("at once")).unwrap();
        let new = three.leader(Some(old)).await;
        let later = three.nodes[old].manager.shard().submit(call("later")).unwrap();
        for outcome in [at_once.await.unwrap(), later.await.unwrap()] {
            let ahead_s = (outcome.timestamp_us - before) / 1_000_000;
            assert!(ahead_s < 1800, "the log's time is {ahead_s} s ahead");
        }
        three.until(old, |status| status.troubles.len() == 1).await;
        let status = three.nodes[old].manager.status();
        assert!(matches!(status.clock, ClockVerdict::Off { .. }), "{status:?}");
        assert!(
            status.troubles[0].contains("ahead of the other nodes"),
            "{:?}",
            status.troubles
        );
        assert_eq!(three.nodes[new].manager.status().clock, ClockVerdict::Good);
        // It comes right, and may lead again.
        three.clocks[old].0.store(0, Ordering::SeqCst);
        three.until(old, |status| status.troubles.is_empty()).await;
        three.stop().await;
    });
}

#[test]
fn a_leader_whose_disk_is_nearly_full_gives_way_and_takes_no_calls() {
    run(async {
        let three = Three::start().await;
        let old = three.leader(None).await;
        let session = three.nodes[old]
            .manager
            .shard()
            .submit(connect())
            .unwrap()
            .await
            .unwrap();
        three.disks[old].0.store(1 << 20, Ordering::SeqCst);
        let new = three.leader(Some(old)).await;
        let shard = three.nodes[old].manager.shard();
        let refused = shard.submit(call("refused")).unwrap_err();
        assert!(matches!(refused, NotProposed::DiskLow { .. }), "{refused}");
        assert!(refused.to_string().contains("make room"), "{refused}");
        let disconnect = crate::command::Body::Disconnect(crate::command::Disconnect {
            session: session.position.0,
            refused: false,
        });
        shard.submit(disconnect.into()).unwrap().await.unwrap();
        three.nodes[new]
            .manager
            .shard()
            .submit(call("elsewhere"))
            .unwrap()
            .await
            .unwrap();
        // With all of them low somebody still leads, and room makes all well again.
        for disk in &three.disks {
            disk.0.store(1 << 20, Ordering::SeqCst);
        }
        for place in 0..3 {
            three.until(place, |status| status.space.is_low).await;
        }
        three.leader(None).await;
        for disk in &three.disks {
            disk.0.store(1 << 40, Ordering::SeqCst);
        }
        for place in 0..3 {
            three.until(place, |status| !status.space.is_low).await;
        }
        three.nodes[old]
            .manager
            .shard()
            .submit(call("again"))
            .unwrap()
            .await
            .unwrap();
        three.stop().await;
    });
}
