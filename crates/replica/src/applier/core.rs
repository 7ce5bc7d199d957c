//! What an applier does with commands and results: pure, without sockets or clocks.

use super::args;
use super::calls::Calls;
use super::window::{Answer, Failure, Kind, Open, Told, Window};
use crate::{ActiveDatabase, DatabaseState};
use rtdb_consensus::command::{Body, Call, Connect, Disconnect};
use rtdb_consensus::{Position, Refusal, Reply, ResolvedCommand, Session};
use rtdb_determinism::header::{self, CallHeader};
use rtdb_determinism::{DISCONNECT, Module, Successes};
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::AppliedCall;
use std::sync::Arc;
use thiserror::Error;

/// The applier's state for one database.
#[derive(Debug, Default)]
pub(super) struct Core {
    active: Option<Arc<ActiveDatabase>>,
    window: Window,
    /// Commands whose connection was lost before their results came.
    unsettled: Vec<Open>,
    /// Up to here outcomes have been told: what is applied again after the server lost it is not told again.
    completed: Position,
    /// The last command that is known to have become part of the database.
    succeeded: Position,
    told: Vec<Told>,
    /// The calls that are part of the database, as far as results have come.
    successes: Successes,
    /// Whether the `Cleanup` that is next has an effect: its `client_disconnected` failed.
    cleans_up: bool,
}

/// The server broke the rules that results are matched to calls by.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Violation {
    #[error("a result came and no call was waiting for one")]
    NoCall,
    #[error("the result of call {got} came where that of {expected} was due")]
    OtherCall { expected: u64, got: u64 },
    #[error("a call was not taken: {0}")]
    Rejected(String),
    #[error("a call ran out of energy")]
    OutOfEnergy,
    #[error("the hidden reducer {reducer} failed: {message}")]
    Hidden { reducer: &'static str, message: String },
}

impl Core {
    pub(super) fn set_active(&mut self, active: Option<Arc<ActiveDatabase>>) {
        self.active = active;
    }

    pub(super) fn active(&self) -> Option<Arc<ActiveDatabase>> {
        self.active.clone()
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    pub(super) fn completed(&self) -> Position {
        self.completed
    }

    pub(super) fn succeeded(&self) -> Position {
        self.succeeded
    }

    /// Takes the outcomes to tell.
    pub(super) fn told(&mut self) -> std::vec::Drain<'_, Told> {
        self.told.drain(..)
    }

    /// Takes a command from the log: appends the calls that it means to `calls`. `Publish` and `Delete` are not for
    /// here.
    pub(super) fn take(&mut self, command: &ResolvedCommand, calls: &mut Calls) {
        let active = self.active.clone();
        let module = active.as_ref().map(|active| &active.module);
        match (&command.command.body, module) {
            (Some(Body::Call(call)), Some(module)) => self.call(command, call, module, calls),
            (Some(Body::Connect(connect)), Some(module)) => self.connect(command, connect, module, calls),
            (Some(Body::Disconnect(disconnect)), Some(module)) => match &command.session {
                Some(session) => self.disconnect(command, disconnect, session, module, calls),
                None => self.answer(command, Ok(Reply::Done)),
            },
            (Some(Body::Disconnect(_)), None) => self.answer(command, Ok(Reply::Done)),
            _ => self.answer(command, Err(Failure::Refused(Refusal::NoSuchDatabase))),
        }
        self.answer_first();
    }

    fn call(&mut self, command: &ResolvedCommand, call: &Call, module: &Module, calls: &mut Calls) {
        let refuse = |message| Err(Failure::trapped(message));
        let Some(reducer) = module.reducer(&call.reducer) else {
            return self.answer(command, refuse("no such reducer".to_owned()));
        };
        let Some((head, own)) = call.args.split_first_chunk::<{ header::LEN }>() else {
            return self.answer(command, refuse("the call has no header".to_owned()));
        };
        if let Err(e) = args::check(module.typespace(), &reducer.params, own) {
            let message = format!("invalid arguments for reducer {}: {e}", call.reducer);
            return self.answer(command, refuse(message));
        }
        let mut header = CallHeader::decode(head).unwrap_or_default();
        header.timestamp_us = command.timestamp_us;
        header.index = command.position.0;
        self.send(
            command,
            Kind::Call,
            &call.reducer,
            header,
            own,
            call.request_id,
            calls,
        );
    }

