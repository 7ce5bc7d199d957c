//! What the client is to get, before it is framed.

use crate::close::CloseReason;
use crate::feed::Frames;
use crate::json::{self, Untranslatable};
use crate::limits::{APART_BYTES, FRAGMENT_BYTES, JSON_APART_BYTES, JSON_BYTES_MAX, V3_FRAME_BYTES_MAX};
use crate::pool::Pool;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, ready};
use rtdb_determinism::Module;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::compress::{self, Compression};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// What goes to the socket.
pub(super) enum Payload {
    /// A payload: its first bytes, and the others, which other clients may share.
    Parts(Bytes, Bytes, bool),
    /// Whole frames.
    Frames(Arc<Frames>),
    /// What was to be said can't be said to this client: nothing of what comes after it is, either.
    Unsayable(CloseReason),
}

/// What waits.
enum Outgoing {
    /// A message: its first bytes, and the others, which other clients may share.
    Message(Bytes, Bytes, bool),
    /// A message that is translated into JSON, by the types of this module.
    Json(Bytes, Arc<Module>),
    /// What others get, too.
    Shared(Arc<Frames>),
}

impl Outgoing {
    fn len(&self) -> usize {
        match self {
            Self::Message(head, body, _) => head.len() + body.len(),
            Self::Json(message, _) => message.len(),
            Self::Shared(frames) => frames.len(),
        }
    }

    /// What it takes: its bytes, and its place in the queue.
    fn cost(&self) -> usize {
        size_of::<Self>() + self.len()
    }

    fn shared_len(&self) -> usize {
        match self {
            Self::Message(_, body, true) => body.len(),
            Self::Message(_, _, false) | Self::Json(..) => 0,
            Self::Shared(frames) => frames.len(),
        }
    }
}

/// Messages for the client, in order, to be made payloads: compressed as it asked, and for v3 several in one.
pub(super) struct Outbox {
    subprotocol: Subprotocol,
    compression: Compression,
    queue: VecDeque<Outgoing>,
    bytes: usize,
    /// How many of them are shared.
    shared_bytes: usize,
    pool: Pool,
    compressing: Option<Compressing>,
    /// The module that runs, for a client that is spoken to in JSON.
    json: Option<Arc<Module>>,
}

/// A payload that is being compressed, and the bytes it is made of.
struct Compressing {
    payload: BoxFuture<'static, Made>,
    bytes: usize,
    shared_bytes: usize,
    /// How large the payload is, once it is made: it may wait for the client, too.
    made: Arc<AtomicUsize>,
}

/// A payload that was made, or why it can't be.
type Made = Result<Bytes, CloseReason>;

impl Outbox {
    /// Compresses large payloads in `pool`.
    pub(super) fn new(subprotocol: Subprotocol, compression: Compression, pool: Pool) -> Self {
        Self {
            subprotocol,
            compression,
            queue: VecDeque::new(),
            bytes: 0,
            shared_bytes: 0,
            pool,
            compressing: None,
            json: None,
        }
    }

    /// From now on messages are translated into JSON.
    pub(super) fn speak_json(&mut self, module: Arc<Module>) {
        self.json = Some(module);
    }

    pub(super) fn push(&mut self, message: Bytes) {
        self.push_parts_of(Bytes::new(), message, false);
    }

    fn push_parts_of(&mut self, head: Bytes, body: Bytes, shared: bool) {
        self.put(match self.json.clone() {
            Some(module) if head.is_empty() => Outgoing::Json(body, module),
            Some(module) => Outgoing::Json([head, body].concat().into(), module),
            None => Outgoing::Message(head, body, shared),
        });
    }

    /// A message whose body others get, too.
    pub(super) fn push_parts(&mut self, head: Bytes, body: Bytes) {
        self.push_parts_of(head, body, true);
    }

    /// What was made for several clients, this one among them.
    pub(super) fn push_shared(&mut self, frames: Arc<Frames>) {
        self.put(Outgoing::Shared(frames));
    }

