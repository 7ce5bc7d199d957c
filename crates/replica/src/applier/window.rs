//! Commands whose outcome is open, in log order.

use rtdb_consensus::{Applied, Origin, Outcome, Position, Refusal, Reply, ResolvedCommand, Unapplied};
use std::collections::VecDeque;

/// Calls that may wait for the server's answer at a time. SpacetimeDB cuts off a client that lets 16,384 answers wait.
pub(super) const CALLS_MAX: usize = 4096;
/// Their bytes: more is sent only when there are fewer.
pub(super) const BYTES_MAX: usize = 8 << 20;

/// A command whose outcome is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) position: Position,
    pub(super) timestamp_us: i64,
    pub(super) origin: Origin,
    pub(super) seq: u64,
    pub(super) request_id: u32,
    pub(super) bytes: usize,
    pub(super) kind: Kind,
}

/// What kind of command it is.
#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    /// A client's call.
    Call,
    /// `client_connected`.
    Connect,
    /// `client_disconnected`, or the deletion of the receipt alone.
    Disconnect,
    /// The deletion of a receipt which a failed `client_disconnected` has left: nobody waits for it.
    Cleanup,
    /// What the caller's token says, for the command at the same position: nobody waits for it.
    Identify,
    /// A module's publication, which is alone in the window.
    Publish {
        /// Whether it creates the database.
        created: bool,
    },
    /// Nothing was sent: this is the outcome, when it is its turn.
    Answered(Answer),
}

/// An outcome that does not know its place in the log yet.
pub(super) type Answer = Result<Reply, Failure>;

impl Failure {
    /// The server does not run the reducer, or not to its end.
    pub(super) fn trapped(message: String) -> Self {
        Self::Reducer {
            trapped: true,
            message,
            execution_us: 0,
            energy: 0,
        }
    }
}

/// Why a command has no effect.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// The reducer failed, or could not be called.
    Reducer {
        trapped: bool,
        message: String,
        execution_us: u64,
        energy: u128,
    },
    /// The log's rules, or the server's, refuse the command.
    Refused(Refusal),
    /// Whether it has one can't be said.
    Unknown(&'static str),
}

/// An outcome, and whom to tell.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    pub(super) origin: Origin,
    pub(super) seq: u64,
    pub(super) outcome: Outcome,
}

impl Open {
    pub(super) fn new(command: &ResolvedCommand, kind: Kind) -> Self {
        Self {
            position: command.position,
            timestamp_us: command.timestamp_us,
            origin: command.origin,
            seq: command.seq,
            request_id: 0,
            bytes: 0,
            kind,
        }
    }

    pub(super) fn told(self, answer: Answer) -> Told {
        let Self {
            position,
            timestamp_us,
            origin,
            seq,
            ..
        } = self;
        let outcome = match answer {
            Ok(reply) => Ok(Applied {
                position,
                timestamp_us,
                reply,
            }),
            Err(Failure::Reducer {
                trapped,
                message,
                execution_us,
                energy,
            }) => Err(Unapplied::Reducer {
                position,
                timestamp_us,
                trapped,
                message,
                execution_us,
                energy,
            }),
            Err(Failure::Refused(refusal)) => Err(Unapplied::Refused(refusal)),
            Err(Failure::Unknown(why)) => Err(Unapplied::Unknown(why)),
        };
        Told { origin, seq, outcome }
    }
}

/// The window: what was taken from the log and has no outcome yet.
#[derive(Debug, Default)]
pub(super) struct Window {
    open: VecDeque<Open>,
    bytes: usize,
}

impl Window {
    /// Whether there is room for another command.
    pub(super) fn has_room(&self) -> bool {
        self.open.len() < CALLS_MAX && self.bytes < BYTES_MAX
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Open> {
        self.open.front()
    }

    pub(super) fn push(&mut self, open: Open) {
        self.bytes += open.bytes;
        self.open.push_back(open);
    }

    /// Takes back what [`Window::pop`] gave.
    pub(super) fn unpop(&mut self, open: Open) {
        self.bytes += open.bytes;
        self.open.push_front(open);
    }

    pub(super) fn pop(&mut self) -> Option<Open> {
        let open = self.open.pop_front()?;
        self.bytes -= open.bytes;
        Some(open)
    }
}
