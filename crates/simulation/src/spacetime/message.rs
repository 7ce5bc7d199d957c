//! What a server's client sends. The product's own reader is for messages of clients, who may not say all that the gateway
//! says.

use bytes::Bytes;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client::ReadKind;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A call.
    Call {
        request_id: u32,
        reducer: String,
        args: Bytes,
        is_silent: bool,
    },
    /// A query set begins, or ends.
    Set {
        kind: ReadKind,
        request_id: u32,
        set: u32,
        queries: Vec<String>,
        /// The rows that go with it are to be told (v2).
        wants_rows: bool,
    },
}

/// The messages of a frame: several in v3, else one.
pub(super) fn read(subprotocol: Subprotocol, frame: &Bytes) -> Option<Vec<Message>> {
    let mut reader = Reader(frame.clone());
    let mut messages = Vec::new();
    while !reader.0.is_empty() {
        messages.push(match subprotocol {
            Subprotocol::V1 => reader.v1()?,
            Subprotocol::V2 | Subprotocol::V3 => reader.v2()?,
        });
    }
    Some(messages)
}

struct Reader(Bytes);

impl Reader {
    fn v1(&mut self) -> Option<Message> {
        Some(match self.u8()? {
            0 => Message::Call {
                reducer: self.text()?,
                args: self.bytes()?,
                request_id: self.u32()?,
                is_silent: self.u8()? == 1,
            },
            3 => {
                let queries = vec![self.text()?];
                self.set(ReadKind::SubscribeSingle, queries)?
            }
            4 => {
                let queries = self.texts()?;
                self.set(ReadKind::SubscribeMulti, queries)?
            }
            5 => self.set(ReadKind::UnsubscribeSingle, Vec::new())?,
            6 => self.set(ReadKind::UnsubscribeMulti, Vec::new())?,
            _ => return None,
        })
    }

    fn set(&mut self, kind: ReadKind, queries: Vec<String>) -> Option<Message> {
        Some(Message::Set {
            kind,
            request_id: self.u32()?,
            set: self.u32()?,
            queries,
            wants_rows: true,
        })
    }

    fn v2(&mut self) -> Option<Message> {
        let tag = self.u8()?;
        let request_id = self.u32()?;
        Some(match tag {
            0 => Message::Set {
                kind: ReadKind::SubscribeMulti,
                request_id,
                set: self.u32()?,
                queries: self.texts()?,
                wants_rows: true,
            },
            1 => Message::Set {
                kind: ReadKind::UnsubscribeMulti,
                request_id,
                set: self.u32()?,
                queries: Vec::new(),
                wants_rows: self.u8()? == 1,
            },
            3 => {
                self.u8()?;
                Message::Call {
                    request_id,
                    reducer: self.text()?,
                    args: self.bytes()?,
                    is_silent: false,
                }
            }
            _ => return None,
        })
    }

    fn take(&mut self, count: usize) -> Option<Bytes> {
        (count <= self.0.len()).then(|| self.0.split_to(count))
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        Some(u32::from_le_bytes(*bytes.first_chunk()?))
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let count = self.u32()? as usize;
        self.take(count)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn texts(&mut self) -> Option<Vec<String>> {
        (0..self.u32()?).map(|_| self.text()).collect()
    }
}
