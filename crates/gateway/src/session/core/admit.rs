//! What the client sends: admitted as the phase rule and the limits allow.

use super::super::subscriptions::{Subscriptions, subscribes};
use super::call::{CallUnderWay, UnderWay};
use super::sharing::Way;
use super::{Action, Caller, Context, Core, Upstream, Waiting};
use crate::close::CloseReason;
use crate::limits::{CALLS_BYTES_MAX, CALLS_MAX, PROCEDURES_MAX, READS_MAX};
use bytes::Bytes;
use rtdb_protocol::client::{self, CallReducer, ClientMessage, Read, ReadKind, Refused};
use rtdb_protocol::{Subprotocol, reply};

impl Core {
    pub(super) fn has_room(&self) -> bool {
        let reads = self.reads.len() + self.sharing.asked();
        self.under_way.len() < CALLS_MAX && self.bytes < CALLS_BYTES_MAX && reads < READS_MAX
    }

    /// Admits what waits, as far as the phase rule and the limits allow.
    pub(super) fn admit(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        if self.sharing.is_evicted() {
            self.leave_feed(context, actions);
        }
        while !self.closed && self.has_room() && self.take_next(actions) {
            let Some(Waiting { message, refusal }) = self.waiting.pop_front() else {
                return;
            };
            let way = match &message {
                ClientMessage::Procedure(_) if self.is_busy() || self.running.count >= PROCEDURES_MAX => None,
                ClientMessage::Call(_) | ClientMessage::Procedure(_) => {
                    let opening = matches!(self.upstream, Upstream::Opening | Upstream::Subscribing);
                    (self.are_reads_done() && !opening).then_some(Way::Upstream)
                }
                ClientMessage::Read(_) if self.is_busy() => None,
                ClientMessage::Read(_) if refusal.is_some() => self.are_reads_done().then_some(Way::Upstream),
                ClientMessage::Read(read) => self.open_way(read, context, actions),
            };
            let Some(way) = way else {
                return self.waiting.push_front(Waiting { message, refusal });
            };
            self.declined = self.declined.saturating_sub(1);
            match (message, refusal) {
                (ClientMessage::Call(call), _) => self.admit_call(call, context, actions),
                (ClientMessage::Read(read), Some(why)) => {
                    let message = self.refused_read(&read, context, &why);
                    actions.push(Action::Send(message));
                }
                (ClientMessage::Read(read), None) if way == Way::Feed => self.ask_feed(read, actions),
                (ClientMessage::Read(read), None) => self.admit_read(read, context, actions),
                (ClientMessage::Procedure(call), _) => self.admit_procedure(call, context, actions),
            }
        }
    }

    fn are_reads_done(&self) -> bool {
        self.reads.is_empty() && self.sharing.asked() == 0
    }

    /// Which way a read goes, if it can go now; asks for what it needs.
    fn open_way(&mut self, read: &Read, context: &Context<'_>, actions: &mut Vec<Action>) -> Option<Way> {
        let mut way = self.way(read, context);
        if way == Way::Leaving {
            self.leave_feed(context, actions);
            way = self.way(read, context);
        }
        let is_open = match way {
            Way::Feed => true,
            Way::Leaving => false,
            // What the feed does not take stands before it.
            Way::Upstream => {
                self.sharing.asked() == 0
                    && self.is_upstream_there(actions)
                    && self.are_views_there(read, context, actions)
            }
        };
        is_open.then_some(way)
    }

    /// Takes the next message of the client's frame to `waiting`. False if there is none.
    fn take_next(&mut self, actions: &mut Vec<Action>) -> bool {
        if !self.waiting.is_empty() {
            return true;
        }
        match self.frame.as_mut().and_then(Iterator::next) {
            Some(Ok(message)) => {
                let refusal = match &message {
                    ClientMessage::Read(read) => refusal(self.caller.server, read),
                    ClientMessage::Call(_) | ClientMessage::Procedure(_) => None,
                };
                self.waiting.push_back(Waiting { message, refusal });
            }
            Some(Err(error)) => self.close_when_idle(CloseReason::from(error), actions),
            None => self.frame = None,
        }
        !self.waiting.is_empty()
    }

    /// The feed has not taken a read: it goes before what came later.
    pub(super) fn wait_again(&mut self, read: Read) {
        let waiting = Waiting {
            message: ClientMessage::Read(read),
            refusal: None,
        };
        self.waiting.insert(self.declined, waiting);
        self.declined += 1;
    }

