//! The leader's side: forms entries from whatever waits.

mod inbox;

pub(crate) use inbox::Inbox;

use crate::ENTRY_VERSION;
use crate::budget::Permit;
use crate::entry::{EncodedBatch, EncodedEntry, Proposal};
use crate::machine::Raft;
use crate::vitals::Vitals;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use openraft::impls::ProgressResponder;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Bytes of an entry, unless a single batch has more.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Commands in an entry; far below what a position can count, though some take two.
const ENTRY_COUNT_MAX: usize = 16_384;

/// The wait for a good clock, before it is looked at again.
const STAMP_RETRY: Duration = Duration::from_millis(10);

/// Entries on their way at once: while some are being written, the next ones fill.
const IN_FLIGHT_MAX: usize = 4;

/// A batch for the log, whom to tell if it is not taken, and its part of the node's budget.
pub(crate) struct Incoming {
    batch: EncodedBatch,
    refused: Arc<Refused>,
    room: Permit,
}

/// Says that a leader takes nothing more: everything that the log does not have must be sent again.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    is_refused: AtomicBool,
    changed: Notify,
}

impl Refused {
    pub(crate) fn refuse(&self) {
        self.is_refused.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(crate) async fn wait(&self) {
        let changed = self.changed.notified();
        if !self.is_refused.load(Ordering::Acquire) {
            changed.await;
        }
    }
}

/// The task that forms entries.
pub(crate) struct Batcher {
    pub(crate) raft: Raft,
    pub(crate) incoming: mpsc::Receiver<Incoming>,
    pub(crate) vitals: Arc<Vitals>,
}

impl Batcher {
    /// Forms entries until the group stops.
    pub(crate) async fn run(mut self) {
        let mut in_flight = FuturesOrdered::new();
        let mut carry = None;
        loop {
            let has_room = in_flight.len() < IN_FLIGHT_MAX;
            let first = rtdb_runtime::select! {
                Some(()) = in_flight.next() => continue,
                // Only what is there already is carried over, so that nothing is lost when the other branch wins.
                first = next(&mut carry, &mut self.incoming), if has_room => first,
            };
            let Some(first) = first else { return };
            let stamp_us = {
                let mut stamp = std::pin::pin!(self.stamp());
                loop {
                    rtdb_runtime::select! {
                        Some(()) = in_flight.next() => {}
                        stamp_us = &mut stamp => break stamp_us,
                    }
                }
            };
            let Some(stamp_us) = stamp_us else {
                first.refused.refuse();
                continue;
            };
            let (entry, origins, room) = self.form(first, stamp_us, &mut carry);
            let (responder, written) = ProgressResponder::complete_only();
            if self
                .raft
                .write(Proposal(entry))
                .responder(responder)
                .await
                .is_err()
            {
                refuse(&origins);
                return;
            }
            in_flight.push_back(async move {
                let _room = room;
                if !matches!(written.await, Ok(Ok(_))) {
                    refuse(&origins);
                }
            });
        }
    }

    /// The time for an entry; waits until the quorum has found this node's clock good. `None` once it does not lead.
    async fn stamp(&self) -> Option<i64> {
        loop {
            if let Some(stamp_us) = self.vitals.clock.stamp_us() {
                return Some(stamp_us);
            }
            if !self.raft.is_leader() {
                return None;
            }
            rtdb_runtime::sleep(STAMP_RETRY).await;
        }
    }

    /// An entry of the first batch and whatever else waits.
    fn form(
        &mut self,
        first: Incoming,
        stamp_us: i64,
        carry: &mut Option<Incoming>,
    ) -> (Bytes, Vec<Arc<Refused>>, Vec<Permit>) {
        let (mut bytes, mut count) = (first.batch.size(), first.batch.commands.len());
        let (mut batches, mut origins) = (vec![first.batch], vec![first.refused]);
        let mut room = vec![first.room];
        while let Ok(next) = self.incoming.try_recv() {
            bytes += next.batch.size();
            count += next.batch.commands.len();
            if bytes > ENTRY_BYTES_MAX || count > ENTRY_COUNT_MAX {
                *carry = Some(next);
                break;
            }
            room.push(next.room);
            match batches.last_mut() {
                Some(last) if follows(last, &next.batch) => last.commands.extend(next.batch.commands),
                _ => batches.push(next.batch),
            }
            if !origins.iter().any(|origin| Arc::ptr_eq(origin, &next.refused)) {
                origins.push(next.refused);
            }
        }
        let entry = EncodedEntry {
            version: ENTRY_VERSION,
            timestamp_us: stamp_us,
            batches,
        };
        (entry.encode_to_vec().into(), origins, room)
    }
}

async fn next(carry: &mut Option<Incoming>, incoming: &mut mpsc::Receiver<Incoming>) -> Option<Incoming> {
    match carry.take() {
        Some(first) => Some(first),
        None => incoming.recv().await,
    }
}

/// Whether `next` is the continuation of `last`.
fn follows(last: &EncodedBatch, next: &EncodedBatch) -> bool {
    (last.node, last.epoch, last.first_seq + last.commands.len() as u64)
        == (next.node, next.epoch, next.first_seq)
}

fn refuse(origins: &[Arc<Refused>]) {
    for origin in origins {
        origin.refuse();
    }
}
