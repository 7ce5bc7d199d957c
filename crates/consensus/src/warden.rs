//! What the leader of a shard looks after: nodes that are gone, and the sessions that nobody holds any more.

use crate::command::{Body, Disconnect, ExpireNode};
use crate::group::{Group, Metrics};
use crate::vitals::Vitals;
use crate::{Pending, Propose};
use futures::FutureExt;
use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Sessions that are disconnected at once.
const DISCONNECTS_MAX: usize = 1024;

/// The longest time between two rounds.
const ROUND_MAX: Duration = Duration::from_secs(1);

/// A round that takes so many times as long as it should was not this node's doing: the process was paused.
const LATE: u32 = 3;

/// The task that looks after a shard, on whichever node leads it.
pub(crate) struct Warden {
    pub(crate) node: u64,
    pub(crate) group: Arc<Group>,
    pub(crate) lease: Duration,
    pub(crate) vitals: Arc<Vitals>,
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
        let (mut since, mut under_way) = (Instant::now(), BTreeMap::new());
        let term = metrics.borrow_watched().current_term;
        let round = ROUND_MAX.min(self.lease / 8);
        loop {
            let begin = Instant::now();
            tokio::time::sleep(round).await;
            // A leader that was paused has not listened: it begins to count anew.
            if begin.elapsed() > round * LATE {
                since = Instant::now();
            }
            let silent = {
                let metrics = metrics.borrow_watched();
                if metrics.state != ServerState::Leader || metrics.current_term != term {
                    return;
                }
                let heard = metrics.heartbeat.iter().flatten();
                let silent = heard.filter(|(node, acked)| {
                    // A node that catches up acknowledges nothing for long, and answers all the same.
                    let acked = acked.map(|acked| acked.elapsed());
                    let answered = self.vitals.clock.heard(**node).map(|heard| heard.elapsed());
                    let signs = [acked, answered, Some(since.elapsed())];
                    let silence = signs.into_iter().flatten().min();
                    **node != self.node && silence.is_some_and(|silence| silence > self.lease)
                });
                silent.map(|(node, _)| *node).collect::<Vec<_>>()
            };
            for node in silent {
                if let Some(epoch) = self.group.live_epoch(node) {
                    tracing::warn!(node, "the node is gone: its sessions end");
                    let body = Body::ExpireNode(ExpireNode { node, epoch, term });
                    // Whether it is taken, the next round sees.
                    drop(self.group.submit(body.into()));
                }
            }
            self.disconnect_orphans(&mut under_way);
        }
    }

    /// Ends sessions that nobody holds. What is under way is not waited for: this node's own replica may lag.
    fn disconnect_orphans(&self, under_way: &mut BTreeMap<u64, Pending>) {
        under_way.retain(|_, pending| pending.now_or_never().is_none());
        let orphans = self.group.orphans(DISCONNECTS_MAX);
        let fresh: Vec<u64> = orphans
            .into_iter()
            .filter(|session| !under_way.contains_key(session))
            .collect();
        if !fresh.is_empty() {
            tracing::info!(count = fresh.len(), "disconnecting sessions whose node is gone");
        }
        for session in fresh {
            let refused = false;
            let body = Body::Disconnect(Disconnect { session, refused });
            let Ok(pending) = self.group.submit(body.into()) else {
                return;
            };
            under_way.insert(session, pending);
        }
    }
}
