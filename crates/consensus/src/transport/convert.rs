//! Between openraft's messages and those on the wire.

use super::PeerError;
use super::wire::{Append, Appended, Lagging, TransferAnswer, TransferAsk, VoteAnswer, VoteAsk};
use crate::record::LogRecord;
use crate::types::{LogId, RaftEntry, TypeConfig, Vote};
use crate::version::RecordError;
use crate::vitals::{DatabaseId, LAGGING_MAX, Lag};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

impl From<AppendEntriesRequest<TypeConfig>> for Append {
    fn from(request: AppendEntriesRequest<TypeConfig>) -> Self {
        Self {
            vote: Some(request.vote.into()),
            prev: request.prev_log_id.map(Into::into),
            entries: request.entries.iter().map(LogRecord::from).collect(),
            commit: request.leader_commit.map(Into::into),
        }
    }
}

impl TryFrom<Append> for AppendEntriesRequest<TypeConfig> {
    type Error = RecordError;

    fn try_from(append: Append) -> Result<Self, RecordError> {
        let entries: Result<Vec<RaftEntry>, _> =
            append.entries.into_iter().map(RaftEntry::try_from).collect();
        Ok(Self {
            vote: append.vote.ok_or(RecordError::Missing("a vote"))?.into(),
            prev_log_id: append.prev.map(Into::into),
            entries: entries?,
            leader_commit: append.commit.map(Into::into),
        })
    }
}

impl From<StreamAppendResult<TypeConfig>> for Appended {
    fn from(result: StreamAppendResult<TypeConfig>) -> Self {
        let none = Self::default();
        match result {
            Ok(matching) => Self {
                matching: matching.map(Into::into),
                ..none
            },
            Err(StreamAppendError::Conflict(id)) => Self {
                conflict: Some(id.into()),
                ..none
            },
            Err(StreamAppendError::HigherVote(vote)) => Self {
                higher: Some(vote.into()),
                ..none
            },
        }
    }
}

impl From<Appended> for StreamAppendResult<TypeConfig> {
    fn from(appended: Appended) -> Self {
        if let Some(vote) = appended.higher {
            return Err(StreamAppendError::HigherVote(vote.into()));
        }
        if let Some(id) = appended.conflict {
            return Err(StreamAppendError::Conflict(id.into()));
        }
        Ok(appended.matching.map(LogId::from))
    }
}

impl From<VoteRequest<TypeConfig>> for VoteAsk {
    fn from(request: VoteRequest<TypeConfig>) -> Self {
        Self {
            vote: Some(request.vote.into()),
            last: request.last_log_id.map(Into::into),
            transfer: request.leadership_transfer,
        }
    }
}

impl TryFrom<VoteAsk> for VoteRequest<TypeConfig> {
    type Error = PeerError;

    fn try_from(ask: VoteAsk) -> Result<Self, PeerError> {
        let vote: Vote = ask.vote.ok_or(PeerError::Garbled)?.into();
        let mut request = Self::new(vote, ask.last.map(Into::into));
        request.leadership_transfer = ask.transfer;
        Ok(request)
    }
}

impl From<VoteResponse<TypeConfig>> for VoteAnswer {
    fn from(response: VoteResponse<TypeConfig>) -> Self {
        Self {
            vote: Some(response.vote.into()),
            granted: response.vote_granted,
            last: response.last_log_id.map(Into::into),
        }
    }
}

impl TryFrom<VoteAnswer> for VoteResponse<TypeConfig> {
    type Error = PeerError;

    fn try_from(answer: VoteAnswer) -> Result<Self, PeerError> {
        let vote: Vote = answer.vote.ok_or(PeerError::Garbled)?.into();
        Ok(Self::new(vote, answer.last.map(Into::into), answer.granted))
    }
}

impl From<TransferLeaderRequest<TypeConfig>> for TransferAsk {
    fn from(request: TransferLeaderRequest<TypeConfig>) -> Self {
        Self {
            from: Some((*request.from_leader()).into()),
            to: *request.to_node_id(),
            last: request.last_log_id().copied().map(Into::into),
        }
    }
}

impl TryFrom<TransferAsk> for TransferLeaderRequest<TypeConfig> {
    type Error = PeerError;

    fn try_from(ask: TransferAsk) -> Result<Self, PeerError> {
        let from: Vote = ask.from.ok_or(PeerError::Garbled)?.into();
        Ok(Self::new(from, ask.to, ask.last.map(Into::into)))
    }
}

impl From<TransferLeaderResponse<TypeConfig>> for TransferAnswer {
    fn from(response: TransferLeaderResponse<TypeConfig>) -> Self {
        match response {
            Ok(()) => Self::default(),
            Err(TransferLeaderError::VoteChanged { actual, .. }) => Self {
                vote: Some(actual.into()),
                ..Self::default()
            },
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => Self {
                behind: true,
                last: actual.map(Into::into),
                ..Self::default()
            },
        }
    }
}

impl TransferAnswer {
    /// The answer to `request`.
    pub(crate) fn response(
        self,
        request: &TransferLeaderRequest<TypeConfig>,
    ) -> TransferLeaderResponse<TypeConfig> {
        match (self.vote, self.behind) {
            (Some(vote), _) => Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: vote.into(),
            }),
            (None, true) => Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: self.last.map(Into::into),
            }),
            (None, false) => Ok(()),
        }
    }
}

/// What a node tells of its replicas, in a message.
pub(crate) fn told(lags: Vec<(DatabaseId, Lag)>) -> Vec<Lagging> {
    let lagging = lags.into_iter().map(|(database, lag)| Lagging {
        database: database.to_vec().into(),
        commands: lag.commands,
        age_ms: lag.age_ms,
        applied: lag.applied,
    });
    lagging.collect()
}

/// What nodes say in a message: no more than they may, and nothing that is none.
pub(crate) fn heard(lagging: &[Lagging]) -> impl Iterator<Item = (DatabaseId, Lag)> + '_ {
    lagging.iter().take(LAGGING_MAX).filter_map(|said| {
        let lag = Lag {
            commands: said.commands,
            age_ms: said.age_ms,
            applied: said.applied,
        };
        Some((<DatabaseId>::try_from(&said.database[..]).ok()?, lag))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_of_replicas_is_what_was_told_within_bounds() {
        let lag = Lag {
            commands: 1,
            age_ms: 2,
            applied: 3,
        };
        let said = told(vec![([7; 32], lag)]);
        assert_eq!(heard(&said).collect::<Vec<_>>(), [([7; 32], lag)]);
        let nonsense = vec![Lagging::default(); 9 * LAGGING_MAX];
        assert_eq!(heard(&nonsense).count(), 0);
        let flood = vec![said[0].clone(); 9 * LAGGING_MAX];
        assert_eq!(heard(&flood).count(), LAGGING_MAX);
    }
}