    fn connect(&mut self, command: &ResolvedCommand, connect: &Connect, module: &Module, calls: &mut Calls) {
        let Some(reducer) = module.client_connected() else {
            return self.answer(command, Ok(Reply::Done));
        };
        let header = caller(command, &connect.sender, &connect.connection, command.position.0);
        self.send(command, Kind::Connect, &reducer.name, header, &[], 0, calls);
    }

    fn disconnect(
        &mut self,
        command: &ResolvedCommand,
        disconnect: &Disconnect,
        session: &Session,
        module: &Module,
        calls: &mut Calls,
    ) {
        let header = caller(command, &session.sender, &session.connection, session.id);
        let mut kind = Kind::Disconnect;
        if let Some(reducer) = module.client_disconnected().filter(|_| !disconnect.refused) {
            self.send(command, kind, &reducer.name, header, &[], 0, calls);
            // Has an effect only if the reducer failed: else the position is applied already.
            kind = Kind::Cleanup;
        }
        self.send(command, kind, DISCONNECT, header, &[], 0, calls);
    }

    #[expect(clippy::too_many_arguments)]
    fn send(
        &mut self,
        command: &ResolvedCommand,
        kind: Kind,
        reducer: &str,
        header: CallHeader,
        own: &[u8],
        request_id: u32,
        calls: &mut Calls,
    ) {
        calls.push(reducer, &[&header.encode(), own], request_id);
        let bytes = header::LEN + own.len();
        self.window.push(Open {
            request_id,
            bytes,
            ..Open::new(command, kind)
        });
    }

    fn answer(&mut self, command: &ResolvedCommand, answer: Answer) {
        self.window.push(Open::new(command, Kind::Answered(answer)));
    }

    /// A call's result came.
    pub(super) fn result(&mut self, result: AppliedCall) -> Result<(), Violation> {
        let open = self.window.pop().ok_or(Violation::NoCall)?;
        // v1 echoes the arguments, and with them the position, but not always the request id.
        let (expected, got) = match result.index {
            Some(index) => (open.position.0, index),
            None => (open.request_id.into(), result.request_id.into()),
        };
        if let Outcome::Rejected(message) = result.outcome {
            return Err(Violation::Rejected(message));
        }
        if expected != got {
            return Err(Violation::OtherCall { expected, got });
        }
        if matches!(result.outcome, Outcome::Ok { .. }) {
            self.succeeded = self.succeeded.max(open.position);
        }
        match (&open.kind, &result.outcome) {
            // The reducer before it, at the same position, has succeeded: it does nothing.
            (Kind::Cleanup, Outcome::Ok { .. }) if !self.cleans_up => {}
            (_, Outcome::Ok { .. }) => {
                self.successes.add(open.position.0);
                self.cleans_up = false;
            }
            (kind, _) => self.cleans_up = *kind == Kind::Disconnect,
        }
        let result = match (&open.kind, result.outcome) {
            (_, Outcome::OutOfEnergy) => return Err(Violation::OutOfEnergy),
            (
                Kind::Call,
                Outcome::Ok {
                    return_value,
                    execution_us,
                    energy,
                },
            ) => Ok(Reply::Call {
                return_value,
                execution_us,
                energy,
            }),
            (Kind::Cleanup, Outcome::Ok { .. }) => {
                self.answer_first();
                return Ok(());
            }
            (Kind::Cleanup, Outcome::Failed { message, .. } | Outcome::Internal(message)) => {
                return Err(Violation::Hidden {
                    reducer: DISCONNECT,
                    message,
                });
            }
            // As natively, a client is gone whatever its `client_disconnected` says.
            (_, Outcome::Ok { .. }) | (Kind::Disconnect, _) => Ok(Reply::Done),
            (
                _,
                Outcome::Failed {
                    message,
                    execution_us,
                    energy,
                },
            ) => Err(Failure::Reducer {
                trapped: false,
                message,
                execution_us,
                energy,
            }),
            (_, Outcome::Internal(message) | Outcome::Rejected(message)) => Err(Failure::trapped(message)),
        };
        self.tell(open, result);
        self.answer_first();
        Ok(())
    }

    /// A publication begins: nothing else is open until [`Core::published`].
    pub(super) fn publishing(&mut self, command: &ResolvedCommand) {
        let created = self.active.is_none();
        self.window.push(Open::new(command, Kind::Publish { created }));
    }

