//! The directory: opening it, reading it and writing to it.

mod bound;
mod pledge;

pub(crate) use bound::EPOCH_MAX;

use super::broken::Broken;
use super::change::{Change, Sequence, Space};
use super::error::StoreError;
use super::files::{Disk, Files};
use super::format;
use super::journal::{self, Journal, SEGMENT_BYTES};
use super::queue::{Done, Queue, Write, stopped};
use super::reader::Reader;
use super::segment::Segment;
use super::stall::Stall;
use super::writer::{Progress, WriteStats, Writer};
use crate::fatal::Fatal;
use crate::founding::PledgeRecord;
use crate::group_id::GroupId;
use crate::record::FoundersRecord;
use bound::{CLUSTER_KEY, EPOCH_KEY, FOUNDERS_KEY, NODE_KEY};
use bytes::Bytes;
use parking_lot::Mutex;
use pledge::PLEDGE_KEY;
use prost::Message;
use rtdb_runtime::{Instant, Worker};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

const LOG_DIR: &str = "log";
/// Where format 1 kept its log.
const OLD_LOG_DIR: &str = "raft";

/// For how long a store that is closed waits for a write that is under way.
const DROP_PATIENCE: Duration = Duration::from_secs(5);

/// How long the end of the store waits at once for the thread that writes.
const JOIN_PAUSE: Duration = Duration::from_millis(5);

/// A node's log store. Dropping the last handle, the groups' included, closes the directory.
pub struct Store {
    path: PathBuf,
    reader: Arc<Reader>,
    queue: Arc<Queue>,
    writer: Option<Worker>,
    fatal: Fatal,
    progress: Arc<Progress>,
    /// Held while the directory is being bound.
    binding: tokio::sync::Mutex<()>,
    cluster: Mutex<Option<String>>,
    /// The nodes that found the cluster; empty if this one was not told.
    founders: Mutex<FoundersRecord>,
    pledge: Mutex<PledgeRecord>,
    epoch: tokio::sync::Mutex<u64>,
    /// Groups, which share the memory for entries.
    groups: Arc<AtomicUsize>,
    lock: Option<File>,
    /// Dropped last: says that the directory is closed.
    open: watch::Sender<()>,
}

impl Store {
    /// Opens a node's data directory, or makes it.
    ///
    /// # Errors
    /// [`StoreError`] when the directory can't be used.
    pub fn open(path: &Path, node: u64) -> Result<Arc<Self>, StoreError> {
        Self::open_with(path, node, Disk)
    }

    /// Opens a node's data directory; its log is on `files`.
    ///
    /// # Errors
    /// [`StoreError`] when the directory can't be used.
    pub fn open_with(path: &Path, node: u64, files: impl Files) -> Result<Arc<Self>, StoreError> {
        let io = |source| StoreError::Io {
            path: path.to_owned(),
            source,
        };
        let lock = format::lock(path)?;
        let is_marked = format::check(path)?;
        if !is_marked && path.join(OLD_LOG_DIR).exists() {
            return Err(StoreError::Foreign {
                path: path.to_owned(),
            });
        }
        let store = Self::on(Arc::new(files), path, node, SEGMENT_BYTES, !is_marked, Some(lock))?;
        if !is_marked {
            format::mark(path).map_err(io)?;
        }
        // An earlier start may have been stopped before it had done so.
        format::settle(path, LOG_DIR).map_err(io)?;
        Ok(store)
    }

    /// Opens the log on `files` alone, without a directory around it: who does so sees to it that nobody else has it open,
    /// and knows whether it `is_new`.
    ///
    /// # Errors
    /// [`StoreError`] when it can't be used.
    #[cfg(feature = "sim")]
    pub fn bare(
        files: Arc<dyn Files>,
        node: u64,
        segment_bytes: u64,
        is_new: bool,
    ) -> Result<Arc<Self>, StoreError> {
        Self::on(files, Path::new("data"), node, segment_bytes, is_new, None)
    }

