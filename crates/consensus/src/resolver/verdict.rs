//! What the rules know of a command, and what they make of it.

use super::state::StateKey;
use crate::{Origin, Position, Refusal, Reply, Session};

/// A change of the resolver's state: the key, and the new value, or `None` if the key is gone.
pub(crate) type Change = (StateKey, Option<Vec<u8>>);

/// Where and when a command stands in the log, and who proposed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// The term of the leader that wrote it.
    pub(super) term: u64,
    pub(super) position: Position,
    pub(super) timestamp_us: i64,
    pub(super) origin: Origin,
}

/// What the rules say of one command.
pub(super) enum Verdict {
    /// The replica applies it; a `Disconnect` carries the session it ends.
    Effect(Option<Session>),
    /// It is done, and the replica need not know.
    Done(Reply),
    /// It is refused.
    Refused(Refusal),
}
