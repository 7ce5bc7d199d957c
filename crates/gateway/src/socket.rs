//! A WebSocket with a bounded queue before it, polled from one task.

mod counted;

pub(crate) use counted::Counted;

use crate::limits::{EARLY_BYTES_MAX, FRAGMENT_BYTES, READ_BUFFER_BYTES, WRITE_BUFFER_BYTES};
use crate::wire::{Received, Wire};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// What waits to be written.
#[derive(Debug)]
enum Outgoing {
    /// A message, or what is left of it.
    Message {
        /// What stands before the body.
        head: Bytes,
        body: Bytes,
        /// The body is counted elsewhere, since others have it, too.
        shared: bool,
        /// Its first frame has been sent.
        begun: bool,
    },
    /// Whole frames. They are counted elsewhere.
    Frames(Bytes),
}

/// A WebSocket and what waits to be written to it.
pub(crate) struct Socket<W> {
    wire: W,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    /// Frames that are being written as they are, in parts. They are counted elsewhere, or few.
    frames: VecDeque<Bytes>,
    /// Whether frames are not masked, and can be written as they are.
    serves: bool,
    /// Whether messages are text.
    is_text: bool,
    /// Goes before what is left of the queue.
    ping: bool,
    /// Goes when the queue is written.
    close: Option<CloseFrame>,
    /// Something was handed to the socket since it was last flushed.
    dirty: bool,
    /// What was read before it was wanted.
    ahead: VecDeque<Message>,
    ahead_bytes: usize,
    /// How it has ended, behind that.
    end: Option<Received>,
    /// How much had been read when the last message was there.
    read: u64,
}

/// How a WebSocket is set up: with small buffers, since an idle client costs us what they hold.
pub(crate) fn config(message_bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
        .accept_unmasked_frames(false)
}

impl<W: Wire> Socket<W> {
    pub(crate) fn new(wire: W) -> Self {
        Self {
            read: wire.read(),
            wire,
            queue: VecDeque::new(),
            queued_bytes: 0,
            frames: VecDeque::new(),
            serves: false,
            is_text: false,
            ping: false,
            close: None,
            dirty: false,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            end: None,
        }
    }

    /// The server's side of a WebSocket.
    pub(crate) fn serving(wire: W) -> Self {
        Self {
            serves: true,
            ..Self::new(wire)
        }
    }

    /// From now on messages are text.
    pub(crate) fn speak_text(&mut self) {
        self.is_text = true;
    }

    /// Queues a message.
    pub(crate) fn push(&mut self, message: Bytes) {
        self.push_parts(Bytes::new(), message, false);
    }

    /// Queues a message that begins with `head`. Its body may be counted elsewhere.
    pub(crate) fn push_parts(&mut self, head: Bytes, body: Bytes, shared: bool) {
        self.queued_bytes += head.len() + body.len();
        self.queue.push_back(Outgoing::Message {
            head,
            body,
            shared,
            begun: false,
        });
    }

    /// Queues frames as they are: whole messages of a server, small enough that pings can wait for them.
    pub(crate) fn push_frames(&mut self, bytes: Bytes) {
        self.queued_bytes += bytes.len();
        self.queue.push_back(Outgoing::Frames(bytes));
    }

    /// Sends a ping as soon as possible, in the middle of a large message too.
    pub(crate) fn ping(&mut self) {
        self.ping = true;
    }

    /// Closes once everything is written.
    pub(crate) fn close(&mut self, frame: CloseFrame) {
        self.close = Some(frame);
    }

