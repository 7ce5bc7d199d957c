//! What the client is to get, before it is framed.

use crate::limits::{APART_BYTES, FRAGMENT_BYTES};
use crate::pool::Pool;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, ready};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::compress::{self, Compression};
use std::collections::VecDeque;
use std::task::{Context, Poll};

/// Bytes of the messages that share a v3 frame. SpacetimeDB's own bound is 512 KiB.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// A payload: its first bytes, and the others.
pub(super) type Payload = (Bytes, Bytes);

/// Messages for the client, in order, to be made payloads: compressed as it asked, and for v3 several in one.
pub(super) struct Outbox {
    subprotocol: Subprotocol,
    compression: Compression,
    messages: VecDeque<Bytes>,
    bytes: usize,
    pool: Pool,
    compressing: Option<Compressing>,
}

/// A payload that is being compressed, and the bytes it is made of.
struct Compressing {
    payload: BoxFuture<'static, Bytes>,
    bytes: usize,
}

impl Outbox {
    /// Compresses large payloads in `pool`.
    pub(super) fn new(subprotocol: Subprotocol, compression: Compression, pool: Pool) -> Self {
        Self {
            subprotocol,
            compression,
            messages: VecDeque::new(),
            bytes: 0,
            pool,
            compressing: None,
        }
    }

    pub(super) fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.messages.push_back(message);
    }

    /// Bytes that wait here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
        (self.compressing, self.bytes) = (None, 0);
    }

    /// Whether nothing is left to send.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.compressing.is_none()
    }

    /// The next payload, or `None` if there is nothing to send.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Payload>> {
        if let Some(compressing) = &mut self.compressing {
            let payload = ready!(compressing.payload.poll_unpin(cx));
            self.bytes -= compressing.bytes;
            self.compressing = None;
            return Poll::Ready(Some((Bytes::new(), payload)));
        }
        let Some(first) = self.messages.pop_front() else {
            return Poll::Ready(None);
        };
        let mut bytes = first.len();
        let mut batch = vec![first];
        while self.subprotocol == Subprotocol::V3
            && let Some(next) = self.messages.front()
            && bytes + next.len() <= FRAME_BYTES_MAX
        {
            bytes += next.len();
            batch.extend(self.messages.pop_front());
        }
        if self.compression == Compression::None
            && bytes > FRAGMENT_BYTES
            && let [message] = batch.as_slice()
        {
            self.bytes -= bytes;
            return Poll::Ready(Some((compress::uncompressed(), message.clone())));
        }
        let compression = self.compression;
        let encode = move || compress::encode_all(compression, batch.iter().map(|message| message.as_ref()));
        if compression == Compression::None || bytes <= APART_BYTES {
            self.bytes -= bytes;
            return Poll::Ready(Some((Bytes::new(), encode())));
        }
        let pool = self.pool.clone();
        self.compressing = Some(Compressing {
            payload: async move { pool.run(bytes, encode).await }.boxed(),
            bytes,
        });
        self.poll_next(cx)
    }
}
