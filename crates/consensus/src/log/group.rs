//! One group's log, as openraft uses it.

use super::error::StoreError;
use super::store::{Change, Space, Store};
use super::tail::{Tail, size};
use super::writer::Done;
use crate::record::{LogIdRecord, LogRecord, VoteRecord};
use crate::types::{GroupId, LogId, RaftEntry, TypeConfig, Vote};
use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use parking_lot::Mutex;
use prost::Message;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Bytes of entries that go into one message to a follower, unless a single entry has more.
const SENT_BYTES_MAX: usize = 4 << 20;

const VOTE: u8 = b'v';
const COMMITTED: u8 = b'c';
const PURGED: u8 = b'p';

/// One group's log. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct GroupLog {
    id: GroupId,
    store: Arc<Store>,
    tail: Arc<Mutex<Tail>>,
    vote: Arc<Mutex<Option<Vote>>>,
}

impl GroupLog {
    pub(super) fn open(store: Arc<Store>, id: GroupId) -> Result<Self, StoreError> {
        let damaged = |error: io::Error| store.damaged(error);
        let decode_log_id = |bytes: Option<Bytes>| {
            bytes
                .map(LogIdRecord::decode)
                .transpose()
                .map(|id| id.map(LogId::from))
                .map_err(|e| store.damaged(e))
        };
        let vote = store.get(Space::Meta, &meta_key(id, VOTE)).map_err(damaged)?;
        let vote = vote
            .map(VoteRecord::decode)
            .transpose()
            .map_err(|error| store.damaged(error))?;
        let purged = decode_log_id(store.get(Space::Meta, &meta_key(id, PURGED)).map_err(damaged)?)?;
        let log_id = |pair: Option<io::Result<(Bytes, Bytes)>>| {
            pair.map(|pair| Ok(decode(pair?.1)?.log_id))
                .transpose()
                .map_err(damaged)
        };
        let range = || store.range(Space::Log, log_key(id, 0), log_key(id, u64::MAX));
        let first = log_id(range().next())?.map_or(0, |id| id.index);
        let last = log_id(range().next_back())?;
        let tail = Arc::new(Mutex::new(Tail::new(first, last, purged)));
        Ok(Self {
            id,
            store,
            tail,
            vote: Arc::new(Mutex::new(vote.map(Vote::from))),
        })
    }

    pub(crate) fn id(&self) -> GroupId {
        self.id
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Reads entries from `from` up to `end` (exclusive): no more than about `bytes_max` bytes, but at least one if
    /// there is one.
    pub(crate) async fn read(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let (from, disk_end, cached) = {
            let tail = self.tail.lock();
            let from = from.max(tail.begin());
            let end = end.min(tail.end());
            let cached_from = tail.cached_from();
            let cached = if from >= cached_from {
                tail.copy(from, end, bytes_max)
            } else {
                Vec::new()
            };
            (from, end.min(cached_from), cached)
        };
        if from >= disk_end {
            return Ok(cached);
        }
        let mut entries = self.read_disk(from, disk_end, bytes_max).await?;
        let taken: usize = entries.iter().map(size).sum();
        if taken < bytes_max
            && entries
                .last()
                .is_some_and(|last| last.log_id.index + 1 == disk_end)
        {
            let tail = self.tail.lock();
            // Entries may have left the memory meanwhile; then they are for the next read.
            if tail.cached_from() <= disk_end {
                entries.extend(tail.copy(disk_end, end.min(tail.end()), bytes_max - taken));
            }
        }
        Ok(entries)
    }

    async fn read_disk(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let (store, id) = (self.store.clone(), self.id);
        let read = move || {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for pair in store.range(Space::Log, log_key(id, from), log_key(id, end)) {
                let entry = decode(pair?.1)?;
                let expected = from + entries.len() as u64;
                if entry.log_id.index != expected {
                    let reason = format!("entry {expected} of {id} is missing from the log");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                }
                bytes += size(&entry);
                entries.push(entry);
                if bytes >= bytes_max {
                    break;
                }
            }
            Ok(entries)
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)?
    }

    fn meta(&self, kind: u8, value: Vec<u8>) -> Change {
        (Space::Meta, meta_key(self.id, kind), Some(value))
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<RaftEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut from, end) = limits(&range);
        let mut entries = Vec::new();
        loop {
            let more = self.read(from, end, usize::MAX).await?;
            match more.last() {
                Some(last) => from = last.log_id.index + 1,
                None => return Ok(entries),
            }
            entries.extend(more);
        }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, SENT_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.vote.lock())
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.tail.lock();
        Ok(LogState {
            last_purged_log_id: tail.purged(),
            last_log_id: tail.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.store
            .sync(vec![self.meta(VOTE, VoteRecord::from(*vote).encode_to_vec())])
            .await?;
        *self.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let value = committed.map(|id| LogIdRecord::from(id).encode_to_vec());
        let change = (Space::Meta, meta_key(self.id, COMMITTED), value);
        let done = Done::Later {
            written: Arc::new(AtomicU64::new(0)),
            index: 0,
        };
        self.store.write(vec![change], done).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let Some(value) = self.store.get(Space::Meta, &meta_key(self.id, COMMITTED))? else {
            return Ok(None);
        };
        let committed = LogId::from(LogIdRecord::decode(value).map_err(io::Error::other)?);
        Ok(Some(committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        let last = {
            let mut tail = self.tail.lock();
            for entry in entries {
                let key = log_key(self.id, entry.log_id.index);
                changes.push((Space::Log, key, Some(LogRecord::from(&entry).encode_to_vec())));
                tail.push(entry);
            }
            tail.last().map_or(0, |id| id.index)
        };
        let done = Done::Appended {
            flushed: callback,
            tail: self.tail.clone(),
            last,
        };
        self.store.write(changes, done).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let changes = {
            let mut tail = self.tail.lock();
            let first = last_log_id.map_or(0, |id| id.index + 1);
            let changes = (first..tail.end())
                .map(|index| (Space::Log, log_key(self.id, index), None))
                .collect();
            tail.truncate(last_log_id);
            changes
        };
        // Waited for, so that an append from before can't be taken for one from after.
        self.store.sync(changes).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let first = self.tail.lock().purged().map_or(0, |id| id.index + 1);
        let mut changes: Vec<Change> = (first..=log_id.index)
            .map(|index| (Space::Log, log_key(self.id, index), None))
            .collect();
        changes.push(self.meta(PURGED, LogIdRecord::from(log_id).encode_to_vec()));
        self.tail.lock().purge(log_id);
        self.store.sync(changes).await
    }
}

fn limits(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(from) => from + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (from, end)
}

fn decode(record: Bytes) -> io::Result<<TypeConfig as RaftTypeConfig>::Entry> {
    let record =
        LogRecord::decode(record).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(RaftEntry::try_from(record)?)
}

pub(super) fn log_key(group: GroupId, index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.extend_from_slice(&group.0.to_be_bytes());
    key.extend_from_slice(&index.to_be_bytes());
    key
}

fn meta_key(group: GroupId, kind: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(10);
    key.push(b'g');
    key.extend_from_slice(&group.0.to_be_bytes());
    key.push(kind);
    key
}
