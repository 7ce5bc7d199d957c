//! The thread that writes.

use super::journal::Journal;
use super::store::{Change, Keyspaces};
use super::tail::Tail;
use crate::types::TypeConfig;
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

/// Writes that may wait for the thread.
pub(super) const WAITING_MAX: usize = 1024;

/// Bytes that go into one batch, unless a single write has more.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// Bytes that nobody waits for, from which on whoever adds to them waits until they are written.
const POSTPONED_BYTES_MAX: usize = 1 << 20;

/// A write, and who waits for it.
pub(super) struct Write {
    pub(super) changes: Vec<Change>,
    pub(super) done: Done,
}

/// Who waits for a write.
pub(crate) enum Done {
    /// Raft, for entries that must be on disk; the group's tail learns how far the disk has come.
    Appended {
        flushed: IOFlushed<TypeConfig>,
        tail: Arc<Mutex<Tail>>,
        last: u64,
    },
    /// Somebody who needs it to be on disk.
    Synced(oneshot::Sender<io::Result<()>>),
    /// Nobody: it goes with the next write. The cell learns how far the resolver's part has come.
    Later { written: Arc<AtomicU64>, index: u64 },
}

impl Done {
    pub(super) fn needs_sync(&self) -> bool {
        !matches!(self, Self::Later { .. })
    }

    fn complete(self, result: &io::Result<()>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match self {
            Self::Appended { flushed, tail, last } => {
                if result.is_ok() {
                    tail.lock().written(last);
                }
                flushed.io_completed(result);
            }
            // The waiter may have been cancelled.
            Self::Synced(waiter) => drop(waiter.send(result)),
            Self::Later { written, index } => {
                if result.is_ok() {
                    written.fetch_max(index, Ordering::Release);
                }
            }
        }
    }
}

/// Writes that nobody waits for. They go with the next one that somebody does wait for, so that they cost neither a
/// waking of the thread nor a system call of their own.
#[derive(Default)]
pub(super) struct Postponed {
    writes: Vec<Write>,
    bytes: usize,
}

impl Postponed {
    pub(super) fn push(&mut self, write: Write) {
        self.bytes += bytes(&write);
        self.writes.push(write);
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= POSTPONED_BYTES_MAX
    }

    fn drain(&mut self) -> (std::vec::Drain<'_, Write>, usize) {
        (self.writes.drain(..), std::mem::take(&mut self.bytes))
    }
}

/// What the writer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Batches that were synced.
    pub syncs: u64,
    /// The time they took, in microseconds.
    pub sync_us: u64,
    /// Writes that went into the batches.
    pub writes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    syncs: AtomicU64,
    sync_us: AtomicU64,
    writes: AtomicU64,
}

impl Counters {
    pub(super) fn stats(&self) -> WriteStats {
        WriteStats {
            syncs: self.syncs.load(Ordering::Relaxed),
            sync_us: self.sync_us.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
        }
    }
}

/// The thread's own part.
pub(super) struct Writer<J> {
    pub(super) spaces: Keyspaces,
    pub(super) journal: J,
    pub(super) waiting: mpsc::Receiver<Write>,
    pub(super) postponed: Arc<Mutex<Postponed>>,
    pub(super) fatal: watch::Sender<Option<Arc<str>>>,
    pub(super) counters: Arc<Counters>,
}

impl<J: Journal> Writer<J> {
    /// Writes until the store is dropped.
    pub(super) fn run(mut self) {
        let mut group = Vec::new();
        loop {
            let mut next = self.waiting.blocking_recv();
            let mut size = self.postponed(&mut group);
            if next.is_none() && group.is_empty() {
                return;
            }
            while let Some(write) = next {
                size += bytes(&write);
                group.push(write);
                next = match size < BATCH_BYTES_MAX {
                    true => self.waiting.try_recv().ok(),
                    false => None,
                };
            }
            let result = self.write(&mut group);
            if let Err(error) = &result {
                tracing::error!(%error, "the log can't be written");
                self.fatal.send_if_modified(|fatal| {
                    let first = fatal.is_none();
                    fatal.get_or_insert_with(|| format!("the log can't be written: {error}").into());
                    first
                });
            }
            for write in group.drain(..) {
                write.done.complete(&result);
            }
        }
    }

    /// Takes what was postponed. It stands before what is queued, whichever came first: nobody postpones a change of keys
    /// while another one of theirs is queued.
    fn postponed(&self, group: &mut Vec<Write>) -> usize {
        let mut postponed = self.postponed.lock();
        let (writes, bytes) = postponed.drain();
        group.extend(writes);
        bytes
    }

    fn write(&mut self, group: &mut [Write]) -> io::Result<()> {
        // What a failed write has left behind is not known: nothing may follow it.
        if let Some(reason) = self.fatal.borrow().as_deref() {
            return Err(io::Error::other(reason.to_owned()));
        }
        let sync = group.iter().any(|write| write.done.needs_sync());
        let mut batch = self
            .spaces
            .batch(group.iter().map(|write| write.changes.len()).sum());
        for write in group.iter_mut() {
            for (space, key, value) in write.changes.drain(..) {
                match value {
                    Some(value) => batch.insert(self.spaces.get(space), key, value),
                    None => batch.remove(self.spaces.get(space), key),
                }
            }
        }
        let begin = Instant::now();
        self.journal.commit(batch, sync)?;
        if sync {
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
            self.counters
                .sync_us
                .fetch_add(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        self.counters
            .writes
            .fetch_add(group.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

fn bytes(write: &Write) -> usize {
    write
        .changes
        .iter()
        .map(|(_, key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
        .sum()
}
