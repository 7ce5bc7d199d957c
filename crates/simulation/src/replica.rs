//! A node's local database, as far as the log sees it: it applies what is resolved, answers, and may lose the last of it.

use crate::truth::Truth;
use parking_lot::Mutex;
use rtdb_consensus::{Applied, Follow, LogIndex, ReadError, Reply};
use rtdb_runtime::{sim, sleep};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Bytes that are read from the log at once.
const READ_BYTES_MAX: usize = 64 << 10;

/// How far a database has come: commands of the history, and the entry after which the next ones stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    place: usize,
    index: LogIndex,
}

#[derive(Default)]
struct State {
    applied: Mark,
    /// What it has surely on disk.
    durable: Mark,
    /// It does nothing.
    hangs: bool,
}

/// A database. Clones are the same.
#[derive(Clone, Default)]
pub struct Database {
    state: Arc<Mutex<State>>,
    /// It has lost something.
    lost: Arc<Notify>,
}

impl Database {
    /// Commands of the history that it has.
    pub fn len(&self) -> usize {
        self.state.lock().applied.place
    }

    /// Whether it has nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// It dies, and comes back without the last of what it had, or without anything.
    pub fn lose(&self, everything: bool) {
        let mut state = self.state.lock();
        if everything {
            state.durable = Mark::default();
        }
        state.applied = state.durable;
        self.lost.notify_one();
    }

    /// It stops answering, or goes on.
    pub fn hang(&self, hangs: bool) {
        self.state.lock().hangs = hangs;
    }

    /// Follows a group for as long as the node lives.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn follow(self, node: u64, group: Arc<dyn Follow>, truth: Arc<Truth>) -> Result<(), ReadError> {
        let mut resolved = group.resolved();
        loop {
            let end = *resolved.borrow_and_update();
            loop {
                let Mark { place, index } = self.state.lock().applied;
                if index >= end {
                    break;
                }
                let entries = group.read(index + 1, READ_BYTES_MAX).await?;
                while self.state.lock().hangs {
                    sleep(Duration::from_millis(20)).await;
                }
                sleep(sim::up_to(Duration::from_micros(300))).await;
                // It may have died meanwhile.
                if (self.state.lock().applied != Mark { place, index }) {
                    continue;
                }
                let mut next = Mark { place, index: end };
                for entry in &entries {
                    assert!(entry.index > index, "entry {} was read again", entry.index);
                    for command in &entry.commands {
                        truth.applied(node, next.place, command);
                        next.place += 1;
                        let outcome = Ok(Applied {
                            position: command.position,
                            timestamp_us: command.timestamp_us,
                            reply: Reply::Done,
                        });
                        group.complete(command.origin, command.seq, outcome);
                    }
                    next.index = entry.index;
                }
                let mut state = self.state.lock();
                state.applied = next;
                if sim::draw(4) == 0 {
                    state.durable = next;
                }
                drop(state);
                group.applied(next.index);
            }
            rtdb_runtime::select! {
                changed = resolved.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = self.lost.notified() => {}
            }
        }
    }
}
