//! A batch: what is written and synced at once.

use super::block::{BLOCK, Blocks, Place, array};

/// The bytes of a batch before its changes.
pub(super) const BATCH_HEAD: usize = 32;

/// A hash of a batch and all before it.
pub(super) type Chain = [u8; 16];

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchKind {
    /// Changes, after what came before.
    Changes,
    /// The first batch of a segment: everything that stands before it, where that is not entries.
    Checkpoint,
    /// The last batch of a segment: the log goes on in the next.
    Seal,
}

impl BatchKind {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Changes => 1,
            Self::Checkpoint => 2,
            Self::Seal => 3,
        }
    }
}

/// A batch, as it was read.
pub(super) struct Batch {
    /// Where its changes begin in the segment's content.
    pub(super) offset: u64,
    pub(super) changes: Vec<u8>,
}

/// Where the next batch of the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) block: u64,
    pub(super) batch: u64,
    pub(super) chain: Chain,
}

/// How a segment's batches end.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) next: Cursor,
    /// The block with which the last batch begins.
    pub(super) last: u64,
    pub(super) is_sealed: bool,
    /// The first block behind what an unfinished batch left.
    pub(super) torn_to: Option<u64>,
}

/// The bytes of a batch, and the cursor behind it.
pub(super) fn encode(
    segment: u64,
    at: Cursor,
    kind: BatchKind,
    len: usize,
    write: impl FnOnce(&mut Blocks),
) -> (Vec<u8>, Cursor) {
    let place = Place {
        segment,
        block: at.block,
    };
    let mut blocks = Blocks::new(place, at.batch, BATCH_HEAD + len);
    blocks.write(&at.batch.to_le_bytes());
    blocks.write(&[kind.code(), 0, 0, 0]);
    blocks.write(&(len as u32).to_le_bytes());
    blocks.write(&at.chain);
    write(&mut blocks);
    let (bytes, sums) = blocks.finish();
    let next = Cursor {
        block: at.block + (bytes.len() / BLOCK) as u64,
        batch: at.batch + 1,
        chain: chain(&at.chain, &sums),
    };
    (bytes, next)
}

/// The hash of a batch, by its blocks' checksums, and all before it.
pub(super) fn chain(before: &Chain, sums: &[u8]) -> Chain {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(sums);
    array(&hasher.finalize().as_bytes()[..16])
}
