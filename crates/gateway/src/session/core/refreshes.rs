//! What a call changes in tables and what that changes in views is one update to the client, as natively. The server tells of
//! it in two: views are brought up to date by a *refresh* that follows the call. So an update is kept until the refresh is
//! told of, or anything else; for a moment only, since a refresh that takes long is not waited for.

use super::{Context, Core};
use crate::session::core::Action;
use rtdb_protocol::server::{ServerMessage, Update};
use rtdb_protocol::{Refreshed, Subprotocol};

/// What is known of refreshes.
#[derive(Debug, Default)]
pub(super) struct Refreshes {
    /// The upstream has been asked to tell of them, and has not refused.
    told: bool,
    /// The client looks at views.
    views: bool,
    /// The last one did not come in time: no update waits for the next.
    late: bool,
    /// The update that waits.
    kept: Option<Update>,
    /// Counts those that have waited.
    count: u64,
}

impl Refreshes {
    /// Whether a new upstream is to tell of them: the module may be another one by now. v1 knows no events.
    pub(super) fn wanted(&mut self, subprotocol: Subprotocol, context: &Context<'_>) -> bool {
        self.told = subprotocol != Subprotocol::V1 && !context.module.views().is_empty();
        self.told
    }

    /// The upstream has refused. Whether it is to be asked without them: the module was prepared by an earlier version of this
    /// program.
    pub(super) fn refused(&mut self) -> bool {
        std::mem::take(&mut self.told)
    }

    /// Whether the upstream tells of them.
    pub(super) fn are_told(&self) -> bool {
        self.told
    }

    /// The client looks at views from now on.
    pub(super) fn look(&mut self) {
        self.views = true;
    }

    /// The update that waits for a refresh.
    pub(super) fn take(&mut self) -> Option<Update> {
        self.kept.take()
    }

    /// Bytes of what waits.
    pub(super) fn bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, Update::bytes)
    }

    /// What is to be told now that this message has come, in order.
    fn follow(&mut self, message: ServerMessage) -> [Option<ServerMessage>; 2] {
        let kept = self.kept.take();
        let ServerMessage::Update(update) = message else {
            return [kept.map(ServerMessage::Update), Some(message)];
        };
        let Some(refreshed) = update.changes().refreshed() else {
            let waits = self.views && !self.late && self.are_told();
            if waits {
                self.count += 1;
                self.kept = Some(update);
                return [kept.map(ServerMessage::Update), None];
            }
            return [
                kept.map(ServerMessage::Update),
                Some(ServerMessage::Update(update)),
            ];
        };
        self.late &= refreshed != Refreshed::All;
        let Some(kept) = kept else {
            return [Some(ServerMessage::Update(update)), None];
        };
        match kept.with(&update) {
            Some(both) if refreshed == Refreshed::All => [Some(ServerMessage::Update(both)), None],
            Some(both) => {
                self.kept = Some(both);
                [None, None]
            }
            None => [
                Some(ServerMessage::Update(kept)),
                Some(ServerMessage::Update(update)),
            ],
        }
    }
}

impl Core {
    /// Counts updates that have waited for a refresh; `None` if none waits.
    pub(crate) fn waits_for_refresh(&self) -> Option<u64> {
        self.refreshes.kept.as_ref().map(|_| self.refreshes.count)
    }

    /// Bytes of the update that waits for a refresh.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.refreshes.bytes()
    }

    /// The refresh has not come in time.
    pub(crate) fn refresh_is_late(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        self.refreshes.late = true;
        if let Some(update) = self.refreshes.take() {
            self.say(ServerMessage::Update(update), actions);
            self.settle(actions);
            self.admit(context, actions);
        }
    }

    /// A message from SpacetimeDB, after everything that it does not belong to.
    pub(super) fn say_in_turn(&mut self, message: ServerMessage, actions: &mut Vec<Action>) {
        for message in self.refreshes.follow(message).into_iter().flatten() {
            self.say(message, actions);
        }
    }

    fn say(&mut self, message: ServerMessage, actions: &mut Vec<Action>) {
        if self.held.is_empty() && self.receipt_of(&message).is_none() {
            self.pass(message, actions);
        } else {
            self.held.push_back(super::Held::Message(message));
        }
    }
}
