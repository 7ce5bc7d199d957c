//! The last calls that clients have made within their sessions, and what came of them: for those who have lost their connection
//! before they heard. It is known as far as this node has read the log since it was started.

use rtdb_consensus::command::{Body, Known};
use rtdb_consensus::{Outcome, Position, ResolvedCommand};
use std::collections::VecDeque;

/// Calls of a database that are remembered, and sessions. The oldest go first.
const CALLS_MAX: usize = 16_384;
const SESSIONS_MAX: usize = 16_384;

/// A client's identity and connection id.
type Client = ([u8; 32], [u8; 16]);

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// It is in the log, and this is what came of it.
    Ended(Position, Known),
    /// It is in the log, and this node does not know what came of it.
    Open(Position),
    /// It is not in the log, and never will be: the session is over.
    Nothing,
    /// It is not in the log yet: the session goes on.
    NotYet,
    /// This node does not remember the session, or all of its calls, or does not know which session is meant.
    Forgotten,
}

#[derive(Debug)]
struct Call {
    position: u64,
    session: u64,
    request_id: u32,
    known: Option<Known>,
}

#[derive(Debug)]
struct Session {
    id: u64,
    client: Client,
    is_over: bool,
}

/// What is remembered of one database, in the log's order: much is noted, and little looked for.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    calls: VecDeque<Call>,
    sessions: VecDeque<Session>,
    /// The last call or session that was noted.
    last: u64,
    /// The last call that is forgotten.
    forgotten: u64,
}

impl Recent {
    /// Takes a command as it is on its way to the server. What a server has lost comes once more, and was noted before.
    pub(crate) fn note(&mut self, command: &ResolvedCommand) {
        let position = command.position.0;
        let is_new = position > self.last;
        match &command.command.body {
            Some(Body::Call(call)) if call.session != 0 && is_new => {
                self.last = position;
                self.calls.push_back(Call {
                    position,
                    session: call.session,
                    request_id: call.request_id,
                    known: None,
                });
                if self.calls.len() > CALLS_MAX
                    && let Some(oldest) = self.calls.pop_front()
                {
                    self.forgotten = oldest.position;
                }
            }
            Some(Body::Connect(connect)) if is_new => {
                self.last = position;
                let ids = (connect.sender[..].try_into(), connect.connection[..].try_into());
                if let (Ok(sender), Ok(connection)) = ids {
                    self.sessions.push_back(Session {
                        id: position,
                        client: (sender, connection),
                        is_over: false,
                    });
                }
                if self.sessions.len() > SESSIONS_MAX {
                    self.sessions.pop_front();
                }
            }
            Some(Body::Disconnect(gone)) => {
                if let Ok(place) = self.sessions.binary_search_by_key(&gone.session, |it| it.id) {
                    self.sessions[place].is_over = true;
                }
            }
            _ => {}
        }
    }

    /// The command at `position` has an outcome.
    pub(crate) fn learn(&mut self, position: Position, outcome: &Outcome) {
        if let Ok(place) = self.calls.binary_search_by_key(&position.0, |it| it.position) {
            self.calls[place].known = Known::of(position, outcome);
        }
    }

    /// The database is made again without the command at `position`: what came of those from there on is not told once more,
    /// and may be something else.
    pub(crate) fn doubt(&mut self, position: Position) {
        let first = self.calls.partition_point(|call| call.position < position.0);
        for call in self.calls.range_mut(first..) {
            call.known = None;
        }
    }

