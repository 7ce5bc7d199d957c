//! Reducer calls on their way into frames.

use bytes::{Bytes, BytesMut};
use rtdb_protocol::{MESSAGE_BYTES_MAX, Subprotocol, client};
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
        let bytes = call_bytes(reducer, args);
        if self.buffer.len() + bytes > MESSAGE_BYTES_MAX {
            self.close();
        }
        if self.buffer.capacity() - self.buffer.len() < CHUNK_LEFT_MIN {
            self.buffer.reserve(CHUNK_BYTES);
        }
        client::call_reducer(self.subprotocol, &mut self.buffer, reducer, args, request_id);
        if self.subprotocol != Subprotocol::V3 || self.buffer.len() >= FRAME_BYTES {
            self.close();
        }
    }

    /// Adds a frame that is no call, behind those that are there.
    pub(super) fn push_frame(&mut self, frame: Bytes) {
        self.close();
        self.frames.push_back(frame);
    }

    /// Adds a query.
    pub(super) fn push_query(&mut self, query: &str) {
        self.close();
        client::one_off_query(self.subprotocol, &mut self.buffer, query);
        self.close();
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

/// Whether the server takes such a call at all.
pub(super) fn fits(reducer: &str, args: &[&[u8]]) -> bool {
    call_bytes(reducer, args) <= MESSAGE_BYTES_MAX
}

fn call_bytes(reducer: &str, args: &[&[u8]]) -> usize {
    client::call_reducer_bytes(reducer, args.iter().map(|part| part.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(sizes: &[usize]) -> Vec<usize> {
        let mut calls = Calls::new(Subprotocol::V3);
        for size in sizes {
            calls.push("r", &[&[0; 8], &vec![0; *size]], 0);
        }
        std::iter::from_fn(|| calls.pop())
            .map(|frame| frame.len())
            .collect()
    }

    /// A call and the largest that a client may make: together more than the server takes.
    #[test]
    fn no_frame_is_larger_than_the_server_takes() {
        let largest = MESSAGE_BYTES_MAX - client::call_reducer_bytes("r", 8);
        for sizes in [
            &[1, largest][..],
            &[largest, 1],
            &[100, 100, largest - 10, largest, 7],
        ] {
            let frames = frames(sizes);
            assert!(
                frames.iter().all(|bytes| *bytes <= MESSAGE_BYTES_MAX),
                "{frames:?}"
            );
            let calls: usize = sizes
                .iter()
                .map(|size| client::call_reducer_bytes("r", 8 + size))
                .sum();
            assert_eq!(frames.iter().sum::<usize>(), calls);
        }
        assert_eq!(frames(&[1, 2, 3]).len(), 1, "small calls share a frame");
        assert!(fits("r", &[&[0; 8], &vec![0; largest]]));
        assert!(!fits("r", &[&[0; 8], &vec![0; largest + 1]]));
    }

    #[test]
    fn a_calls_bytes_are_known_before_it_is_written() {
        for subprotocol in Subprotocol::ALL {
            let mut out = BytesMut::new();
            client::call_reducer(subprotocol, &mut out, "reducer", &[b"args", b"more"], 7);
            assert_eq!(out.len(), client::call_reducer_bytes("reducer", 8));
        }
    }
}
