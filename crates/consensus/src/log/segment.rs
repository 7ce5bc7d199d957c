//! A file of the log: a head, and batches one after the other, each of whole blocks.
//!
//! A batch is what is written and synced at once. It begins with its number, its length and a hash of everything before
//! it, so that none can be missing, or stand twice, or be of another time. Only the last batch of the last segment may be
//! unfinished: nobody was told that it is on disk. Everything else that does not check out is damage.

use super::batch::{BATCH_HEAD, Batch, BatchKind, Cursor, End, chain};
use super::block::{self, BLOCK, BODY, Kind, Place, Tag, array};
use super::broken::Broken;
use super::change::Span;
use super::files::{DataFile, Files};
use super::head::Head;
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of content that are read at once for records that stand close together.
const WINDOW_BYTES: usize = 256 << 10;

/// Blocks that are looked through at once behind the last batch.
const SWEEP_BLOCKS: usize = 2048;

/// Says where the disk refused.
fn at(path: &Path, offset: u64) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        io::Error::new(
            error.kind(),
            format!("{}: at byte {offset}: {error}", path.display()),
        )
    }
}

/// An open segment.
pub(super) struct Segment {
    pub(super) head: Head,
    path: PathBuf,
    files: Arc<dyn Files>,
    /// While it is [held](Self::hold). A log has more segments than a process may have files.
    file: Mutex<Option<Arc<dyn DataFile>>>,
}

/// A segment's file.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016}.log"))
}

/// The number of a segment's file.
pub(super) fn number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".log")?;
    number.parse().ok().filter(|_| number.len() == 16)
}

impl Segment {
    /// Makes a segment, and holds it.
    pub(super) fn create(files: &Arc<dyn Files>, folder: &Path, head: Head) -> io::Result<Arc<Self>> {
        let path = path(folder, head.number);
        let file = files.create(&path, head.blocks * BLOCK as u64, &head.encode())?;
        Ok(Self::held(head, path, files, file.into()))
    }

    /// Opens a segment, and holds it.
    pub(super) fn open(files: &Arc<dyn Files>, folder: &Path, number: u64) -> Result<Arc<Self>, Broken> {
        let path = path(folder, number);
        let file: Arc<dyn DataFile> = files.open(&path).map_err(at(&path, 0))?.into();
        let size = file.size().map_err(at(&path, 0))?;
        let damaged = |reason: String| Broken::Damaged(format!("{}: {reason}", path.display()));
        if size < BLOCK as u64 {
            return Err(damaged(format!("it has {size} bytes")));
        }
        let mut block = [0; BLOCK];
        file.read(&mut block, 0).map_err(at(&path, 0))?;
        let head = Head::decode(number, &block)?;
        if head.blocks.checked_mul(BLOCK as u64) != Some(size) {
            return Err(damaged(format!(
                "it has {size} bytes, and had {} blocks of {BLOCK}",
                head.blocks
            )));
        }
        Ok(Self::held(head, path, files, file))
    }

    fn held(head: Head, path: PathBuf, files: &Arc<dyn Files>, file: Arc<dyn DataFile>) -> Arc<Self> {
        Arc::new(Self {
            head,
            path,
            files: files.clone(),
            file: Mutex::new(Some(file)),
        })
    }

    /// Reads from the disk from now on, whatever the system has of it in its memory.
    pub(super) fn uncache(&self) -> io::Result<()> {
        self.file()?.uncache().map_err(at(&self.path, 0))
    }

    /// Keeps the file open until it may [rest](Self::rest).
    pub(super) fn hold(&self) -> io::Result<()> {
        let file = self.file()?;
        *self.file.lock() = Some(file);
        Ok(())
    }

    /// Keeps the file open no longer than it is read.
    pub(super) fn rest(&self) {
        self.file.lock().take();
    }

    fn file(&self) -> io::Result<Arc<dyn DataFile>> {
        if let Some(file) = &*self.file.lock() {
            return Ok(file.clone());
        }
        Ok(self.files.open(&self.path).map_err(at(&self.path, 0))?.into())
    }

    /// Where the first batch goes.
    pub(super) fn start(&self) -> Cursor {
        Cursor {
            block: 1,
            batch: self.head.first_batch,
            chain: self.head.chain,
        }
    }

