//! What a segment begins with.

use super::batch::Chain;
use super::block::{self, Blocks, Kind, Place, Tag, array};
use super::broken::Broken;

/// The version of a segment's form.
const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"rtdb-log";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    /// Its blocks, the head's own included.
    pub(super) blocks: u64,
    /// Drawn when the log was begun: no segment is taken for another log's.
    pub(super) log_id: [u8; 16],
    /// The number of its first batch.
    pub(super) first_batch: u64,
    /// The hash of everything before it.
    pub(super) chain: Chain,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.number, self.blocks, self.first_batch] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.log_id);
        bytes.extend_from_slice(&self.chain);
        let place = Place {
            segment: self.number,
            block: 0,
        };
        let mut blocks = Blocks::new(place, 0, bytes.len());
        blocks.write(&bytes);
        blocks.finish().0
    }

    pub(super) fn decode(number: u64, block: &[u8]) -> Result<Self, Broken> {
        let damaged = |what: &str| Broken::Damaged(format!("segment {number}: {what}"));
        let place = Place {
            segment: number,
            block: 0,
        };
        if block::kind(place, block) != Kind::Sound(Tag::of(0)) {
            return Err(damaged("its first block is not what was written"));
        }
        let body = block::body(block);
        if body[..8] != *MAGIC {
            return Err(damaged("it is no part of a log"));
        }
        let version = u32::from_le_bytes(array(&body[8..12]));
        if version > VERSION {
            return Err(Broken::Newer(format!(
                "segment {number} is of version {version}, and this program reads up to {VERSION}"
            )));
        }
        let numbers = [12, 20, 28].map(|at| u64::from_le_bytes(array(&body[at..at + 8])));
        let [found, blocks, first_batch] = numbers;
        if found != number || blocks < 2 || first_batch == 0 {
            return Err(damaged("its head makes no sense"));
        }
        Ok(Self {
            number,
            blocks,
            first_batch,
            log_id: array(&body[36..52]),
            chain: array(&body[52..68]),
        })
    }
}
