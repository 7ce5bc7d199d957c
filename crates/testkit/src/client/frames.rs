//! A server's WebSocket frames, told apart without keeping what is in them.

use anyhow::{Result, bail, ensure};

/// What is kept of each message: its compression byte, its tag, and what says how a call ended.
pub(super) const HEAD_BYTES: usize = 16;

/// Two bytes, and a length of at most eight; a server's frames have no mask.
const HEADER_BYTES: usize = 10;

/// The most that a control frame may carry, in bytes.
const CONTROL_BYTES: usize = 125;

const FIN: u8 = 0x80;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// What has come to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A message, in one frame or several: its first bytes.
    Message(&'a [u8]),
    /// With what the pong must carry.
    Ping(&'a [u8]),
    /// With the code and the reason, if there are any.
    Close(&'a [u8]),
}

/// The place in a stream of frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: Buffer<HEADER_BYTES>,
    /// Bytes of the frame's payload that are still to come, once its header is complete.
    left: Option<u64>,
    /// Of the message, which frames of its own kind may stand in the midst of.
    head: Buffer<HEAD_BYTES>,
    control: Buffer<CONTROL_BYTES>,
}

impl Frames {
    /// Takes bytes as they come, and says what ends in them.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut seen: impl FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let Some(left) = self.left else {
                let Some((&byte, rest)) = bytes.split_first() else {
                    return Ok(());
                };
                self.header.push(&[byte]);
                bytes = rest;
                self.left = self.payload_bytes()?;
                continue;
            };
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at(here);
            if self.is_control() {
                self.control.push(payload);
            } else {
                self.head.push(payload);
            }
            bytes = rest;
            let left = left - here as u64;
            self.left = Some(left);
            if left > 0 {
                return Ok(());
            }
            self.ended(&mut seen)?;
        }
    }

    fn is_control(&self) -> bool {
        self.header.bytes()[0] & CLOSE != 0
    }

    /// The length in the header, once it is there as a whole.
    fn payload_bytes(&self) -> Result<Option<u64>> {
        let header = self.header.bytes();
        let Some(&length) = header.get(1) else {
            return Ok(None);
        };
        ensure!(length & 0x80 == 0, "a server's frame has a mask");
        ensure!(
            !self.is_control() || usize::from(length) <= CONTROL_BYTES,
            "a control frame of more than {CONTROL_BYTES} bytes"
        );
        let wide = match length {
            126 => 2,
            127 => 8,
            _ => return Ok(Some(u64::from(length))),
        };
        let length = &header[2..];
        let whole = length.len() == wide;
        Ok(whole.then(|| length.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))))
    }

    fn ended(&mut self, seen: &mut impl FnMut(Frame<'_>) -> Result<()>) -> Result<()> {
        let first = self.header.bytes()[0];
        match first & 0x0f {
            0..=2 if first & FIN == 0 => {}
            0..=2 => {
                seen(Frame::Message(self.head.bytes()))?;
                self.head.clear();
            }
            CLOSE => seen(Frame::Close(self.control.bytes()))?,
            PING => seen(Frame::Ping(self.control.bytes()))?,
            10 => {}
            opcode => bail!("a frame of kind {opcode}"),
        }
        self.control.clear();
        self.header.clear();
        self.left = None;
        Ok(())
    }
}

/// The first bytes of something.
#[derive(Debug)]
struct Buffer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Buffer<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }
}

impl<const N: usize> Buffer<N> {
    /// What there is no room for is left out.
    fn push(&mut self, more: &[u8]) {
        let more = &more[..more.len().min(N - self.len)];
        self.bytes[self.len..self.len + more.len()].copy_from_slice(more);
        self.len += more.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server may send: a short message, an empty one, one of 300 bytes in two fragments with a ping between, one
    /// of 70,000 bytes, and the end.
    fn stream() -> Vec<u8> {
        let mut stream = vec![0x82, 3, 0, 4, 9, 0x82, 0];
        stream.extend([0x02, 126, 1, 0]);
        stream.extend([5; 256]);
        stream.extend([0x89, 2, b'h', b'i']);
        stream.extend([0x80, 44]);
        stream.extend([6; 44]);
        stream.extend([0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
        stream.extend([7; 70_000]);
        stream.extend([0x88, 2, 3, 232]);
        stream
    }

    fn seen(chunk: usize) -> Vec<String> {
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        for chunk in stream().chunks(chunk) {
            let note = |frame: Frame<'_>| {
                seen.push(format!("{frame:?}"));
                Ok(())
            };
            frames.feed(chunk, note).unwrap();
        }
        seen
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let expected = [
            Frame::Message(&[0, 4, 9]),
            Frame::Message(&[]),
            Frame::Ping(b"hi"),
            Frame::Message(&[5; HEAD_BYTES]),
            Frame::Message(&[7; HEAD_BYTES]),
            Frame::Close(&[3, 232]),
        ]
        .map(|frame| format!("{frame:?}"));
        for chunk in [1, 2, 3, 7, 64, 1_000, 100_000] {
            assert_eq!(seen(chunk), expected, "in chunks of {chunk} bytes");
        }
    }

    #[test]
    fn a_masked_or_overlong_control_frame_is_refused() {
        for bytes in [[0x82, 0x83], [0x89, 126], [0x83, 0]] {
            assert!(Frames::default().feed(&bytes, |_| Ok(())).is_err(), "{bytes:?}");
        }
    }
}