    fn place(&self, block: u64) -> Place {
        Place {
            segment: self.head.number,
            block,
        }
    }

    fn damaged(&self, block: u64, what: &str) -> Broken {
        let at = block * BLOCK as u64;
        Broken::Damaged(format!("{}: at byte {at}: {what}", self.path.display()))
    }

    fn blocks(&self, first: u64, count: usize) -> io::Result<Vec<u8>> {
        let (mut bytes, offset) = (vec![0; count * BLOCK], first * BLOCK as u64);
        self.file()?
            .read(&mut bytes, offset)
            .map_err(at(&self.path, offset))?;
        Ok(bytes)
    }

    pub(super) fn write(&self, bytes: &[u8], block: u64) -> io::Result<()> {
        let offset = block * BLOCK as u64;
        self.file()?.write(bytes, offset).map_err(at(&self.path, offset))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file()?.sync().map_err(at(&self.path, 0))
    }

    /// Whether nothing was ever written from `block` on.
    pub(super) fn is_blank(&self, block: u64) -> Result<bool, Broken> {
        let mut is_blank = true;
        self.look_through(block, |number, block| {
            is_blank &= block::kind(self.place(number), block) == Kind::Zero;
            Ok(())
        })?;
        Ok(is_blank)
    }

    /// Looks at every block from `first` on.
    fn look_through(
        &self,
        first: u64,
        mut look: impl FnMut(u64, &[u8]) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let mut at = first;
        while at < self.head.blocks {
            let count = SWEEP_BLOCKS.min((self.head.blocks - at) as usize);
            let bytes = self.blocks(at, count)?;
            for (number, block) in (at..).zip(bytes.chunks_exact(BLOCK)) {
                look(number, block)?;
            }
            at += count as u64;
        }
        Ok(())
    }

    /// Reads all batches, one after the other.
    ///
    /// # Errors
    /// [`Broken::Damaged`] if anything was changed since it was written: all is checked but what lies behind a seal.
    pub(super) fn scan(&self, mut each: impl FnMut(Batch) -> Result<(), Broken>) -> Result<End, Broken> {
        let (mut at, mut last) = (self.start(), 1);
        let end = |next, last, is_sealed, torn_to| End {
            next,
            last,
            is_sealed,
            torn_to,
        };
        while at.block < self.head.blocks {
            let tag = Tag::of(at.batch);
            let first = self.blocks(at.block, 1)?;
            match block::kind(self.place(at.block), &first) {
                Kind::Zero => return Ok(end(at, last, false, self.sweep(at.block, at.block, tag)?)),
                Kind::Sound(found) if found == tag => {}
                Kind::Sound(_) => return Err(self.damaged(at.block, "a batch of another time stands here")),
                Kind::Damaged => return Err(self.damaged(at.block, "this is not what was written")),
            }
            let (kind, len) = self.batch_head(at, block::body(&first))?;
            let count = block::count(BATCH_HEAD + len);
            if count as u64 > self.head.blocks - at.block {
                return Err(self.damaged(at.block, "a batch is longer than its segment"));
            }
            let bytes = match count {
                1 => first,
                _ => self.blocks(at.block, count)?,
            };
            let (mut content, mut sums) = (Vec::with_capacity(count * BODY), Vec::new());
            for (number, block) in (at.block..).zip(bytes.chunks_exact(BLOCK)) {
                match block::kind(self.place(number), block) {
                    Kind::Sound(found) if found == tag => {
                        content.extend_from_slice(block::body(block));
                        sums.extend_from_slice(&block[..4]);
                    }
                    // Missing: then nothing may stand behind the batch.
                    Kind::Zero => {
                        let torn_to = self.sweep(at.block, at.block + count as u64, tag)?;
                        return Ok(end(at, last, false, torn_to));
                    }
                    Kind::Sound(_) => return Err(self.damaged(number, "a batch is broken off by another")),
                    Kind::Damaged => return Err(self.damaged(number, "this is not what was written")),
                }
            }
            content.drain(..BATCH_HEAD);
            content.truncate(len);
            each(Batch {
                offset: at.block * BODY as u64 + BATCH_HEAD as u64,
                changes: content,
            })?;
            last = at.block;
            at = Cursor {
                block: at.block + count as u64,
                batch: at.batch + 1,
                chain: chain(&at.chain, &sums),
            };
            if kind == BatchKind::Seal {
                return Ok(end(at, last, true, None));
            }
        }
        Ok(end(at, last, false, None))
    }

