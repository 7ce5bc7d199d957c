//! What an applier does with commands and results: pure, without sockets or clocks.

mod identify;
mod recovered;
mod refresh;
mod scheduled;
mod skipped;
pub(super) mod transaction;

use self::identify::identified;
use self::skipped::is_skipped;
use super::args;
use super::calls::{self, Calls};
use super::window::{Answer, FENCE_INDEX, Failure, Kind, Open, Told, Window};
use crate::ActiveDatabase;
use rtdb_consensus::command::{Body, Call, Connect, Disconnect};
use rtdb_consensus::{Position, Refusal, Reply, ResolvedCommand, Session};
use rtdb_determinism::header::{self, CallHeader, NO_RECEIPT};
use rtdb_determinism::{Claims, DISCONNECT, MARK, Module, Successes};
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
    /// Up to here the server has run the commands on the connection that is lost, though answers are missing.
    ran: Position,
    told: Vec<Told>,
    /// The calls that are part of the database, as far as results have come.
    successes: Successes,
    /// The call that the server said it had passed over, when its record did not have it yet.
    skipped: Option<Position>,
    /// Whether the `Cleanup` that is next has an effect: its `client_disconnected` failed.
    cleans_up: bool,
    refreshes: refresh::Refreshes,
}

/// What is heard of rows that are written, if the server has not lived to say how many.
const UNCOUNTED: &str =
    "the rows are written, and the connection to SpacetimeDB was lost before it had said how many";

