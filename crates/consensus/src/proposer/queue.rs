//! The proposer's window: pure.

use crate::Outcome;
use crate::entry::EncodedBatch;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::oneshot;

/// Bytes of commands in one batch, unless a single command has more.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Commands in one batch.
pub(crate) const BATCH_COUNT_MAX: usize = 4096;

type Waiter = oneshot::Sender<Outcome>;

/// Commands in the order of their numbers: sent again from the first that the log has not (go-back-N), and waited for
/// until the replica has applied them.
#[derive(Debug)]
pub(super) struct Queue {
    /// 0 while there is none.
    epoch: u64,
    /// Whether the log knows the epoch.
    known: bool,
    /// Whether the epoch's announcement is on its way.
    announcing: bool,
    /// The last number that the log has.
    resolved: u64,
    /// The last number that was sent to the present leader.
    sent: u64,
    /// The last number that was sent to any leader.
    sent_ever: u64,
    /// The bytes of the commands after `resolved`, up to `sent`.
    sent_bytes: usize,
    /// The commands after `resolved`.
    commands: VecDeque<Bytes>,
    bytes: usize,
    /// Those who wait, by their commands' numbers: one that waits for long does not hold the others' places.
    waiters: BTreeMap<u64, Waiter>,
    /// The last number that was given.
    last: u64,
    /// The last number of a command that has an outcome.
    completed: u64,
    stopping: bool,
}

impl Queue {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            known: false,
            announcing: false,
            resolved: 0,
            sent: 0,
            sent_ever: 0,
            sent_bytes: 0,
            commands: VecDeque::new(),
            bytes: 0,
            waiters: BTreeMap::new(),
            last: 0,
            completed: 0,
            stopping: false,
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Commands that the log does not have, and their bytes.
    pub(super) fn outstanding(&self) -> (usize, usize) {
        (self.commands.len(), self.bytes)
    }

    /// Commands whose outcome somebody waits for.
    pub(super) fn waited_for(&self) -> usize {
        self.waiters.len()
    }

    /// Commands behind the last one that has an outcome. What others have overtaken, such as a long call of another
    /// database, says nothing of how much is going on.
    pub(super) fn under_way(&self) -> usize {
        (self.last - self.completed) as usize
    }

    /// The last number that the log has.
    pub(super) fn last_resolved(&self) -> u64 {
        self.resolved
    }

    /// Commands that were not sent to the present leader yet.
    pub(super) fn unsent(&self) -> usize {
        self.commands.len() - (self.sent - self.resolved) as usize
    }

    /// Bytes that were sent to the present leader, and that the log does not have.
    pub(super) fn bytes_under_way(&self) -> usize {
        self.sent_bytes
    }

    /// Whether anything was sent, or is to be sent, that the log does not have.
    pub(super) fn is_waiting(&self) -> bool {
        self.epoch != 0 && (!self.known || !self.commands.is_empty())
    }

    pub(super) fn push(&mut self, command: Bytes, waiter: Waiter) {
        self.bytes += command.len();
        self.commands.push_back(command);
        self.last += 1;
        self.waiters.insert(self.last, waiter);
    }

    /// The next commands to send.
    pub(super) fn next_batch(&mut self, node: u64) -> Option<EncodedBatch> {
        if self.epoch == 0 {
            return None;
        }
        let skip = (self.sent - self.resolved) as usize;
        let mut bytes = 0;
        let commands: Vec<Bytes> = self
            .commands
            .iter()
            .skip(skip)
            .take(BATCH_COUNT_MAX)
            .take_while(|command| {
                let fits = bytes == 0 || bytes + command.len() <= BATCH_BYTES_MAX;
                bytes += command.len();
                fits
            })
            .cloned()
            .collect();
        if commands.is_empty() && (self.known || self.announcing) {
            return None;
        }
        self.announcing = true;
        let first_seq = self.sent + 1;
        self.sent += commands.len() as u64;
        self.sent_ever = self.sent_ever.max(self.sent);
        self.sent_bytes += commands.iter().map(Bytes::len).sum::<usize>();
        Some(EncodedBatch {
            node,
            epoch: self.epoch,
            first_seq,
            commands,
        })
    }

    /// Sends everything again that the log does not have.
    pub(super) fn rewind(&mut self) {
        self.sent = self.resolved;
        if rtdb_runtime::planted("one command too few is sent again") && !self.commands.is_empty() {
            self.sent += 1;
        }
        self.sent_bytes = 0;
        self.announcing = false;
    }

    /// Whether a number that the log has is of a command that was sent.
    pub(super) fn has_sent(&self, seq: u64) -> bool {
        seq <= self.sent_ever
    }

    /// The log has the epoch's stream up to `seq`, which [was sent](Self::has_sent).
    pub(super) fn resolved(&mut self, seq: u64) {
        self.known = true;
        while self.resolved < seq
            && let Some(command) = self.commands.pop_front()
        {
            self.resolved += 1;
            self.bytes -= command.len();
            // Nobody waits for what becomes of it.
            if self.waiters.get(&self.resolved).is_some_and(Waiter::is_closed) {
                self.waiters.remove(&self.resolved);
            }
            if self.resolved <= self.sent {
                self.sent_bytes -= command.len();
            }
        }
        assert_eq!(
            self.resolved, seq,
            "the log has commands of this node that it did not send"
        );
        self.sent = self.sent.max(seq);
    }

    /// Takes out the one who waits for a command.
    pub(super) fn complete(&mut self, epoch: u64, seq: u64) -> Option<Waiter> {
        if epoch != self.epoch {
            return None;
        }
        let of = match rtdb_runtime::planted("outcomes go to the neighbour") {
            true if seq > 50 && self.waiters.contains_key(&(seq + 1)) => seq + 1,
            _ => seq,
        };
        self.completed = self.completed.max(seq);
        self.waiters.remove(&of)
    }

    /// The epoch is over: gives up everything that was under way.
    pub(super) fn expire(&mut self) -> Vec<Waiter> {
        rtdb_runtime::reached("epochs that were given up");
        let stopping = self.stopping;
        let old = std::mem::replace(self, Self::new(0));
        self.stopping = stopping;
        old.waiters.into_values().collect()
    }

    /// Begins a stream; what was submitted since [`expire`](Self::expire) is its beginning.
    pub(super) fn renew(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    pub(super) fn stop(&mut self) -> Vec<Waiter> {
        self.stopping = true;
        self.commands.clear();
        (self.bytes, self.sent_bytes) = (0, 0);
        self.epoch = 0;
        std::mem::take(&mut self.waiters).into_values().collect()
    }
}