    /// Opens a log, or begins one if the directory `is_new`: then at most the beginning of one is there.
    pub(super) fn on(
        files: Arc<dyn Files>,
        path: &Path,
        node: u64,
        segment_bytes: u64,
        is_new: bool,
        lock: Option<File>,
    ) -> Result<Arc<Self>, StoreError> {
        let folder = path.join(LOG_DIR);
        let broken = |broken| match broken {
            Broken::Io(source) => StoreError::Io {
                path: path.to_owned(),
                source,
            },
            Broken::Damaged(reason) => StoreError::Damaged {
                path: path.to_owned(),
                reason,
            },
            Broken::Newer(reason) => StoreError::NewerLog {
                path: path.to_owned(),
                reason,
            },
        };
        let mut journal = match is_new {
            true => begin(files, &folder, segment_bytes).map_err(broken)?,
            false => Journal::open(files, &folder, segment_bytes).map_err(broken)?,
        };
        let reader = journal.reader().clone();
        let get = |key: &[u8]| reader.get(Space::Meta, key);
        let number = |value: Bytes| {
            <[u8; 8]>::try_from(&*value)
                .map(u64::from_be_bytes)
                .map_err(|_| broken(Broken::Damaged("a number does not have eight bytes".to_owned())))
        };
        let found = get(NODE_KEY).map(number).transpose()?;
        if let Some(found) = found.filter(|found| *found != node) {
            return Err(StoreError::OtherNode {
                path: path.to_owned(),
                found,
                wanted: node,
            });
        }
        let epoch = get(EPOCH_KEY).map(number).transpose()?.unwrap_or(0);
        let cluster = get(CLUSTER_KEY).map(|name| String::from_utf8_lossy(&name).into_owned());
        let founders = get(FOUNDERS_KEY).map(FoundersRecord::decode).transpose();
        let founders = founders.map_err(|error| broken(Broken::Damaged(error.to_string())))?;
        let pledge = get(PLEDGE_KEY).map(PledgeRecord::decode).transpose();
        let pledge = pledge.map_err(|error| broken(Broken::Damaged(error.to_string())))?;
        if found.is_none() {
            let bound = Change::set(Space::Meta, NODE_KEY.to_vec(), node.to_be_bytes().to_vec());
            journal
                .append(&[bound])
                .map_err(|error| broken(Broken::Io(error)))?;
        }
        let (queue, progress) = (Arc::<Queue>::default(), Arc::<Progress>::default());
        let fatal = Fatal::new();
        let writer = Writer {
            files: journal.files().clone(),
            journal,
            queue: queue.clone(),
            fatal: fatal.clone(),
            progress: progress.clone(),
        };
        let writer =
            rtdb_runtime::worker("rtdb-log", writer.run()).map_err(|error| broken(Broken::Io(error)))?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            reader,
            queue,
            writer: Some(writer),
            fatal,
            progress,
            binding: tokio::sync::Mutex::default(),
            cluster: Mutex::new(cluster),
            founders: Mutex::new(founders.unwrap_or_default()),
            pledge: Mutex::new(pledge.unwrap_or_default()),
            epoch: tokio::sync::Mutex::new(epoch),
            groups: Arc::default(),
            lock,
            open: watch::Sender::new(()),
        }))
    }

    /// Becomes `Some` when the disk has refused a write: the node must stop.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.fatal.subscribe()
    }

    /// Waits for ever, unless the disk is busy with one write or read for longer than `patience`. Then nothing is written any
    /// more, and nobody is told that anything was: the node must stop before it does nothing for ever.
    pub(crate) async fn watch(&self, patience: Duration) {
        let step = patience / 8;
        let mut stall = Stall::new(step);
        loop {
            let looked = Instant::now();
            rtdb_runtime::sleep(step).await;
            // In this order: one thing that hangs is busy for longer than that, even if the node stands still here.
            let since_last = looked.elapsed();
            let waited = stall.look(self.progress.busy_for(), since_last);
            if waited > patience {
                let reason = format!(
                    "the disk has not finished a write to the log, or a read from it, for {} s",
                    waited.as_secs()
                );
                self.fatal.set(reason);
                return;
            }
        }
    }

    /// Waits until the directory is closed: until the last handle to the store is dropped.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut open = self.open.subscribe();
        async move { while open.changed().await.is_ok() {} }
    }

    /// For how long the disk has been busy with one write.
    pub(crate) fn writing_for(&self) -> Duration {
        self.progress.writing_for()
    }

    /// What has been written so far.
    pub fn stats(&self) -> WriteStats {
        self.progress.stats()
    }

    pub(super) fn groups(&self) -> &Arc<AtomicUsize> {
        &self.groups
    }

    /// Writes changes, and waits until they, and all that was written before, are on disk.
    pub(crate) async fn sync(&self, changes: Vec<Change>) -> io::Result<()> {
        let (done, waiter) = oneshot::channel();
        self.write(changes, Done::Synced(done)).await?;
        waiter.await.map_err(|_| stopped())?
    }

    /// Puts changes in the line of what is to be written.
    pub(crate) async fn write(&self, changes: Vec<Change>, done: Done) -> io::Result<()> {
        self.queue.push(Write { changes, done }).await
    }

    /// The value of a name.
    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.reader.get(space, key)
    }

    /// The names from `from` up to `to` (exclusive), in order, with their values.
    pub(crate) fn range(&self, space: Space, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Bytes)> {
        self.reader.range(space, from, to)
    }

    /// The first and the last index of a group's entries on disk.
    pub(super) fn bounds(&self, group: GroupId) -> Option<(u64, u64)> {
        self.reader.bounds(group)
    }

    /// Reads what is on disk of a sequence, from `from` up to `end` (exclusive): about `bytes_max` bytes, but at least one
    /// record if there is one.
    ///
    /// # Errors
    /// When the disk refuses, or gives back something else than was written.
    pub(super) async fn read(
        &self,
        group: GroupId,
        sequence: Sequence,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<(u64, Bytes)>> {
        let (reader, progress) = (self.reader.clone(), self.progress.clone());
        let read = move || {
            let _reading = progress.reading();
            reader.read(group, sequence, from, end, bytes_max)
        };
        Ok(rtdb_runtime::unblock(read).await.map_err(io::Error::other)??)
    }

    /// [`read`](Self::read), for those who may wait for the disk.
    pub(super) fn read_now(&self, group: GroupId, index: u64) -> io::Result<Option<Bytes>> {
        let found = self.reader.read(group, Sequence::Entries, index, index + 1, 1)?;
        Ok(found.into_iter().next().map(|(_, record)| record))
    }

    /// Reads everything, and so checks it.
    ///
    /// # Errors
    /// When anything is not what was written.
    #[cfg(test)]
    pub(super) fn verify(&self) -> io::Result<()> {
        Ok(self.reader.verify()?)
    }

    pub(crate) fn damaged(&self, reason: impl ToString) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Begins a log. What an earlier try has left is not more than its first segment, whose checkpoint and node id nobody was
/// told of.
fn begin(files: Arc<dyn Files>, folder: &Path, segment_bytes: u64) -> Result<Journal, Broken> {
    files.tidy(folder)?;
    let is_blank = match journal::numbers(&*files, folder)?.as_slice() {
        [] => true,
        [1] => Segment::open(&files, folder, 1)?.is_blank(journal::BEGUN_BLOCKS)?,
        _ => false,
    };
    if !is_blank {
        let reason = "the file FORMAT is missing, and the log holds something";
        return Err(Broken::Damaged(reason.to_owned()));
    }
    Ok(Journal::create(
        files,
        folder,
        segment_bytes,
        rtdb_runtime::random_bytes(),
    )?)
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.close();
        let Some(writer) = self.writer.take() else { return };
        while !writer.is_finished() {
            let busy = self.progress.writing_for();
            // A disk that hangs must not keep the node from ending. But what it is still writing must not come after what
            // another process writes: the lock stays until this one is gone.
            if busy > DROP_PATIENCE || self.fatal.reason().is_some() && !busy.is_zero() {
                std::mem::forget(self.lock.take());
                return;
            }
            std::thread::sleep(JOIN_PAUSE);
        }
        if writer.join().is_err() {
            tracing::error!("the log's writer panicked");
        }
    }
}
