use bytes::{BufMut, BytesMut};

/// What BSATN adds to `BufMut`.
pub(crate) trait Write {
    /// A length or a count.
    fn put_count(&mut self, count: usize);
    /// A length-prefixed byte string (or string).
    fn put_bytes_bsatn(&mut self, bytes: &[u8]);
}

impl Write for BytesMut {
    fn put_count(&mut self, count: usize) {
        // Every count comes from a frame or a message that is far below 4 GiB.
        debug_assert!(u32::try_from(count).is_ok());
        self.put_u32_le(count as u32);
    }

    fn put_bytes_bsatn(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.put_slice(bytes);
    }
}
