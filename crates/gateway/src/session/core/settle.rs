//! What the client is sent: results in the order of its calls, each at its receipt's place in the upstream's order.

use super::call::{CallUnderWay, UnderWay};
use super::{Action, Core, Held, Upstream};
use crate::close::CloseReason;
use rtdb_protocol::RECEIPT_QUERY_SET;
use rtdb_protocol::client::{Read, ReadKind};
use rtdb_protocol::server::{Changes, ServerMessage, Update};

impl Core {
    /// The outcomes alone make the results of the calls under way.
    pub(super) fn expect_no_receipts(&mut self) {
        for entry in &mut self.under_way {
            if let UnderWay::Call(call) = entry {
                call.receipt = false;
            }
        }
    }

    /// Emits what can be emitted: results in the order of the calls, each at its receipt's place in the upstream's
    /// order, and what stood behind it.
    pub(super) fn settle(&mut self, actions: &mut Vec<Action>) {
        loop {
            match self.under_way.front() {
                Some(UnderWay::Refused(_)) => {
                    if let Some(UnderWay::Refused(message)) = self.under_way.pop_front() {
                        self.proposed -= 1;
                        self.bytes -= message.len();
                        actions.push(Action::Send(message));
                    }
                    continue;
                }
                Some(UnderWay::Call(call)) => match &self.applied {
                    // The outcome is still to come, and a held receipt with it.
                    None => break,
                    Some(applied) if call.receipt && applied.position.0 > self.restored_to => {
                        match self.held.front().and_then(|message| self.receipt(message)) {
                            None if self.held.is_empty() => break,
                            Some(index) if index == applied.position.0 => self.emit_with_receipt(actions),
                            // An older call's: its result was given without it.
                            Some(index) if index < applied.position.0 => self.pass_held(actions),
                            // This call's receipt has been passed over already: it can't come any more.
                            Some(_) => self.emit(None, actions),
                            None => self.pass_held(actions),
                        }
                    }
                    Some(_) => self.emit(None, actions),
                },
                None if self.held.is_empty() => break,
                None => self.pass_held(actions),
            }
            self.pass_held_until_receipt(actions);
        }
        self.tell_procedures(actions);
        self.close_if_idle(actions);
    }

    fn emit_with_receipt(&mut self, actions: &mut Vec<Action>) {
        self.shown_receipt(self.held.front().and_then(|held| self.receipt(held)));
        match self.held.pop_front() {
            Some(Held::Message(ServerMessage::Update(update))) => {
                self.shown(update.changes());
                self.emit(Some(update), actions);
            }
            Some(Held::Shared(batch, at)) => {
                let update = self.seen(&batch, at);
                self.emit(update, actions);
            }
            Some(Held::Message(_)) | None => {}
        }
    }

    fn emit(&mut self, update: Option<Update>, actions: &mut Vec<Action>) {
        if let (Some(applied), Some(call)) = (self.applied.take(), self.take_call()) {
            let result = call.succeeded(self.subprotocol, &self.caller, applied, update);
            actions.extend(result.map(Action::Send));
            if let [.., before, result] = actions.as_mut_slice()
                && rtdb_runtime::planted("results go before what stands before them")
            {
                std::mem::swap(before, result);
            }
        }
    }

    fn pass_held(&mut self, actions: &mut Vec<Action>) {
        self.shown_receipt(self.held.front().and_then(|held| self.receipt(held)));
        match self.held.pop_front() {
            Some(Held::Message(message)) => self.pass(message, actions),
            Some(Held::Shared(batch, at)) => actions.push(Action::ShowOne(batch, at)),
            None => {}
        }
    }

    fn pass_held_until_receipt(&mut self, actions: &mut Vec<Action>) {
        while self
            .held
            .front()
            .is_some_and(|message| self.receipt(message).is_none())
        {
            self.pass_held(actions);
        }
    }

