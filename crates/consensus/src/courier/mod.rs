//! Carries this node's proposals to whoever leads.

mod pace;
#[cfg(test)]
mod tests;

use crate::batcher::{Inbox, Refused};
use crate::config::Timing;
use crate::entry::EncodedBatch;
use crate::group_id::GroupId;
use crate::log::Store;
use crate::machine::Leaders;
use crate::proposer::Proposer;
use crate::transport::Peers;
use crate::vitals::Vitals;
use futures::StreamExt;
use openraft::async_runtime::watch::WatchReceiver;
use pace::Pace;
use rtdb_runtime::Instant;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
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

/// Who leads, and since which vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) id: u64,
    pub(crate) addr: String,
    term: u64,
}

impl Leader {
    /// The one of now, if this node knows who it is and where.
    pub(crate) fn of(leaders: &Leaders) -> Option<Self> {
        let metrics = leaders.borrow_watched();
        let id = metrics.current_leader?;
        let addr = metrics.membership_config.membership().get_node(&id)?.addr.clone();
        Some(Self {
            id,
            addr,
            term: metrics.vote.leader_id.term,
        })
    }
}

/// The task that carries proposals.
pub(crate) struct Courier {
    pub(crate) group: GroupId,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) store: Arc<Store>,
    pub(crate) leaders: Leaders,
    pub(crate) batcher: Inbox,
    pub(crate) peers: Arc<Peers>,
    pub(crate) timing: Timing,
    pub(crate) vitals: Arc<Vitals>,
}

/// Why no more is carried to a leader.
enum End {
    /// It takes nothing more.
    Refused,
    /// It leads no more.
    Superseded,
    /// Nothing of what it took has come into the log.
    Stalled,
}

/// The way to a leader.
enum Route {
    Here(Inbox),
    There(mpsc::Sender<EncodedBatch>),
}

impl Route {
    async fn send(&self, batch: EncodedBatch, refused: &Arc<Refused>) -> bool {
        match self {
            Self::Here(batcher) => batcher.put(batch, refused).await,
            Self::There(stream) => stream.send(batch).await.is_ok(),
        }
    }
}

impl Courier {
    /// Carries until the group stops.
    pub(crate) async fn run(self) {
        let mut leaders = self.leaders.clone();
        let mut pace = Pace::new(&self.timing);
        let mut last = None;
        loop {
            let Some(leader) = Leader::of(&leaders) else {
                if self.renew().await.is_err() || leaders.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if !rtdb_runtime::planted("nothing is sent again") {
                self.proposer.rewind();
            }
            pace.begin(last.as_ref() != Some(&leader));
            let refused = Arc::new(Refused::default());
            let (route, replies) = self.open(&leader, &refused);
            let carried = self
                .carry(&route, &refused, &leader, &mut leaders, &mut pace)
                .await;
            drop(route);
            if let Some(replies) = replies {
                replies.abort();
            }
            let carried = match carried {
                Ok(End::Refused) => {
                    rtdb_runtime::reached("leaders that took no more");
                    self.wait(&leader, &mut leaders, &mut pace).await
                }
                Ok(End::Superseded | End::Stalled) => Ok(()),
                Err(stopped) => Err(stopped),
            };
            if carried.is_err() {
                return;
            }
            last = Some(leader);
        }
    }

    fn open(&self, leader: &Leader, refused: &Arc<Refused>) -> (Route, Option<rtdb_runtime::JoinHandle<()>>) {
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
        let replies = rtdb_runtime::spawn(async move {
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
        pace: &mut Pace,
    ) -> Result<End, ()> {
        loop {
            self.renew().await?;
            while let Some(batch) = self.proposer.next_batch() {
                let begin = Instant::now();
                rtdb_runtime::select! {
                    sent = route.send(batch, refused) => {
                        if !sent {
                            return Ok(End::Refused);
                        }
                    }
                    () = refused.wait() => return Ok(End::Refused),
                    superseded = self.superseded(leader, leaders) => return superseded.map(|()| End::Superseded),
                }
                pace.pause(begin.elapsed());
            }
            let patience = pace.look(&self.proposer.seen(), Instant::now());
            let stalled = async {
                match patience {
                    Some(end) => rtdb_runtime::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            rtdb_runtime::select! {
                () = refused.wait() => return Ok(End::Refused),
                superseded = self.superseded(leader, leaders) => return superseded.map(|()| End::Superseded),
                () = stalled => {
                    // The log may have more by now than when the patience began.
                    let now = Instant::now();
                    if pace.look(&self.proposer.seen(), now).is_some_and(|end| end <= now) {
                        tracing::warn!(group = %self.group, leader = leader.id, "proposals make no progress");
                        rtdb_runtime::reached("leaders that made no progress");
                        pace.stalled();
                        return Ok(End::Stalled);
                    }
                }
                () = self.proposer.work() => self.gather().await,
            }
        }
    }

    /// Waits until somebody else leads, or nobody.
    async fn superseded(&self, leader: &Leader, leaders: &mut Leaders) -> Result<(), ()> {
        while Leader::of(leaders).as_ref() == Some(leader) {
            leaders.changed().await.map_err(drop)?;
        }
        Ok(())
    }

    /// Waits until a batch is worth its cost.
    async fn gather(&self) {
        let is_early = || {
            let (under_way, unsent) = self.proposer.under_way();
            under_way >= GATHER_FROM && unsent < under_way / GATHER_PARTS
        };
        let enough = async {
            while is_early() {
                self.proposer.work().await;
            }
        };
        // Either way they are sent now.
        let _ = rtdb_runtime::timeout(GATHER, enough).await;
    }

    /// Waits before the same leader is tried again, but not for the use of another.
    async fn wait(&self, leader: &Leader, leaders: &mut Leaders, pace: &mut Pace) -> Result<(), ()> {
        pace.look(&self.proposer.seen(), Instant::now());
        rtdb_runtime::select! {
            superseded = self.superseded(leader, leaders) => superseded,
            () = rtdb_runtime::sleep(pace.refused()) => Ok(()),
        }
    }

    /// Takes a new epoch if the last one was expired.
    async fn renew(&self) -> Result<(), ()> {
        if self.proposer.is_expired() {
            let epoch = self
                .store
                .next_epoch(self.vitals.clock.now_us(), self.proposer.log_epoch())
                .await
                .map_err(drop)?;
            self.proposer.renew(epoch);
        }
        Ok(())
    }
}
