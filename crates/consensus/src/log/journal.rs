//! The log's segments: opening them, writing behind the last batch, going on in a new segment, reading.

use super::block::{self, BLOCK};
use super::change::{self, Change, Sequence, Space, Span};
use super::files::Files;
use super::index::{Index, Places};
use super::segment::{self, BATCH_HEAD, BatchKind, Broken, Chain, Cursor, End, Head, Segment};
use crate::group_id::GroupId;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a segment, unless its checkpoint and its first batch need more.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 20;

/// Bytes of the largest segment: places in it have 32 bits.
const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

/// Segments that are not written any more, of which it is kept in memory where their records stand.
/// Their files are open.
const COLD_SEGMENTS_MAX: usize = 8;

/// The blocks of a log that was only just begun: its head, an empty checkpoint, and its node's id.
pub(super) const BEGUN_BLOCKS: u64 = 3;

/// Blocks that are filled with zeros ahead of what is written. A file system has to note each block that is written for
/// the first time, which makes a sync up to twice as long as one of blocks that were written before; so one sync in
/// very many does it for the others.
const AHEAD_BLOCKS: u64 = (1 << 20) / BLOCK as u64;

/// The block that every segment keeps free, for its seal.
const SEAL_BLOCKS: u64 = 1;

/// What the log holds: what readers share with the writer.
pub(super) struct Contents {
    index: Index,
    /// The segment that is being written, and where its records stand.
    active: u64,
    places: Places,
    segments: BTreeMap<u64, Arc<Segment>>,
}

/// The reading side.
pub(super) struct Reader {
    contents: RwLock<Contents>,
    /// The one that was read last comes first.
    cold: Mutex<VecDeque<(Arc<Segment>, Arc<Places>)>>,
}

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

