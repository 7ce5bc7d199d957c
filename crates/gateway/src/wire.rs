//! What carries a WebSocket's messages: the library over the network, or what stands in for both.

use crate::socket::Counted;
use bytes::Bytes;
use futures::{Sink, Stream};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Bytes thrown away at a time.
const SCRAP_BYTES: usize = 4 << 10;

/// What a wire gives: a message, or its end.
pub type Received = Option<Result<Message, Error>>;

/// A WebSocket to a client, or to the local server. Pings are answered by itself.
pub trait Wire: Send + Unpin {
    /// The next message.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received>;

    /// Whether there is room for a message.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>>;

    /// Takes a message, or a frame of one, for which there is [room](Wire::poll_ready).
    ///
    /// # Errors
    /// Why it can't be sent.
    fn send(&mut self, message: Message) -> Result<(), Error>;

    /// Sends what it has taken.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>>;

    /// Sends frames as they are, in parts. Until the last of them is sent, whatever else is to be sent has to wait, and is not
    /// woken for it.
    fn poll_write_frames(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<()>>;

    /// Reads to the end and throws away what comes, whether it is a message or not.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// How many bytes it has taken over to the other side.
    fn written(&self) -> u64;

    /// How many bytes it has brought, of messages that are not whole yet too.
    fn read(&self) -> u64;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for WebSocketStream<Counted<S>> {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        Pin::new(self).poll_next(cx)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Sink::poll_ready(Pin::new(self), cx)
    }

    fn send(&mut self, message: Message) -> Result<(), Error> {
        Pin::new(self).start_send(message)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Sink::poll_flush(Pin::new(self), cx)
    }

    fn poll_write_frames(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll_write_frames(cx, parts)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; SCRAP_BYTES];
        loop {
            let mut scrap = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(self.get_mut()).poll_read(cx, &mut scrap));
            if read.is_err() || scrap.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    fn written(&self) -> u64 {
        self.get_ref().written
    }

    fn read(&self) -> u64 {
        self.get_ref().read
    }
}

impl Wire for Box<dyn Wire> {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        (**self).poll_receive(cx)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        (**self).poll_ready(cx)
    }

    fn send(&mut self, message: Message) -> Result<(), Error> {
        (**self).send(message)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        (**self).poll_flush(cx)
    }

    fn poll_write_frames(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<()>> {
        (**self).poll_write_frames(cx, parts)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_drain(cx)
    }

    fn written(&self) -> u64 {
        (**self).written()
    }

    fn read(&self) -> u64 {
        (**self).read()
    }
}
