//! A network in memory, whose links can be cut.

use crate::EncodedBatch;
use crate::service::Service;
use crate::transport::wire::{Append, Appended, Header, ProposeReply, Reply, Request};
use crate::transport::{PeerError, Replies, Transport};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// Nodes by address (`n1`, `n2`, …), and the links between them that are cut.
#[derive(Default)]
pub(super) struct Hub {
    services: Mutex<BTreeMap<u64, Weak<Service>>>,
    cut: watch::Sender<BTreeSet<(u64, u64)>>,
    /// Nodes that others see to be gone: who sees it, and whom.
    gone: watch::Sender<BTreeSet<(u64, u64)>>,
    /// Nodes that entries do not reach, and the bytes of those that were sent to them.
    swallowed: Mutex<BTreeMap<u64, usize>>,
    /// Nodes that answer no call.
    hung: Mutex<BTreeSet<u64>>,
    /// Addresses at which nobody is any more.
    left: Mutex<BTreeSet<String>>,
}

pub(super) fn addr(node: u64) -> String {
    format!("n{node}")
}

fn parse(addr: &str) -> Option<u64> {
    addr.strip_prefix('n')?.parse().ok()
}

impl Hub {
    pub(super) fn connect(&self, node: u64, service: &Arc<Service>) {
        self.services.lock().insert(node, Arc::downgrade(service));
        self.cut.send_modify(|cut| {
            cut.retain(|link| link.0 != 0 && link.0 != node || link.1 != 0 && link.1 != node)
        });
        self.gone
            .send_modify(|gone| gone.retain(|(_, whom)| *whom != node));
    }

    /// Takes a node off the network; its streams break.
    pub(super) fn disconnect(&self, node: u64) {
        self.services.lock().remove(&node);
    }

    /// Cuts the links between a node and all others.
    pub(super) fn isolate(&self, node: u64, nodes: impl Iterator<Item = u64>) {
        self.cut
            .send_modify(|cut| cut.extend(nodes.flat_map(|other| [(node, other), (other, node)])));
    }

    /// Ends a node's process, as the other nodes see it: nothing comes from it any more, and they are refused.
    pub(super) fn kill(&self, node: u64, nodes: impl Iterator<Item = u64> + Clone) {
        self.disconnect(node);
        self.isolate(node, nodes.clone());
        for other in nodes {
            self.show_gone(other, node);
        }
    }

    /// From now on a node sees another's process to be gone, whether it is or not.
    pub(super) fn show_gone(&self, to: u64, node: u64) {
        self.gone.send_if_modified(|gone| gone.insert((to, node)));
    }

    pub(super) fn heal(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }

    /// From now on a node takes in what carries entries, and never answers; heartbeats reach it.
    pub(super) fn swallow(&self, node: u64) {
        self.swallowed.lock().insert(node, 0);
    }

    /// Bytes that were sent to a node since then.
    pub(super) fn swallowed(&self, node: u64) -> usize {
        self.swallowed.lock().get(&node).copied().unwrap_or(0)
    }

    /// Entries reach all nodes again, on new streams: those that have lost some must be cut.
    pub(super) fn disgorge(&self) {
        self.swallowed.lock().clear();
    }

    /// From now on a node answers no call, as one whose process stands still.
    pub(super) fn hang(&self, node: u64) {
        self.hung.lock().insert(node);
    }

    /// From now on nobody is at an address; streams that go there go on until they are cut.
    pub(super) fn leave(&self, addr: &str) {
        self.left.lock().insert(addr.to_owned());
    }

