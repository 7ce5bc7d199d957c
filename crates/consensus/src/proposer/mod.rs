//! This node's stream of proposals: numbered, sent in order, sent again until the log has them.

mod queue;
#[cfg(test)]
mod tests;

pub(crate) use queue::BATCH_COUNT_MAX;

use crate::config::Limits;
use crate::entry::EncodedBatch;
use crate::{Command, NotProposed, Origin, Outcome, Pending, Unapplied};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use queue::Queue;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

/// Commands whose outcome is waited for, in each group. Calls are slowed long before.
const WAITED_FOR_MAX: usize = 1 << 20;

const EXPIRED: &str = "the cluster has given this node up for lost";
const STOPPING: &str = "the node is stopping";

/// How the proposals do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The last number that the log has.
    pub(crate) resolved: u64,
    /// Whether anything was sent, or is to be sent, that the log does not have.
    pub(crate) is_waiting: bool,
    /// Bytes that were sent to the present leader and that the log does not have.
    pub(crate) bytes_under_way: usize,
}

/// The commands that this node has under way in one group.
pub(crate) struct Proposer {
    node: u64,
    limits: Limits,
    queue: Mutex<Queue>,
    /// Something is to be sent.
    work: Notify,
    /// There is room again.
    room: Notify,
    /// The node's newest epoch that the log knows.
    log_epoch: AtomicU64,
    /// The epoch; 0 while a new one is being taken.
    epoch: watch::Sender<u64>,
}

impl Proposer {
    pub(crate) fn new(node: u64, epoch: u64, limits: Limits) -> Self {
        Self {
            node,
            limits,
            queue: Mutex::new(Queue::new(epoch)),
            work: Notify::new(),
            room: Notify::new(),
            log_epoch: AtomicU64::new(0),
            epoch: watch::Sender::new(epoch),
        }
    }

    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// The node's epoch in this group; changes when the cluster has expired the one before.
    pub(crate) fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    pub(crate) fn submit(&self, command: &Command) -> Result<Pending, NotProposed> {
        let command = Bytes::from(command.encode_to_vec());
        let (size, max) = (command.len(), self.limits.command_bytes_max);
        if size > max {
            return Err(NotProposed::TooLarge { size, max });
        }
        let (done, pending) = Pending::new();
        {
            let mut queue = self.queue.lock();
            if queue.is_stopping() {
                return Err(NotProposed::Stopping);
            }
            if self.is_full(&queue) {
                let (count, bytes) = queue.outstanding();
                return Err(NotProposed::Overloaded { count, bytes });
            }
            queue.push(command, done);
        }
        self.work.notify_one();
        Ok(pending)
    }

    pub(crate) async fn ready(&self) {
        loop {
            let room = self.room.notified();
            {
                let queue = self.queue.lock();
                if queue.is_stopping() || !self.is_full(&queue) {
                    return;
                }
            }
            room.await;
        }
    }

    /// What the log has waits for its own database: it is in nobody else's way.
    fn is_full(&self, queue: &Queue) -> bool {
        let (count, bytes) = queue.outstanding();
        count >= self.limits.outstanding_count_max
            || bytes >= self.limits.outstanding_bytes_max
            || queue.waited_for() >= WAITED_FOR_MAX
    }

    /// Commands whose outcome is waited for, and the bytes of those that are not in the log yet.
    pub(crate) fn outstanding(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.waited_for(), queue.outstanding().1)
    }

    /// Completes a command of the present epoch; others are nobody's here.
    pub(crate) fn complete(&self, origin: Origin, seq: u64, outcome: Outcome) {
        if origin.node != self.node {
            return;
        }
        let waiter = self.with_room(|queue| queue.complete(origin.epoch, seq));
        if let Some(waiter) = waiter {
            // The one who asked may be gone.
            drop(waiter.send(outcome));
        }
    }

    /// Learns how far the log has this node's stream, and whether the cluster has given the node up.
    pub(crate) fn progress(&self, stream: Option<(Origin, u64)>, is_over: impl Fn(Origin) -> bool) {
        let node = self.node;
        if let Some((origin, _)) = stream {
            self.log_epoch.fetch_max(origin.epoch, Ordering::Relaxed);
        }
        let orphans = self.with_room(|queue| {
            let epoch = queue.epoch();
            if epoch != 0 && is_over(Origin { node, epoch }) {
                return queue.expire();
            }
            if let Some((origin, last_seq)) = stream.filter(|(origin, _)| origin.epoch == epoch) {
                debug_assert_eq!(origin.node, node);
                if !queue.has_sent(last_seq) {
                    tracing::error!(
                        node,
                        "the log has commands in this node's name that it did not send"
                    );
                    return queue.expire();
                }
                queue.resolved(last_seq);
            }
            Vec::new()
        });
        if self.queue.lock().epoch() == 0 && *self.epoch.borrow() != 0 {
            tracing::warn!(node, "{EXPIRED}: its clients are disconnected");
            self.epoch.send_replace(0);
            self.work.notify_one();
        }
        for waiter in orphans {
            drop(waiter.send(Err(Unapplied::unknown(EXPIRED))));
        }
    }

    /// The node's newest epoch that the log knows.
    pub(crate) fn log_epoch(&self) -> u64 {
        self.log_epoch.load(Ordering::Relaxed)
    }

    /// Begins a new stream, after the last one was expired.
    pub(crate) fn renew(&self, epoch: u64) {
        self.queue.lock().renew(epoch);
        self.epoch.send_replace(epoch);
        self.work.notify_one();
    }

    /// Takes nothing more, and gives up what is under way.
    pub(crate) fn stop(&self) {
        let waiters = self.queue.lock().stop();
        for waiter in waiters {
            drop(waiter.send(Err(Unapplied::unknown(STOPPING))));
        }
        self.room.notify_waiters();
    }

    /// Waits until something is to be sent.
    pub(crate) fn work(&self) -> Notified<'_> {
        self.work.notified()
    }

    /// The next commands to send.
    pub(crate) fn next_batch(&self) -> Option<EncodedBatch> {
        self.queue.lock().next_batch(self.node)
    }

    /// Sends everything again that the log does not have.
    pub(crate) fn rewind(&self) {
        self.queue.lock().rewind();
    }

    /// Whether a new epoch is to be taken.
    pub(crate) fn is_expired(&self) -> bool {
        let queue = self.queue.lock();
        queue.epoch() == 0 && !queue.is_stopping()
    }

    /// Commands that are under way, and how many are not sent yet.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.under_way(), queue.unsent())
    }

    pub(crate) fn seen(&self) -> Seen {
        let queue = self.queue.lock();
        Seen {
            resolved: queue.last_resolved(),
            is_waiting: queue.is_waiting(),
            bytes_under_way: queue.bytes_under_way(),
        }
    }

    fn with_room<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let (result, freed) = {
            let mut queue = self.queue.lock();
            let was_full = self.is_full(&queue);
            let result = change(&mut queue);
            (result, was_full && !self.is_full(&queue))
        };
        if freed {
            self.room.notify_waiters();
        }
        result
    }
}
