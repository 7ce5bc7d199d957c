//! BSATN, read and written by hand: little endian, strings and lists behind a `u32` length.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The arguments of a reducer: BSATN products concatenate.
#[derive(Clone, Debug, Default)]
pub struct Args(BytesMut);

impl Args {
    /// No arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// A string.
    pub fn str(mut self, value: &str) -> Self {
        put_str(&mut self.0, value);
        self
    }

    /// A signed 64-bit integer.
    pub fn i64(mut self, value: i64) -> Self {
        self.0.put_i64_le(value);
        self
    }

    /// Bytes as they are.
    pub fn raw(mut self, value: &[u8]) -> Self {
        self.0.put_slice(value);
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

pub(super) fn put_str(out: &mut BytesMut, value: &str) {
    put_bytes(out, value.as_bytes());
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what a test sends is far below 4 GiB"
)]
pub(super) fn put_bytes(out: &mut BytesMut, value: &[u8]) {
    out.put_u32_le(value.len() as u32);
    out.put_slice(value);
}

/// A message being read from its front.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<Bytes> {
        ensure!(
            self.0.len() >= len,
            "message ends {} bytes early",
            len - self.0.len()
        );
        Ok(self.0.split_to(len))
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?.get_u8())
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(self.take(2)?.get_u16_le())
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(self.take(4)?.get_u32_le())
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(self.take(8)?.get_u64_le())
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        Ok(self.take(8)?.get_i64_le())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.as_ref().try_into()?)
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    pub(super) fn str(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).context("a string is not UTF-8")
    }

    /// A sum with the variants `some` (0) and `none` (1).
    pub(super) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        match self.u8()? {
            0 => read(self).map(Some),
            1 => Ok(None),
            tag => bail!("{tag} is no option's tag"),
        }
    }

    pub(super) fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let len = self.u32()?;
        (0..len).map(|_| read(self)).collect()
    }

    /// A `BsatnRowList`: a size hint (0 a fixed size, 1 every row's offset), then all rows' bytes.
    pub(super) fn rows(&mut self) -> Result<Vec<Bytes>> {
        match self.u8()? {
            0 => {
                let size = usize::from(self.u16()?);
                let data = self.bytes()?;
                ensure!(
                    size > 0 && data.len().is_multiple_of(size),
                    "{} bytes of rows of {size}",
                    data.len()
                );
                Ok((0..data.len() / size)
                    .map(|row| data.slice(row * size..(row + 1) * size))
                    .collect())
            }
            1 => {
                let mut offsets = self.list(|reader| Ok(usize::try_from(reader.u64()?)?))?;
                let data = self.bytes()?;
                offsets.push(data.len());
                offsets
                    .windows(2)
                    .map(|pair| {
                        ensure!(
                            pair[0] <= pair[1] && pair[1] <= data.len(),
                            "row offsets out of order"
                        );
                        Ok(data.slice(pair[0]..pair[1]))
                    })
                    .collect()
            }
            tag => bail!("{tag} is no size hint"),
        }
    }
}
