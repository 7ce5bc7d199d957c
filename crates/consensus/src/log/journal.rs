//! The step that makes a batch durable, and the seam where tests make it fail.

use fjall::{OwnedWriteBatch, PersistMode};
use std::io;

/// Writes batches, one after the other, in order.
pub trait Journal: Send + 'static {
    /// Writes a batch, all of it or nothing. With `sync` it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses. Nothing is written after that: what the batch left behind is not known.
    fn commit(&mut self, batch: OwnedWriteBatch, sync: bool) -> io::Result<()>;
}

/// The disk as it is.
#[derive(Debug, Default)]
pub struct Disk;

impl Journal for Disk {
    fn commit(&mut self, batch: OwnedWriteBatch, sync: bool) -> io::Result<()> {
        let mode = sync.then_some(PersistMode::SyncData);
        batch.durability(mode).commit().map_err(into_io)
    }
}

pub(super) fn into_io(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
