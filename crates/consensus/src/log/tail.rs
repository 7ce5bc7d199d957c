//! A log's newest entries, in memory.

use crate::types::{LogId, Payload, RaftEntry};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of entries that a node keeps in memory once they are on disk: all groups share them. Enough for members that keep
/// up; one that does not is read to from the disk (CockroachDB keeps as many).
pub(super) const CACHED_BYTES_MAX: usize = 16 << 20;

/// What an entry takes in memory beside its payload, in bytes, about: itself, and what is allocated for the payload.
const ENTRY_OVERHEAD: usize = size_of::<RaftEntry>() + 64;

/// The end of a log: everything that is not on disk yet, and the newest of what is.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Without gaps, up to the last entry.
    cached: VecDeque<RaftEntry>,
    bytes: usize,
    /// How many groups share the memory.
    sharers: Arc<AtomicUsize>,
    /// The first entry's index; of no meaning if there is none.
    first: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    /// The index up to which the log is on disk.
    on_disk: u64,
    /// How often the log was truncated.
    era: u64,
}

impl Tail {
    /// The end of a log whose entries, from index `first` on, are all on disk.
    pub(super) fn new(
        first: u64,
        last: Option<LogId>,
        purged: Option<LogId>,
        sharers: Arc<AtomicUsize>,
    ) -> Self {
        let on_disk = last.map_or(0, |id| id.index);
        Self {
            cached: VecDeque::new(),
            bytes: 0,
            sharers,
            first,
            last,
            purged,
            on_disk,
            era: 0,
        }
    }

    /// What a write of entries is told apart by: entries that came before a truncation say nothing of those that stand in
    /// their place now.
    pub(super) fn era(&self) -> u64 {
        self.era
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.last.max(self.purged)
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The first index of the log; its end if it is empty.
    pub(super) fn begin(&self) -> u64 {
        let behind_purged = self.purged.map_or(0, |id| id.index + 1);
        if self.last.is_some() {
            self.first.max(behind_purged)
        } else {
            self.end()
        }
    }

    /// The first index after the log's end.
    pub(super) fn end(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    /// The first index that is in memory; the log's end if none is.
    pub(super) fn cached_from(&self) -> u64 {
        self.cached.front().map_or(self.end(), |entry| entry.log_id.index)
    }

    /// The part of a node's `bytes` that is this group's.
    pub(super) fn share(&self, bytes: usize) -> usize {
        bytes / self.sharers.load(Ordering::Relaxed).max(1)
    }

    /// Takes in an entry.
    ///
    /// # Errors
    /// If it does not follow the last one: the node must stop.
    pub(super) fn push(&mut self, entry: RaftEntry) -> io::Result<()> {
        let index = entry.log_id.index;
        if self.last().is_none() {
            self.first = index;
        } else if index != self.end() {
            let reason = format!("entry {index} does not follow the log's end, {}", self.end());
            return Err(io::Error::other(reason));
        }
        self.last = Some(entry.log_id);
        self.bytes += size(&entry);
        self.cached.push_back(entry);
        Ok(())
    }

    /// Entries up to `index` that were appended in an era are on disk.
    pub(super) fn written(&mut self, era: u64, index: u64) {
        if era != self.era {
            return;
        }
        self.on_disk = self.on_disk.max(index);
        let bytes_max = self.share(CACHED_BYTES_MAX);
        while self.bytes > bytes_max
            && let Some(first) = self.cached.front()
            && first.log_id.index <= self.on_disk
        {
            self.bytes -= size(first);
            self.cached.pop_front();
        }
    }

    /// Cuts off everything after `last`.
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        let end = last.map_or(0, |id| id.index + 1);
        while let Some(entry) = self.cached.back()
            && entry.log_id.index >= end
        {
            self.bytes -= size(entry);
            self.cached.pop_back();
        }
        self.last = self.last.min(last);
        self.era += 1;
        self.on_disk = self.on_disk.min(end.saturating_sub(1));
    }

    /// Forgets everything up to `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        while let Some(entry) = self.cached.front()
            && entry.log_id.index <= upto.index
        {
            self.bytes -= size(entry);
            self.cached.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
    }

    /// The entries in memory from `from` up to `end` (exclusive), no more than about `bytes_max` bytes.
    pub(super) fn copy(&self, from: u64, end: u64, bytes_max: usize) -> Vec<RaftEntry> {
        let skip = from.saturating_sub(self.cached_from()) as usize;
        let mut bytes = 0;
        self.cached
            .iter()
            .skip(skip)
            .take_while(|entry| {
                let fits = bytes < bytes_max && entry.log_id.index < end;
                bytes += size(entry);
                fits
            })
            .cloned()
            .collect()
    }
}

/// About how many bytes an entry takes.
pub(super) fn size(entry: &RaftEntry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            Payload::Normal(proposal) => proposal.0.len(),
            Payload::Blank | Payload::Membership(_) => 0,
        }
}
