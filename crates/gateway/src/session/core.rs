//! A client's session as a state machine: messages and outcomes in, actions out. No sockets, no clock, no waiting.
//!
//! SpacetimeDB handles a client's messages one at a time. The gateway keeps the order that the client sees while calls
//! travel through the log and reads go straight to the local server: calls may be under way together, and so may
//! reads, but not calls with reads (*the phase rule*).
//!
//! A client with a connection of its own to the local server (*upstream*) gets the result of its call together with
//! the rows that the call changed: the transaction update that carries the session's receipt *is* the result, and it
//! stands in the upstream's order. Without an upstream, and for a call that failed, the outcome alone makes the result.
//!
//! An upstream that is lost is opened again (`restore`); calls go on meanwhile, and their results wait for it.

mod admit;
mod call;
mod procedures;
mod refreshes;
mod restore;
mod settle;
mod sharing;
mod views;

pub(crate) use call::{Caller, Context};

use self::procedures::Running;
use self::refreshes::Refreshes;
use self::sharing::Sharing;
use self::views::Preparing;
use super::subscriptions::Subscriptions;
use crate::close::CloseReason;
use crate::feed::Batch;
use crate::freshness::Freshness;
use crate::json::Asked;
use crate::procedures::ProcedureCall;
use crate::reducers::CallRefused;
use crate::views::Wanted;
use bytes::Bytes;
use call::UnderWay;
use prometheus::IntGauge;
use rtdb_consensus::{Applied, Command, Outcome, Refusal, Unapplied};
use rtdb_protocol::client::{self, ClientMessage, Messages, Read};
use rtdb_protocol::server::{ServerMessage, Update};
use rtdb_protocol::sql::Query;
use rtdb_protocol::{Subprotocol, reply};
use std::collections::VecDeque;
use std::sync::Arc;

/// What the session wants done.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Send the client a message.
    Send(Bytes),
    /// Send the client a message of two parts.
    SendParts(Bytes, Bytes),
    /// Become a member of the feed if need be, and ask it for a subscription by this number; its items follow.
    Join(u32, Vec<Query>),
    /// Let go of a query set of the feed, by this number, and ask for its rows or do not.
    Leave(u32, u32, bool),
    /// Leave the feed with what has been shown.
    MoveOut,
    /// The client has these query sets of the feed, as the feed and as it numbers them.
    Subscribed(Vec<(u32, u32)>),
    /// Send the client what it sees of updates of the feed.
    Show(Arc<Batch>),
    /// Send the client what it sees of one of them.
    ShowOne(Arc<Batch>, usize),
    /// Open the upstream, then say [`Core::upstream_opened`] or [`Core::upstream_lost`].
    OpenUpstream,
    /// Open the upstream anew, when the local server is back with all that it may have shown; then say the same.
    ReopenUpstream,
    /// Send SpacetimeDB a message.
    Forward(Bytes),
    /// Wait for what a read has to show, and prepare views; then say [`Core::views_prepared`].
    Prepare(Freshness, Vec<Wanted>),
    /// Run a procedure, then say [`Core::procedure_finished`].
    CallProcedure(ProcedureCall),
    /// Close the client. Nothing else follows.
    Close(CloseReason),
}

/// The session's own connection to the local server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    /// Not needed yet.
    Absent,
    /// On its way, for the first time.
    Opening,
    /// It was lost, and is on its way again.
    Reopening,
    /// Open again; the client's subscriptions have been repeated.
    Restoring {
        /// So many replies are due.
        due: usize,
        /// The newest receipt of this session that it has told of.
        receipt: u64,
    },
    /// Open; the subscription to receipts has been sent, and its reply is due.
    Subscribing,
    /// Open, and receipts arrive on it.
    Open,
}

/// A message of the client's that waits.
struct Waiting {
    message: ClientMessage,
    /// Why it is refused, if it is a read that is. Looked at once: it may be large, and may wait for long.
    refusal: Option<String>,
}

/// What came upstream or from the feed, and waits.
#[derive(Debug)]
enum Held {
    /// A message of the client's own upstream.
    Message(ServerMessage),
    /// An update of the feed.
    Shared(Arc<Batch>, usize),
}

