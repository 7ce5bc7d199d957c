//! Carries this node's proposals to whoever leads.

use super::Proposer;
use super::batcher::{Incoming, Refused};
use crate::config::Timing;
use crate::log::Store;
use crate::record::EncodedBatch;
use crate::transport::Peers;
use crate::types::{GroupId, Raft, TypeConfig};
use crate::vitals::Vitals;
use futures::StreamExt;
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// Batches that wait for the connection to the leader.
const ROUTE_BATCHES_MAX: usize = 16;

/// From so many commands under way on, a few more are waited for before they are sent. Each entry costs the same, however
/// little it holds; and so many wait for the replica anyway that the wait is not noticed. Fewer are sent at once.
const GATHER_FROM: usize = 64;

/// When one in so many of the commands under way waits to be sent, they are.
const GATHER_PARTS: usize = 8;

/// How long they are waited for.
const GATHER: Duration = Duration::from_millis(5);

type Leaders = openraft::type_config::alias::WatchReceiverOf<
    TypeConfig,
    openraft::metrics::RaftServerMetrics<TypeConfig>,
>;

/// Who leads, and since which vote.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leader {
    id: u64,
    addr: String,
    term: u64,
}

/// The task that carries proposals.
pub(crate) struct Courier {
    pub(crate) group: GroupId,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) store: Arc<Store>,
    pub(crate) raft: Raft,
    pub(crate) batcher: mpsc::Sender<Incoming>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) timing: Timing,
    pub(crate) vitals: Arc<Vitals>,
}

/// The way to a leader.
enum Route {
    Here(mpsc::Sender<Incoming>),
    There(mpsc::Sender<EncodedBatch>),
}

impl Route {
    async fn send(&self, batch: EncodedBatch, refused: &Arc<Refused>) -> bool {
        match self {
            Self::Here(batcher) => batcher
                .send(Incoming {
                    batch,
                    refused: refused.clone(),
                })
                .await
                .is_ok(),
            Self::There(stream) => stream.send(batch).await.is_ok(),
        }
    }
}

impl Courier {
    /// Carries until the group stops.
    pub(crate) async fn run(self) {
        let mut leaders = self.raft.server_metrics();
        loop {
            let Some(leader) = self.leader(&leaders) else {
                if self.renew().await.is_err() || leaders.changed().await.is_err() {
                    return;
                }
                continue;
            };
            self.proposer.queue.lock().rewind();
            let refused = Arc::new(Refused::default());
            let (route, replies) = self.open(&leader, &refused);
            let carried = self.carry(&route, &refused, &leader, &mut leaders).await;
            drop(route);
            if let Some(replies) = replies {
                replies.abort();
            }
            if carried.is_err() {
                return;
            }
        }
    }

    fn leader(&self, leaders: &Leaders) -> Option<Leader> {
        let metrics = leaders.borrow_watched();
        let id = metrics.current_leader?;
        let addr = metrics.membership_config.membership().get_node(&id)?.addr.clone();
        Some(Leader {
            id,
            addr,
            term: metrics.vote.leader_id.term,
        })
    }

    fn open(&self, leader: &Leader, refused: &Arc<Refused>) -> (Route, Option<tokio::task::JoinHandle<()>>) {
        if leader.id == self.proposer.node() {
            return (Route::Here(self.batcher.clone()), None);
        }
        let (sender, batches) = mpsc::channel(ROUTE_BATCHES_MAX);
        let stream = self.peers.propose(
            leader.id,
            &leader.addr,
            self.group,
            ReceiverStream::new(batches).boxed(),
        );
        let refused = refused.clone();
        let replies = tokio::spawn(async move {
            // Whatever comes back, and the stream's end too, means that the leader takes nothing more.
            if let Ok(mut replies) = stream.await {
                replies.next().await;
            }
            refused.refuse();
        });
        (Route::There(sender), Some(replies))
    }

    /// Carries until the leader changes, refuses or makes no progress. An error means that the group has stopped.
    async fn carry(
        &self,
        route: &Route,
        refused: &Arc<Refused>,
        leader: &Leader,
        leaders: &mut Leaders,
    ) -> Result<(), ()> {
        let mut progress = (self.proposer.queue.lock().last_resolved(), Instant::now());
        loop {
            self.renew().await?;
            while let Some(batch) = self.proposer.next_batch() {
                tokio::select! {
                    biased;
                    sent = route.send(batch, refused) => {
                        if !sent {
                            return self.pause(leaders).await;
                        }
                    }
                    () = refused.wait() => return self.pause(leaders).await,
                    changed = leaders.changed() => {
                        changed.map_err(drop)?;
                        // The batch may be lost with the branch: everything is sent again.
                        return Ok(());
                    }
                }
            }
            let (resolved, waiting) = {
                let queue = self.proposer.queue.lock();
                (queue.last_resolved(), queue.is_waiting())
            };
            if resolved != progress.0 || !waiting {
                progress = (resolved, Instant::now());
            }
            let stalled = async {
                match waiting {
                    true => tokio::time::sleep_until(progress.1 + self.timing.progress()).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.proposer.work.notified() => self.gather().await,
                () = refused.wait() => return self.pause(leaders).await,
                changed = leaders.changed() => {
                    changed.map_err(drop)?;
                    if self.leader(leaders).as_ref() != Some(leader) {
                        return Ok(());
                    }
                }
                () = stalled => {
                    if self.proposer.queue.lock().last_resolved() == progress.0 {
                        tracing::warn!(group = %self.group, leader = leader.id, "proposals make no progress");
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Waits until a batch is worth its cost.
    async fn gather(&self) {
        let is_early = || {
            let queue = self.proposer.queue.lock();
            let under_way = queue.outstanding().0;
            under_way >= GATHER_FROM && queue.unsent() < under_way / GATHER_PARTS
        };
        let enough = async {
            while is_early() {
                self.proposer.work.notified().await;
            }
        };
        // Either way they are sent now.
        drop(tokio::time::timeout(GATHER, enough).await);
    }

    /// Waits a moment, or for another leader, before trying again.
    async fn pause(&self, leaders: &mut Leaders) -> Result<(), ()> {
        tokio::select! {
            () = tokio::time::sleep(self.timing.retry()) => Ok(()),
            changed = leaders.changed() => changed.map_err(drop),
        }
    }

    /// Takes a new epoch if the last one was expired.
    async fn renew(&self) -> Result<(), ()> {
        let expired = {
            let queue = self.proposer.queue.lock();
            queue.epoch() == 0 && !queue.is_stopping()
        };
        if expired {
            let epoch = self
                .store
                .next_epoch(self.vitals.clock.now_us())
                .await
                .map_err(drop)?;
            self.proposer.renew(epoch);
        }
        Ok(())
    }
}