    fn batch_head(&self, at: Cursor, body: &[u8]) -> Result<(BatchKind, usize), Broken> {
        if u64::from_le_bytes(array(&body[..8])) != at.batch || body[16..32] != at.chain {
            return Err(self.damaged(at.block, "this batch does not follow the one before it"));
        }
        let kinds = [BatchKind::Changes, BatchKind::Checkpoint, BatchKind::Seal];
        let kind = kinds.into_iter().find(|kind| kind.code() == body[8]);
        let newer = || {
            format!(
                "{}: a batch is of a kind that this program does not know",
                self.path.display()
            )
        };
        let kind = kind.ok_or_else(|| Broken::Newer(newer()))?;
        if (kind == BatchKind::Checkpoint) != (at.batch == self.head.first_batch) {
            return Err(self.damaged(at.block, "a checkpoint is missing, or out of place"));
        }
        Ok((kind, u32::from_le_bytes(array(&body[12..16])) as usize))
    }

    /// Looks through everything from block `first` on, where an unfinished batch may have left blocks, but none from
    /// `behind` on if that is known. Gives back where its remains end.
    fn sweep(&self, first: u64, behind: u64, tag: Tag) -> Result<Option<u64>, Broken> {
        let mut torn_to = None;
        self.look_through(first, |number, block| {
            match block::kind(self.place(number), block) {
                Kind::Zero => {}
                Kind::Sound(found) if found == tag && (behind == first || number < behind) => {
                    torn_to = Some(number + 1);
                }
                _ => return Err(self.damaged(number, "something stands behind the log's end")),
            }
            Ok(())
        })?;
        Ok(torn_to)
    }

    /// Makes durable what a scan has found, which may so far be in the system's memory only, and removes what an
    /// unfinished batch left.
    pub(super) fn settle(&self, end: &End) -> io::Result<()> {
        if let Some(torn_to) = end.torn_to {
            let zeros = vec![0; (torn_to - end.next.block) as usize * BLOCK];
            self.write(&zeros, end.next.block)?;
        }
        let count = (end.next.block - end.last) as usize;
        if end.next.batch > self.head.first_batch {
            self.write(&self.blocks(end.last, count)?, end.last)?;
        }
        self.sync()
    }

    /// Reads what stands at these spans, which ascend.
    ///
    /// # Errors
    /// [`Broken::Damaged`] if a block is not what was written.
    pub(super) fn read(&self, spans: &[Span]) -> Result<Vec<Bytes>, Broken> {
        let mut records = Vec::with_capacity(spans.len());
        let mut rest = spans;
        while let Some(first) = rest.first() {
            let begin = first.offset as usize;
            let end_of = |span: &Span| (span.offset + span.len) as usize;
            let near = |span: &&Span| span.offset >= first.offset && end_of(span) - begin <= WINDOW_BYTES;
            let count = rest.iter().take_while(near).count().max(1);
            let (now, later) = rest.split_at(count);
            let (block, end) = (begin / BODY, now.iter().map(end_of).max().unwrap_or(begin));
            let window = Bytes::from(self.content(block as u64, end.div_ceil(BODY) - block)?);
            records.extend(now.iter().map(|span| {
                let at = span.offset as usize - block * BODY;
                match span.len {
                    0 => Bytes::new(),
                    len => window.slice(at..at + len as usize),
                }
            }));
            rest = later;
        }
        Ok(records)
    }

    fn content(&self, first: u64, count: usize) -> Result<Vec<u8>, Broken> {
        let bytes = self.blocks(first, count)?;
        let mut content = Vec::with_capacity(count * BODY);
        for (number, block) in (first..).zip(bytes.chunks_exact(BLOCK)) {
            match block::kind(self.place(number), block) {
                Kind::Sound(_) => content.extend_from_slice(block::body(block)),
                Kind::Zero | Kind::Damaged => {
                    return Err(self.damaged(number, "this is not what was written"));
                }
            }
        }
        Ok(content)
    }
}
