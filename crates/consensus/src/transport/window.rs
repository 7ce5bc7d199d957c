//! What is on its way to a follower.

use super::wire::Append;
use crate::budget::{ByteBudget, Permit, Share};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Requests of one stream that are not answered yet. A follower's raft takes as many before it has done with the
/// first, so that none is left unread in the connection, where it would hold up those of other groups.
const REQUESTS_MAX: usize = 64;

/// For each peer, the bytes that are on their way to it, of all groups together.
#[derive(Debug)]
pub(crate) struct PeerBudgets {
    bytes_max: usize,
    budgets: Mutex<BTreeMap<u64, Arc<ByteBudget>>>,
}

impl PeerBudgets {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            budgets: Mutex::default(),
        }
    }

    pub(crate) fn of(&self, peer: u64) -> Arc<ByteBudget> {
        let mut budgets = self.budgets.lock();
        budgets
            .entry(peer)
            .or_insert_with(|| ByteBudget::new(self.bytes_max))
            .clone()
    }

    /// Bytes that are on their way to anybody.
    pub(crate) fn held(&self) -> usize {
        self.budgets.lock().values().map(|budget| budget.held()).sum()
    }
}

/// The requests of one stream that are not answered yet, each with its bytes of the peer's budget.
pub(super) struct Window {
    share: Share,
    places: Arc<Semaphore>,
    requests: Mutex<VecDeque<Request>>,
}

/// What a request holds until it is answered.
struct Request {
    _place: Option<OwnedSemaphorePermit>,
    _bytes: Option<Permit>,
}

impl Window {
    pub(super) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            share,
            places: Arc::new(Semaphore::new(REQUESTS_MAX)),
            requests: Mutex::default(),
        })
    }

    /// Waits until another request may be made.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // Always one: the semaphore is not closed.
        self.places.clone().acquire_owned().await.ok()
    }

    /// Waits until a request may be sent. One without entries, as heartbeats are, never waits.
    pub(super) async fn enter(&self, place: Option<OwnedSemaphorePermit>, append: &Append) {
        let bytes = match append.entries.is_empty() {
            true => None,
            false => Some(self.share.acquire(append.encoded_len()).await),
        };
        self.requests.lock().push_back(Request {
            _place: place,
            _bytes: bytes,
        });
    }
}

/// Replies, each of which makes room in the window. Once they are not wanted any more, nothing is sent either.
pub(super) struct WindowReplies<S> {
    window: Arc<Window>,
    replies: S,
    /// Ends the stream of requests when it is dropped.
    _wanted: oneshot::Sender<()>,
}

impl<S> WindowReplies<S> {
    pub(super) fn new(window: Arc<Window>, replies: S, wanted: oneshot::Sender<()>) -> Self {
        Self {
            window,
            replies,
            _wanted: wanted,
        }
    }
}

impl<S: Stream + Unpin> Stream for WindowReplies<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let reply = self.replies.poll_next_unpin(cx);
        if reply.is_ready() {
            self.window.requests.lock().pop_front();
        }
        reply
    }
}

impl<S> Drop for WindowReplies<S> {
    fn drop(&mut self) {
        self.window.requests.lock().clear();
    }
}