    /// Forgets what waits, but for frames that are half written.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.queued_bytes = self.frames.iter().map(Bytes::len).sum();
    }

    /// Bytes that wait for the socket.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// How many of them are counted elsewhere.
    pub(crate) fn shared_bytes(&self) -> usize {
        let frames = self.frames.iter().map(Bytes::len).sum::<usize>();
        frames + self.queue.iter().map(Outgoing::shared_len).sum::<usize>()
    }

    /// Bytes that it holds: what waits, and what has come of messages that are still to be taken.
    pub(crate) fn bytes(&self) -> usize {
        let arriving = self.wire.read() - self.read;
        self.queued_bytes + self.ahead_bytes + usize::try_from(arriving).unwrap_or(usize::MAX)
    }

    /// How many bytes the network has taken.
    pub(crate) fn written(&self) -> u64 {
        self.wire.written()
    }

    /// Hands the queue to the socket, as far as it takes it. Ready when all is handed over.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.end.is_some() {
            // It takes nothing any more; what it sent before is still to be done.
            self.queue.clear();
            self.frames.clear();
            (self.queued_bytes, self.ping, self.dirty) = (0, false, false);
            return Poll::Ready(Ok(()));
        }
        loop {
            if !self.frames.is_empty() {
                ready!(self.poll_write_frames(cx))?;
            }
            if self.ping || !self.is_at_frames() {
                if !self.ping && self.queue.is_empty() && self.close.is_none() {
                    break;
                }
                ready!(self.wire.poll_ready(cx))?;
                if let Some(message) = self.next_frame() {
                    self.dirty = true;
                    self.wire.send(message)?;
                }
                continue;
            }
            // Behind what the socket itself still has to write: a pong may be half written, of which nobody here knows.
            ready!(self.wire.poll_flush(cx))?;
            self.dirty = false;
            self.begin_frames();
        }
        if self.queue.capacity() > 64 {
            self.queue.shrink_to(16);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether frames are next that go as they are: those that are ready, and those of large messages, so that they are not
    /// copied into the socket's own buffer, which would stay as large.
    fn is_at_frames(&self) -> bool {
        match self.queue.front() {
            Some(Outgoing::Frames(_)) => true,
            Some(message) => self.serves && (message.is_begun() || message.len() > WRITE_BUFFER_BYTES),
            None => false,
        }
    }

    /// Takes what is next from the queue to the frames that are being written.
    fn begin_frames(&mut self) {
        match self.queue.front_mut() {
            Some(Outgoing::Frames(bytes)) => {
                self.frames.push_back(std::mem::take(bytes));
                self.queue.pop_front();
            }
            Some(Outgoing::Message {
                head, body, begun, ..
            }) => {
                let part = body.split_to(body.len().min(FRAGMENT_BYTES));
                let last = body.is_empty();
                let opcode = match std::mem::replace(begun, true) {
                    false if self.is_text => TEXT,
                    false => BINARY,
                    true => CONTINUATION,
                };
                let frame = frame_head(opcode, last, head.len() + part.len());
                self.queued_bytes += frame.len();
                let parts = [frame, std::mem::take(head), part];
                self.frames
                    .extend(parts.into_iter().filter(|part| !part.is_empty()));
                if last {
                    self.queue.pop_front();
                }
            }
            None => {}
        }
    }

    fn poll_write_frames(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let before = self.wire.written();
        let written = self.wire.poll_write_frames(cx, &mut self.frames);
        let bytes = self.wire.written() - before;
        self.queued_bytes -= usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(self.queued_bytes);
        ready!(written)?;
        // The socket may have had to wait meanwhile.
        self.dirty = true;
        Poll::Ready(Ok(()))
    }

    /// The next frame. A large message is several, so that none of it waits in the socket's own buffer.
    fn next_frame(&mut self) -> Option<Message> {
        if std::mem::take(&mut self.ping) {
            return Some(Message::Ping(Bytes::new()));
        }
        let (head, body, begun) = match self.queue.front_mut() {
            Some(Outgoing::Message {
                head, body, begun, ..
            }) => (head, body, begun),
            Some(Outgoing::Frames(_)) => return None,
            None => return self.close.take().map(|frame| Message::Close(Some(frame))),
        };
        let length = body.len().min(FRAGMENT_BYTES - head.len());
        let part = body.split_to(length);
        let payload = match head.is_empty() {
            true => part,
            false => {
                let mut payload = BytesMut::with_capacity(head.len() + length);
                payload.extend_from_slice(&std::mem::take(head));
                payload.extend_from_slice(&part);
                payload.freeze()
            }
        };
        let kind = match std::mem::replace(begun, true) {
            false if self.is_text => Data::Text,
            false => Data::Binary,
            true => Data::Continue,
        };
        let last = body.is_empty();
        if last {
            self.queue.pop_front();
        }
        self.queued_bytes -= payload.len();
        Some(Message::Frame(Frame::message(payload, OpCode::Data(kind), last)))
    }

    /// Writes everything to the network. To be called when nothing else is to be done: so messages that come together
    /// leave together.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_write(cx))?;
        if self.dirty {
            ready!(self.wire.poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether something waits to be written, here or in the socket.
    pub(crate) fn is_writing(&self) -> bool {
        self.dirty || self.ping || !self.queue.is_empty() || !self.frames.is_empty()
    }

    /// The next message. Pings are answered by the socket itself, at the next read.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if let Some(message) = self.ahead.pop_front() {
            self.ahead_bytes -= cost(&message);
            return Poll::Ready(Some(Ok(message)));
        }
        match self.end.take() {
            Some(end) => Poll::Ready(end),
            None => self.poll_next(cx),
        }
    }

    /// Takes an end back that was read, for the next to read.
    pub(crate) fn unread(&mut self, end: Received) {
        self.end = Some(end);
    }

    /// Reads on though no message is wanted: pings are answered, and a client that leaves is noticed. What it sends is kept
    /// for later, and if that is much, nothing more is read. Ready when it has left: [`Socket::poll_read`] gives what it sent
    /// before, and then the end.
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.end.is_none() && self.ahead_bytes < EARLY_BYTES_MAX {
            match ready!(self.poll_next(cx)) {
                Some(Ok(message)) if message.is_ping() || message.is_pong() => {}
                Some(Ok(message)) if !message.is_close() => {
                    self.ahead_bytes += cost(&message);
                    self.ahead.push_back(message);
                }
                end => self.end = Some(end),
            }
        }
        match self.end {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }

    /// The same, but what it sent before is to be taken first.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_left(cx) {
            Poll::Ready(()) if self.ahead.is_empty() => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        let received = ready!(self.wire.poll_receive(cx));
        self.read = self.wire.read();
        Poll::Ready(received)
    }

    /// Flushes, and reads until the client's close frame or its end. What follows bytes that can't be read is thrown
    /// away: with unread bytes the connection would be reset, and the close frame lost with it.
    pub(crate) async fn until_closed(&mut self) {
        let mut readable = true;
        poll_fn(|cx| {
            if matches!(self.poll_flush(cx), Poll::Ready(Err(_))) && !readable {
                return Poll::Ready(());
            }
            while readable {
                readable = match ready!(self.poll_next(cx)) {
                    Some(Ok(Message::Close(_))) | None => false,
                    Some(Ok(_)) => true,
                    Some(Err(_)) => false,
                };
            }
            self.wire.poll_drain(cx)
        })
        .await;
    }
}

