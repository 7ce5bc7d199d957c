//! Calls with keys: one that is sent again counts once.

use crate::{Applied, Outcome, Position, Reply, Unapplied};
use bytes::Bytes;

/// Bytes of a [`CallKey::key`].
pub const KEY_BYTES_MAX: usize = 255;

/// Bytes of a [`CallKey::fingerprint`].
pub const FINGERPRINT_BYTES_MAX: usize = 32;

/// Bytes that are kept of why a call with a key has failed: what it said beyond is cut off.
pub const FAILURE_BYTES_MAX: usize = 128;

/// Calls in one [`Outcomes`], known and wanted each.
pub const OUTCOMES_MAX: usize = 256;

/// What a caller knows its call by. The first call of that caller with that key takes effect, others of the same database are
/// refused. Of [`KEYS_LEVEL`](super::KEYS_LEVEL).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CallKey {
    /// Who calls, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub sender: Bytes,
    /// The caller's own name for the call, at most [`KEY_BYTES_MAX`].
    #[prost(string, tag = "2")]
    pub key: String,
    /// A hash of what is called and with which arguments: another call can't have the same key.
    #[prost(bytes = "bytes", tag = "3")]
    pub fingerprint: Bytes,
}

/// What came of calls with keys on the proposer's replica, to be kept in the log's state; the first word holds. And of which
/// calls somebody would like to know it: every replica that does says so. Of [`KEYS_LEVEL`](super::KEYS_LEVEL).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Outcomes {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// What is known; at most [`OUTCOMES_MAX`] of them count.
    #[prost(message, repeated, tag = "2")]
    pub known: Vec<Known>,
    /// The positions of the calls of which it is wanted; at most [`OUTCOMES_MAX`] of them count.
    #[prost(fixed64, repeated, tag = "3")]
    pub wanted: Vec<u64>,
}

/// What came of a call with a key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Known {
    /// The call's position.
    #[prost(fixed64, tag = "1")]
    pub position: u64,
    /// What it gave back, or why it has failed. `None` if it was refused, so that it may be made again with the same key.
    #[prost(oneof = "Ended", tags = "2, 3, 4")]
    pub ended: Option<Ended>,
}

/// How a call with a key has ended.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Ended {
    /// It is part of the database.
    #[prost(message, tag = "2")]
    Succeeded(Succeeded),
    /// It has failed, by the module's own word.
    #[prost(string, tag = "3")]
    Failed(String),
    /// It has not come to its own end.
    #[prost(string, tag = "4")]
    Trapped(String),
}

/// A call that is part of the database: how many rows it has changed, if it was SQL.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Succeeded {
    /// Whether it was.
    #[prost(bool, tag = "1")]
    pub of_rows: bool,
    /// How many came.
    #[prost(uint64, tag = "2")]
    pub inserted: u64,
    /// How many went.
    #[prost(uint64, tag = "3")]
    pub deleted: u64,
    /// How many changed.
    #[prost(uint64, tag = "4")]
    pub updated: u64,
}

impl Known {
    /// What the outcome of the call at `position` says; `None` if it is unknown.
    pub fn of(position: Position, outcome: &Outcome) -> Option<Self> {
        let ended = match outcome {
            Ok(applied) => Some(Ended::Succeeded((&applied.reply).into())),
            Err(Unapplied::Reducer { trapped, message, .. }) => Some(match trapped {
                true => Ended::Trapped(message.clone()),
                false => Ended::Failed(message.clone()),
            }),
            Err(Unapplied::Refused(_)) => None,
            Err(Unapplied::Unknown { .. }) => return None,
        };
        let position = position.0;
        Some(Self { position, ended }.shortened())
    }

    /// The outcome of the call, to which the log has given that time; `None` if it may be made again.
    pub(crate) fn outcome(&self, timestamp_us: i64) -> Option<Outcome> {
        let position = Position(self.position);
        let failed = |trapped, message: &String| Unapplied::Reducer {
            position,
            timestamp_us,
            trapped,
            message: message.clone(),
            execution_us: 0,
            energy: 0,
        };
        Some(match self.ended.as_ref()? {
            Ended::Succeeded(it) => Ok(Applied {
                position,
                timestamp_us,
                reply: (*it).into(),
            }),
            Ended::Failed(message) => Err(failed(false, message)),
            Ended::Trapped(message) => Err(failed(true, message)),
        })
    }

    /// The same, with as much of what a failure says as is kept.
    pub(crate) fn shortened(mut self) -> Self {
        if let Some(Ended::Failed(text) | Ended::Trapped(text)) = &mut self.ended {
            text.truncate(text.floor_char_boundary(FAILURE_BYTES_MAX));
            text.shrink_to_fit();
        }
        self
    }
}

impl From<&Reply> for Succeeded {
    fn from(reply: &Reply) -> Self {
        match *reply {
            Reply::Rows {
                inserted,
                deleted,
                updated,
            } => Self {
                of_rows: true,
                inserted,
                deleted,
                updated,
            },
            _ => Self::default(),
        }
    }
}

impl From<Succeeded> for Reply {
    fn from(it: Succeeded) -> Self {
        match it.of_rows {
            true => Self::Rows {
                inserted: it.inserted,
                deleted: it.deleted,
                updated: it.updated,
            },
            false => Self::Call {
                return_value: Bytes::new(),
                execution_us: 0,
                energy: 0,
            },
        }
    }
}
