//! The directory: opening it, what is bound to it, and writing to it.

use super::error::StoreError;
use super::format;
use super::group::GroupLog;
use super::journal::{Disk, Journal, into_io};
use super::writer::{Counters, Done, Postponed, WAITING_MAX, Write, WriteStats, Writer};
use crate::types::GroupId;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

const LOG_DIR: &str = "raft";
const NODE_KEY: &[u8] = b"node";
const CLUSTER_KEY: &[u8] = b"cluster";
const EPOCH_KEY: &[u8] = b"epoch";

/// One of the store's three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Entries: the group, then the index.
    Log,
    /// Votes and the like, and what is bound to the directory.
    Meta,
    /// The resolver's state and its decisions.
    State,
}

/// A change: where, the key, and the value, or `None` to remove it.
pub(crate) type Change = (Space, Vec<u8>, Option<Vec<u8>>);

/// The database's parts.
#[derive(Clone)]
pub(super) struct Keyspaces {
    database: Database,
    log: Keyspace,
    meta: Keyspace,
    state: Keyspace,
}

impl Keyspaces {
    fn open(path: &Path) -> fjall::Result<Self> {
        let database = Database::builder(path).open()?;
        let open = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        let (log, meta, state) = (open("log")?, open("meta")?, open("state")?);
        Ok(Self {
            database,
            log,
            meta,
            state,
        })
    }

    pub(super) fn get(&self, space: Space) -> &Keyspace {
        match space {
            Space::Log => &self.log,
            Space::Meta => &self.meta,
            Space::State => &self.state,
        }
    }

    pub(super) fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.database.clone(), capacity)
    }
}

/// A node's log store. Dropping the last handle, the groups' included, closes the directory.
pub struct Store {
    path: PathBuf,
    spaces: Keyspaces,
    writes: Option<mpsc::Sender<Write>>,
    postponed: Arc<Mutex<Postponed>>,
    writer: Option<JoinHandle<()>>,
    fatal: watch::Receiver<Option<Arc<str>>>,
    counters: Arc<Counters>,
    cluster: Mutex<Option<String>>,
    epoch: tokio::sync::Mutex<u64>,
    _lock: File,
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