/// The server broke the rules that results are matched to calls by.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Violation {
    #[error("a result came and no call was waiting for one")]
    NoCall,
    #[error("the result of call {got} came where that of {expected} was due")]
    OtherCall { expected: u64, got: u64 },
    #[error("a call was not taken: {0}")]
    Rejected(String),
    /// Calls are answered in their order, and 1.2.0 says nothing of one that runs out of energy.
    #[error("the call at {position} was not answered, and a later one was")]
    Unanswered { position: Position },
    #[error("the server has applied call {index} before; its record says what came of it")]
    Skipped { index: u64 },
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

    /// The first command whose outcome is not known, whether its connection is lost or not.
    pub(super) fn first_open(&self) -> Option<Position> {
        let open = self.unsettled.first().or_else(|| self.window.first());
        open.map(|open| open.position)
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
        match (&command.command.body, active.as_deref()) {
            (Some(Body::Call(call)), Some(active)) => self.call(command, call, active, calls),
            (Some(Body::Connect(connect)), Some(active)) => self.connect(command, connect, active, calls),
            (Some(Body::Timer(timer)), Some(active)) => self.timer(command, timer, active, calls),
            (Some(Body::Transaction(it)), Some(active)) => self.transaction(command, it, active, calls),
            (Some(Body::Disconnect(disconnect)), Some(active)) => match &command.session {
                Some(session) => self.disconnect(command, disconnect, session, &active.module, calls),
                None => self.answer(command, Ok(Reply::Done)),
            },
            (Some(Body::Disconnect(_)), None) => self.answer(command, Ok(Reply::Done)),
            _ => self.answer(command, Err(Failure::Refused(absent(command)))),
        }
        self.refresh(calls);
        self.answer_first();
    }

    /// Takes a command that has failed by decision: it has no effect, and its caller hears why.
    pub(super) fn pass_over(&mut self, command: &ResolvedCommand, why: &str, calls: &mut Calls) {
        let active = self.active.clone();
        match (&command.command.body, &command.session, &active) {
            // A client is gone whatever its `client_disconnected` does.
            (Some(Body::Disconnect(disconnect)), Some(session), Some(active)) => {
                let refused = Disconnect {
                    refused: true,
                    ..disconnect.clone()
                };
                self.disconnect(command, &refused, session, &active.module, calls);
            }
            _ => self.answer(command, Err(Failure::trapped(why.to_owned()))),
        }
        self.refresh(calls);
        self.answer_first();
    }

    fn call(&mut self, command: &ResolvedCommand, call: &Call, active: &ActiveDatabase, calls: &mut Calls) {
        let module = &active.module;
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
        // What is larger than the gateway lets in would break every connection that it is sent on.
        if !calls::fits(&call.reducer, &[&call.args]) {
            return self.answer(
                command,
                refuse("the call is larger than SpacetimeDB takes".to_owned()),
            );
        }
        let mut header = CallHeader::decode(head).unwrap_or_default();
        header.timestamp_us = command.timestamp_us;
        header.index = command.position.0;
        if header.session == 0 && active.claims == Claims::Read {
            match call.session {
                0 => self.identify(command, header, &call.claims, calls),
                session => header.session = session | NO_RECEIPT,
            }
        }
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

    fn connect(
        &mut self,
        command: &ResolvedCommand,
        connect: &Connect,
        active: &ActiveDatabase,
        calls: &mut Calls,
    ) {
        let header = caller(command, &connect.sender, &connect.connection, command.position.0);
        if active.claims >= Claims::Kept {
            self.identify(command, header, &connect.claims, calls);
        }
        let reducer = active.module.client_connected();
        let Some(reducer) = reducer.filter(|_| !rtdb_runtime::planted("arrivals call nothing")) else {
            return self.answer(command, Ok(Reply::Done));
        };
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
        let is_called = !disconnect.refused && !rtdb_runtime::planted("departures call nothing");
        if let Some(reducer) = module.client_disconnected().filter(|_| is_called) {
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

    /// Sends a call that does nothing, unless the last one was such a call: once it is answered, all before it have run.
    pub(super) fn fence(&mut self, calls: &mut Calls) {
        if let Some(open) = self.window.last().filter(|open| open.kind != Kind::Fence) {
            let fence = open.behind(Kind::Fence);
            calls.push(MARK, &[&fence_args()], 0);
            self.window.push(fence);
        }
    }

    fn answer(&mut self, command: &ResolvedCommand, answer: Answer) {
        // Of the two halves of one command, the second one is what is waited for.
        if matches!(&command.command.body, Some(Body::Timer(timer)) if !timer.over) {
            return;
        }
        self.window.push(Open::new(command, Kind::Answered(answer)));
    }

    /// A call's result came.
    pub(super) fn result(&mut self, result: AppliedCall) -> Result<(), Violation> {
        let open = self.window.first().ok_or(Violation::NoCall)?;
        // v1 echoes the arguments, and with them the position, but not always the request id.
        let (expected, got) = match result.index {
            Some(index) => (open.index(), index),
            None => (open.request_id.into(), result.request_id.into()),
        };
        if let Outcome::Rejected(message) = result.outcome {
            return Err(Violation::Rejected(message));
        }
        if expected != got && !rtdb_runtime::planted("any result is taken for the next call's") {
            let position = open.position;
            return Err(if self.overtaken(&result) {
                Violation::Unanswered { position }
            } else {
                Violation::OtherCall { expected, got }
            });
        }
        let open = self.window.pop().ok_or(Violation::NoCall)?;
        if open.kind == Kind::Fence {
            self.answer_first();
            return Ok(());
        }
        if open.kind == Kind::Refresh {
            self.refreshed(&result.outcome);
            self.answer_first();
            return Ok(());
        }
        if open.kind == Kind::Identify {
            self.answer_first();
            return identified(result.outcome);
        }
        if is_skipped(&result.outcome) {
            return self.skipped(open);
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
            (Kind::Write(reply), Outcome::Ok { .. }) => written(reply.as_ref()),
            (Kind::Cleanup, Outcome::Ok { .. }) | (Kind::Scheduled, _) => {
                self.answer_first();
                return Ok(());
            }
            (Kind::Cleanup, outcome) => {
                return Err(Violation::Hidden {
                    reducer: DISCONNECT,
                    message: format!("{outcome:?}"),
                });
            }
            // As natively, a client is gone whatever its `client_disconnected` says.
            (_, Outcome::Ok { .. }) | (Kind::Disconnect, _) => Ok(Reply::Done),
            (_, outcome) => Err(failed(outcome)),
        };
        self.tell(open, result);
        self.answer_first();
        Ok(())
    }

    /// The database is not applied any more: of what was under way nobody will know on this node.
    pub(super) fn give_up(&mut self, why: &'static str) {
        self.active = None;
        for open in std::mem::take(&mut self.unsettled) {
            match open.kind {
                Kind::Cleanup | Kind::Scheduled | Kind::Refresh => {}
                _ => self.tell(open, Err(Failure::Unknown(why))),
            }
        }
    }

    /// Passes over a command of a database that is not applied.
    pub(super) fn pass(&mut self, command: &ResolvedCommand, why: &'static str) {
        let answer = match &command.command.body {
            Some(Body::Disconnect(_)) => Ok(Reply::Done),
            _ => Err(Failure::Unknown(why)),
        };
        self.answer(command, answer);
        self.answer_first();
    }

    /// A result came that is due later: notes that the server has run everything up to its call. What came of the calls
    /// before it, the database must say. `false` if no call waits for it.
    fn overtaken(&mut self, result: &AppliedCall) -> bool {
        let Some(index) = result.index else { return false };
        let Some((open, next)) = self.window.find(|open| open.index() == index) else {
            return false;
        };
        let position = open.position;
        match &result.outcome {
            Outcome::Ok { .. } if !matches!(open.kind, Kind::Fence | Kind::Refresh | Kind::Identify) => {
                self.succeeded = self.succeeded.max(position)
            }
            outcome if matches!(open.kind, Kind::Call | Kind::Connect) => {
                open.kind = Kind::Answered(Err(failed(outcome.clone())));
            }
            _ => {}
        }
        // The cleanup behind a disconnect is at the same position.
        self.ran = match next == Some(position) {
            true => Position(position.0.saturating_sub(1)),
            false => position,
        };
        true
    }

    /// A publication begins: nothing else is open until [`Core::published`].
    pub(super) fn publishing(&mut self, command: &ResolvedCommand) {
        let created = self.active.is_none();
        self.refreshes.are_due(command.position);
        self.window.push(Open::new(command, Kind::Publish { created }));
    }

    /// Rows of a restored database are being loaded: nothing else is open until [`Core::published`].
    pub(super) fn loading(&mut self, command: &ResolvedCommand) {
        self.refreshes.are_due(command.position);
        self.window.push(Open::new(command, Kind::Load));
    }

    /// Rows are being written: nothing else is open until that has its result, or [`Core::unwritten`].
    pub(super) fn writing(&mut self, command: &ResolvedCommand) {
        self.refreshes.are_due(command.position);
        self.window.push(Open::new(command, Kind::Write(None)));
    }

    /// What the rows' writer hears if that goes well, or has gone well before the connection was lost.
    pub(super) fn writes(&mut self, position: Position, reply: Reply) {
        let is_it = |open: &Open| open.position == position && matches!(open.kind, Kind::Write(_));
        let lost = self.unsettled.iter_mut().find(|open| is_it(open));
        if let Some(open) = lost.or_else(|| self.window.find(is_it).map(|(open, _)| open)) {
            open.kind = Kind::Write(Some(reply));
        }
    }

    /// No rows are written.
    pub(super) fn unwritten(&mut self, why: Failure) {
        if let Some(open) = self.window.pop() {
            self.tell(open, Err(why));
        }
    }

    /// No rows are written, since there is no database.
    pub(super) fn unwritten_here(&mut self) {
        self.unwritten(Failure::Refused(Refusal::NoSuchDatabase));
    }

    /// A publication, or another command that is alone in the window, has ended.
    pub(super) fn published(&mut self, result: Result<(), Failure>) {
        if let Some(open) = self.window.pop() {
            let created = matches!(open.kind, Kind::Publish { created: true } | Kind::Load);
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

    /// What the database holds was read.
    pub(super) fn verified(&mut self, command: &ResolvedCommand) {
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

    fn tell(&mut self, mut open: Open, result: Answer) {
        if rtdb_runtime::planted("results go to the neighbour")
            && let Some(next) = self.window.first()
        {
            (open.origin, open.seq) = (next.origin, next.seq);
        }
        if open.position > self.completed || rtdb_runtime::planted("outcomes are told again") {
            self.completed = open.position;
            self.told.push(open.told(result));
        }
    }
}

/// Why a command has no effect where there is no database.
pub(crate) fn absent(command: &ResolvedCommand) -> Refusal {
    match &command.command.body {
        Some(Body::Connect(_)) => Refusal::NothingToEnter(command.position),
        _ => Refusal::NoSuchDatabase,
    }
}

/// What v1 says of a call that trapped, where a reducer's own error stands otherwise (SpacetimeDB 1.2.0 and 2.8.3).
const TRAPS: [&str; 2] = [
    "The Wasm instance encountered a fatal error",
    "The instance encountered a fatal error",
];

/// What the writer of rows hears that are written.
fn written(reply: Option<&Reply>) -> Answer {
    reply.cloned().ok_or(Failure::Unknown(UNCOUNTED))
}

/// Why a call failed that was answered with anything but success.
fn failed(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed {
            message,
            execution_us,
            energy,
        } => Failure::Reducer {
            trapped: false,
            doubtful: TRAPS.iter().any(|trap| message.starts_with(trap)),
            message,
            execution_us,
            energy,
        },
        Outcome::Internal(message) | Outcome::Rejected(message) => Failure::ended(message),
        Outcome::OutOfEnergy => Failure::ended("the reducer ran out of energy".to_owned()),
        Outcome::Ok { .. } => Failure::ended("the call succeeded".to_owned()),
    }
}

/// The arguments of `rtdb_mark` that make it do nothing.
pub(super) fn fence_args() -> Vec<u8> {
    let header = CallHeader {
        index: FENCE_INDEX,
        ..CallHeader::default()
    };
    [header.encode().as_slice(), &[false.into()]].concat()
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
