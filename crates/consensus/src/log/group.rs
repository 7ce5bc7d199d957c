//! One group's log, as openraft uses it.

use super::change::{Change, Sequence, Space};
use super::error::StoreError;
use super::queue::Done;
use super::store::Store;
use super::tail::{Tail, size};
use crate::group_id::GroupId;
use crate::record::{LogIdRecord, LogRecord, VoteRecord};
use crate::types::{LogId, RaftEntry, TypeConfig, Vote};
use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use parking_lot::Mutex;
use prost::Message;
use rtdb_runtime::planted;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
    /// Nothing up to it is ever cut off.
    committed: Arc<Mutex<Option<LogId>>>,
}

impl Store {
    /// Opens the log of a group.
    pub(crate) fn group(self: &Arc<Self>, id: GroupId) -> Result<GroupLog, StoreError> {
        GroupLog::open(self.clone(), id)
    }
}

impl GroupLog {
    pub(super) fn open(store: Arc<Store>, id: GroupId) -> Result<Self, StoreError> {
        let damaged = |reason: String| store.damaged(format!("{id}: {reason}"));
        let get = |kind| store.get(Space::Meta, &meta_key(id, kind));
        let vote = get(VOTE).map(VoteRecord::decode).transpose();
        let vote = vote.map_err(|error| damaged(error.to_string()))?;
        let log_id = |kind| decode_log_id(get(kind)).map_err(|error| damaged(error.to_string()));
        let (purged, committed) = (log_id(PURGED)?, log_id(COMMITTED)?);
        let (mut first, mut last) = (0, None);
        if let Some((begin, end)) = store.bounds(id) {
            let record = store.read_now(id, end).and_then(|record| {
                decode(record.ok_or_else(|| io::Error::other("the last entry is missing"))?)
            });
            (first, last) = (
                begin,
                Some(record.map_err(|error| damaged(error.to_string()))?.log_id),
            );
            if first > purged.map_or(1, |id| id.index + 1) {
                return Err(damaged(format!("the entries before {first} are missing")));
            }
        }
        // Nothing is written before what it speaks of.
        let end = last.max(purged);
        if committed > end {
            return Err(damaged(format!(
                "it was committed up to {}, and ends with {}",
                shown(committed),
                shown(end)
            )));
        }
        store.groups().fetch_add(1, Ordering::Relaxed);
        let tail = Tail::new(first, last, purged, store.groups().clone());
        Ok(Self {
            id,
            store,
            tail: Arc::new(Mutex::new(tail)),
            vote: Arc::new(Mutex::new(vote.map(Vote::from))),
            committed: Arc::new(Mutex::new(committed)),
        })
    }

    /// The id of the entry at `index`; of a purged one only if it is the last of them. `None` if there is none.
    ///
    /// # Errors
    /// When the disk refuses. Waits for the disk: for the node's start only.
    pub(crate) fn log_id_at(&self, index: u64) -> io::Result<Option<LogId>> {
        let purged = self.tail.lock().purged();
        if let Some(purged) = purged.filter(|purged| purged.index == index) {
            return Ok(Some(purged));
        }
        let record = self.store.read_now(self.id, index)?;
        record.map(|record| Ok(decode(record)?.log_id)).transpose()
    }

    /// The part of a node's `bytes` that is this group's: all have the same.
    pub(crate) fn share(&self, bytes: usize) -> usize {
        self.tail.lock().share(bytes)
    }

    /// The id of the last entry, purged or not.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.tail.lock().last()
    }

    /// What was decided about the entries from `from` up to `end` (exclusive), with their indices.
    pub(crate) async fn decisions(&self, from: u64, end: u64) -> io::Result<Vec<(u64, Bytes)>> {
        self.store
            .read(self.id, Sequence::Decisions, from, end, usize::MAX)
            .await
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
        loop {
            let era = self.tail.lock().era();
            let entries = self.read_once(from, end, bytes_max).await;
            // What was cut off meanwhile must not be followed by what came in its place.
            if self.tail.lock().era() == era || planted("reads span truncations") {
                return entries;
            }
            rtdb_runtime::reached("reads across a tail that was cut off");
        }
    }

    async fn read_once(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
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
        let records = self
            .store
            .read(self.id, Sequence::Entries, from, end, bytes_max)
            .await?;
        let entries: io::Result<Vec<RaftEntry>> =
            records.into_iter().map(|(_, record)| decode(record)).collect();
        let entries = entries?;
        let id = self.id;
        if entries.is_empty()
            || (from..)
                .zip(&entries)
                .any(|(index, entry)| entry.log_id.index != index)
        {
            let reason = format!("entry {from} of {id}, or one soon behind it, is missing from the log");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(entries)
    }

    fn set(&self, kind: u8, value: Vec<u8>) -> Change {
        Change::set(Space::Meta, meta_key(self.id, kind), value)
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
        let change = self.set(VOTE, VoteRecord::from(*vote).encode_to_vec());
        match planted("votes are not synced") {
            true => self.store.write(vec![change], Done::nobody()).await?,
            false => self.store.sync(vec![change]).await?,
        }
        *self.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(id) = committed else { return Ok(()) };
        if committed > self.last() {
            let reason = format!(
                "{} is committed up to {id}, and ends with {}",
                self.id,
                shown(self.last())
            );
            return Err(io::Error::other(reason));
        }
        *self.committed.lock() = committed;
        let change = self.set(COMMITTED, LogIdRecord::from(id).encode_to_vec());
        self.store.write(vec![change], Done::nobody()).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(*self.committed.lock())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        let (last, era) = {
            let mut tail = self.tail.lock();
            for entry in entries {
                changes.push(Change::Append {
                    group: self.id,
                    sequence: Sequence::Entries,
                    index: entry.log_id.index,
                    record: LogRecord::from(&entry).encode_to_vec(),
                });
                tail.push(entry)?;
            }
            (tail.last().map_or(0, |id| id.index), tail.era())
        };
        let done = Done::Appended {
            flushed: callback,
            tail: self.tail.clone(),
            era,
            last,
        };
        self.store.write(changes, done).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let committed = *self.committed.lock();
        if last_log_id < committed {
            let reason = format!(
                "what is committed (up to {}) was to be cut off after {}",
                shown(committed),
                shown(last_log_id)
            );
            return Err(io::Error::other(reason));
        }
        rtdb_runtime::reached("tails that were cut off");
        if !planted("tails are not cut off") {
            self.tail.lock().truncate(last_log_id);
        }
        let change = Change::Truncate {
            group: self.id,
            from: last_log_id.map_or(0, |id| id.index + 1),
        };
        if planted("truncations are not written") {
            return Ok(());
        }
        self.store.sync(vec![change]).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let change = Change::Purge {
            group: self.id,
            before: log_id.index + 1,
        };
        let purged = self.set(PURGED, LogIdRecord::from(log_id).encode_to_vec());
        self.tail.lock().purge(log_id);
        self.store.sync(vec![change, purged]).await
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

fn decode_log_id(record: Option<Bytes>) -> Result<Option<LogId>, prost::DecodeError> {
    let record = record.map(LogIdRecord::decode).transpose()?;
    Ok(record.map(LogId::from))
}

fn shown(id: Option<LogId>) -> String {
    id.map_or_else(|| "nothing".to_owned(), |id| id.to_string())
}

fn meta_key(group: GroupId, kind: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(10);
    key.push(b'g');
    key.extend_from_slice(&group.0.to_be_bytes());
    key.push(kind);
    key
}
