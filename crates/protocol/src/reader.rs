use crate::{FrameError, QUERIES_MAX, Text};
use bytes::Bytes;
use std::ops::Range;

/// A cursor over one frame. What it hands out are slices of the frame; positions count from the frame's start.
pub(crate) struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(frame: &'a Bytes, at: usize) -> Self {
        Self { frame, at }
    }

    pub(crate) fn frame(&self) -> &'a Bytes {
        self.frame
    }

    /// Where the next byte stands in the frame.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn left(&self) -> usize {
        self.frame.len() - self.at
    }

    /// The bytes read since `start`.
    pub(crate) fn since(&self, start: usize) -> Bytes {
        self.frame.slice(start..self.at)
    }

    /// Passes over `count` bytes; their place.
    pub(crate) fn skip(&mut self, count: usize) -> Result<Range<usize>, FrameError> {
        let left = self.left();
        if count > left {
            return Err(FrameError::Truncated {
                at: self.at,
                needed: count - left,
            });
        }
        let start = self.at;
        self.at += count;
        Ok(start..self.at)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let place = self.skip(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.frame[place]);
        Ok(bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, FrameError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, FrameError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A tag or flag byte below `count`.
    pub(crate) fn tag(&mut self, what: &'static str, count: u8) -> Result<u8, FrameError> {
        let at = self.at;
        match self.u8()? {
            value if value < count => Ok(value),
            value => Err(FrameError::Unknown { what, value, at }),
        }
    }

    /// An array's length. Elements take at least `least` bytes each, so that a length which the frame can't hold is
    /// refused before anything is set aside for it.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, FrameError> {
        let count = self.u32()? as usize;
        let needed = count.saturating_mul(least);
        match needed.checked_sub(self.left()) {
            None | Some(0) => Ok(count),
            Some(needed) => Err(FrameError::Truncated { at: self.at, needed }),
        }
    }

    /// The place of a length-prefixed byte string, its length left out.
    pub(crate) fn place(&mut self) -> Result<Range<usize>, FrameError> {
        let length = self.u32()? as usize;
        self.skip(length)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, FrameError> {
        let place = self.place()?;
        Ok(self.frame.slice(place))
    }

    pub(crate) fn text(&mut self) -> Result<Text, FrameError> {
        let at = self.at;
        Text::new(self.bytes()?, at)
    }

    /// Queries, behind those that the message has already. In memory each takes more than in the frame, so that there is a
    /// limit to their number.
    pub(crate) fn queries(&mut self, queries: &mut Vec<Text>) -> Result<(), FrameError> {
        let count = self.count(4)?;
        check_queries(queries.len() + count)?;
        queries.reserve_exact(count);
        for _ in 0..count {
            queries.push(self.text()?);
        }
        Ok(())
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Option<T>, FrameError> {
        match self.tag("option tag", 2)? {
            0 => read(self).map(Some),
            _ => Ok(None),
        }
    }
}

/// Whether a message may have so many queries, or query sets.
pub(crate) fn check_queries(count: usize) -> Result<(), FrameError> {
    if count > QUERIES_MAX {
        return Err(FrameError::TooManyQueries {
            count,
            limit: QUERIES_MAX,
        });
    }
    Ok(())
}
