//! What the client is to get, before it is framed.

use bytes::Bytes;
use futures::FutureExt;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::compress::{self, Compression};
use std::collections::VecDeque;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// Bytes of the messages that share a v3 frame. SpacetimeDB's own bound is 512 KiB.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// Messages above this many bytes are compressed away from the session's task, so that nothing else waits for them.
const COMPRESS_INLINE_BYTES_MAX: usize = 128 << 10;

/// Messages for the client, in order, to be made payloads: compressed as it asked, and for v3 several in one.
pub(super) struct Outbox {
    subprotocol: Subprotocol,
    compression: Compression,
    messages: VecDeque<Bytes>,
    bytes: usize,
    compressing: Option<JoinHandle<Bytes>>,
}

impl Outbox {
    pub(super) fn new(subprotocol: Subprotocol, compression: Compression) -> Self {
        Self {
            subprotocol,
            compression,
            messages: VecDeque::new(),
            bytes: 0,
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

    /// Whether nothing is left to send.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.compressing.is_none()
    }

    /// The next payload, or `None` if there is nothing to send.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(compressing) = &mut self.compressing {
            let done = futures::ready!(compressing.poll_unpin(cx));
            self.compressing = None;
            // The task can only fail by being cancelled with the runtime, and then nobody is left to send to.
            return Poll::Ready(done.ok());
        }
        let Some(first) = self.messages.pop_front() else {
            return Poll::Ready(None);
        };
        let mut batch_bytes = first.len();
        let mut batch = vec![first];
        while self.subprotocol == Subprotocol::V3
            && let Some(next) = self.messages.front()
            && batch_bytes + next.len() <= FRAME_BYTES_MAX
        {
            batch_bytes += next.len();
            batch.extend(self.messages.pop_front());
        }
        self.bytes -= batch_bytes;
        let compression = self.compression;
        let encode = move || compress::encode_all(compression, batch.iter().map(|message| message.as_ref()));
        if compression != Compression::None && batch_bytes > COMPRESS_INLINE_BYTES_MAX {
            self.compressing = Some(tokio::task::spawn_blocking(encode));
            return self.poll_next(cx);
        }
        Poll::Ready(Some(encode()))
    }
}