    /// What of a stream of entries reaches a node.
    fn sift(self: &Arc<Self>, addr: &str, entries: BoxStream<'static, Append>) -> BoxStream<'static, Append> {
        let (hub, node) = (self.clone(), parse(addr).unwrap_or(0));
        let mut has_lost = false;
        entries
            .filter(move |append| {
                if let Some(bytes) = hub.swallowed.lock().get_mut(&node)
                    && (has_lost || !append.entries.is_empty())
                {
                    has_lost = true;
                    *bytes += append.encoded_len();
                }
                std::future::ready(!has_lost)
            })
            .boxed()
    }

    fn find(&self, from: u64, addr: &str) -> Result<(u64, Arc<Service>), PeerError> {
        let unreachable = || PeerError::unreachable("cut off");
        let node = parse(addr).ok_or_else(unreachable)?;
        if self.left.lock().contains(addr) {
            return Err(unreachable());
        }
        let service = self
            .services
            .lock()
            .get(&node)
            .and_then(Weak::upgrade)
            .ok_or_else(unreachable)?;
        if self.cut.borrow().contains(&(from, node)) {
            return Err(unreachable());
        }
        Ok((node, service))
    }

    fn until_cut(&self, from: u64, to: u64) -> impl Future<Output = ()> + Send + 'static {
        let mut cut = self.cut.subscribe();
        async move {
            drop(
                cut.wait_for(|cut| cut.contains(&(from, to)) || cut.contains(&(to, from)))
                    .await,
            )
        }
    }

    fn open<M: Send + 'static, R: Send + 'static>(
        &self,
        from: u64,
        addr: &str,
        messages: BoxStream<'static, M>,
        serve: impl FnOnce(&Service, BoxStream<'static, M>) -> Result<Replies<R>, PeerError>,
    ) -> BoxFuture<'static, Result<Replies<R>, PeerError>> {
        let opened = self.find(from, addr).and_then(|(to, service)| {
            // A task that has done much at once is told that nothing is ready (tokio's cooperative budget), the cut too: so
            // it is looked at again for each message.
            let cut = self.cut.subscribe();
            let messages = messages
                .take_until(self.until_cut(from, to).boxed())
                .take_while(move |_| std::future::ready(!cut.borrow().contains(&(from, to))))
                .boxed();
            let replies = serve(&service, messages)?;
            Ok(broken_off(replies, self.until_cut(from, to).boxed()).boxed())
        });
        Box::pin(async move { opened })
    }
}

/// The replies until the link is cut, and then an error.
fn broken_off<R: Send + 'static>(
    replies: Replies<R>,
    cut: BoxFuture<'static, ()>,
) -> impl Stream<Item = Result<R, PeerError>> + Send {
    let end = cut.map(|()| Err(PeerError::unreachable("cut off"))).into_stream();
    // A stream that ends by itself has ended; one that is cut ends with the error.
    let mut is_over = false;
    futures::stream::select(
        replies.map(Some).chain(futures::stream::iter([None])),
        end.map(Some),
    )
    .take_while(move |item| {
        let goes_on = !is_over && item.is_some();
        is_over |= matches!(item, Some(Err(_)));
        std::future::ready(goes_on)
    })
    .filter_map(std::future::ready)
}

impl Transport for Arc<Hub> {
    fn call(
        &self,
        addr: &str,
        header: Header,
        request: Request,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let found = self.find(header.from, addr);
        let hub = self.clone();
        Box::pin(async move {
            let (to, service) = found?;
            let cut = hub.until_cut(header.from, to);
            if hub.hung.lock().contains(&to) {
                cut.await;
                return Err(PeerError::unreachable("cut off"));
            }
            tokio::select! {
                reply = service.call(header, request) => reply,
                () = cut => Err(PeerError::unreachable("cut off")),
            }
        })
    }

    fn append(
        &self,
        addr: &str,
        header: Header,
        entries: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<Replies<Appended>, PeerError>> {
        let entries = self.sift(addr, entries);
        self.open(header.from, addr, entries, |service, entries| {
            service.append(&header, entries)
        })
    }

    fn propose(
        &self,
        addr: &str,
        header: Header,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, Result<Replies<ProposeReply>, PeerError>> {
        self.open(header.from, addr, batches, |service, batches| {
            service.propose(&header, batches)
        })
    }

    fn gone(&self, addr: &str, header: Header) -> BoxFuture<'static, ()> {
        let (mut gone, node) = (self.gone.subscribe(), parse(addr));
        Box::pin(async move {
            let is_seen = |gone: &BTreeSet<_>| node.is_some_and(|node| gone.contains(&(header.from, node)));
            if gone.wait_for(is_seen).await.is_err() {
                std::future::pending().await
            }
        })
    }
}
