//! What is let in of a stream of entries.

use crate::group_id::GroupId;
use crate::machine::Raft;
use crate::transport::PeerError;
use crate::transport::sanity::{self, Unsound};
use crate::transport::wire::Append;
use crate::types::{LogId, TypeConfig, Vote};
use crate::vitals::Vitals;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use std::cmp::Ordering;
use std::sync::Arc;

/// Before raft on a stream of entries from one sender. It may outlive the group, and so holds nothing of it but raft.
pub(super) struct Door {
    group: GroupId,
    raft: Raft,
    vitals: Arc<Vitals>,
    from: u64,
    /// The term of the leader that this node was taken in under.
    term_min: u64,
    /// The last message that was let in, if raft took it.
    passed: Option<Passed>,
}

/// A message that was let in.
struct Passed {
    leader: Vote,
    /// Up to where it went.
    last: Option<LogId>,
    /// Up to where it and those before it went.
    brought: Option<LogId>,
    /// What it said was committed.
    commit: Option<LogId>,
}

impl Door {
    pub(super) fn new(group: GroupId, raft: Raft, vitals: Arc<Vitals>, from: u64, term_min: u64) -> Self {
        Self {
            group,
            raft,
            vitals,
            from,
            term_min,
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
        if append.vote.is_none_or(|vote| vote.term < self.term_min) {
            return Err(Unsound::Deposed(self.term_min).into());
        }
        let request = AppendEntriesRequest::try_from(append);
        let mut request = request.map_err(|error| Unsound::Command(error.to_string()))?;
        let last = request
            .entries
            .last()
            .map(|entry| entry.log_id)
            .or(request.prev_log_id);
        let is_taken = self.follows(&request) || self.check_history(&request).await?;
        let commit = request.leader_commit;
        // Raft takes the lesser of two ids, not of two indices, and keeps it for later entries of the term. But nothing is
        // committed here that this very message, and those before it, have not brought.
        let before = self
            .passed
            .as_ref()
            .filter(|passed| passed.leader == request.vote);
        let before = before.and_then(|passed| passed.brought);
        let brought = match is_taken {
            true if request.entries.is_empty() && index(before) > index(last) => before,
            true => last,
            false => None,
        };
        if index(commit) > index(brought) {
            request.leader_commit = brought;
        }
        self.passed = is_taken.then_some(Passed {
            leader: request.vote,
            last,
            brought,
            commit,
        });
        Ok(request)
    }

    fn is_vetoed(&self, append: &Append) -> bool {
        let leader = append.vote.map(Vote::from);
        leader.is_none_or(|leader| self.vitals.clock.refuses(self.group, leader))
    }

    /// Whether a message goes on where the one before it ended, beyond all that is committed here.
    fn follows(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let Some(passed) = &self.passed else { return false };
        request.vote == passed.leader
            && request.prev_log_id == passed.last
            && index(passed.last) >= index(self.raft.metrics().borrow_watched().local_committed)
            && index(request.leader_commit) >= index(passed.commit)
            && request.leader_commit >= passed.commit
    }

    /// Compares a message with what raft knows to be committed, once raft has seen all that was let in before. Gives back
    /// whether raft will take it: whether it is of no earlier leader than raft knows, and goes on from what raft has.
    async fn check_history(&self, request: &AppendEntriesRequest<TypeConfig>) -> Result<bool, PeerError> {
        let (vote, prev) = (request.vote, request.prev_log_id);
        let ids = request.entries.iter().map(|entry| entry.log_id);
        let said: Vec<LogId> = prev.into_iter().chain(request.leader_commit).chain(ids).collect();
        let checked = self.raft.with_raft_state(move |state| {
            let known = |index| state.log_ids.get(index);
            // A leader that was deposed is told so by raft, whatever it still sends.
            let is_deposed = vote.partial_cmp(state.vote_ref()).is_none_or(Ordering::is_lt);
            if is_deposed {
                return Ok::<bool, Unsound>(false);
            }
            sanity::history(state.local_committed().copied(), known, said)?;
            Ok(prev.is_none_or(|prev| known(prev.index) == Some(prev)))
        });
        Ok(checked.await.map_err(PeerError::stopped)??)
    }
}

fn index(id: Option<LogId>) -> Option<u64> {
    id.map(|id| id.index)
}
