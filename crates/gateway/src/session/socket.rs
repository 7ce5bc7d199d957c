//! A WebSocket with a bounded queue before it, polled from one task.

use futures::{Sink, Stream};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::limits::{READ_BUFFER_BYTES, WRITE_BUFFER_BYTES};

/// Bytes thrown away at a time.
const SCRAP_BYTES: usize = 4 << 10;

/// A WebSocket and what waits to be written to it.
pub(crate) struct Socket<S> {
    ws: WebSocketStream<S>,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    /// Something was handed to the socket since it was last flushed.
    dirty: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(crate) fn new(ws: WebSocketStream<S>) -> Self {
        Self {
            ws,
            queue: VecDeque::new(),
            queued_bytes: 0,
            dirty: false,
        }
    }

    /// Small buffers: an idle client costs us what they hold.
    pub(crate) fn config(message_bytes_max: Option<usize>) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(message_bytes_max)
            .max_frame_size(message_bytes_max)
            .accept_unmasked_frames(false)
    }

    pub(crate) fn push(&mut self, message: Message) {
        self.queued_bytes += message.len();
        self.queue.push_back(message);
    }

    /// Bytes that wait for the socket.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Hands the queue to the socket, as far as it takes it. Ready when all is handed over.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.queue.is_empty() {
            ready!(Pin::new(&mut self.ws).poll_ready(cx))?;
            if let Some(message) = self.queue.pop_front() {
                self.queued_bytes -= message.len();
                self.dirty = true;
                Pin::new(&mut self.ws).start_send(message)?;
            }
        }
        if self.queue.capacity() > 64 {
            self.queue.shrink_to(16);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes everything to the network. To be called when nothing else is to be done: so messages that come together
    /// leave together.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_write(cx))?;
        if self.dirty {
            ready!(Pin::new(&mut self.ws).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether something waits to be written, here or in the socket.
    pub(crate) fn is_writing(&self) -> bool {
        self.dirty || !self.queue.is_empty()
    }

    /// The next message. Pings are answered by the socket itself, at the next read.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        Pin::new(&mut self.ws).poll_next(cx)
    }

    /// Flushes, and reads until the client's close frame or its end. What follows bytes that can't be read is thrown
    /// away: with unread bytes the connection would be reset, and the close frame lost with it.
    pub(crate) async fn until_closed(&mut self) {
        let mut scrap = [0; SCRAP_BYTES];
        let mut readable = true;
        poll_fn(|cx| {
            if matches!(self.poll_flush(cx), Poll::Ready(Err(_))) && !readable {
                return Poll::Ready(());
            }
            while readable {
                readable = match ready!(self.poll_read(cx)) {
                    Some(Ok(Message::Close(_))) | None => false,
                    Some(Ok(_)) => true,
                    Some(Err(_)) => false,
                };
            }
            loop {
                let mut scrap = ReadBuf::new(&mut scrap);
                let read = ready!(Pin::new(self.ws.get_mut()).poll_read(cx, &mut scrap));
                if read.is_err() || scrap.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }
}