impl Held {
    fn update(&self) -> Option<&Update> {
        match self {
            Self::Message(ServerMessage::Update(update)) => Some(update),
            Self::Message(_) => None,
            Self::Shared(batch, at) => batch.update(*at),
        }
    }
}

/// A client's session.
pub(crate) struct Core {
    subprotocol: Subprotocol,
    caller: Caller,
    /// The client's message that the phase rule or a limit holds up, behind those that the feed did not take; and the rest of its
    /// frame.
    waiting: VecDeque<Waiting>,
    /// The first so many of `waiting` the feed did not take.
    declined: usize,
    frame: Option<Messages>,
    refreshes: Refreshes,
    /// How far the views are that `waiting` reads.
    preparing: Preparing,
    /// Why the arguments of the client's message can't be read, if that was JSON.
    misread: Option<CallRefused>,
    /// Views that have failed, and why, whose subscriptions are to be ended.
    failed_views: Vec<(String, String)>,
    /// Query sets that are being ended because a view has failed, and why.
    ending: Vec<(u32, String)>,
    /// What the client is owed for its calls, oldest first.
    under_way: VecDeque<UnderWay>,
    /// The first so many of `under_way` have been proposed (or never will be).
    proposed: usize,
    /// Bytes of the arguments and refusals in `under_way`, and of `reads`.
    bytes: usize,
    /// The outcome of the oldest call, while its receipt is still to come.
    applied: Option<Applied>,
    upstream: Upstream,
    /// What came behind a receipt whose outcome is still to come, the receipt included.
    held: VecDeque<Held>,
    /// Reads whose replies are due, oldest first.
    reads: VecDeque<Read>,
    /// What it shares with others.
    sharing: Sharing,
    /// Procedures under way.
    running: Running,
    /// What the client is subscribed to by itself; nothing is set aside for a client that never is.
    subscriptions: Option<Box<Subscriptions>>,
    /// Where the bytes of subscribed rows are counted.
    total_row_bytes: IntGauge,
    /// The rows of this session's calls up to here were shown when the upstream was restored: no receipt comes for them.
    restored_to: u64,
    /// How often the upstream was lost since everything was last restored.
    losses: u32,
    /// Why the session closes, as soon as no call is under way.
    closing: Option<CloseReason>,
    closed: bool,
}

impl Core {
    /// A session that has just been let in. The bytes of its subscribed rows are counted in `row_bytes`.
    /// Its subscriptions may be shared with other clients if it `shares`, and takes what this node has: feeds wait for nothing else.
    pub(crate) fn new(subprotocol: Subprotocol, caller: Caller, row_bytes: IntGauge, shares: bool) -> Self {
        let shares = shares && caller.freshness == Freshness::default();
        Self {
            subprotocol,
            caller,
            waiting: VecDeque::new(),
            declined: 0,
            frame: None,
            refreshes: Refreshes::default(),
            preparing: Preparing::default(),
            misread: None,
            failed_views: Vec::new(),
            ending: Vec::new(),
            under_way: VecDeque::new(),
            proposed: 0,
            bytes: 0,
            applied: None,
            upstream: Upstream::Absent,
            held: VecDeque::new(),
            reads: VecDeque::new(),
            sharing: Sharing::new(shares),
            running: Running::default(),
            subscriptions: None,
            total_row_bytes: row_bytes,
            restored_to: 0,
            losses: 0,
            closing: None,
            closed: false,
        }
    }

    /// Whether the client's socket should be read: not while something of it still waits here.
    pub(crate) fn wants_client(&self) -> bool {
        self.closing.is_none()
            && !self.closed
            && self.waiting.is_empty()
            && self.frame.is_none()
            && self.has_room()
    }

    /// Whether the upstream should be read: not while a receipt waits for its outcome.
    pub(crate) fn wants_upstream(&self) -> bool {
        self.held.is_empty() && !self.closed
    }

    /// Whether the outcome of the oldest call can be taken: not while the one before waits for its receipt.
    pub(crate) fn wants_outcome(&self) -> bool {
        self.applied.is_none()
    }

