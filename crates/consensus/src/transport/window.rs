//! What is on its way to a follower.

use super::peers::{Peers, Replies};
use super::wire::{Append, Appended};
use super::{PeerError, sanity};
use crate::budget::{Permit, Share};
use crate::record::LogIdRecord;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Requests of one stream that are not answered yet. A follower's raft takes as many before it has done with the
/// first, so that none is left unread in the connection, where it would hold up those of other groups.
const REQUESTS_MAX: usize = 64;

/// The requests of one stream that are not answered yet, each with its bytes of the peer's budget.
pub(super) struct Window {
    share: Share,
    places: Arc<Semaphore>,
    requests: Mutex<VecDeque<Request>>,
}

/// What a request holds until it is answered, and what may be answered.
struct Request {
    prev: Option<LogIdRecord>,
    last: Option<LogIdRecord>,
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
        let last = append.entries.last().and_then(|entry| entry.log_id);
        self.requests.lock().push_back(Request {
            prev: append.prev,
            last: last.or(append.prev),
            _place: place,
            _bytes: bytes,
        });
    }
}

/// Replies, each of which makes room in the window. Once they are not wanted any more, nothing is sent either.
pub(super) struct WindowReplies {
    window: Arc<Window>,
    replies: Replies<Appended>,
    peers: Arc<Peers>,
    /// Ends the stream of requests when it is dropped.
    _wanted: oneshot::Sender<()>,
}

impl WindowReplies {
    pub(super) fn new(
        window: Arc<Window>,
        replies: Replies<Appended>,
        peers: Arc<Peers>,
        wanted: oneshot::Sender<()>,
    ) -> Self {
        Self {
            window,
            replies,
            peers,
            _wanted: wanted,
        }
    }
}

impl Stream for WindowReplies {
    type Item = Result<Appended, PeerError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let reply = std::task::ready!(self.replies.poll_next_unpin(cx));
        let request = self.window.requests.lock().pop_front();
        let believed = reply.map(|reply| {
            let (reply, request) = (reply?, request.ok_or(sanity::Unsound::Answer)?);
            sanity::appended(&reply, request.prev, request.last, self.peers.term_max())?;
            Ok(reply)
        });
        Poll::Ready(believed)
    }
}

impl Drop for WindowReplies {
    fn drop(&mut self) {
        self.window.requests.lock().clear();
    }
}