    /// Opens a node's data directory, writing through `journal`.
    ///
    /// # Errors
    /// [`StoreError`] when the directory can't be used.
    pub fn open_with(path: &Path, node: u64, journal: impl Journal) -> Result<Arc<Self>, StoreError> {
        let lock = format::lock(path)?;
        let log_dir = path.join(LOG_DIR);
        format::check(path, &log_dir)?;
        let error = |error: fjall::Error| match error {
            fjall::Error::Locked => StoreError::Locked {
                path: path.to_owned(),
            },
            fjall::Error::Io(source) => StoreError::Io {
                path: path.to_owned(),
                source,
            },
            other => StoreError::Damaged {
                path: path.to_owned(),
                reason: other.to_string(),
            },
        };
        let spaces = Keyspaces::open(&log_dir).map_err(error)?;
        let get = |key| spaces.meta.get(key).map_err(error);
        let (found_node, cluster, epoch) = (get(NODE_KEY)?, get(CLUSTER_KEY)?, get(EPOCH_KEY)?);
        let number = |value: &fjall::UserValue| {
            <[u8; 8]>::try_from(value.as_ref())
                .map(u64::from_be_bytes)
                .map_err(|_| StoreError::Damaged {
                    path: path.to_owned(),
                    reason: "a number does not have eight bytes".to_owned(),
                })
        };
        let epoch = epoch.as_ref().map(number).transpose()?.unwrap_or(0);
        let cluster = cluster.map(|value| String::from_utf8_lossy(&value).into_owned());
        match found_node.as_ref().map(number).transpose()? {
            Some(found) if found == node => {}
            Some(found) => {
                return Err(StoreError::OtherNode {
                    path: path.to_owned(),
                    found,
                    wanted: node,
                });
            }
            None => {
                let mut batch = spaces.batch(1);
                batch.insert(&spaces.meta, NODE_KEY, node.to_be_bytes());
                batch
                    .durability(Some(fjall::PersistMode::SyncAll))
                    .commit()
                    .map_err(error)?;
            }
        }
        let (writes, waiting) = mpsc::channel(WAITING_MAX);
        let (fatal, fatal_receiver) = watch::channel(None);
        let counters = Arc::new(Counters::default());
        let postponed = Arc::new(Mutex::new(Postponed::default()));
        let thread = Writer {
            spaces: spaces.clone(),
            journal,
            waiting,
            postponed: postponed.clone(),
            fatal,
            counters: counters.clone(),
        };
        let writer = std::thread::Builder::new()
            .name("rtdb-log".to_owned())
            .spawn(move || thread.run())
            .map_err(|source| StoreError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            spaces,
            writes: Some(writes),
            postponed,
            writer: Some(writer),
            fatal: fatal_receiver,
            counters,
            cluster: Mutex::new(cluster),
            epoch: tokio::sync::Mutex::new(epoch),
            _lock: lock,
            open: watch::Sender::new(()),
        }))
    }

    /// Becomes `Some` when the disk has refused a write: the node must stop.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.fatal.clone()
    }

    /// Waits until the directory is closed: until the last handle to the store is dropped.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut open = self.open.subscribe();
        async move { while open.changed().await.is_ok() {} }
    }

    /// What has been written so far.
    pub fn stats(&self) -> WriteStats {
        self.counters.stats()
    }

    /// The cluster that the directory belongs to, once it does.
    pub fn cluster(&self) -> Option<String> {
        self.cluster.lock().clone()
    }

    /// Binds the directory to a cluster, for good.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`] if it belongs to another one; [`StoreError::Stopped`] if it can't be written.
    pub async fn bind_cluster(&self, cluster: &str) -> Result<(), StoreError> {
        match self.cluster() {
            Some(found) if found == cluster => return Ok(()),
            Some(found) => {
                return Err(StoreError::OtherCluster {
                    found,
                    wanted: cluster.to_owned(),
                });
            }
            None => {}
        }
        let change = (
            Space::Meta,
            CLUSTER_KEY.to_vec(),
            Some(cluster.as_bytes().to_vec()),
        );
        self.sync(vec![change])
            .await
            .map_err(|error| StoreError::Stopped(error.to_string()))?;
        *self.cluster.lock() = Some(cluster.to_owned());
        Ok(())
    }

    /// A new epoch for this node: larger than all before, and on disk when this returns.
    pub(crate) async fn next_epoch(&self, now_us: u64) -> io::Result<u64> {
        let mut last = self.epoch.lock().await;
        let epoch = now_us.max(*last + 1);
        self.sync(vec![(
            Space::Meta,
            EPOCH_KEY.to_vec(),
            Some(epoch.to_be_bytes().to_vec()),
        )])
        .await?;
        *last = epoch;
        Ok(epoch)
    }

    /// Opens the log of a group.
    pub(crate) fn group(self: &Arc<Self>, id: GroupId) -> Result<GroupLog, StoreError> {
        GroupLog::open(self.clone(), id)
    }

    /// Writes changes, and waits until they are on disk.
    pub(crate) async fn sync(&self, changes: Vec<Change>) -> io::Result<()> {
        let (done, waiter) = oneshot::channel();
        let done = Done::Synced(done);
        self.queue(Write { changes, done }).await?;
        waiter.await.map_err(|_| stopped())?
    }

    /// Queues changes, or postpones them if nobody waits for them.
    pub(crate) async fn write(&self, changes: Vec<Change>, done: Done) -> io::Result<()> {
        let write = Write { changes, done };
        if write.done.needs_sync() {
            return self.queue(write).await;
        }
        let is_full = {
            let mut postponed = self.postponed.lock();
            postponed.push(write);
            postponed.is_full()
        };
        match is_full {
            true => self.sync(Vec::new()).await,
            false => Ok(()),
        }
    }

    async fn queue(&self, write: Write) -> io::Result<()> {
        let writes = self.writes.as_ref().ok_or_else(stopped)?;
        writes.send(write).await.map_err(|_| stopped())
    }

    pub(crate) fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Bytes>> {
        let value = self.spaces.get(space).get(key).map_err(into_io)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// The pairs from `from` up to `to` (exclusive), in order.
    pub(crate) fn range(
        &self,
        space: Space,
        from: Vec<u8>,
        to: Vec<u8>,
    ) -> impl DoubleEndedIterator<Item = io::Result<(Bytes, Bytes)>> + use<> {
        self.spaces.get(space).range(from..to).map(|pair| {
            let (key, value) = pair.into_inner().map_err(into_io)?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
        })
    }

    pub(super) fn damaged(&self, reason: impl ToString) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.writes.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log store has stopped")
}
