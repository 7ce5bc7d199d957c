//! The log's smallest unit: 512 bytes that carry their own checksum.
//!
//! A disk writes a sector whole or not at all, and a file's space is filled with zeros before it is used. So after a
//! crash each block of an unfinished batch either is there or is all zeros, and whatever else is found was damaged. No
//! block that was written is all zeros, nor a single changed byte away from it.

/// A block's bytes: the smallest sector of a disk.
pub(super) const BLOCK: usize = 512;

/// Checksum and tag, each four bytes, little endian.
const HEAD: usize = 8;

/// The bytes of a block that carry content.
pub(super) const BODY: usize = BLOCK - HEAD;

/// What a block turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Never written.
    Zero,
    /// Sound, and part of the batch with this tag.
    Sound(Tag),
    /// Neither.
    Damaged,
}

/// The low bits of a batch's number, with one bit set at each end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u32);

impl Tag {
    pub(super) fn of(batch: u64) -> Self {
        Self((batch as u32) << 1 & 0x7fff_ffff | 0x8000_0001)
    }
}

/// Where blocks stand: their checksums cover it, so that no block is taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) block: u64,
}

fn checksum(place: Place, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut head = [0; 16];
    head[..8].copy_from_slice(&place.segment.to_le_bytes());
    head[8..].copy_from_slice(&place.block.to_le_bytes());
    hasher.update(&head);
    hasher.update(&block[4..]);
    hasher.finalize()
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Looks at a block.
pub(super) fn kind(place: Place, block: &[u8]) -> Kind {
    if number(&block[..4]) == checksum(place, block) {
        return Kind::Sound(Tag(number(&block[4..HEAD])));
    }
    match block.iter().all(|byte| *byte == 0) {
        true => Kind::Zero,
        false => Kind::Damaged,
    }
}

/// A block's content.
pub(super) fn body(block: &[u8]) -> &[u8] {
    &block[HEAD..]
}

/// Blocks in the making.
pub(super) struct Blocks {
    place: Place,
    tag: Tag,
    bytes: Vec<u8>,
}

impl Blocks {
    /// Blocks of a batch, with room for `len` bytes of content, from `place` on.
    pub(super) fn new(place: Place, batch: u64, len: usize) -> Self {
        Self {
            place,
            tag: Tag::of(batch),
            bytes: Vec::with_capacity(count(len) * BLOCK),
        }
    }

    pub(super) fn write(&mut self, mut content: &[u8]) {
        while !content.is_empty() {
            if self.bytes.len().is_multiple_of(BLOCK) {
                self.bytes.extend_from_slice(&[0; 4]);
                self.bytes.extend_from_slice(&self.tag.0.to_le_bytes());
            }
            let room = BLOCK - self.bytes.len() % BLOCK;
            let (now, later) = content.split_at(room.min(content.len()));
            self.bytes.extend_from_slice(now);
            content = later;
        }
    }

    /// The bytes for the file, and the checksums of all blocks, one after the other.
    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        let mut sums = Vec::with_capacity(self.bytes.len() / BLOCK * 4);
        for (block, bytes) in (self.place.block..).zip(self.bytes.chunks_exact_mut(BLOCK)) {
            let sum = checksum(Place { block, ..self.place }, bytes).to_le_bytes();
            bytes[..4].copy_from_slice(&sum);
            sums.extend_from_slice(&sum);
        }
        (self.bytes, sums)
    }
}

/// How many blocks `len` bytes of content take.
pub(super) fn count(len: usize) -> usize {
    len.div_ceil(BODY)
}

/// As many bytes as an array has.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place { segment: 3, block: 7 };

    fn blocks(batch: u64, content: &[u8]) -> Vec<u8> {
        let mut blocks = Blocks::new(PLACE, batch, content.len());
        // In pieces, as records come.
        content.chunks(100).for_each(|piece| blocks.write(piece));
        blocks.finish().0
    }

    fn place(number: usize) -> Place {
        Place {
            block: PLACE.block + number as u64,
            ..PLACE
        }
    }

    proptest! {
        #[test]
        fn content_comes_back(batch: u64, content in proptest::collection::vec(any::<u8>(), 1..3000)) {
            let bytes = blocks(batch, &content);
            prop_assert_eq!(bytes.len(), count(content.len()) * BLOCK);
            let mut back = Vec::new();
            for (number, block) in bytes.chunks(BLOCK).enumerate() {
                prop_assert_eq!(kind(place(number), block), Kind::Sound(Tag::of(batch)));
                prop_assert_eq!(kind(place(number + 1), block), Kind::Damaged, "taken for its neighbour");
                back.extend_from_slice(body(block));
            }
            prop_assert_eq!(&back[..content.len()], &content[..]);
        }
    }

    #[test]
    fn every_changed_byte_is_seen() {
        for content in [vec![0; 40], vec![0xff; BODY], (0..=255).collect()] {
            let bytes = blocks(0, &content);
            for at in 0..bytes.len() {
                for change in 1..=255 {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= change;
                    assert_eq!(
                        kind(PLACE, &damaged),
                        Kind::Damaged,
                        "byte {at} changed by {change}"
                    );
                }
            }
        }
        assert_eq!(kind(PLACE, &[0; BLOCK]), Kind::Zero);
    }
}
