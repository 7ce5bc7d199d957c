//! What is let in of a stream of entries.

use super::PeerError;
use super::sanity::{self, Unsound};
use super::wire::Append;
use crate::types::{GroupId, LogId, Raft, TypeConfig, Vote};
use crate::vitals::Vitals;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use std::sync::Arc;

/// Before raft on a stream of entries from one sender. It may outlive the group, and so holds nothing of it but raft.
pub(super) struct Door {
    group: GroupId,
    raft: Raft,
    vitals: Arc<Vitals>,
    from: u64,
    /// Up to where the last message that was let in went, and what it said was committed; `None` before the first.
    passed: Option<(Option<LogId>, Option<LogId>)>,
}

impl Door {
    pub(super) fn new(group: GroupId, raft: Raft, vitals: Arc<Vitals>, from: u64) -> Self {
        Self {
            group,
            raft,
            vitals,
            from,
            passed: None,
        }
    }

    /// Lets a message in, if a healthy leader could have sent it.
    pub(super) async fn admit(
        &mut self,
        append: Append,
    ) -> Result<AppendEntriesRequest<TypeConfig>, PeerError> {
        let admitted = self.check(append).await;
        if let Err(reason) = &admitted {
            tracing::warn!(from = self.from, group = %self.group, "entries are refused: {reason}");
        }
        admitted
    }

    async fn check(&mut self, append: Append) -> Result<AppendEntriesRequest<TypeConfig>, PeerError> {
        let clock = &self.vitals.clock;
        let term_max = sanity::term_max(clock.now_us());
        match sanity::append(&append, self.from, term_max, clock.stamp_us_max()) {
            Err(Unsound::FarAhead { .. }) if !self.is_vetoed(&append) => {
                sanity::append(&append, self.from, term_max, None)?;
            }
            checked => checked?,
        }
        let request = AppendEntriesRequest::try_from(append);
        let request = request.map_err(|error| Unsound::Command(error.to_string()))?;
        let last = request
            .entries
            .last()
            .map(|entry| entry.log_id)
            .or(request.prev_log_id);
        if !self.follows(&request) {
            self.check_history(&request).await?;
        }
        self.passed = Some((last, request.leader_commit));
        Ok(request)
    }

    fn is_vetoed(&self, append: &Append) -> bool {
        let leader = append.vote.map(Vote::from);
        leader.is_none_or(|leader| self.vitals.clock.refuses(self.group, leader))
    }

    /// Whether a message goes on where the one before it ended, beyond all that is committed here.
    fn follows(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let Some((last, commit)) = self.passed else {
            return false;
        };
        let index = |id: Option<LogId>| id.map(|id| id.index);
        request.prev_log_id == last
            && index(last) >= index(self.raft.metrics().borrow_watched().local_committed)
            && index(request.leader_commit) >= index(commit)
            && request.leader_commit >= commit
    }

    /// Compares a message with what raft knows to be committed, once raft has seen all that was let in before.
    async fn check_history(&self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), PeerError> {
        let ids = request.entries.iter().map(|entry| entry.log_id);
        let said: Vec<LogId> = request
            .prev_log_id
            .into_iter()
            .chain(request.leader_commit)
            .chain(ids)
            .collect();
        let checked = self.raft.with_raft_state(move |state| {
            let committed = state.local_committed().copied();
            sanity::history(committed, |index| state.log_ids.get(index), said)
        });
        Ok(checked.await.map_err(PeerError::stopped)??)
    }
}