    fn put(&mut self, outgoing: Outgoing) {
        self.bytes += outgoing.cost();
        self.shared_bytes += outgoing.shared_len();
        self.queue.push_back(outgoing);
    }

    fn take(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.pop_front()?;
        self.bytes -= outgoing.cost();
        self.shared_bytes -= outgoing.shared_len();
        Some(outgoing)
    }

    /// How many of the bytes that wait are counted elsewhere.
    pub(super) fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// How the client is spoken to.
    pub(super) fn kind(&self) -> (Subprotocol, Compression) {
        (self.subprotocol, self.compression)
    }

    /// Bytes that wait here.
    pub(super) fn bytes(&self) -> usize {
        let made = self.compressing.as_ref();
        self.bytes + made.map_or(0, |making| making.made.load(Ordering::Relaxed))
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        (self.compressing, self.bytes, self.shared_bytes) = (None, 0, 0);
    }

    /// Whether nothing is left to send.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.compressing.is_none()
    }

    /// The next payload, or `None` if there is nothing to send.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Payload>> {
        if let Some(compressing) = &mut self.compressing {
            let payload = ready!(compressing.payload.poll_unpin(cx));
            self.bytes -= compressing.bytes;
            self.shared_bytes -= compressing.shared_bytes;
            self.compressing = None;
            return Poll::Ready(Some(self.made(payload)));
        }
        let Some(first) = self.take() else {
            return Poll::Ready(None);
        };
        let (mut bytes, mut shared_bytes) = (first.len(), first.shared_len());
        let (mut parts, shared) = match first {
            Outgoing::Message(head, body, shared) => (vec![head, body], shared),
            Outgoing::Shared(frames) => return Poll::Ready(Some(Payload::Frames(frames))),
            Outgoing::Json(message, module) => {
                if bytes <= JSON_APART_BYTES {
                    match json::message(&module, &message, APART_BYTES) {
                        // The names make much of little.
                        Err(Untranslatable::TooLarge) => {}
                        made => return Poll::Ready(Some(self.made(made.map_err(unsayable)))),
                    }
                }
                let make = move || json::message(&module, &message, JSON_BYTES_MAX).map_err(unsayable);
                return self.poll_made(bytes, 0, make, cx);
            }
        };
        while self.subprotocol == Subprotocol::V3
            && let Some(next @ Outgoing::Message(..)) = self.queue.front()
            && bytes + next.len() <= V3_FRAME_BYTES_MAX
        {
            bytes += next.len();
            shared_bytes += next.shared_len();
            if let Some(Outgoing::Message(head, body, _)) = self.take() {
                parts.extend([head, body]);
            }
        }
        if self.compression == Compression::None
            && bytes > FRAGMENT_BYTES
            && let [head, body] = parts.as_slice()
        {
            let head = match head.is_empty() {
                true => compress::uncompressed(),
                false => [&compress::uncompressed(), &head[..]].concat().into(),
            };
            return Poll::Ready(Some(Payload::Parts(head, body.clone(), shared)));
        }
        let compression = self.compression;
        let encode = move || compress::encode_all(compression, parts.iter().map(|part| part.as_ref()));
        if compression == Compression::None || bytes <= APART_BYTES {
            return Poll::Ready(Some(self.made(Ok(encode()))));
        }
        self.poll_made(bytes, shared_bytes, move || Ok(encode()), cx)
    }

    /// Makes a payload of so many bytes apart.
    fn poll_made(
        &mut self,
        bytes: usize,
        shared_bytes: usize,
        make: impl FnOnce() -> Made + Send + 'static,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Payload>> {
        let (pool, made) = (self.pool.clone(), Arc::<AtomicUsize>::default());
        self.bytes += bytes;
        self.shared_bytes += shared_bytes;
        let count = made.clone();
        let make = move || {
            let payload = make();
            count.store(payload.as_ref().map_or(0, Bytes::len), Ordering::Relaxed);
            payload
        };
        self.compressing = Some(Compressing {
            payload: async move { pool.apart(make).await }.boxed(),
            bytes,
            shared_bytes,
            made,
        });
        self.poll_next(cx)
    }

    fn made(&mut self, payload: Made) -> Payload {
        match payload {
            Ok(payload) => Payload::Parts(Bytes::new(), payload, false),
            Err(reason) => {
                self.clear();
                Payload::Unsayable(reason)
            }
        }
    }
}