    /// A message from SpacetimeDB that is nobody's result.
    pub(super) fn pass(&mut self, message: ServerMessage, actions: &mut Vec<Action>) {
        match message {
            ServerMessage::Hello { .. } => {}
            ServerMessage::Update(update) => {
                self.shown(update.changes());
                actions.extend(update.into_other().map(Action::Send));
            }
            ServerMessage::SubscribeReply {
                query_set: Some(RECEIPT_QUERY_SET),
                error,
                ..
            } => {
                if error && self.refreshes.refused() {
                    return self.subscribe_receipts(false, actions);
                }
                if error {
                    let why = "the database was not published through RaftTimeDB";
                    self.close(CloseReason::new(CloseReason::ERROR, why), actions);
                }
                self.upstream = Upstream::Open;
                self.end_failed_views(actions);
            }
            ServerMessage::SubscribeReply {
                request_id: Some(RECEIPT_QUERY_SET),
                query_set: Some(query_set),
                ..
            } if self.is_ending(query_set) => self.ended(query_set, actions),
            ServerMessage::SubscribeReply {
                request_id,
                error,
                changes,
                raw,
                ..
            } => {
                if let Some(read) = self.take_read(false, request_id)
                    && let Some(subscriptions) = &mut self.subscriptions
                {
                    subscriptions.answered(&read, error, &changes);
                }
                actions.push(Action::Send(raw));
                self.end_failed_views(actions);
            }
            ServerMessage::QueryReply { raw, .. } => {
                self.take_read(true, None);
                actions.push(Action::Send(raw));
            }
            ServerMessage::SubscriptionLost { query_set, raw } => {
                if query_set.is_none_or(|query_set| query_set == RECEIPT_QUERY_SET) {
                    self.expect_no_receipts();
                    let refreshes = self.refreshes.are_told();
                    self.subscribe_receipts(refreshes, actions);
                }
                if query_set != Some(RECEIPT_QUERY_SET) {
                    if let Some(subscriptions) = &mut self.subscriptions {
                        subscriptions.lost(query_set);
                    }
                    actions.push(Action::Send(raw));
                }
            }
            // The upstream is never used for calls.
            ServerMessage::CallResult(_) => {}
            // Nor for those of procedures.
            ServerMessage::Procedure(_) => {}
        }
    }

    /// The client is about to get these rows.
    fn shown(&mut self, changes: &Changes) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.shown(changes);
        }
    }

    /// The read that has been answered. Answers come in order; v1 answers that could not be given name no request.
    fn take_read(&mut self, query: bool, request_id: Option<u32>) -> Option<Read> {
        let is_query = |read: &Read| read.kind == ReadKind::OneOffQuery;
        let alike = |read: &Read| is_query(read) == query;
        let named = |read: &Read| alike(read) && request_id.is_some() && read.request_id == request_id;
        let mut reads = self.reads.iter();
        let at = reads
            .position(named)
            .or_else(|| self.reads.iter().position(alike))
            .or_else(|| (!self.reads.is_empty()).then_some(0))?;
        let read = self.reads.remove(at)?;
        self.bytes -= read.bytes();
        self.losses = 0;
        Some(read)
    }

    /// The position of this session's call that an update belongs to.
    pub(super) fn receipt(&self, held: &Held) -> Option<u64> {
        held.update()
            .and_then(|update| update.receipt(self.caller.session))
    }

    pub(super) fn receipt_of(&self, message: &ServerMessage) -> Option<u64> {
        match message {
            ServerMessage::Update(update) => update.receipt(self.caller.session),
            _ => None,
        }
    }

    pub(super) fn take_call(&mut self) -> Option<CallUnderWay> {
        match self.under_way.pop_front()? {
            UnderWay::Call(call) => {
                self.proposed -= 1;
                self.bytes -= call.bytes();
                Some(call)
            }
            refused @ UnderWay::Refused(_) => {
                self.under_way.push_front(refused);
                None
            }
        }
    }

    pub(super) fn skip_refused(&mut self) {
        while matches!(self.under_way.get(self.proposed), Some(UnderWay::Refused(_))) {
            self.proposed += 1;
        }
    }
}
