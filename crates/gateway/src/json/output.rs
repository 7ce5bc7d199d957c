//! JSON in the making.

use bytes::Bytes;
use std::io::{self, ErrorKind, Write};

/// JSON that takes no more than so many bytes.
pub(super) struct Output {
    json: Vec<u8>,
    max: usize,
}

impl Output {
    pub(super) fn new(max: usize) -> Self {
        Self {
            json: Vec::new(),
            max,
        }
    }

    pub(super) fn finish(mut self) -> Bytes {
        self.json.shrink_to_fit();
        self.json.into()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max - self.json.len() {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.json.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A text in JSON that is JSON itself: it has nothing that needs an escape but these two.
pub(super) struct Within<'a>(pub(super) &'a mut Output);

fn needs_escape(byte: &u8) -> bool {
    matches!(byte, b'"' | b'\\')
}

impl Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(needs_escape) {
            match part.split_last() {
                Some((last, before)) if needs_escape(last) => {
                    self.0.write_all(before)?;
                    self.0.write_all(&[b'\\', *last])?;
                }
                _ => self.0.write_all(part)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