    /// What became of a call of a client's session, if it has a number. Where more than one has had the connection id, nobody can
    /// tell which of them is meant, whether they are over or not.
    pub(crate) fn became(&self, client: &Client, request_id: u32) -> Became {
        let mut sessions = self.sessions.iter().rev().filter(|it| it.client == *client);
        let (Some(session), None) = (sessions.next(), sessions.next()) else {
            return Became::Forgotten;
        };
        let mut calls = self.calls.iter().rev();
        match calls.find(|call| call.session == session.id && call.request_id == request_id) {
            Some(call) => match call.known.clone() {
                Some(known) => Became::Ended(Position(call.position), known),
                None => Became::Open(Position(call.position)),
            },
            None if session.id <= self.forgotten => Became::Forgotten,
            None if session.is_over => Became::Nothing,
            None => Became::NotYet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::command::{self, Connect, Disconnect};
    use rtdb_consensus::{Applied, Origin, Refusal, Reply, Unapplied};

    const CLIENT: Client = ([1; 32], [2; 16]);

    fn command(position: u64, body: Body) -> ResolvedCommand {
        ResolvedCommand {
            position: Position(position),
            timestamp_us: 0,
            origin: Origin { node: 1, epoch: 1 },
            seq: position,
            command: body.into(),
            session: None,
        }
    }

    fn connect(position: u64) -> ResolvedCommand {
        let connect = Connect {
            sender: CLIENT.0.to_vec().into(),
            connection: CLIENT.1.to_vec().into(),
            ..Connect::default()
        };
        command(position, Body::Connect(connect))
    }

    fn disconnect(position: u64, session: u64) -> ResolvedCommand {
        let refused = false;
        command(position, Body::Disconnect(Disconnect { session, refused }))
    }

    fn call(position: u64, session: u64, request_id: u32) -> ResolvedCommand {
        let call = command::Call {
            session,
            request_id,
            ..command::Call::default()
        };
        command(position, Body::Call(call))
    }

    fn done(position: u64) -> Outcome {
        Ok(Applied {
            position: Position(position),
            timestamp_us: 0,
            reply: Reply::Done,
        })
    }

    #[test]
    fn what_became_of_a_sessions_calls_is_known() {
        let mut recent = Recent::default();
        assert_eq!(recent.became(&CLIENT, 1), Became::Forgotten);
        for command in [
            connect(10),
            call(11, 10, 1),
            call(12, 10, 2),
            call(13, 77, 3),
            call(14, 0, 3),
        ] {
            recent.note(&command);
        }
        recent.learn(Position(11), &done(11));
        recent.learn(Position(12), &Err(Unapplied::unknown("a test")));
        let ended = |recent: &Recent, request_id| match recent.became(&CLIENT, request_id) {
            Became::Ended(position, known) => (position.0, known.ended.is_some()),
            other => panic!("{other:?}"),
        };
        assert_eq!(ended(&recent, 1), (11, true));
        assert_eq!(recent.became(&CLIENT, 2), Became::Open(Position(12)));
        assert_eq!(recent.became(&CLIENT, 3), Became::NotYet);
        // It is sent to the server once more.
        recent.note(&call(11, 10, 1));
        assert_eq!(ended(&recent, 1), (11, true));
        recent.learn(Position(12), &Err(Unapplied::Refused(Refusal::NoSuchDatabase)));
        assert_eq!(ended(&recent, 2), (12, false));
        recent.note(&disconnect(15, 10));
        assert_eq!(recent.became(&CLIENT, 3), Became::Nothing);
        assert_eq!(ended(&recent, 1), (11, true));
        // Of the next session under the same id nothing is said, nor when it is over: the one before it may be meant.
        recent.note(&connect(16));
        recent.note(&call(17, 16, 1));
        assert_eq!(recent.became(&CLIENT, 1), Became::Forgotten);
        recent.note(&disconnect(18, 16));
        for request_id in 1..4 {
            assert_eq!(recent.became(&CLIENT, request_id), Became::Forgotten);
        }
    }

    /// The database is made again from the log.
    #[test]
    fn what_is_noted_from_the_middle_on_is_not_noted_from_the_beginning() {
        let mut recent = Recent::default();
        recent.note(&call(12, 10, 2));
        for command in [connect(10), call(11, 10, 1), call(12, 10, 2), disconnect(13, 10)] {
            recent.note(&command);
        }
        recent.learn(Position(11), &done(11));
        assert_eq!(recent.became(&CLIENT, 1), Became::Forgotten);
        recent.note(&connect(14));
        recent.note(&call(15, 14, 1));
        for command in [connect(14), call(15, 14, 1), disconnect(16, 14)] {
            recent.note(&command);
        }
        assert_eq!(recent.became(&CLIENT, 1), Became::Open(Position(15)));
        assert_eq!(recent.calls.len(), 2);
    }

    #[test]
    fn what_came_of_calls_behind_one_that_is_taken_back_is_unknown() {
        let mut recent = Recent::default();
        for command in [connect(10), call(11, 10, 1), call(12, 10, 2), call(13, 10, 3)] {
            recent.note(&command);
            recent.learn(command.position, &done(command.position.0));
        }
        recent.doubt(Position(12));
        assert!(matches!(recent.became(&CLIENT, 1), Became::Ended(..)));
        for (request, position) in [(2, 12), (3, 13)] {
            assert_eq!(recent.became(&CLIENT, request), Became::Open(Position(position)));
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_that_is_said() {
        let mut recent = Recent::default();
        recent.note(&connect(10));
        recent.note(&call(11, 10, 1));
        recent.note(&disconnect(12, 10));
        assert_eq!(recent.became(&CLIENT, 2), Became::Nothing);
        let first = 20;
        for position in first..first + CALLS_MAX as u64 {
            recent.note(&call(position, 10, position as u32));
        }
        assert_eq!(recent.calls.len(), CALLS_MAX);
        // A server that has lost it makes it once more.
        recent.note(&call(11, 10, 1));
        recent.learn(Position(11), &done(11));
        for request in [1, 2] {
            assert_eq!(recent.became(&CLIENT, request), Became::Forgotten);
        }
        assert_eq!(
            recent.became(&CLIENT, first as u32),
            Became::Open(Position(first))
        );
        for position in 0..SESSIONS_MAX as u64 {
            let mut other = connect(1_000_000 + position);
            if let Some(Body::Connect(connect)) = &mut other.command.body {
                connect.sender = vec![3; 32].into();
            }
            recent.note(&other);
        }
        assert_eq!(recent.became(&CLIENT, first as u32), Became::Forgotten);
        assert_eq!(recent.sessions.len(), SESSIONS_MAX);
    }
}
