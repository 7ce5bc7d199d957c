//! Reducer calls on their way into frames.

use bytes::{Bytes, BytesMut};
use rtdb_protocol::{Subprotocol, client};
use std::collections::VecDeque;

/// A frame that may hold several calls (v3) is closed at this many bytes.
const FRAME_BYTES: usize = 32 << 10;
/// How much is allocated at once, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// More is allocated when less than this is left, in bytes.
const CHUNK_LEFT_MIN: usize = 1 << 10;

/// Encodes calls one after the other, in the frames of one connection's subprotocol.
#[derive(Debug)]
pub(super) struct Calls {
    subprotocol: Subprotocol,
    buffer: BytesMut,
    frames: VecDeque<Bytes>,
}

impl Calls {
    pub(super) fn new(subprotocol: Subprotocol) -> Self {
        Self {
            subprotocol,
            buffer: BytesMut::new(),
            frames: VecDeque::new(),
        }
    }

    /// Adds a call; its arguments are `args` one after the other.
    pub(super) fn push(&mut self, reducer: &str, args: &[&[u8]], request_id: u32) {
        if self.buffer.capacity() - self.buffer.len() < CHUNK_LEFT_MIN {
            self.buffer.reserve(CHUNK_BYTES);
        }
        client::call_reducer(self.subprotocol, &mut self.buffer, reducer, args, request_id);
        if self.subprotocol != Subprotocol::V3 || self.buffer.len() >= FRAME_BYTES {
            self.close();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.buffer.is_empty()
    }

    /// Takes the first frame. Calls added later go into another one.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.frames.is_empty() {
            self.close();
        }
        self.frames.pop_front()
    }

    fn close(&mut self) {
        if !self.buffer.is_empty() {
            self.frames.push_back(self.buffer.split().freeze());
        }
    }
}
