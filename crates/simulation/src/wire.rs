//! WebSockets without a network: messages go from one end to the other, in their order, as far as there is room.

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use rtdb_gateway::{Received, Wire};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio_tungstenite::tungstenite::{Error, Message};

/// One way of it.
#[derive(Default)]
struct Way(Mutex<State>);

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    bytes_max: usize,
    is_closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            bytes_max,
            ..State::default()
        })))
    }

    fn put(&self, message: Message) -> Result<usize, Error> {
        let mut state = self.0.lock();
        if state.is_closed {
            return Err(Error::ConnectionClosed);
        }
        let bytes = message.len();
        state.bytes += bytes;
        state.messages.push_back(message);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Ok(bytes)
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut state = self.0.lock();
        let Some(message) = state.messages.pop_front() else {
            if state.is_closed {
                return Poll::Ready(None);
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.bytes -= message.len();
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(message))
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.0.lock();
        if state.is_closed {
            return Poll::Ready(Err(Error::ConnectionClosed));
        }
        if state.bytes < state.bytes_max {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn close(&self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// One end of it. It is closed when this is dropped.
pub struct End {
    incoming: Arc<Way>,
    outgoing: Arc<Way>,
    written: u64,
    read: u64,
    /// Bytes of frames that are not whole.
    frames: BytesMut,
    /// What has come of a message in fragments.
    fragments: BytesMut,
}

/// Two ends: what may be on its way to the first, and to the second, in bytes.
pub fn pair(to_first: usize, to_second: usize) -> (End, End) {
    let (first, second) = (Way::new(to_first), Way::new(to_second));
    let end = |incoming: &Arc<Way>, outgoing: &Arc<Way>| End {
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        written: 0,
        read: 0,
        frames: BytesMut::new(),
        fragments: BytesMut::new(),
    };
    (end(&first, &second), end(&second, &first))
}

impl End {
    /// The next message; `None` at the end. A ping is answered.
    pub async fn receive(&mut self) -> Option<Message> {
        poll_fn(|cx| self.poll_receive(cx)).await?.ok()
    }

    /// Sends a binary message, whether there is room or not.
    ///
    /// # Errors
    /// If nobody is there any more.
    pub fn push(&mut self, message: Bytes) -> Result<(), Error> {
        self.send(Message::Binary(message))
    }

    /// Ends it. What has come is still received.
    pub fn shut(&self) {
        self.incoming.close();
        self.outgoing.close();
    }

    /// Whether it has ended.
    pub fn is_shut(&self) -> bool {
        self.outgoing.0.lock().is_closed
    }

    /// Sends what is whole of the frames.
    fn send_frames(&mut self) -> Result<(), Error> {
        while let Some((head, body)) = self
            .frames
            .first_chunk()
            .and_then(|first| length(*first, &self.frames))
        {
            if self.frames.len() < head + body {
                break;
            }
            let first = self.frames[0];
            self.frames.advance(head);
            let body = self.frames.split_to(body);
            self.fragment(&body, first & 0x80 != 0)?;
        }
        Ok(())
    }

    fn fragment(&mut self, body: &[u8], is_last: bool) -> Result<(), Error> {
        self.fragments.extend_from_slice(body);
        if is_last {
            let message = self.fragments.split().freeze();
            self.outgoing.put(Message::Binary(message))?;
        }
        Ok(())
    }
}

/// The lengths of a frame's head and body, if the head is there: of one that is not masked.
fn length(first: [u8; 2], frame: &[u8]) -> Option<(usize, usize)> {
    Some(match first[1] {
        126 => (4, u16::from_be_bytes(frame.get(2..4)?.try_into().ok()?).into()),
        127 => (
            10,
            u64::from_be_bytes(frame.get(2..10)?.try_into().ok()?) as usize,
        ),
        short => (2, short.into()),
    })
}

impl Drop for End {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Wire for End {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        self.incoming.poll_take(cx).map(|message| {
            let message = message?;
            self.read += message.len() as u64;
            if message.is_ping() {
                drop(self.outgoing.put(Message::Pong(Bytes::new())));
            }
            Some(Ok(message))
        })
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.outgoing.poll_room(cx)
    }

    fn send(&mut self, message: Message) -> Result<(), Error> {
        self.written += message.len() as u64;
        match message {
            Message::Frame(frame) => {
                let is_last = frame.header().is_final;
                self.fragment(frame.payload(), is_last)
            }
            message => self.outgoing.put(message).map(drop),
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(match self.is_shut() {
            true => Err(Error::ConnectionClosed),
            false => Ok(()),
        })
    }

    fn poll_write_frames(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<()>> {
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        while !parts.is_empty() {
            std::task::ready!(self.outgoing.poll_room(cx)).map_err(broken)?;
            let part = parts.pop_front().unwrap_or_default();
            self.written += part.len() as u64;
            self.frames.extend_from_slice(&part);
            self.send_frames().map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while std::task::ready!(self.incoming.poll_take(cx)).is_some() {}
        Poll::Ready(())
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn read(&self) -> u64 {
        self.read
    }
}