fn unsayable(error: Untranslatable) -> CloseReason {
    let code = match error {
        Untranslatable::TooLarge | Untranslatable::ValueTooLarge => CloseReason::TOO_BIG,
        Untranslatable::Misread(_) => {
            tracing::error!(%error, "a client can't be told in JSON");
            CloseReason::ERROR
        }
    };
    CloseReason::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tests::{ROWS, answer, module_with};
    use crate::limits::APART_MAX;
    use std::future::poll_fn;
    use std::time::Duration;

    /// How long anything here may take.
    const SOON: Duration = Duration::from_secs(10);

    fn outbox(compression: Compression) -> Outbox {
        Outbox::new(Subprotocol::V2, compression, Pool::new(APART_MAX))
    }

    #[test]
    fn what_waits_takes_room_besides_its_bytes() {
        let mut outbox = outbox(Compression::None);
        let frames = Arc::new(Frames::Ready(Bytes::from_static(&[0x82, 1, 9])));
        for _ in 0..1_000 {
            outbox.push_shared(frames.clone());
        }
        let own = outbox.bytes() - outbox.shared_bytes();
        assert!(own >= 1_000 * size_of::<Outgoing>(), "{own} bytes");
    }

    #[tokio::test]
    async fn what_is_shared_is_while_it_is_compressed_too() {
        let mut outbox = outbox(Compression::Gzip);
        let body = Bytes::from(vec![0; 1 << 20]);
        outbox.push_parts(Bytes::new(), body.clone());
        poll_fn(|cx| {
            assert!(outbox.poll_next(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(outbox.shared_bytes(), body.len());
        assert!(poll_fn(|cx| outbox.poll_next(cx)).await.is_some());
        assert_eq!((outbox.bytes(), outbox.shared_bytes()), (0, 0));
    }

    #[tokio::test]
    async fn who_would_be_told_too_much_in_json_hears_so_and_nothing_after_it() {
        let mut outbox = outbox(Compression::None);
        outbox.speak_json(Arc::new(module_with(&"n".repeat(JSON_BYTES_MAX / 2))));
        let answer = Bytes::from(answer(&[0, 6], ROWS));
        assert!(answer.len() < JSON_APART_BYTES, "it is small in BSATN");
        outbox.push(answer.clone());
        outbox.push(answer);
        match poll_fn(|cx| outbox.poll_next(cx)).await {
            Some(Payload::Unsayable(reason)) => assert_eq!(reason.code, CloseReason::TOO_BIG),
            _ => panic!("it is not refused"),
        }
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }

    #[tokio::test]
    async fn json_counts_while_it_waits_for_its_client() {
        let mut outbox = outbox(Compression::None);
        let name = 1 << 20;
        outbox.speak_json(Arc::new(module_with(&"n".repeat(name))));
        outbox.push(Bytes::from(answer(&[0, 6], ROWS)));
        poll_fn(|cx| {
            assert!(outbox.poll_next(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let counted = poll_fn(|cx| match outbox.bytes() {
            bytes if bytes > 2 * name => Poll::Ready(bytes),
            _ => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        });
        assert!(tokio::time::timeout(SOON, counted).await.is_ok());
        assert!(poll_fn(|cx| outbox.poll_next(cx)).await.is_some());
        assert_eq!(outbox.bytes(), 0);
    }
}
