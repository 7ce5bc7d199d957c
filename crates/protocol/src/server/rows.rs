use crate::FrameError;
use crate::reader::Reader;
use crate::writer::Write;
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;

/// Rows in BSATN, packed (`BsatnRowList`).
#[derive(Clone, Debug, Default)]
pub struct RowList {
    bounds: Bounds,
    data: Bytes,
}

#[derive(Clone, Debug)]
enum Bounds {
    /// Every row has this many bytes.
    Fixed(usize),
    /// Where each row starts, as `u64`s; a row ends where the next one starts.
    Offsets(Bytes),
}

impl Default for Bounds {
    fn default() -> Self {
        Self::Offsets(Bytes::new())
    }
}

impl RowList {
    /// Passes over a row list; its place.
    pub(super) fn skip(reader: &mut Reader<'_>) -> Result<Range<usize>, FrameError> {
        let start = reader.at();
        match reader.tag("row size hint", 2)? {
            0 => reader.skip(2)?,
            _ => {
                let count = reader.count(8)?;
                reader.skip(count * 8)?
            }
        };
        reader.place()?;
        Ok(start..reader.at())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let bounds = match reader.tag("row size hint", 2)? {
            0 => Bounds::Fixed(reader.u16()?.into()),
            _ => {
                let start = reader.at() + 4;
                let count = reader.count(8)?;
                reader.skip(count * 8)?;
                Bounds::Offsets(reader.since(start))
            }
        };
        Ok(Self {
            bounds,
            data: reader.bytes()?,
        })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        match &self.bounds {
            Bounds::Fixed(size) => self.data.len().checked_div(*size).unwrap_or(0),
            Bounds::Offsets(offsets) => offsets.len() / 8,
        }
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row at `index`. `None` past the end, and where the list's bounds do not fit its data.
    pub fn get(&self, index: usize) -> Option<Bytes> {
        let (start, end) = match &self.bounds {
            Bounds::Fixed(size) if *size > 0 => (
                index.checked_mul(*size)?,
                index.checked_add(1)?.checked_mul(*size)?,
            ),
            Bounds::Fixed(_) => return None,
            Bounds::Offsets(offsets) => {
                let start = offset(offsets, index)?;
                (start, offset(offsets, index + 1).unwrap_or(self.data.len()))
            }
        };
        (start <= end && end <= self.data.len()).then(|| self.data.slice(start..end))
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> + '_ {
        (0..self.len()).map_while(|index| self.get(index))
    }
}

/// Writes a row list: with the rows' size if all have the same, else with the offset of each.
pub(crate) fn put_rows(out: &mut BytesMut, rows: &[&[u8]]) {
    let size = rows.first().and_then(|first| u16::try_from(first.len()).ok());
    match size.filter(|size| *size > 0 && rows.iter().all(|row| row.len() == usize::from(*size))) {
        Some(size) => {
            out.put_u8(0);
            out.put_u16_le(size);
        }
        None => {
            out.put_u8(1);
            out.put_count(rows.len());
            let mut offset = 0;
            for row in rows {
                out.put_u64_le(offset);
                offset += row.len() as u64;
            }
        }
    }
    out.put_count(rows.iter().map(|row| row.len()).sum());
    rows.iter().for_each(|row| out.put_slice(row));
}

fn offset(offsets: &Bytes, index: usize) -> Option<usize> {
    let start = index.checked_mul(8)?;
    let bytes = offsets.get(start..start.checked_add(8)?)?;
    usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
}
