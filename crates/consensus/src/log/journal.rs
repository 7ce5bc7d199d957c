//! The log's segments: opening them, writing behind the last batch, going on in a new segment.

use super::batch::{self, BATCH_HEAD, BatchKind, Chain, Cursor};
use super::block::{self, BLOCK};
use super::broken::Broken;
use super::change::{Change, Span};
use super::files::Files;
use super::head::Head;
use super::index::{Index, Places};
use super::reader::{Contents, Reader, check_follows, foreign, load, missing};
use super::segment::{self, Segment};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a segment, unless its checkpoint and its first batch need more.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 20;

/// Bytes of the largest segment: places in it have 32 bits.
const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

/// The blocks of a log that was only just begun: its head, an empty checkpoint, and its node's id.
pub(super) const BEGUN_BLOCKS: u64 = 3;

/// Blocks that are filled with zeros ahead of what is written. A file system has to note each block that is written for
/// the first time, which makes a sync up to twice as long as one of blocks that were written before; so one sync in
/// very many does it for the others.
const AHEAD_BLOCKS: u64 = (1 << 20) / BLOCK as u64;

/// The block that every segment keeps free, for its seal.
const SEAL_BLOCKS: u64 = 1;

/// The writing side.
pub(super) struct Journal {
    files: Arc<dyn Files>,
    folder: PathBuf,
    segment_bytes: u64,
    log_id: [u8; 16],
    active: Arc<Segment>,
    next: Cursor,
    /// The active segment's first block that may never have been written.
    fresh: u64,
    reader: Arc<Reader>,
}

