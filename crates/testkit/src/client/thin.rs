//! A connection that counts what it is told instead of reading it, so that thousands cost a load tool little.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::frames::{Frame, Frames};
use super::{Args, CONNECT_MAX, Connect, Wire, v1, v2};

/// Read at a time, in bytes; all connections of a thread share the memory.
const READ_BYTES: usize = 64 * 1024;

/// The longest head of an answer to the upgrade, in bytes.
const ANSWER_BYTES: usize = 8 * 1024;

/// How long a subscription's first rows may take, with thousands who ask for them at the same time.
const ROWS_MAX: Duration = Duration::from_secs(60);

const BINARY: u8 = 0x82;
const PONG: u8 = 0x8a;

/// One message, by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Rows changed by somebody's call; a v1 client that did not ask for `light=true` learns so of its own calls, too.
    Update,
    /// The answer to a call.
    Reply {
        /// Whether the call succeeded.
        ok: bool,
    },
    /// A subscription's first rows.
    Subscribed,
    /// The answer to a one-off query.
    QueryReply {
        /// Whether there are rows rather than an error.
        ok: bool,
    },
    /// Who the client is.
    Hello,
    /// A compressed message, of whatever kind.
    Compressed,
}

/// A connection.
#[derive(Debug)]
pub struct Thin {
    stream: TcpStream,
    frames: Frames,
    wire: Wire,
    light: bool,
    next_request: u32,
    /// Not sent yet.
    out: BytesMut,
}

impl Thin {
    /// Connects; the first thing told is [`Told::Hello`]. A message must be a frame: no v3.
    pub async fn connect(to: &Connect) -> Result<Self> {
        ensure!(to.wire != Wire::V3, "a thin client speaks v1 and v2");
        timeout(CONNECT_MAX, Self::open(to))
            .await
            .with_context(|| format!("{} did not let the client in within {CONNECT_MAX:?}", to.addr))?
            .with_context(|| format!("connecting to {}", to.addr))
    }

    async fn open(to: &Connect) -> Result<Self> {
        let mut stream = TcpStream::connect(&to.addr).await?;
        stream.set_nodelay(true)?;
        let token = to.token.as_ref();
        let authorization = token.map_or(String::new(), |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let request = format!(
            "GET /v1/database/{}/subscribe?compression={}{} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {}\r\n{authorization}\r\n",
            to.database,
            to.compression,
            to.parameters,
            to.addr,
            to.wire.name(),
        );
        stream.write_all(request.as_bytes()).await?;
        // Byte by byte, so that nothing of the first frame is taken.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            ensure!(answer.len() < ANSWER_BYTES, "an endless answer");
            answer.push(stream.read_u8().await?);
        }
        let answer = String::from_utf8_lossy(&answer);
        ensure!(
            answer.starts_with("HTTP/1.1 101"),
            "not upgraded but {}",
            answer.lines().next().unwrap_or_default()
        );
        Ok(Self {
            stream,
            frames: Frames::default(),
            wire: to.wire,
            light: to.parameters.contains("light=true"),
            next_request: 1,
            out: BytesMut::new(),
        })
    }

    /// Subscribes to `queries`, and waits for their rows.
    pub async fn subscribe(&mut self, queries: &[&str], query_set: u32) -> Result<()> {
        let mut message = BytesMut::new();
        let request_id = self.request_id();
        match self.wire {
            Wire::V1 => v1::subscribe(&mut message, queries, request_id, query_set),
            Wire::V2 | Wire::V3 => v2::subscribe(&mut message, queries, request_id, query_set),
        }
        self.send(&message).await?;
        let rows = async {
            let mut subscribed = false;
            while !subscribed {
                self.told(|told| subscribed |= told == Told::Subscribed).await?;
            }
            Ok(())
        };
        timeout(ROWS_MAX, rows)
            .await
            .with_context(|| format!("no first rows within {ROWS_MAX:?}"))?
    }

