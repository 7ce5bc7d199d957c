//! An upstream that was lost is opened again, and the client hears what it missed.
//!
//! The client keeps what it was shown. On the new upstream its subscriptions are repeated, and what comes is kept from
//! it, replies and updates alike, until the last reply is there: then one update leads the client from the rows it has
//! to those that the server told of. Results of calls whose rows are among them follow without rows; later calls have
//! their receipts to come. Reads that had no reply are sent again, and are answered as ever.

use super::super::subscriptions::subscribes;
use super::{Action, Context, Core, Held, Upstream};
use crate::close::CloseReason;
use crate::limits::RESTORATIONS_MAX;
use rtdb_protocol::server::ServerMessage;
use rtdb_protocol::{RECEIPT_QUERY_SET, client};

impl Core {
    pub(super) fn is_restorable(&self) -> bool {
        let known = self.subscriptions.as_ref().is_none_or(|all| all.restorable());
        known && self.closing.is_none() && self.losses < RESTORATIONS_MAX
    }

    /// The upstream is lost; it is asked for again.
    pub(super) fn reopen(&mut self, actions: &mut Vec<Action>) {
        self.losses += 1;
        self.forget_views(actions);
        // Its client was not shown these yet: their rows, and the replies, come again.
        if !rtdb_runtime::planted("receipts of a lost life count") {
            self.held.clear();
            self.refreshes.take();
        }
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.forget_told();
        }
        self.upstream = Upstream::Reopening;
        actions.push(Action::ReopenUpstream);
    }

    /// The upstream is there again.
    pub(super) fn repeat_subscriptions(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        let refreshes = self.refreshes.wanted(self.subprotocol, context);
        let receipts = client::subscribe_receipts(self.subprotocol, self.caller.session, refreshes);
        actions.push(Action::Forward(receipts));
        let mut due = 1;
        let (module, is_owner) = (context.module, self.caller.is_owner);
        if let Some(subscriptions) = &mut self.subscriptions {
            for request in subscriptions.requests(module, is_owner) {
                actions.push(Action::Forward(request));
                due += 1;
            }
            // Those without an answer are sent again when all is restored.
            subscriptions.forget_asked();
            let asked = self.reads.iter().filter(|read| subscribes(read.kind));
            asked.for_each(|read| subscriptions.asked(read, module, is_owner));
        }
        self.upstream = Upstream::Restoring { due, receipt: 0 };
    }

    /// A message of the new upstream, before everything is restored.
    pub(super) fn restore(&mut self, message: ServerMessage, actions: &mut Vec<Action>) {
        if is_refusal_of_receipts(&message) && self.refreshes.refused() {
            let receipts = client::subscribe_receipts(self.subprotocol, self.caller.session, false);
            return actions.push(Action::Forward(receipts));
        }
        let Upstream::Restoring { due, receipt } = &mut self.upstream else {
            return;
        };
        let changes = match &message {
            ServerMessage::Update(update) => update.changes(),
            ServerMessage::SubscribeReply {
                error: false,
                changes,
                ..
            } => {
                *due -= 1;
                changes
            }
            // The module is another, or the server can't do now what it could before.
            ServerMessage::SubscribeReply { .. } | ServerMessage::SubscriptionLost { .. } => {
                return self.give_up_upstream(CloseReason::restart(), actions);
            }
            _ => return,
        };
        *receipt = changes.receipt(self.caller.session).unwrap_or(0).max(*receipt);
        let (due, receipt) = (*due, *receipt);
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.told(changes);
            if !subscriptions.restorable() {
                return self.give_up_upstream(CloseReason::restart(), actions);
            }
        }
        if due == 0 {
            self.restored(receipt, actions);
        }
    }

    /// Everything is told: now the client hears of it.
    fn restored(&mut self, receipt: u64, actions: &mut Vec<Action>) {
        self.upstream = Upstream::Open;
        self.restored_to = self.restored_to.max(receipt);
        let subscriptions = self.subscriptions.as_mut();
        actions.extend(subscriptions.and_then(|all| all.show_told()).map(Action::Send));
        if self.reads.is_empty() {
            self.losses = 0;
        }
        let again = self.reads.iter().map(|read| Action::Forward(read.raw.clone()));
        actions.extend(again);
        self.end_failed_views(actions);
    }

    /// Goes on without an upstream: no receipt will come any more.
    pub(super) fn go_without_upstream(&mut self, actions: &mut Vec<Action>) {
        if !self.sharing.is_shared() {
            self.expect_no_receipts();
        }
        self.upstream = Upstream::Absent;
        if let Some(update) = self.refreshes.take() {
            self.held.push_back(Held::Message(ServerMessage::Update(update)));
        }
        self.settle(actions);
    }

    /// The client must connect again to go on.
    pub(crate) fn give_up_upstream(&mut self, reason: CloseReason, actions: &mut Vec<Action>) {
        self.go_without_upstream(actions);
        self.close_when_idle(reason, actions);
    }
}

fn is_refusal_of_receipts(message: &ServerMessage) -> bool {
    matches!(
        message,
        ServerMessage::SubscribeReply {
            query_set: Some(RECEIPT_QUERY_SET),
            error: true,
            ..
        }
    )
}
