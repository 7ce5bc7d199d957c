//! A leader whose process is gone is succeeded at once, rather than after the election timeout.
//!
//! Who sees it asks the others for a pre-vote that says why (`transfer` in `VoteAsk`), and once a majority sees the same it
//! is elected as if the leader had handed over to it: nobody waits for the end of the leader's lease. Who does not see it
//! answers as raft does: no, while it hears from the leader. So one node that is wrong disturbs nobody. Were all of them
//! wrong, there would be an election too many, and nothing worse: votes are what they always are.

mod turns;
mod voters;

use crate::group_id::GroupId;
use crate::machine::{Leaders, Raft};
use crate::transport::{PeerError, Peers};
use crate::types::{LogId, TypeConfig, Vote};
use crate::vitals::Vitals;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::RaftState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{TransferLeaderRequest, VoteRequest, VoteResponse};
use rtdb_runtime::Instant;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use turns::{Turns, is_refuted};
pub(crate) use voters::Voters;

/// Parts of the time between two heartbeats: one is a node's turn to ask, and how long who is asked may take to see the same.
const STEPS_PER_HEARTBEAT: u32 = 3;

/// How long it is left at that, if nobody has succeeded the leader.
const PAUSE: Duration = Duration::from_secs(1);

/// Sees to it that a group's leader is succeeded when its process is gone.
pub(crate) struct Succession {
    group: GroupId,
    raft: Raft,
    peers: Arc<Peers>,
    vitals: Arc<Vitals>,
    heartbeat: Duration,
    /// The leader that was last seen to be gone.
    gone: watch::Sender<Option<Gone>>,
}

/// A leader whose process is gone, as this node sees it.
#[derive(Clone, Copy)]
struct Gone {
    leader: Vote,
    at: Instant,
}

/// Another node that leads, and those who may elect its successor.
#[derive(PartialEq, Eq)]
struct Leader {
    vote: Vote,
    addr: String,
    voters: Voters,
}

impl Leader {
    fn id(&self) -> u64 {
        self.vote.leader_id.node_id
    }
}

impl Succession {
    pub(crate) fn new(
        group: GroupId,
        raft: Raft,
        peers: Arc<Peers>,
        vitals: Arc<Vitals>,
        heartbeat: Duration,
    ) -> Self {
        Self {
            group,
            raft,
            peers,
            vitals,
            heartbeat,
            gone: watch::Sender::new(None),
        }
    }

    fn step(&self) -> Duration {
        self.heartbeat / STEPS_PER_HEARTBEAT
    }

    /// Watches whoever leads until the group stops.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut leaders = self.raft.server_metrics();
        loop {
            let Some(leader) = self.leader(&leaders) else {
                if leaders.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let watched = async {
                self.peers.gone(leader.id(), &leader.addr, self.group).await;
                self.succeed(&leader).await;
                rtdb_runtime::sleep(PAUSE).await;
            };
            rtdb_runtime::select! {
                superseded = self.superseded(&leader, &mut leaders) => {
                    if superseded.is_err() {
                        return;
                    }
                }
                () = watched => {}
            }
        }
    }

    fn leader(&self, leaders: &Leaders) -> Option<Leader> {
        let metrics = leaders.borrow_watched();
        let id = metrics.current_leader.filter(|id| *id != self.peers.node)?;
        let membership = metrics.membership_config.membership();
        Some(Leader {
            vote: metrics.vote,
            addr: membership.get_node(&id)?.addr.clone(),
            voters: Voters::of(membership),
        })
    }

    /// Waits until somebody else leads, or nobody. An error means that the group has stopped.
    async fn superseded(&self, leader: &Leader, leaders: &mut Leaders) -> Result<(), ()> {
        while self.leader(leaders).as_ref() == Some(leader) {
            leaders.changed().await.map_err(drop)?;
        }
        Ok(())
    }