    /// Whether calls are under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether the upstream is told of what the client was shown.
    pub(crate) fn is_restoring(&self) -> bool {
        matches!(self.upstream, Upstream::Restoring { .. })
    }

    /// Bytes that are kept: of the client's messages, and of what it was shown.
    pub(crate) fn bytes(&self) -> usize {
        let frame = self.frame.as_ref().map_or(0, Messages::left);
        let waiting = self
            .waiting
            .iter()
            .map(|waiting| waiting.message.bytes())
            .sum::<usize>();
        self.bytes + frame + waiting + self.row_bytes() + self.kept_bytes()
    }

    /// Bytes of the rows that the client was shown, and that the upstream tells of.
    pub(crate) fn row_bytes(&self) -> usize {
        self.subscriptions.as_ref().map_or(0, |all| all.row_bytes())
    }

    /// Bytes of the client's messages that may be gone through at the next step.
    pub(crate) fn backlog(&self) -> usize {
        let frame = self.frame.as_ref().map_or(0, Messages::left);
        match self.waiting.front() {
            // The oldest call under way may be the last that it waits for.
            Some(waiting) if self.under_way.len() <= 1 => frame + waiting.message.bytes(),
            // Nothing is read behind it.
            Some(_) => 0,
            None => frame,
        }
    }

    /// Gives memory back that only a burst needed.
    pub(crate) fn trim(&mut self) {
        self.under_way.shrink_to(0);
        self.held.shrink_to(0);
        self.reads.shrink_to(0);
        self.waiting.shrink_to(0);
    }

    /// A frame from the client. Its messages are read one by one, as there is room for them.
    pub(crate) fn client(&mut self, frame: Bytes, context: &Context<'_>, actions: &mut Vec<Action>) {
        debug_assert!(self.frame.is_none(), "the client was not wanted");
        self.frame = Some(client::split(self.subprotocol, frame));
        self.admit(context, actions);
    }

    /// The same of a message that was JSON.
    pub(crate) fn client_in_json(&mut self, asked: Asked, context: &Context<'_>, actions: &mut Vec<Action>) {
        self.misread = asked.misread;
        self.client(asked.frame, context, actions);
    }

    /// Whether the database is the client's own.
    pub(crate) fn is_owner(&self) -> bool {
        self.caller.is_owner
    }

    /// The oldest command that is to be proposed next, if there is one.
    pub(crate) fn proposal(&self) -> Option<Command> {
        match self.under_way.get(self.proposed)? {
            UnderWay::Call(call) => Some(call.command(&self.caller)),
            UnderWay::Refused(_) => None,
        }
    }

    /// The command of [`Core::proposal`] has been proposed.
    pub(crate) fn proposed(&mut self) {
        assert!(self.proposed < self.under_way.len(), "nothing was to be proposed");
        self.proposed += 1;
        self.skip_refused();
    }

    /// The command of [`Core::proposal`] can never be proposed.
    pub(crate) fn unproposable(&mut self, why: String, context: &Context<'_>, actions: &mut Vec<Action>) {
        let Some(entry) = self.under_way.get_mut(self.proposed) else {
            return;
        };
        if let UnderWay::Call(call) = std::mem::replace(entry, UnderWay::Refused(Bytes::new())) {
            self.bytes -= call.bytes();
            let refused = call
                .into_refused(why)
                .message(self.subprotocol, &self.caller, context.now_us);
            self.bytes += refused.len();
            *entry = UnderWay::Refused(refused);
        }
        self.skip_refused();
        self.settle(actions);
        self.admit(context, actions);
    }

