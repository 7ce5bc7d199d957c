//! Nodes in one process whose clocks, disks and network a test sets.

use super::cluster::{Node, call, config, publish, settings, timing};
use super::hub::{Hub, addr};
use crate::entry::EncodedBatch;
use crate::log::troubled::Troubled;
use crate::transport::wire::{Append, Appended, Header, ProposeReply, Reply, Request};
use crate::transport::{PeerError, Replies, Transport};
use crate::{ClockVerdict, FreeSpace, Propose, Role, SystemClock, Timing, WallClock};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tempfile::TempDir;

/// A clock that is wrong by so many seconds.
#[derive(Debug, Default)]
pub(super) struct Wrong(pub(super) AtomicI64);

impl WallClock for Wrong {
    fn now_us(&self) -> u64 {
        let wrong_us = self.0.load(SeqCst).saturating_mul(1_000_000);
        SystemClock.now_us().saturating_add_signed(wrong_us)
    }
}

/// A disk with so many bytes left.
#[derive(Debug)]
pub(super) struct Left(pub(super) AtomicU64);

impl FreeSpace for Left {
    fn free_bytes(&self, _path: &Path) -> std::io::Result<u64> {
        Ok(self.0.load(SeqCst))
    }
}

/// A network on which everything takes so long in each direction.
struct Slow(Arc<Hub>, Duration);

impl Slow {
    fn stream<T: Send + 'static>(&self, stream: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let delay = self.1;
        let late = move |item| async move {
            tokio::time::sleep(delay).await;
            item
        };
        stream.map(late).buffered(1024).boxed()
    }
}

impl Transport for Slow {
    fn call(
        &self,
        addr: &str,
        header: Header,
        request: Request,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let (hub, delay, addr) = (self.0.clone(), self.1, addr.to_owned());
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            let reply = hub.call(&addr, header, request).await;
            tokio::time::sleep(delay).await;
            reply
        })
    }

    fn append(
        &self,
        addr: &str,
        header: Header,
        entries: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<Replies<Appended>, PeerError>> {
        let open = self.0.append(addr, header, self.stream(entries));
        let delay = self.1;
        Box::pin(async move {
            let replies = open.await?;
            Ok(Slow(Arc::default(), delay).stream(replies))
        })
    }

    fn propose(
        &self,
        addr: &str,
        header: Header,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, Result<Replies<ProposeReply>, PeerError>> {
        let open = self.0.propose(addr, header, self.stream(batches));
        let delay = self.1;
        Box::pin(async move {
            let replies = open.await?;
            Ok(Slow(Arc::default(), delay).stream(replies))
        })
    }
}

/// Nodes whose clocks and disks a test sets.
pub(super) struct Nodes {
    pub(super) hub: Arc<Hub>,
    pub(super) nodes: Vec<Node>,
    pub(super) clocks: Vec<Arc<Wrong>>,
    pub(super) disks: Vec<Arc<Left>>,
    pub(super) files: Vec<Troubled>,
    dirs: Vec<TempDir>,
    timing: Timing,
}

impl Nodes {
    pub(super) async fn new(count: usize, timing: Timing, delay: Duration) -> Self {
        let hub: Arc<Hub> = Arc::default();
        let mut it = Self {
            hub: hub.clone(),
            nodes: Vec::new(),
            clocks: (0..count).map(|_| Arc::default()).collect(),
            disks: (0..count)
                .map(|_| Arc::new(Left(AtomicU64::new(1 << 40))))
                .collect(),
            files: (0..count).map(|_| Troubled::new()).collect(),
            dirs: (0..count).map(|_| tempfile::tempdir().unwrap()).collect(),
            timing,
        };
        for place in 0..count {
            let node = it.node(place, delay).await;
            it.nodes.push(node);
            // So that they do not all compare clocks at the same moments.
            tokio::time::sleep(Duration::from_millis(270)).await;
        }
        it
    }

    pub(super) async fn node(&self, place: usize, delay: Duration) -> Node {
        let mut config = config(place as u64 + 1, &self.dirs[place]);
        config.timing = self.timing.clone();
        config.wall_clock = self.clocks[place].clone();
        config.free_space = self.disks[place].clone();
        let transport: Arc<dyn Transport> = match delay.is_zero() {
            true => Arc::new(self.hub.clone()),
            false => Arc::new(Slow(self.hub.clone(), delay)),
        };
        let node = Node::start_on(config, transport, self.files[place].clone()).await;
        self.hub.connect(place as u64 + 1, node.manager.service());
        node
    }

    /// Starts the node at a place anew, without anything that it had.
    pub(super) async fn start_empty(&mut self, place: usize) {
        let node = self.nodes.remove(place);
        self.hub.disconnect(place as u64 + 1);
        node.stop().await;
        self.dirs[place] = tempfile::tempdir().unwrap();
        self.files[place] = Troubled::new();
        let node = self.node(place, Duration::ZERO).await;
        self.nodes.insert(place, node);
    }

    pub(super) async fn start(count: usize) -> Self {
        let it = Self::new(count, timing(), Duration::ZERO).await;
        let members = (1..=count as u64).map(|id| (id, addr(id))).collect();
        it.nodes[0].manager.init(members, settings()).await.unwrap();
        it.nodes[0]
            .manager
            .shard()
            .submit(publish())
            .unwrap()
            .await
            .unwrap();
        it
    }

    /// The place of a node that leads.
    pub(super) fn leader_now(&self) -> Option<usize> {
        self.nodes
            .iter()
            .position(|node| node.manager.shard().status().role == Role::Leader)
    }

    pub(super) async fn leader(&self) -> usize {
        loop {
            if let Some(leader) = self.leader_now() {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The place of the leader, once it is another one.
    pub(super) async fn other_leader(&self, old: usize) -> usize {
        loop {
            let leads = |place: &usize| self.nodes[*place].manager.shard().status().role == Role::Leader;
            if let Some(leader) = (0..self.nodes.len()).filter(|place| *place != old).find(leads) {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the node at a place is so.
    pub(super) async fn reaches(&self, place: usize, is_so: impl Fn(&crate::NodeStatus) -> bool) {
        while !is_so(&self.nodes[place].manager.status()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }

    /// Whether a call gets through from the place within so many seconds; the timestamp.
    pub(super) async fn call(&self, place: usize, name: &str, secs: u64) -> Option<i64> {
        let pending = self.nodes[place].manager.shard().submit(call(name)).unwrap();
        let done = tokio::time::timeout(Duration::from_secs(secs), pending).await;
        done.ok().map(|outcome| outcome.unwrap().timestamp_us)
    }

    pub(super) async fn until(&self, secs: u64, is_so: impl Fn(&Self) -> bool) -> bool {
        let until = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(secs), until)
            .await
            .is_ok()
    }

    pub(super) fn all_good(&self) -> bool {
        self.nodes.iter().all(|node| {
            let status = node.manager.status();
            status.clock == ClockVerdict::Good && status.troubles.is_empty()
        })
    }
}
