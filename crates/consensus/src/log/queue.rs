//! What waits to be written: one line, in which nobody overtakes anybody.

use super::change::Change;
use super::tail::Tail;
use crate::types::TypeConfig;
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot};

/// Bytes that may wait, of all groups together; a single write may have more. Whoever has more to write waits.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Writes that may wait.
const WAITING_COUNT_MAX: usize = 4096;

/// Bytes that go into one batch, unless a single write has more.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// Bytes that nobody waits for, from which on they are written all the same.
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
        /// The tail's [era](Tail::era) when they were appended.
        era: u64,
        last: u64,
    },
    /// Somebody who needs it to be on disk.
    Synced(oneshot::Sender<io::Result<()>>),
    /// Nobody: it goes with the next write that somebody waits for, so that it costs neither a waking of the thread nor
    /// a system call of its own. The cell learns how far the resolver's part has come.
    Later { written: Arc<AtomicU64>, index: u64 },
}

impl Done {
    /// Nobody waits, or will ask.
    pub(super) fn nobody() -> Self {
        Self::Later {
            written: Arc::default(),
            index: 0,
        }
    }

    fn is_awaited(&self) -> bool {
        !matches!(self, Self::Later { .. })
    }

    pub(super) fn complete(self, result: &io::Result<()>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match self {
            Self::Appended {
                flushed,
                tail,
                era,
                last,
            } => {
                if result.is_ok() {
                    tail.lock().written(era, last);
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

#[derive(Default)]
struct Line {
    writes: VecDeque<Write>,
    bytes: usize,
    /// Bytes that nobody waits for.
    postponed: usize,
    /// Writes that somebody waits for.
    awaited: usize,
    is_closed: bool,
}

/// The line before the log's thread. Whatever was put in first is on disk first: what is said about an entry is never
/// there before the entry.
#[derive(Default)]
pub(super) struct Queue {
    line: Mutex<Line>,
    work: Notify,
    room: Notify,
}

impl Queue {
    /// Puts a write at the line's end, once there is room.
    ///
    /// # Errors
    /// When the line is closed.
    pub(super) async fn push(&self, write: Write) -> io::Result<()> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut line = self.line.lock();
                if line.is_closed {
                    return Err(stopped());
                }
                if line.has_room() {
                    line.push(write);
                    if line.is_due() {
                        self.work.notify_one();
                    }
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// Takes what goes into the next batch, once there is something that somebody waits for. `None` when the line is
    /// closed, and everything was taken.
    pub(super) async fn take(&self) -> Option<Vec<Write>> {
        while !self.is_due() {
            self.work.notified().await;
        }
        let mut line = self.line.lock();
        let (mut taken, mut size) = (Vec::new(), 0);
        while let Some(next) = line.writes.front() {
            size += bytes(next);
            if size > BATCH_BYTES_MAX && !taken.is_empty() {
                break;
            }
            taken.extend(line.pop());
        }
        drop(line);
        self.room.notify_waiters();
        (!taken.is_empty()).then_some(taken)
    }

    fn is_due(&self) -> bool {
        let line = self.line.lock();
        line.is_due() || line.is_closed
    }

    /// Takes no more.
    pub(super) fn close(&self) {
        self.line.lock().is_closed = true;
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Takes no more, and lets everybody go who waits: nobody will take what is in the line.
    pub(super) fn abandon(&self) {
        self.close();
        let abandoned = std::mem::take(&mut self.line.lock().writes);
        drop(abandoned);
    }
}

impl Line {
    fn has_room(&self) -> bool {
        self.bytes < WAITING_BYTES_MAX && self.writes.len() < WAITING_COUNT_MAX
    }

    /// Full counts too: who waits for room, waits for a write.
    fn is_due(&self) -> bool {
        self.awaited > 0 || self.postponed >= POSTPONED_BYTES_MAX || !self.has_room()
    }

    fn push(&mut self, write: Write) {
        let bytes = bytes(&write);
        self.bytes += bytes;
        match write.done.is_awaited() {
            true => self.awaited += 1,
            false => self.postponed += bytes,
        }
        self.writes.push_back(write);
    }

    fn pop(&mut self) -> Option<Write> {
        let write = self.writes.pop_front()?;
        let bytes = bytes(&write);
        self.bytes -= bytes;
        match write.done.is_awaited() {
            true => self.awaited -= 1,
            false => self.postponed -= bytes,
        }
        Some(write)
    }
}

fn bytes(write: &Write) -> usize {
    write.changes.iter().map(Change::size).sum()
}

pub(super) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log store has stopped")
}