    /// What became of the oldest proposed call.
    pub(crate) fn outcome(&mut self, outcome: Outcome, context: &Context<'_>, actions: &mut Vec<Action>) {
        match outcome {
            Ok(applied) => {
                debug_assert!(self.applied.is_none(), "outcomes are taken one at a time");
                self.applied = Some(applied);
            }
            Err(Unapplied::Reducer {
                timestamp_us,
                trapped,
                message,
                execution_us,
                energy,
                ..
            }) => {
                if let Some(call) = self.take_call() {
                    let outcome = if trapped {
                        reply::Outcome::Internal(message)
                    } else {
                        reply::Outcome::Failed {
                            message,
                            execution_us,
                            energy,
                        }
                    };
                    let result = call.failed(self.subprotocol, &self.caller, timestamp_us, &outcome);
                    actions.extend(result.map(Action::Send));
                }
            }
            Err(Unapplied::Refused(Refusal::SessionGone)) => {
                return self.close(
                    CloseReason::new(CloseReason::RESTART, "the session has ended"),
                    actions,
                );
            }
            Err(Unapplied::Refused(refusal @ Refusal::Split)) => {
                if let Some(call) = self.take_call() {
                    let outcome = reply::Outcome::Internal(refusal.to_string());
                    let result = call.failed(self.subprotocol, &self.caller, 0, &outcome);
                    actions.extend(result.map(Action::Send));
                }
            }
            Err(Unapplied::Refused(_)) => return self.close(CloseReason::module_exited(), actions),
            Err(unknown @ Unapplied::Unknown { .. }) => {
                return self.close(
                    CloseReason::new(CloseReason::RESTART, unknown.to_string()),
                    actions,
                );
            }
        }
        self.settle(actions);
        self.admit(context, actions);
    }

    /// The upstream is open, and the local server knows the client.
    pub(crate) fn upstream_opened(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        if self.sharing.is_shared() {
            // What is read by the way.
            self.upstream = Upstream::Open;
            let again = self.reads.iter().map(|read| Action::Forward(read.raw.clone()));
            actions.extend(again);
        } else if self.upstream == Upstream::Reopening {
            self.end_failed_views(actions);
            self.repeat_subscriptions(context, actions);
        } else {
            debug_assert_eq!(self.upstream, Upstream::Opening);
            let refreshes = self.refreshes.wanted(self.subprotocol, context);
            self.subscribe_receipts(refreshes, actions);
        }
        self.admit(context, actions);
    }

    /// A message from SpacetimeDB.
    pub(crate) fn upstream(
        &mut self,
        message: ServerMessage,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        match self.upstream {
            // The session goes without it already.
            Upstream::Absent => return,
            Upstream::Restoring { .. } => self.restore(message, actions),
            _ => self.say_in_turn(message, actions),
        }
        self.settle(actions);
        self.admit(context, actions);
    }

    /// The upstream is gone, or could not be opened. A client that it owed nothing but receipts goes on without it; for
    /// one with subscriptions it is opened again, unless that was in vain: then the client must connect again, after the
    /// results of its calls.
    pub(crate) fn upstream_lost(
        &mut self,
        reason: CloseReason,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let failed = matches!(self.upstream, Upstream::Opening | Upstream::Reopening);
        if self.sharing.is_shared() && !failed {
            return self.lost_but_for_the_feed(reason, context, actions);
        }
        let subscribed = self.subscriptions.as_ref().is_some_and(|all| all.any());
        let needed = failed || subscribed || !self.reads.is_empty();
        if needed && !failed && self.is_restorable() {
            return self.reopen(actions);
        }
        if needed {
            return self.give_up_upstream(reason, actions);
        }
        self.go_without_upstream(actions);
        self.admit(context, actions);
    }

    /// Takes nothing more from the client, and closes it once its calls are done.
    pub(crate) fn close_when_idle(&mut self, reason: CloseReason, actions: &mut Vec<Action>) {
        self.closing.get_or_insert(reason);
        self.waiting.clear();
        self.declined = 0;
        self.frame = None;
        self.settle(actions);
        self.close_if_idle(actions);
    }

    /// Closes the client now.
    pub(crate) fn close(&mut self, reason: CloseReason, actions: &mut Vec<Action>) {
        if !self.closed {
            self.closed = true;
            actions.push(Action::Close(reason));
        }
    }

    fn close_if_idle(&mut self, actions: &mut Vec<Action>) {
        if self.under_way.is_empty()
            && let Some(reason) = self.closing.take()
        {
            self.close(reason, actions);
        }
    }
}

#[cfg(test)]
mod tests;
