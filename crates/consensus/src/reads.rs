//! How far the log is committed, for who wants to read everything that anybody has been told (Raft's read index: section 6.4 of
//! Ongaro's dissertation).

use crate::courier::Leader;
use crate::group_id::GroupId;
use crate::machine::Raft;
use crate::succession::{Voters, last};
use crate::transport::Peers;
use crate::types::{LogId, Vote};
use crate::{LogIndex, NoReadIndex};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::VoteRequest;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a leader is looked for that a majority follows.
const READ_INDEX_MAX: Duration = Duration::from_secs(5);

/// The pause before the next attempt.
const RETRY: Duration = Duration::from_millis(50);

/// A group's reads. The leader asks a majority each time: no clock is trusted.
pub(crate) struct Reads {
    group: GroupId,
    raft: Raft,
    peers: Arc<Peers>,
    /// How many questions have been asked.
    begun: AtomicU64,
    /// The answer to the last question, and its number. One is asked at a time: whoever comes meanwhile shares the next.
    last: Mutex<(u64, LogIndex)>,
}

impl Reads {
    pub(crate) fn new(group: GroupId, raft: Raft, peers: Arc<Peers>) -> Self {
        Self {
            group,
            raft,
            peers,
            begun: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// An index up to which at least the log was committed when this was called.
    ///
    /// # Errors
    /// [`NoReadIndex`] after a while.
    pub(crate) async fn index(&self) -> Result<LogIndex, NoReadIndex> {
        let begun = self.begun.load(Ordering::SeqCst);
        let asking = async {
            let mut last = self.last.lock().await;
            // A question that was asked before says nothing of what was committed since.
            if last.0 <= begun {
                let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
                *last = (number, self.ask().await);
            }
            last.1
        };
        let asked = rtdb_runtime::timeout(READ_INDEX_MAX, asking).await;
        asked.map_err(|_| NoReadIndex)
    }

    async fn ask(&self) -> LogIndex {
        loop {
            if let Some(index) = self.attempt().await {
                return index;
            }
            rtdb_runtime::sleep(RETRY).await;
        }
    }

    async fn attempt(&self) -> Option<LogIndex> {
        let leader = Leader::of(&self.raft.server_metrics())?;
        if leader.id == self.peers.node {
            return self.own().await;
        }
        match self.peers.read_index(leader.id, &leader.addr, self.group).await {
            Ok(index) => index,
            Err(error) => {
                tracing::debug!(group = %self.group, leader = leader.id, %error, "no read index");
                None
            }
        }
    }

    /// The same if this node leads, and a majority says so.
    pub(crate) async fn own(&self) -> Option<LogIndex> {
        if rtdb_runtime::planted("reads ask nobody") {
            return self
                .raft
                .metrics()
                .borrow_watched()
                .local_committed
                .map(|id| id.index);
        }
        let (vote, _) = self.vote_and_last().await?;
        let index = match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => linearizer.read_log_id().log_id().index,
            Err(error) => {
                tracing::debug!(group = %self.group, %error, "no read index");
                return None;
            }
        };
        self.is_newest(vote).await?.then_some(index)
    }

    /// Whom this node knows to lead, and its log's end; `None` if the group has stopped.
    async fn vote_and_last(&self) -> Option<(Vote, Option<LogId>)> {
        let known = self
            .raft
            .with_raft_state(|state| (*state.vote_ref(), last(state)));
        known.await.ok()
    }

    /// Whether a majority knows of no later leader than `vote`, which is this node's. openraft has asked one, too, but takes the
    /// answer to what it had sent before for one to what it asks now, if there was nothing to send in between: so a leader that
    /// stood still for a while, and was succeeded meanwhile, believes it leads.
    async fn is_newest(&self, vote: Vote) -> Option<bool> {
        let voters = Voters::of(
            self.raft
                .server_metrics()
                .borrow_watched()
                .membership_config
                .membership(),
        );
        let (known, last_log_id) = self.vote_and_last().await?;
        // It would hardly be granted; each says whom it knows.
        let request = VoteRequest {
            vote: Vote::new(vote.leader_id.term + 1, self.peers.node),
            last_log_id,
            leadership_transfer: false,
        };
        let others = voters.addrs.iter().filter(|(id, _)| **id != self.peers.node);
        let mut answers: FuturesUnordered<_> = others
            .map(async |(id, addr)| {
                let answer = self.peers.pre_vote(*id, addr, self.group, request.clone()).await;
                Some((*id, answer.ok()?.vote))
            })
            .collect();
        let mut agreed = BTreeSet::new();
        agreed.extend((known == vote).then_some(self.peers.node));
        while !voters.are_won_by(&agreed) {
            match answers.next().await {
                Some(Some((id, known))) if known <= vote => drop(agreed.insert(id)),
                Some(Some(_)) | None => return Some(false),
                Some(None) => {}
            }
        }
        Some(true)
    }
}