    /// A publication, or another command that is alone in the window, has ended.
    pub(super) fn published(&mut self, result: Result<(), Failure>) {
        if let Some(open) = self.window.pop() {
            let created = open.kind == Kind::Publish { created: true };
            self.tell(open, result.map(|()| Reply::Published { created }));
        }
    }

    /// The database says which calls are part of it, with nothing under way.
    pub(super) fn counted(&mut self, successes: Successes) {
        self.successes = successes;
    }

    /// The database was deleted.
    pub(super) fn deleted(&mut self, command: &ResolvedCommand) {
        self.active = None;
        self.answer(command, Ok(Reply::Done));
        self.answer_first();
    }

    /// Answers what needs no result and is first in line.
    fn answer_first(&mut self) {
        while let Some(Open {
            kind: Kind::Answered(_),
            ..
        }) = self.window.first()
            && let Some(mut open) = self.window.pop()
        {
            if let Kind::Answered(result) = std::mem::replace(&mut open.kind, Kind::Cleanup) {
                self.tell(open, result);
            }
        }
    }

    fn tell(&mut self, open: Open, result: Answer) {
        if open.position > self.completed {
            self.completed = open.position;
            self.told.push(open.told(result));
        }
    }

    /// The connection is lost: what was open waits for [`Core::recovered`].
    pub(super) fn lost(&mut self) {
        while let Some(open) = self.window.pop() {
            self.unsettled.push(open);
        }
    }

    /// The database's own record after a lost connection: everything up to `state.index` was applied or has failed, and
    /// everything after it is read from the log again. `None`: there is no database, and all is read again.
    pub(super) fn recovered(&mut self, state: Option<&DatabaseState>) {
        let unsettled = std::mem::take(&mut self.unsettled);
        let after = state.map_or_else(Successes::default, |state| state.successes);
        let before = std::mem::replace(&mut self.successes, after);
        let cleans_up = std::mem::take(&mut self.cleans_up);
        let Some(state) = state else { return };
        let ran = unsettled.iter().take_while(|open| open.position.0 <= state.index);
        let ran = ran.enumerate().filter(|(place, open)| match open.kind {
            Kind::Call | Kind::Connect | Kind::Disconnect => true,
            // Of a disconnect and its cleanup just one succeeds.
            Kind::Cleanup => *place == 0 && cleans_up,
            Kind::Publish { .. } | Kind::Answered(_) => false,
        });
        let ran: Vec<u64> = ran.map(|(_, open)| open.position.0).collect();
        let failures = before.failures(&ran, after);
        self.succeeded = self.succeeded.max(Position(state.index));
        for mut open in unsettled {
            if open.position.0 > state.index {
                break;
            }
            let result = match std::mem::replace(&mut open.kind, Kind::Cleanup) {
                Kind::Cleanup => continue,
                Kind::Answered(result) => result,
                Kind::Disconnect => Ok(Reply::Done),
                Kind::Publish { created } if state.module == open.position.0 => {
                    Ok(Reply::Published { created })
                }
                Kind::Publish { .. } => Err(Failure::Unknown("SpacetimeDB runs another module by now")),
                kind @ (Kind::Call | Kind::Connect) => match &failures {
                    Some(failures) => settled(&kind, !failures.contains(&open.position.0)),
                    None => Err(Failure::Unknown(
                        "the connection to SpacetimeDB was lost, and too many calls failed to say which",
                    )),
                },
            };
            self.tell(open, result);
        }
    }
}

/// The outcome of a call of which just this is known.
fn settled(kind: &Kind, succeeded: bool) -> Answer {
    match kind {
        Kind::Call if succeeded => Ok(Reply::Call {
            return_value: bytes::Bytes::new(),
            execution_us: 0,
            energy: 0,
        }),
        _ if succeeded => Ok(Reply::Done),
        _ => Err(Failure::Reducer {
            trapped: false,
            message: "the call failed; the reason was lost with the connection to SpacetimeDB".to_owned(),
            execution_us: 0,
            energy: 0,
        }),
    }
}

fn caller(command: &ResolvedCommand, sender: &[u8], connection: &[u8], session: u64) -> CallHeader {
    CallHeader {
        sender: sender.try_into().unwrap_or_default(),
        connection: connection.try_into().unwrap_or_default(),
        timestamp_us: command.timestamp_us,
        index: command.position.0,
        session,
    }
}

#[cfg(test)]
mod tests;
