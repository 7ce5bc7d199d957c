//! The resolved part of a log, for those who follow it.

use crate::log::GroupLog;
use crate::proposer::Proposer;
use crate::resolver::{Resolution, Resolver, reread};
use crate::types::Payload;
use crate::version::RecordError;
use crate::{LogIndex, Origin, Outcome, ReadError, ResolvedCommand, ResolvedEntry};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Bytes of resolved entries that a node keeps in memory once their decisions are on disk: all groups share them. Their
/// commands are pieces of the entries in the log's own cache.
const RECENT_BYTES_MAX: usize = 16 << 20;

/// What a resolved command takes in memory beside its bytes, about: itself, and what it has allocated.
const COMMAND_OVERHEAD: usize = size_of::<ResolvedCommand>() + 96;

/// Entries that were just resolved.
#[derive(Default)]
pub(crate) struct Applied {
    pub(crate) last: LogIndex,
    entries: Vec<(Arc<ResolvedEntry>, usize)>,
    settled: Vec<(Origin, u64, Outcome)>,
}

impl Applied {
    pub(crate) fn push(&mut self, entry: ResolvedEntry, size: usize, settled: Vec<(Origin, u64, Outcome)>) {
        if !entry.commands.is_empty() {
            let size = size + entry.commands.len() * COMMAND_OVERHEAD;
            self.entries.push((Arc::new(entry), size));
        }
        self.settled.extend(settled);
    }
}

/// The newest resolved entries: all that have commands, from `from` on.
struct Recent {
    from: LogIndex,
    entries: VecDeque<(Arc<ResolvedEntry>, usize)>,
    bytes: usize,
}

/// The resolved part of a group's log.
pub(crate) struct ResolvedLog {
    log: GroupLog,
    resolver: Mutex<Resolver>,
    recent: Mutex<Recent>,
    resolved: watch::Sender<LogIndex>,
    /// The index up to which the decisions are written.
    written: Arc<AtomicU64>,
    proposer: Arc<Proposer>,
}

impl ResolvedLog {
    pub(crate) fn new(log: GroupLog, resolver: Resolver, proposer: Arc<Proposer>) -> Arc<Self> {
        Arc::new(Self {
            log,
            resolver: Mutex::new(resolver),
            recent: Mutex::new(Recent {
                from: 0,
                entries: VecDeque::new(),
                bytes: 0,
            }),
            resolved: watch::Sender::new(0),
            written: Arc::default(),
            proposer,
        })
    }

    pub(crate) fn log(&self) -> &GroupLog {
        &self.log
    }

    pub(crate) fn resolver(&self) -> MutexGuard<'_, Resolver> {
        self.resolver.lock()
    }

    pub(crate) fn written(&self) -> Arc<AtomicU64> {
        self.written.clone()
    }

    pub(crate) fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.resolved.subscribe()
    }

    /// Begins behind `applied`: what comes before is read from disk.
    pub(crate) fn start(&self, applied: LogIndex) {
        *self.recent.lock() = Recent {
            from: applied + 1,
            entries: VecDeque::new(),
            bytes: 0,
        };
        self.written.store(applied, Ordering::Release);
        self.resolved.send_replace(applied);
        self.tell_proposer(Vec::new());
    }

    /// Makes newly resolved entries known.
    pub(crate) fn publish(&self, applied: Applied) {
        {
            let mut recent = self.recent.lock();
            for (entry, size) in applied.entries {
                recent.bytes += size;
                recent.entries.push_back((entry, size));
            }
            let written = self.written.load(Ordering::Acquire);
            let bytes_max = self.log.share(RECENT_BYTES_MAX);
            while recent.bytes > bytes_max
                && let Some((first, size)) = recent.entries.front()
                && first.index <= written
            {
                let (index, size) = (first.index, *size);
                recent.from = index + 1;
                recent.bytes -= size;
                recent.entries.pop_front();
            }
        }
        self.resolved.send_replace(applied.last);
        self.tell_proposer(applied.settled);
    }

    fn tell_proposer(&self, settled: Vec<(Origin, u64, Outcome)>) {
        let node = self.proposer.node();
        let stream = self.resolver.lock().stream(node);
        let over = |origin| self.resolver.lock().is_over(origin);
        for (origin, seq, outcome) in settled {
            self.proposer.complete(origin, seq, outcome);
        }
        self.proposer.progress(stream, over);
    }

    /// Reads resolved entries, as [`Follow::read`](crate::Follow::read).
    pub(crate) async fn read(
        &self,
        mut from: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Arc<ResolvedEntry>>, ReadError> {
        loop {
            let end = {
                let recent = self.recent.lock();
                if from >= recent.from {
                    return Ok(copy(&recent, from, bytes_max));
                }
                recent.from
            };
            let entries = self
                .log
                .read(from, end, bytes_max)
                .await
                .map_err(|e| ReadError(e.to_string()))?;
            let Some(last) = entries.last() else {
                return Err(ReadError(format!("entry {from} is not in the log any more")));
            };
            let behind = last.log_id.index + 1;
            let decisions = self.log.decisions(from, behind).await;
            let decisions: BTreeMap<LogIndex, Bytes> = decisions
                .map_err(|e| ReadError(e.to_string()))?
                .into_iter()
                .collect();
            from = behind;
            let mut resolved = Vec::new();
            for entry in entries {
                let index = entry.log_id.index;
                let Payload::Normal(proposal) = entry.payload else {
                    continue;
                };
                let decoded = decision(decisions.get(&index))
                    .and_then(|decision| Ok(reread(index, proposal.decode()?, &decision)));
                let entry = decoded.map_err(|e| ReadError(format!("entry {index}: {e}")))?;
                if !entry.commands.is_empty() {
                    resolved.push(Arc::new(entry));
                }
            }
            if !resolved.is_empty() {
                return Ok(resolved);
            }
        }
    }
}

fn decision(record: Option<&Bytes>) -> Result<Resolution, RecordError> {
    let record = record.ok_or(RecordError::Missing("the decisions about it"))?;
    let known: Resolution = crate::version::decode(record.clone())?;
    Ok(match rtdb_runtime::planted("decisions are forgotten") {
        true => Resolution::new(known.first_timestamp_us),
        false => known,
    })
}

fn copy(recent: &Recent, from: LogIndex, bytes_max: usize) -> Vec<Arc<ResolvedEntry>> {
    let skip = recent.entries.partition_point(|(entry, _)| entry.index < from);
    let mut bytes = 0;
    recent
        .entries
        .iter()
        .skip(skip)
        .take_while(|(_, size)| {
            let fits = bytes < bytes_max;
            bytes += size;
            fits
        })
        .map(|(entry, _)| entry.clone())
        .collect()
}