/// The numbers of a folder's segments, ascending.
pub(super) fn numbers(files: &dyn Files, folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = files
        .list(folder)?
        .iter()
        .filter_map(|name| segment::number(name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

impl Journal {
    /// Begins a log, which holds nothing yet.
    pub(super) fn create(
        files: Arc<dyn Files>,
        folder: &Path,
        segment_bytes: u64,
        log_id: [u8; 16],
    ) -> io::Result<Self> {
        let head = Head {
            number: 1,
            blocks: segment_blocks(segment_bytes, 0),
            log_id,
            first_batch: 1,
            chain: Chain::default(),
        };
        let active = Segment::create(&files, folder, head)?;
        let contents = Contents {
            index: Index::default(),
            active: 1,
            places: Places::default(),
            segments: [(1, active.clone())].into(),
        };
        let mut journal = Self {
            files,
            folder: folder.to_owned(),
            segment_bytes,
            log_id,
            next: active.start(),
            fresh: 0,
            active,
            reader: Reader::new(contents),
        };
        journal.write(BatchKind::Checkpoint, &[])?;
        Ok(journal)
    }

    /// Opens a log.
    ///
    /// # Errors
    /// [`Broken::Damaged`] if the segments are not what was written.
    pub(super) fn open(files: Arc<dyn Files>, folder: &Path, segment_bytes: u64) -> Result<Self, Broken> {
        files.tidy(folder)?;
        let numbers = numbers(&*files, folder)?;
        let open = |number| match numbers.binary_search(&number) {
            Ok(_) => Segment::open(&files, folder, number),
            Err(_) => Err(missing(number)),
        };
        let last = *numbers.last().ok_or_else(|| missing(1))?;
        let mut active = open(last)?;
        // Only the end of the log can have been in memory alone.
        active.uncache()?;
        let (mut contents, mut end) = load(&active)?;
        if end.is_sealed {
            return Err(missing(last + 1));
        }
        // The node was stopped while it went on to a new segment.
        let mut begins = false;
        if end.next == active.start() {
            let previous = open(last - 1)?;
            previous.uncache()?;
            let (before, end_before) = load(&previous)?;
            contents = before;
            begins = end_before.is_sealed;
            if begins {
                check_follows(&active.head, &end_before)?;
                previous.settle(&end_before)?;
            } else {
                files.remove(&segment::path(folder, last))?;
                (active, end) = (previous, end_before);
            }
        }
        active.settle(&end)?;
        let number = active.head.number;
        contents.segments.insert(number, active.clone());
        for older in contents.index.oldest().unwrap_or(number)..number {
            let segment = open(older)?;
            if segment.head.log_id != active.head.log_id {
                return Err(foreign(older));
            }
            segment.rest();
            contents.segments.insert(older, segment);
        }
        let oldest = contents
            .segments
            .first_key_value()
            .map_or(number, |(oldest, _)| *oldest);
        let mut journal = Self {
            files: files.clone(),
            folder: folder.to_owned(),
            segment_bytes,
            log_id: active.head.log_id,
            next: end.next,
            fresh: 0,
            active,
            reader: Reader::new(contents),
        };
        if begins {
            let checkpoint = journal.reader.contents.read().index.dump();
            journal.begin(&checkpoint)?;
        }
        journal.remove(numbers.into_iter().take_while(|number| *number < oldest));
        Ok(journal)
    }

    pub(super) fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    pub(super) fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// Writes changes as one batch. They are on disk, all of them, when this returns.
    ///
    /// # Errors
    /// When the disk refuses. What it has then is not known: nothing may be written any more.
    pub(super) fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let len: usize = changes.iter().map(Change::size).sum();
        let blocks = block::count(BATCH_HEAD + len) as u64;
        if self.next.block + blocks + SEAL_BLOCKS > self.active.head.blocks {
            self.go_on(blocks)?;
        }
        let segment = self.active.head.number;
        let spans = self.write(BatchKind::Changes, changes)?;
        let mut contents = self.reader.contents.write();
        for (change, span) in changes.iter().zip(spans) {
            contents.apply(change, span, segment).map_err(io::Error::other)?;
        }
        if changes
            .iter()
            .any(|change| matches!(change, Change::Purge { .. }))
        {
            let oldest = contents.index.oldest().unwrap_or(segment);
            let kept = contents.segments.split_off(&oldest);
            let old = std::mem::replace(&mut contents.segments, kept);
            drop(contents);
            self.remove(old.into_keys());
        }
        Ok(())
    }

    /// Goes on in a new segment. At each moment the last segment has a checkpoint, or the one before it is complete.
    fn go_on(&mut self, blocks: u64) -> io::Result<()> {
        let checkpoint = self.reader.contents.read().index.dump();
        let len: usize = checkpoint.iter().map(Change::size).sum();
        // Were it full after its first batch, the whole checkpoint would soon be written again.
        let needed = block::count(BATCH_HEAD + len) as u64 * 2 + blocks;
        let (_, behind_seal) = batch::encode(self.active.head.number, self.next, BatchKind::Seal, 0, |_| ());
        let head = Head {
            number: self.active.head.number + 1,
            blocks: segment_blocks(self.segment_bytes, needed),
            log_id: self.log_id,
            first_batch: behind_seal.batch,
            chain: behind_seal.chain,
        };
        if head.blocks * BLOCK as u64 > SEGMENT_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "a segment of the log would be too large",
            ));
        }
        let new = Segment::create(&self.files, &self.folder, head)?;
        self.write(BatchKind::Seal, &[])?;
        self.reader
            .contents
            .write()
            .segments
            .insert(head.number, new.clone());
        self.next = new.start();
        self.fresh = 0;
        std::mem::replace(&mut self.active, new).rest();
        self.begin(&checkpoint)
    }

    /// Writes a new segment's checkpoint.
    fn begin(&mut self, checkpoint: &[Change]) -> io::Result<()> {
        self.write(BatchKind::Checkpoint, checkpoint)?;
        let mut contents = self.reader.contents.write();
        contents.active = self.active.head.number;
        contents.places = Places::default();
        Ok(())
    }

    /// Writes a batch, and waits until it is on disk. Gives back where the changes' bodies stand.
    fn write(&mut self, kind: BatchKind, changes: &[Change]) -> io::Result<Vec<Span>> {
        let len = changes.iter().map(Change::size).sum();
        let mut spans = Vec::with_capacity(changes.len());
        let mut end = self.next.block * block::BODY as u64 + BATCH_HEAD as u64;
        let (mut bytes, next) = batch::encode(self.active.head.number, self.next, kind, len, |blocks| {
            for change in changes {
                change.encode(|piece| blocks.write(piece));
                end += change.size() as u64;
                spans.push(change.span_before(end));
            }
        });
        if next.block > self.fresh {
            self.fresh = (next.block + AHEAD_BLOCKS).min(self.active.head.blocks);
            bytes.resize((self.fresh - self.next.block) as usize * BLOCK, 0);
        }
        self.active.write(&bytes, self.next.block)?;
        self.active.sync()?;
        self.next = next;
        Ok(spans)
    }

    /// Removes segments in which nothing stands any more. What can't be removed is tried again at the next start.
    fn remove(&self, numbers: impl Iterator<Item = u64>) {
        for number in numbers {
            if let Err(error) = self.files.remove(&segment::path(&self.folder, number)) {
                tracing::warn!(number, %error, "a segment of the log that is not needed any more can't be removed");
            }
        }
    }
}

/// A new segment's blocks: `needed` of them are for its checkpoint and its first batch.
fn segment_blocks(bytes: u64, needed: u64) -> u64 {
    // The head, a checkpoint of nothing, and the seal.
    (bytes / BLOCK as u64).max(needed + 2 + SEAL_BLOCKS)
}
