//! A replica that only writes down what it is told to apply.

use crate::command::Body;
use crate::{Applied, Follow, LogIndex, Position, Reply, ResolvedCommand};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const READ_BYTES: usize = 256 << 10;

/// Follows a group, writes down each command, and completes it.
pub(super) struct Replica {
    history: Arc<Mutex<Vec<ResolvedCommand>>>,
    seen: watch::Receiver<LogIndex>,
    task: JoinHandle<()>,
}

impl Replica {
    pub(super) fn start(group: Arc<dyn Follow>) -> Self {
        let history = Arc::new(Mutex::new(Vec::new()));
        let (sender, seen) = watch::channel(0);
        let task = tokio::spawn(follow(group, history.clone(), sender));
        Self { history, seen, task }
    }

    pub(super) fn history(&self) -> Vec<ResolvedCommand> {
        self.history.lock().clone()
    }

    /// Waits until everything up to `index` is applied.
    pub(super) async fn wait(&self, index: LogIndex) {
        self.seen.clone().wait_for(|seen| *seen >= index).await.unwrap();
    }

    pub(super) async fn stop(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

async fn follow(
    group: Arc<dyn Follow>,
    history: Arc<Mutex<Vec<ResolvedCommand>>>,
    seen: watch::Sender<LogIndex>,
) {
    let mut resolved = group.resolved();
    let mut next = 1;
    loop {
        let end = *resolved.borrow_and_update();
        while next <= end {
            let entries = group.read(next, READ_BYTES).await.unwrap();
            for entry in &entries {
                assert!(entry.index >= next, "entry {} was read again", entry.index);
                next = entry.index + 1;
                for command in &entry.commands {
                    history.lock().push(command.clone());
                    let (position, timestamp_us) = (command.position, command.timestamp_us);
                    let outcome = Ok(Applied {
                        position,
                        timestamp_us,
                        reply: Reply::Done,
                    });
                    group.complete(command.origin, command.seq, outcome);
                }
            }
            if entries.is_empty() {
                next = end + 1;
            }
        }
        group.applied(next - 1);
        seen.send_replace(next - 1);
        if resolved.changed().await.is_err() {
            return;
        }
    }
}

/// What a history must hold: positions and timestamps grow, and each stream's numbers too.
pub(super) fn check_order(history: &[ResolvedCommand]) {
    let mut streams = std::collections::BTreeMap::new();
    let mut last = (Position(0), i64::MIN);
    for command in history {
        assert!(
            (command.position, command.timestamp_us) > last && command.timestamp_us > last.1,
            "{command:?}"
        );
        last = (command.position, command.timestamp_us);
        let seq = streams.insert(command.origin, command.seq).unwrap_or(0);
        assert!(command.seq > seq, "{command:?} is out of turn");
    }
}

/// The name of a call.
pub(super) fn name(command: &ResolvedCommand) -> &str {
    match command.command.body.as_ref() {
        Some(Body::Call(call)) => &call.reducer,
        Some(Body::Connect(_)) => "connect",
        Some(Body::Disconnect(_)) => "disconnect",
        Some(Body::Publish(_)) => "publish",
        Some(Body::Delete(_)) => "delete",
        _ => "other",
    }
}
