//! What the client sends: admitted as the phase rule and the limits allow.

use super::super::subscriptions::{Subscriptions, subscribes};
use super::call::{CallUnderWay, UnderWay};
use super::{Action, Caller, Context, Core, Upstream};
use crate::close::CloseReason;
use crate::limits::{CALLS_BYTES_MAX, CALLS_MAX, READS_MAX};
use bytes::Bytes;
use rtdb_protocol::client::{self, CallReducer, ClientMessage, Read, ReadKind, Refused};
use rtdb_protocol::{Subprotocol, reply};

impl Core {
    pub(super) fn has_room(&self) -> bool {
        self.under_way.len() < CALLS_MAX && self.bytes < CALLS_BYTES_MAX && self.reads.len() < READS_MAX
    }

    /// Admits what waits, as far as the phase rule and the limits allow.
    pub(super) fn admit(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        while !self.closed && self.has_room() && self.take_next(actions) {
            let settled = match &self.waiting {
                Some(ClientMessage::Call(_) | ClientMessage::Procedure { .. }) => {
                    let opening = matches!(self.upstream, Upstream::Opening | Upstream::Subscribing);
                    self.reads.is_empty() && !opening
                }
                Some(ClientMessage::Read(_)) if self.refusal.is_some() => {
                    !self.is_busy() && self.reads.is_empty()
                }
                Some(ClientMessage::Read(_)) => {
                    !self.is_busy()
                        && self.is_upstream_there(actions)
                        && self.are_views_there(context, actions)
                }
                None => false,
            };
            if !settled {
                return;
            }
            match self.waiting.take() {
                Some(ClientMessage::Call(call)) => self.admit_call(call, context, actions),
                Some(ClientMessage::Read(read)) => self.admit_read(read, context, actions),
                Some(ClientMessage::Procedure { request_id, name }) => {
                    let why = format!("the procedure `{name}` was not called: procedures are not served yet");
                    self.refuse(
                        reply::procedure_refused(self.subprotocol, request_id, &why),
                        actions,
                    );
                }
                None => {}
            }
        }
    }

    /// Takes the next message of the client's frame to `waiting`. False if there is none.
    fn take_next(&mut self, actions: &mut Vec<Action>) -> bool {
        if self.waiting.is_some() {
            return true;
        }
        match self.frame.as_mut().and_then(Iterator::next) {
            Some(Ok(message)) => {
                self.refusal = match &message {
                    ClientMessage::Read(read) => refusal(self.caller.server, read),
                    ClientMessage::Call(_) | ClientMessage::Procedure { .. } => None,
                };
                self.waiting = Some(message);
            }
            Some(Err(error)) => self.close_when_idle(CloseReason::from(error), actions),
            None => self.frame = None,
        }
        self.waiting.is_some()
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
        let receipt = self.upstream != Upstream::Absent;
        match CallUnderWay::new(call, &self.caller, receipt, context) {
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
    fn refuse(&mut self, message: Bytes, actions: &mut Vec<Action>) {
        self.bytes += message.len();
        self.under_way.push_back(UnderWay::Refused(message));
        self.skip_refused();
        self.settle(actions);
    }

    fn admit_read(&mut self, read: Read, context: &Context<'_>, actions: &mut Vec<Action>) {
        if let Some(why) = self.refusal.take() {
            let message = self.refused_read(&read, context, &why);
            actions.push(Action::Send(message));
            return;
        }
        if subscribes(read.kind) && self.subscriptions.is_none() {
            let none = Subscriptions::new(self.subprotocol, self.total_row_bytes.clone());
            self.subscriptions = Some(Box::new(none));
        }
        let read = self.apart(read);
        if let Some(subscriptions) = self.subscriptions.as_mut().filter(|_| subscribes(read.kind)) {
            subscriptions.asked(&read, context.module, self.caller.is_owner);
        }
        self.bytes += read.bytes();
        actions.push(Action::Forward(read.raw.clone()));
        self.reads.push_back(read);
    }

    /// The read without its frame, of which in v3 it may be a small part.
    fn apart(&self, read: Read) -> Read {
        if self.subprotocol != Subprotocol::V3 {
            return read;
        }
        match client::split(self.subprotocol, Bytes::copy_from_slice(&read.raw)).next() {
            Some(Ok(ClientMessage::Read(copy))) => copy,
            _ => read,
        }
    }

    /// The answer to a read that is not forwarded.
    pub(super) fn refused_read(&self, read: &Read, context: &Context<'_>, why: &str) -> Bytes {
        let Caller {
            identity, connection, ..
        } = &self.caller;
        reply::read_refused(self.subprotocol, read, identity, connection, context.now_us, why)
    }

    pub(super) fn subscribe_receipts(&mut self, actions: &mut Vec<Action>) {
        self.upstream = Upstream::Subscribing;
        actions.push(Action::Forward(client::subscribe_receipts(
            self.subprotocol,
            self.caller.session,
        )));
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