    /// Whether reads can be forwarded; if the upstream is absent it is asked for.
    fn is_upstream_there(&mut self, actions: &mut Vec<Action>) -> bool {
        if self.upstream == Upstream::Absent {
            self.upstream = Upstream::Opening;
            actions.push(Action::OpenUpstream);
        }
        matches!(self.upstream, Upstream::Subscribing | Upstream::Open)
    }

    fn admit_call(&mut self, call: CallReducer, context: &Context<'_>, actions: &mut Vec<Action>) {
        let receipt = match self.sharing.is_shared() {
            true => self.sharing.is_subscribed(),
            false => self.upstream != Upstream::Absent,
        };
        let call = match self.misread.take() {
            Some(why) => Err(CallUnderWay::misread(call, context, &why)),
            None => CallUnderWay::new(call, &self.caller, receipt, context),
        };
        match call {
            Ok(call) => {
                self.bytes += call.bytes();
                self.under_way.push_back(UnderWay::Call(call));
            }
            Err(refused) => {
                let message = refused.message(self.subprotocol, &self.caller, context.now_us);
                self.refuse(message, actions);
            }
        }
    }

    /// Owes the client a message at this place among the results of its calls.
    pub(super) fn refuse(&mut self, message: Bytes, actions: &mut Vec<Action>) {
        self.bytes += message.len();
        self.under_way.push_back(UnderWay::Refused(message));
        self.skip_refused();
        self.settle(actions);
    }

    fn admit_read(&mut self, read: Read, context: &Context<'_>, actions: &mut Vec<Action>) {
        if subscribes(read.kind) && self.subscriptions.is_none() {
            let none = Subscriptions::new(self.subprotocol, self.total_row_bytes.clone());
            self.subscriptions = Some(Box::new(none));
        }
        let read = apart(self.subprotocol, read);
        if let Some(subscriptions) = self.subscriptions.as_mut().filter(|_| subscribes(read.kind)) {
            subscriptions.asked(&read, context.module, self.caller.is_owner);
        }
        self.bytes += read.bytes();
        actions.push(Action::Forward(read.raw.clone()));
        self.reads.push_back(read);
    }

    /// The answer to a read that is not forwarded.
    pub(super) fn refused_read(&self, read: &Read, context: &Context<'_>, why: &str) -> Bytes {
        let Caller {
            identity, connection, ..
        } = &self.caller;
        reply::read_refused(self.subprotocol, read, identity, connection, context.now_us, why)
    }

    pub(super) fn subscribe_receipts(&mut self, refreshes: bool, actions: &mut Vec<Action>) {
        self.upstream = Upstream::Subscribing;
        actions.push(Action::Forward(client::subscribe_receipts(
            self.subprotocol,
            self.caller.session,
            refreshes,
        )));
    }
}

/// The read without its frame, of which in v3 it may be a small part.
pub(super) fn apart(subprotocol: Subprotocol, read: Read) -> Read {
    if subprotocol != Subprotocol::V3 {
        return read;
    }
    match client::split(subprotocol, Bytes::copy_from_slice(&read.raw)).next() {
        Some(Ok(ClientMessage::Read(copy))) => copy,
        _ => read,
    }
}

/// Why a read is refused: in SpacetimeDB's words, 1.2's and 2.8's, for a table that is not there.
fn refusal(server: Subprotocol, read: &Read) -> Option<String> {
    let (query, why) = match (read.refused.as_ref()?, server) {
        (Refused::Hidden { query, table }, Subprotocol::V1) => {
            (query, format!("`{table}` is not a valid table"))
        }
        (Refused::Hidden { query, table }, Subprotocol::V2 | Subprotocol::V3) => (
            query,
            format!("no such table: `{table}`. If the table exists, it may be marked private."),
        ),
        (Refused::Sql { query, .. }, _) if query.trim().is_empty() && read.kind != ReadKind::OneOffQuery => {
            (query, "SubscriptionError: Empty string".to_owned())
        }
        (Refused::Sql { query, error }, _) => (query, error.to_string()),
        (refused @ (Refused::QuerySet | Refused::Queries | Refused::Bytes), _) => {
            return Some(refused.to_string());
        }
    };
    Some(match (read.kind, server) {
        (ReadKind::OneOffQuery, _) => why,
        (_, Subprotocol::V1) => format!("{why}, executing: `{query}`"),
        (_, Subprotocol::V2 | Subprotocol::V3) => format!("{why}, executing: `{}`", query.trim()),
    })
}