    /// Sends a call.
    pub async fn call(&mut self, reducer: &str, args: &Args) -> Result<()> {
        let mut message = BytesMut::new();
        let request_id = self.request_id();
        match self.wire {
            Wire::V1 => v1::call(&mut message, reducer, args, request_id),
            Wire::V2 | Wire::V3 => v2::call(&mut message, reducer, args, request_id),
        }
        self.send(&message).await
    }

    /// Sends a one-off query.
    pub async fn query(&mut self, query: &str) -> Result<()> {
        let mut message = BytesMut::new();
        let request_id = self.request_id();
        match self.wire {
            Wire::V1 => v1::query(&mut message, query, request_id),
            Wire::V2 | Wire::V3 => v2::query(&mut message, query, request_id),
        }
        self.send(&message).await
    }

    /// Waits until something has arrived, and says what. Nothing is lost if it is not awaited to its end.
    pub async fn told(&mut self, mut told: impl FnMut(Told)) -> Result<()> {
        loop {
            self.flush().await?;
            self.stream.readable().await?;
            let mut any = false;
            self.take(|one| {
                any = true;
                told(one);
            })?;
            if any {
                return self.flush().await;
            }
        }
    }

    /// What has arrived, as much as is read at a time.
    fn take(&mut self, mut told: impl FnMut(Told)) -> Result<()> {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let read = match self.stream.try_read(buffer) {
                Ok(0) => bail!("the server ended the connection"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let (wire, light, out) = (self.wire, self.light, &mut self.out);
            self.frames.feed(&buffer[..read], |frame| {
                match frame {
                    Frame::Message(head) => told(kind(wire, light, head)?),
                    Frame::Ping(payload) => put_frame(out, PONG, payload),
                    Frame::Close([high, low, reason @ ..]) => bail!(
                        "closed: {} {}",
                        u16::from_be_bytes([*high, *low]),
                        String::from_utf8_lossy(reason)
                    ),
                    Frame::Close(_) => bail!("closed without a reason"),
                }
                Ok(())
            })
        })
    }

    async fn send(&mut self, message: &[u8]) -> Result<()> {
        put_frame(&mut self.out, BINARY, message);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        while !self.out.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(&self.out) {
                Ok(sent) => self.out.advance(sent),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn request_id(&mut self) -> u32 {
        let request_id = self.next_request;
        self.next_request = request_id.wrapping_add(1);
        request_id
    }
}

/// A client's frame; its mask may be zero, and then is nothing to compute.
fn put_frame(out: &mut BytesMut, first: u8, payload: &[u8]) {
    const MASKED: u8 = 0x80;
    out.put_u8(first);
    match payload.len() {
        len @ ..126 => out.put_u8(MASKED | len as u8),
        len @ ..0x1_0000 => {
            out.put_u8(MASKED | 126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(MASKED | 127);
            out.put_u64(len as u64);
        }
    }
    out.put_u32(0);
    out.put_slice(payload);
}

/// From the message's first bytes: the compression, the tag, and at a known place how it went.
fn kind(wire: Wire, light: bool, head: &[u8]) -> Result<Told> {
    let at = |index: usize| head.get(index).copied().unwrap_or(u8::MAX);
    if at(0) != 0 {
        return Ok(Told::Compressed);
    }
    Ok(match (wire, at(1)) {
        (Wire::V1, 0 | 5 | 8) | (Wire::V2 | Wire::V3, 1) => Told::Subscribed,
        (Wire::V1, 1) if light => Told::Reply { ok: at(2) == 0 },
        (Wire::V1, 1 | 2) | (Wire::V2 | Wire::V3, 4) => Told::Update,
        (Wire::V1, 3) | (Wire::V2 | Wire::V3, 0) => Told::Hello,
        // After an id of four bytes and its length, there is no error.
        (Wire::V1, 4) => Told::QueryReply { ok: at(10) == 1 },
        (Wire::V2 | Wire::V3, 5) => Told::QueryReply { ok: at(6) == 0 },
        (Wire::V2 | Wire::V3, 6) => Told::Reply { ok: at(14) <= 1 },
        (_, tag) => bail!("a message with tag {tag}"),
    })
}