/// An entry or a decision: its index, and where it stands.
type Location = (u64, Arc<Segment>, Span);

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
        let (_, behind_seal) =
            segment::encode(self.active.head.number, self.next, BatchKind::Seal, 0, |_| ());
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
        let (mut bytes, next) = segment::encode(self.active.head.number, self.next, kind, len, |blocks| {
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

fn missing(number: u64) -> Broken {
    Broken::Damaged(format!("segment {number} is missing"))
}

fn foreign(number: u64) -> Broken {
    Broken::Damaged(format!("segment {number} is another log's, or of another time"))
}

/// Checks that a segment goes on where the one before it ends.
fn check_follows(head: &Head, end: &End) -> Result<(), Broken> {
    let follows = end.is_sealed && (end.next.batch, end.next.chain) == (head.first_batch, head.chain);
    follows.then_some(()).ok_or_else(|| foreign(head.number))
}

/// Reads a segment: its checkpoint, and what was written after it.
fn load(segment: &Arc<Segment>) -> Result<(Contents, End), Broken> {
    let number = segment.head.number;
    let mut contents = Contents {
        index: Index::default(),
        active: number,
        places: Places::default(),
        segments: BTreeMap::new(),
    };
    let end = segment.scan(|batch| {
        let changes = change::decode(batch.offset, &batch.changes);
        let newer = || {
            Broken::Newer(format!(
                "segment {number} holds a change that this program does not know"
            ))
        };
        for (change, span) in changes.ok_or_else(newer)? {
            let applied = contents.apply(&change, span, number);
            applied.map_err(|reason| Broken::Damaged(format!("segment {number}: {reason}")))?;
        }
        Ok(())
    })?;
    Ok((contents, end))
}

impl Contents {
    fn apply(&mut self, change: &Change, span: Span, segment: u64) -> Result<(), String> {
        self.index.apply(change, segment)?;
        self.places.apply(change, span);
        Ok(())
    }
}

impl Reader {
    fn new(contents: Contents) -> Arc<Self> {
        Arc::new(Self {
            contents: RwLock::new(contents),
            cold: Mutex::default(),
        })
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.contents.read().index.get(space, key)
    }

    pub(super) fn range(&self, space: Space, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Bytes)> {
        self.contents.read().index.range(space, from, to)
    }

    /// The first and the last index of a group's entries.
    pub(super) fn bounds(&self, group: GroupId) -> Option<(u64, u64)> {
        self.contents.read().index.bounds(group, Sequence::Entries)
    }

    /// Reads records from `from` up to `end` (exclusive), about `bytes_max` bytes of them, but at least one if there is
    /// one. It may read a whole segment, and must not be called where others wait for the thread.
    ///
    /// # Errors
    /// [`Broken`] if they can't be read as they were written.
    pub(super) fn read(
        &self,
        group: GroupId,
        sequence: Sequence,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, Broken> {
        let locations = self.locate(group, sequence, from, end, bytes_max)?;
        let mut records = Vec::with_capacity(locations.len());
        for piece in locations.chunk_by(|(_, one, _), (_, other, _)| Arc::ptr_eq(one, other)) {
            let spans: Vec<Span> = piece.iter().map(|(_, _, span)| *span).collect();
            let bodies = piece[0].1.read(&spans)?;
            records.extend(piece.iter().map(|(index, ..)| *index).zip(bodies));
        }
        Ok(records)
    }

    fn locate(
        &self,
        group: GroupId,
        sequence: Sequence,
        mut from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Location>, Broken> {
        let (mut found, mut bytes): (Vec<Location>, usize) = (Vec::new(), 0);
        while from < end && (bytes < bytes_max || found.is_empty()) {
            let contents = self.contents.read();
            let Some(run) = contents
                .index
                .run(group, sequence, from)
                .filter(|run| run.first < end)
            else {
                break;
            };
            let segment = contents.segments.get(&run.segment);
            let segment = segment.ok_or_else(|| missing(run.segment))?.clone();
            let last = run.last.min(end - 1);
            let mut take = |places: &Places| {
                for (index, span) in places.range(group, sequence, from.max(run.first), last) {
                    if bytes >= bytes_max && !found.is_empty() {
                        return;
                    }
                    bytes += span.len as usize;
                    found.push((*index, segment.clone(), *span));
                }
            };
            if run.segment == contents.active {
                take(&contents.places);
            } else {
                drop(contents);
                take(&*self.cold(&segment)?);
            }
            from = last + 1;
        }
        Ok(found)
    }

    /// Where the records of a segment stand that is not written any more. All of it is read, and so checked.
    fn cold(&self, segment: &Arc<Segment>) -> Result<Arc<Places>, Broken> {
        let number = segment.head.number;
        let mut cold = self.cold.lock();
        let known = cold.iter().position(|(known, _)| known.head.number == number);
        if let Some(known) = known.and_then(|place| cold.remove(place)) {
            let places = known.1.clone();
            cold.push_front(known);
            return Ok(places);
        }
        segment.hold()?;
        let (contents, end) = load(segment).inspect_err(|_| segment.rest())?;
        let next = self.contents.read().segments.get(&(number + 1)).cloned();
        check_follows(&next.ok_or_else(|| missing(number + 1))?.head, &end)?;
        let places = Arc::new(contents.places);
        while cold.len() >= COLD_SEGMENTS_MAX {
            cold.pop_back().inspect(|(oldest, _)| oldest.rest());
        }
        cold.push_front((segment.clone(), places.clone()));
        Ok(places)
    }

    /// Reads every segment, and so checks all that was written.
    ///
    /// # Errors
    /// [`Broken::Damaged`] if anything is not what was written.
    #[cfg(test)]
    pub(super) fn verify(&self) -> Result<(), Broken> {
        let segments: Vec<_> = self.contents.read().segments.values().cloned().collect();
        let active = self.contents.read().active;
        for segment in segments {
            match segment.head.number == active {
                true => drop(load(&segment)?),
                false => drop(self.cold(&segment)?),
            }
        }
        Ok(())
    }
}
