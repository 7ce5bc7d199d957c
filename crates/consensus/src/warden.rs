//! What the leader of a shard looks after: nodes that are gone, and the sessions that nobody holds any more.

use crate::command::{Body, Disconnect, ExpireNode};
use crate::group::{Group, Metrics};
use crate::{Pending, Propose};
use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Sessions that are disconnected at once.
const DISCONNECTS_MAX: usize = 1024;

/// The longest time between two rounds.
const ROUND_MAX: Duration = Duration::from_secs(1);

/// The task that looks after a shard, on whichever node leads it.
pub(crate) struct Warden {
    pub(crate) node: u64,
    pub(crate) group: Arc<Group>,
    pub(crate) lease: Duration,
}

impl Warden {
    /// Looks after the shard until the group stops.
    pub(crate) async fn run(self) {
        let metrics = self.group.raft().metrics();
        let mut changes = self.group.raft().server_metrics();
        loop {
            let leads = changes.borrow_watched().state == ServerState::Leader;
            if leads {
                self.lead(&metrics).await;
            } else if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn lead(&self, metrics: &Metrics) {
        let since = Instant::now();
        let term = metrics.borrow_watched().current_term;
        loop {
            tokio::time::sleep(ROUND_MAX.min(self.lease / 8)).await;
            let silent = {
                let metrics = metrics.borrow_watched();
                if metrics.state != ServerState::Leader || metrics.current_term != term {
                    return;
                }
                let heard = metrics.heartbeat.iter().flatten();
                let silent = heard.filter(|(node, acked)| {
                    let silence = acked.map_or(since.elapsed(), |acked| acked.elapsed());
                    **node != self.node && silence.min(since.elapsed()) > self.lease
                });
                silent.map(|(node, _)| *node).collect::<Vec<_>>()
            };
            for node in silent {
                if let Some(epoch) = self.group.live_epoch(node) {
                    tracing::warn!(node, "the node is gone: its sessions end");
                    self.propose(std::iter::once(Body::ExpireNode(ExpireNode {
                        node,
                        epoch,
                        term,
                    })))
                    .await;
                }
            }
            self.disconnect_orphans().await;
        }
    }

    async fn disconnect_orphans(&self) {
        let orphans = self.group.orphans(DISCONNECTS_MAX);
        if !orphans.is_empty() {
            tracing::info!(count = orphans.len(), "disconnecting sessions whose node is gone");
        }
        let bodies = orphans.into_iter().map(|session| {
            Body::Disconnect(Disconnect {
                session,
                refused: false,
            })
        });
        self.propose(bodies).await;
    }

    /// Proposes, and waits for the outcomes: none of them matters, since the next round looks again.
    async fn propose(&self, bodies: impl Iterator<Item = Body>) {
        let mut pending: Vec<Pending> = Vec::new();
        for body in bodies {
            self.group.ready().await;
            pending.extend(self.group.submit(body.into()));
        }
        for outcome in pending {
            drop(outcome.await);
        }
    }
}