    /// Stands for election in this node's turns, until somebody is elected.
    async fn succeed(&self, leader: &Leader) {
        let (me, id) = (self.peers.node, leader.id());
        tracing::info!(group = %self.group, leader = id, "the leader's process is gone");
        rtdb_runtime::reached("leaders whose process was seen to be gone");
        let gone = Gone {
            leader: leader.vote,
            at: Instant::now(),
        };
        self.gone.send_replace(Some(gone));
        let voters = leader.voters.addrs.keys().copied().collect();
        let is_fit = |node| match node == me {
            true => self.vitals.is_fit(),
            false => self.vitals.clock.is_fit(node),
        };
        let Some(turns) = Turns::new(me, id, &voters, is_fit, self.step()) else {
            return;
        };
        for time in turns.times() {
            rtdb_runtime::sleep_until(gone.at + time).await;
            // As for the elections that raft holds: with a wrong clock not at all, with a low disk if nobody else does.
            if !self.vitals.is_clock_off() {
                self.stand(leader, gone).await;
            }
        }
    }

    /// Asks the other voters whether they see the same, and is elected if they do.
    async fn stand(&self, leader: &Leader, gone: Gone) {
        let grace = self.heartbeat;
        let known = self
            .raft
            .with_raft_state(move |state| gone.holds(state, grace).then(|| last(state)));
        let Ok(Some(last)) = known.await else { return };
        // Whose log does not say yet who votes knows nobody to be elected by.
        if last.map_or(0, |id| id.index) < self.peers.store.floor(self.group).index {
            return;
        }
        let me = self.peers.node;
        let request = VoteRequest {
            vote: Vote::new(leader.vote.leader_id.term + 1, me),
            last_log_id: last,
            leadership_transfer: true,
        };
        let others = leader
            .voters
            .addrs
            .iter()
            .filter(|(id, _)| ![me, leader.id()].contains(id));
        let mut answers: FuturesUnordered<_> = others
            .map(async |(id, addr)| {
                let asked = self.peers.pre_vote(*id, addr, self.group, request.clone());
                let answer = rtdb_runtime::timeout(self.heartbeat, asked).await;
                matches!(answer, Ok(Ok(answer)) if answer.vote_granted).then_some(*id)
            })
            .collect();
        let mut agreed = BTreeSet::from([me]);
        while !leader.voters.are_won_by(&agreed) {
            let Some(answer) = answers.next().await else {
                return;
            };
            agreed.extend(answer);
        }
        tracing::info!(group = %self.group, leader = leader.id(), ?agreed, "a majority sees it: this node stands for election");
        rtdb_runtime::reached("elections because the leader's process was gone");
        let handed_over = TransferLeaderRequest::new(leader.vote, me, last);
        // Whether it is elected, raft's news will tell.
        drop(self.raft.handle_transfer_leader(handed_over).await);
    }

    /// Answers whether this node would vote for another.
    pub(crate) async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, PeerError> {
        if request.leadership_transfer
            && let Some(gone) = self.sees_gone().await?
        {
            let (grace, vote, log) = (self.heartbeat, request.vote, request.last_log_id);
            let answer = self.raft.with_raft_state(move |state| {
                let (known, last) = (*state.vote_ref(), last(state));
                let is_granted = log >= last && vote >= known;
                gone.holds(state, grace)
                    .then(|| VoteResponse::new(known, last, is_granted))
            });
            if let Some(answer) = answer.await.map_err(PeerError::stopped)? {
                return Ok(answer);
            }
        }
        self.raft.pre_vote(request).await.map_err(PeerError::stopped)
    }

    /// The leader, if this node sees it to be gone: in a moment, if it has not seen it yet.
    async fn sees_gone(&self) -> Result<Option<Gone>, PeerError> {
        let leader = self.raft.with_raft_state(|state| *state.vote_ref()).await;
        let leader = leader.map_err(PeerError::stopped)?;
        if !leader.committed {
            return Ok(None);
        }
        let mut gone = self.gone.subscribe();
        let is_seen = |gone: &Option<Gone>| gone.is_some_and(|gone| gone.leader == leader);
        let seen = rtdb_runtime::timeout(self.step(), gone.wait_for(is_seen)).await;
        Ok(seen.ok().and_then(|gone| *gone.ok()?))
    }
}

impl Gone {
    /// Whether it is still the leader that is known, and was not heard since.
    fn holds(&self, state: &RaftState<TypeConfig>, grace: Duration) -> bool {
        let heard = state.vote_last_modified().map(|heard| heard.elapsed());
        *state.vote_ref() == self.leader
            && heard.is_none_or(|heard| !is_refuted(self.at.elapsed(), heard, grace))
    }
}

/// The end of the log.
pub(crate) fn last(state: &RaftState<TypeConfig>) -> Option<LogId> {
    state.log_ids.last().copied()
}
