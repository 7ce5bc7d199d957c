//! The thread that writes.

use super::change::Change;
use super::files::Files;
use super::journal::Journal;
use super::queue::{Done, Queue, Write};
use crate::fatal::Fatal;
use parking_lot::Mutex;
use rtdb_runtime::{Instant, planted};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A write that takes longer is worth a warning.
const SLOW: Duration = Duration::from_secs(1);

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

impl WriteStats {
    /// What a batch took, on average, since it was asked `before`.
    pub(crate) fn mean_since(&self, before: &Self) -> Duration {
        let syncs = self.syncs.saturating_sub(before.syncs).max(1);
        Duration::from_micros(self.sync_us.saturating_sub(before.sync_us) / syncs)
    }
}

/// What the thread says of itself.
#[derive(Debug, Default)]
pub(super) struct Progress {
    syncs: AtomicU64,
    sync_us: AtomicU64,
    writes: AtomicU64,
    /// When the write that is under way began.
    busy_since: Mutex<Option<Instant>>,
    /// When the reads that are under way began.
    reads: Mutex<Vec<Instant>>,
}

/// A read that is under way, until it is dropped.
pub(super) struct Reading<'a>(&'a Progress, Instant);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut reads = self.0.reads.lock();
        if let Some(place) = reads.iter().position(|since| *since == self.1) {
            reads.swap_remove(place);
        }
    }
}

impl Progress {
    pub(super) fn stats(&self) -> WriteStats {
        WriteStats {
            syncs: self.syncs.load(Ordering::Relaxed),
            sync_us: self.sync_us.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
        }
    }

    /// For how long the disk has been busy with one write.
    pub(super) fn writing_for(&self) -> Duration {
        self.busy_since
            .lock()
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// For how long the disk has been busy with one write or read.
    pub(super) fn busy_for(&self) -> Duration {
        let oldest = self.reads.lock().iter().min().copied();
        let reading = oldest.map_or(Duration::ZERO, |since| since.elapsed());
        reading.max(self.writing_for())
    }

    /// A read begins.
    pub(super) fn reading(&self) -> Reading<'_> {
        let now = Instant::now();
        self.reads.lock().push(now);
        Reading(self, now)
    }
}

/// The thread's own part.
pub(super) struct Writer {
    pub(super) files: Arc<dyn Files>,
    pub(super) journal: Journal,
    pub(super) queue: Arc<Queue>,
    pub(super) fatal: Fatal,
    pub(super) progress: Arc<Progress>,
}

/// Says so if the thread ends in a panic: whoever waits for it would wait for ever.
struct Panics<'a>(&'a Fatal, &'a Queue);

impl Drop for Panics<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set("the log's writer has panicked");
            self.1.abandon();
        }
    }
}

/// A fault that is planted: says that entries are on disk. Gives back the other writes.
fn complete_entries(writes: Vec<Write>) -> Vec<Write> {
    let is_entries = |write: &Write| matches!(write.done, Done::Appended { .. });
    let (entries, others): (Vec<_>, Vec<_>) = writes.into_iter().partition(is_entries);
    entries.into_iter().for_each(|write| write.done.complete(&Ok(())));
    others
}

impl Writer {
    /// Writes until the store is dropped.
    pub(super) async fn run(mut self) {
        let (fatal, queue) = (self.fatal.clone(), self.queue.clone());
        let _panics = Panics(&fatal, &queue);
        while let Some(mut writes) = self.queue.take().await {
            let changes: Vec<Change> = writes
                .iter_mut()
                .flat_map(|write| std::mem::take(&mut write.changes))
                .collect();
            if planted("entries count before they are synced") {
                writes = complete_entries(writes);
            }
            let result = self.write(&changes, writes.len() as u64).await;
            if let Err(error) = &result {
                rtdb_runtime::reached("writes that failed");
                self.fatal.set(format!("the log can't be written: {error}"));
            }
            for write in writes {
                write.done.complete(&result);
            }
        }
    }

    async fn write(&mut self, changes: &[Change], writes: u64) -> io::Result<()> {
        // What a failed write has left behind is not known: nothing may follow it.
        if let Some(reason) = self.fatal.reason() {
            return Err(io::Error::other(reason.to_string()));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        *self.progress.busy_since.lock() = Some(begin);
        let mut result = self.journal.append(changes);
        if let (Ok(()), Some(settling)) = (&result, self.files.settling()) {
            result = settling.await;
        }
        if planted("failed syncs count") {
            result = Ok(());
        }
        *self.progress.busy_since.lock() = None;
        let took = begin.elapsed();
        if took > SLOW {
            tracing::warn!(
                ms = took.as_millis(),
                "the disk is slow: a write to the log took long"
            );
        }
        result?;
        self.progress.syncs.fetch_add(1, Ordering::Relaxed);
        self.progress
            .sync_us
            .fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        self.progress.writes.fetch_add(writes, Ordering::Relaxed);
        Ok(())
    }
}