impl Outgoing {
    fn len(&self) -> usize {
        match self {
            Self::Message { head, body, .. } => head.len() + body.len(),
            Self::Frames(bytes) => bytes.len(),
        }
    }

    fn is_begun(&self) -> bool {
        matches!(self, Self::Message { begun: true, .. })
    }

    fn shared_len(&self) -> usize {
        match self {
            Self::Message { body, shared, .. } if *shared => body.len(),
            Self::Message { .. } => 0,
            Self::Frames(bytes) => bytes.len(),
        }
    }
}

/// What the first frame of a binary message is, and what the others are (RFC 6455, section 5.2).
pub(crate) const BINARY: u8 = 0x2;
const TEXT: u8 = 0x1;
const CONTINUATION: u8 = 0x0;

/// The head of a frame that is not masked.
pub(crate) fn frame_head(opcode: u8, last: bool, length: usize) -> Bytes {
    const FIN: u8 = 0x80;
    let mut head = BytesMut::with_capacity(FRAME_HEAD_BYTES_MAX);
    head.put_u8(opcode | if last { FIN } else { 0 });
    match length {
        0..=125 => head.put_u8(length as u8),
        126..=0xffff => {
            head.put_u8(126);
            head.put_u16(length as u16);
        }
        _ => {
            head.put_u8(127);
            head.put_u64(length as u64);
        }
    }
    head.freeze()
}

/// Bytes of a frame's head: two, and the length.
pub(crate) const FRAME_HEAD_BYTES_MAX: usize = 2 + 8;

/// What a message takes that is kept: one without bytes takes room too.
fn cost(message: &Message) -> usize {
    size_of::<Message>() + message.len()
}

#[cfg(test)]
mod tests;
