//! Commands whose outcome is open, in log order.

use rtdb_consensus::command::Body;
use rtdb_consensus::{Applied, Origin, Outcome, Position, Refusal, Reply, ResolvedCommand, Unapplied};
use std::collections::VecDeque;

/// Calls that may wait for the server's answer at a time. SpacetimeDB cuts off a client that lets 16,384 answers wait.
pub(super) const CALLS_MAX: usize = 4096;
/// Their bytes: more is sent only when there are fewer.
pub(super) const BYTES_MAX: usize = 8 << 20;

/// `rtdb_index` of what is no command: below all that a database has applied, so that a [`Kind::Fence`] does nothing.
pub(super) const FENCE_INDEX: u64 = 0;

/// A command whose outcome is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) position: Position,
    pub(super) timestamp_us: i64,
    pub(super) origin: Origin,
    pub(super) seq: u64,
    pub(super) request_id: u32,
    pub(super) bytes: usize,
    /// Whether its caller has a key for it.
    pub(super) has_key: bool,
    /// Whether it is a call within a session.
    pub(super) has_session: bool,
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
    /// Rows that are changed as the log says, and what its caller hears if that goes well, once it is known: by SQL, alone in the
    /// window, or by a procedure.
    Write(Option<Reply>),
    /// What the caller's token says, for the command at the same position: nobody waits for it.
    Identify,
    /// A row that is due: what comes of its reducer, nobody waits for.
    Scheduled,
    /// What follows it: the row goes, if it is for one time.
    Unscheduled,
    /// A module's publication, which is alone in the window.
    Publish {
        /// Whether it creates the database.
        created: bool,
    },
    /// Rows of a database that is being restored, alone in the window.
    Load,
    /// Nothing was sent, or the answer came out of turn: this is the outcome, when it is its turn.
    Answered(Answer),
    /// A call that has no effect: its answer shows that all before it have run. It has the position of the last of them.
    Fence,
    /// Views are brought up to date behind the command at the same position, on this node alone: nobody waits for it.
    Refresh,
}

/// An outcome that does not know its place in the log yet.
pub(super) type Answer = Result<Reply, Failure>;

impl Failure {
    /// The reducer is not run: on all nodes alike.
    pub(super) fn trapped(message: String) -> Self {
        Self::Reducer {
            trapped: true,
            doubtful: false,
            message,
            execution_us: 0,
            energy: 0,
        }
    }

    /// The server did not run the reducer to its end.
    pub(super) fn ended(message: String) -> Self {
        Self::Reducer {
            trapped: true,
            doubtful: true,
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
        /// Whether that is the local server's word, rather than the module's or ours.
        doubtful: bool,
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
    /// Where the call stands, if this is the local server's word alone.
    pub(super) doubtful: Option<Position>,
    /// Where the call stands, if its caller has a key for it.
    pub(super) keyed: Option<Position>,
    /// The same if it was made within a session.
    pub(super) in_session: Option<Position>,
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
            has_key: command.command.key().is_some(),
            has_session: matches!(&command.command.body, Some(Body::Call(call)) if call.session != 0),
            kind,
        }
    }

    /// What goes behind this command, and is none: a [`Kind::Fence`] or [`Kind::Refresh`].
    pub(super) fn behind(&self, kind: Kind) -> Self {
        Self {
            position: self.position,
            timestamp_us: self.timestamp_us,
            origin: self.origin,
            seq: self.seq,
            request_id: 0,
            bytes: 0,
            has_key: false,
            has_session: false,
            kind,
        }
    }

    /// `rtdb_index` in the header that was sent: v1 echoes it.
    pub(super) fn index(&self) -> u64 {
        match self.kind {
            Kind::Fence | Kind::Refresh => FENCE_INDEX,
            _ => self.position.0,
        }
    }

    pub(super) fn told(self, answer: Answer) -> Told {
        let Self {
            position,
            timestamp_us,
            origin,
            seq,
            has_key,
            has_session,
            ..
        } = self;
        let is_doubtful = matches!(answer, Err(Failure::Reducer { doubtful: true, .. }));
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
                ..
            }) => Err(Unapplied::Reducer {
                position,
                timestamp_us,
                trapped,
                message,
                execution_us,
                energy,
            }),
            Err(Failure::Refused(refusal)) => Err(Unapplied::Refused(refusal)),
            Err(Failure::Unknown(why)) => Err(Unapplied::Unknown {
                why,
                position: Some(position),
            }),
        };
        Told {
            origin,
            seq,
            outcome,
            doubtful: is_doubtful.then_some(position),
            keyed: has_key.then_some(position),
            in_session: has_session.then_some(position),
        }
    }
}

/// The window: what was taken from the log and has no outcome yet.
#[derive(Debug, Default)]
pub(super) struct Window {
    open: VecDeque<Open>,
    bytes: usize,
    /// How many of them are refreshes.
    refreshes: usize,
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

    /// How many refreshes of views are under way.
    pub(super) fn refreshes(&self) -> usize {
        self.refreshes
    }

    /// The positions of the first and the last command that wait for the server.
    pub(super) fn under_way(&self) -> Option<(Position, Position)> {
        let mut sent = self
            .open
            .iter()
            .filter(|open| !matches!(open.kind, Kind::Answered(_) | Kind::Fence | Kind::Refresh));
        let first = sent.next()?.position;
        Some((first, sent.next_back().map_or(first, |open| open.position)))
    }

    pub(super) fn last(&self) -> Option<&Open> {
        self.open.back()
    }

    /// The first command that `is` says so of, and the one behind it.
    pub(super) fn find(&mut self, is: impl Fn(&Open) -> bool) -> Option<(&mut Open, Option<Position>)> {
        let place = self.open.iter().position(is)?;
        let next = self.open.get(place + 1).map(|open| open.position);
        Some((self.open.get_mut(place)?, next))
    }

    pub(super) fn push(&mut self, open: Open) {
        self.bytes += open.bytes;
        self.refreshes += usize::from(open.kind == Kind::Refresh);
        self.open.push_back(open);
    }

    /// Takes back what [`Window::pop`] gave.
    pub(super) fn unpop(&mut self, open: Open) {
        self.bytes += open.bytes;
        self.refreshes += usize::from(open.kind == Kind::Refresh);
        self.open.push_front(open);
    }

    pub(super) fn pop(&mut self) -> Option<Open> {
        let open = self.open.pop_front()?;
        self.bytes -= open.bytes;
        self.refreshes -= usize::from(open.kind == Kind::Refresh);
        Some(open)
    }
}
