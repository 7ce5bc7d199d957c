//! One WebSocket connection to a node, or to a plain SpacetimeDB server: they must not differ.

mod event;
mod frames;
mod thin;
mod v1;
mod v2;
mod wire;

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, SinkExt, StreamExt};
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::server;
pub use event::{Committed, Event, Reply, TableChange};
pub use thin::{Thin, Told};
pub use wire::Args;
use wire::Reader;

/// How long connecting and the first message may take together.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// The subprotocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// `v1.bsatn.spacetimedb`
    V1,
    /// `v2.bsatn.spacetimedb`
    V2,
    /// `v3.bsatn.spacetimedb`
    V3,
}

impl Wire {
    /// What today's SDKs speak with [the server that the tests run with](crate::server::binary).
    pub fn usual() -> Result<Self> {
        Ok(match server::major()? {
            ..2 => Self::V1,
            _ => Self::V3,
        })
    }

    /// The same for a [`Thin`] client, each of whose messages is a frame.
    pub fn thin() -> Result<Self> {
        Ok(match Self::usual()? {
            Self::V1 => Self::V1,
            Self::V2 | Self::V3 => Self::V2,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1.bsatn.spacetimedb",
            Self::V2 => "v2.bsatn.spacetimedb",
            Self::V3 => "v3.bsatn.spacetimedb",
        }
    }
}

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Connect {
    /// `host:port` of a node's gateway or of a SpacetimeDB server.
    pub addr: String,
    /// The database's name or identity.
    pub database: String,
    /// An earlier connection's token, to be the same identity again.
    pub token: Option<String>,
    /// The subprotocol to offer.
    pub wire: Wire,
    /// How messages may come compressed: `None`, `Gzip` or `Brotli`. Only a [`Thin`] client takes other than `None`.
    pub compression: &'static str,
    /// More query parameters, such as `&light=true`.
    pub parameters: String,
}

impl Connect {
    /// A new identity, speaking v1.
    pub fn new(addr: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            addr: addr.into(),
            database: database.into(),
            token: None,
            wire: Wire::V1,
            compression: "None",
            parameters: String::new(),
        }
    }

    /// As the owner of `token`.
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }
}

/// The first message of a connection: who the client is.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The client's identity, as on the wire (little endian).
    pub identity: [u8; 32],
    /// To connect with as the same identity.
    pub token: String,
    /// The connection's id, as on the wire (little endian).
    pub connection: [u8; 16],
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    wire: Wire,
    hello: Hello,
    next_request: u32,
    /// Events of a v3 frame that holds several.
    ready: VecDeque<Event>,
}

impl Client {
    /// Connects, and waits for the server's first message.
    pub async fn connect(to: &Connect) -> Result<Self> {
        timeout(CONNECT_MAX, Self::open(to))
            .await
            .with_context(|| format!("{} did not let the client in within {CONNECT_MAX:?}", to.addr))?
            .with_context(|| format!("connecting to {}", to.addr))
    }

    async fn open(to: &Connect) -> Result<Self> {
        let path = format!(
            "/v1/database/{}/subscribe?compression={}{}",
            to.database, to.compression, to.parameters
        );
        let mut request = format!("ws://{}{path}", to.addr).into_client_request()?;
        request
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, to.wire.name().parse()?);
        if let Some(token) = &to.token {
            request
                .headers_mut()
                .insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
        }
        let stream = TcpStream::connect(&to.addr).await?;
        stream.set_nodelay(true)?;
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        let mut reader = payload(frame(&mut socket).await?)?;
        let hello = match to.wire {
            Wire::V1 => v1::hello(&mut reader)?,
            Wire::V2 | Wire::V3 => v2::hello(&mut reader)?,
        };
        Ok(Self {
            socket,
            wire: to.wire,
            hello,
            next_request: 1,
            ready: VecDeque::new(),
        })
    }

    /// Who this client is.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Queues a call; [`Self::flush`] sends what is queued. Returns the call's request id, ascending from 1.
    pub async fn call(&mut self, reducer: &str, args: &Args) -> Result<u32> {
        let request_id = self.request_id();
        let mut out = BytesMut::with_capacity(32 + reducer.len() + args.bytes().len());
        match self.wire {
            Wire::V1 => v1::call(&mut out, reducer, args, request_id),
            Wire::V2 | Wire::V3 => v2::call(&mut out, reducer, args, request_id),
        }
        self.feed(out).await?;
        Ok(request_id)
    }

    /// Calls and waits for the answer, dropping what else comes before it.
    pub async fn call_and_wait(&mut self, reducer: &str, args: &Args) -> Result<Reply> {
        let request_id = self.call(reducer, args).await?;
        self.flush().await?;
        loop {
            match self.event().await? {
                Event::Reply(reply) if reply.answers(request_id) => return Ok(reply),
                _ => {}
            }
        }
    }

    /// Subscribes to `queries`; the answer is an event.
    pub async fn subscribe(&mut self, queries: &[&str], query_set: u32) -> Result<u32> {
        let request_id = self.request_id();
        let mut out = BytesMut::new();
        match self.wire {
            Wire::V1 => v1::subscribe(&mut out, queries, request_id, query_set),
            Wire::V2 | Wire::V3 => v2::subscribe(&mut out, queries, request_id, query_set),
        }
        self.feed(out).await?;
        self.flush().await?;
        Ok(request_id)
    }

    /// Sends a one-off query; the answer is an event.
    pub async fn query(&mut self, query: &str) -> Result<()> {
        let request_id = self.request_id();
        let mut out = BytesMut::new();
        match self.wire {
            Wire::V1 => v1::query(&mut out, query, request_id),
            Wire::V2 | Wire::V3 => v2::query(&mut out, query, request_id),
        }
        self.feed(out).await?;
        self.flush().await
    }

    /// Sends bytes as one binary frame, whatever they are.
    pub async fn send_raw(&mut self, frame: Bytes) -> Result<()> {
        Ok(self.socket.send(Message::Binary(frame)).await?)
    }

    /// Sends a text frame, which no SpacetimeDB client does.
    pub async fn send_text(&mut self, text: &str) -> Result<()> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// Sends what is queued.
    pub async fn flush(&mut self) -> Result<()> {
        Ok(self.socket.flush().await?)
    }

    /// The next message. An error is the connection's end.
    pub async fn event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let frame = frame(&mut self.socket).await?;
            self.decode(frame)?;
        }
    }

    /// The next message if it has arrived already.
    pub fn event_now(&mut self) -> Option<Result<Event>> {
        self.event().now_or_never()
    }

    /// Waits until the server ends the connection, and returns its close frame.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(frame))) => return frame,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Closes the connection politely.
    pub async fn close(mut self) {
        // The connection is over either way.
        let _ = self.socket.close(None).await;
    }

    fn request_id(&mut self) -> u32 {
        let request_id = self.next_request;
        self.next_request = request_id.wrapping_add(1);
        request_id
    }

    async fn feed(&mut self, message: BytesMut) -> Result<()> {
        Ok(self.socket.feed(Message::Binary(message.freeze())).await?)
    }

    fn decode(&mut self, frame: Bytes) -> Result<()> {
        let mut reader = payload(frame)?;
        loop {
            self.ready.push_back(match self.wire {
                Wire::V1 => v1::event(&mut reader, &self.hello.connection)?,
                Wire::V2 | Wire::V3 => v2::event(&mut reader)?,
            });
            if reader.is_empty() {
                return Ok(());
            }
            ensure!(
                self.wire == Wire::V3,
                "{} bytes after the message",
                reader.0.len()
            );
        }
    }
}

async fn frame(socket: &mut WebSocketStream<TcpStream>) -> Result<Bytes> {
    loop {
        match socket.next().await.context("the server ended the connection")?? {
            Message::Binary(frame) => return Ok(frame),
            Message::Close(Some(frame)) => bail!("closed: {} {}", frame.code, frame.reason),
            Message::Close(None) => bail!("closed without a reason"),
            Message::Text(text) => bail!("a text frame: {text}"),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

/// A server frame without its compression byte.
fn payload(mut frame: Bytes) -> Result<Reader> {
    ensure!(
        frame.first() == Some(&0),
        "compression byte {:?}, though the client asked for none",
        frame.first()
    );
    let _ = frame.split_to(1);
    Ok(Reader(frame))
}
