//! How members leave query sets, and how these end.

use super::set::{Set, State};
use super::{Action, Core, Upstream};
use crate::close::CloseReason;
use crate::feed::item::Item;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client::{self, ReadKind};
use rtdb_protocol::reply::{Direction, applied_rows};

impl Core {
    pub(super) fn leave(
        &mut self,
        session: u64,
        ticket: u32,
        number: u32,
        rows: bool,
        actions: &mut Vec<Action>,
    ) {
        let (Some(member), Some(set)) = (self.members.get_mut(&session), self.sets.get_mut(&number)) else {
            return;
        };
        if rows && set.state == State::Unkept {
            return self.dismiss(session, actions);
        }
        member.sets.retain(|of| *of != number);
        set.members.retain(|of| *of != session);
        let rows = match rows {
            true => set.snapshot(self.subprotocol, Direction::Leave, &self.budget),
            false => applied_rows(self.subprotocol, Direction::Leave, None),
        };
        actions.push(Action::Tell(session, Item::Left { ticket, rows }));
        if !self.budget.is_ample() {
            set.forget_snapshot();
        }
        self.end_if_unused(number, actions);
    }

    pub(super) fn move_out(&mut self, session: u64, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get(&session) else {
            return;
        };
        let is_unkept = |set: &u32| self.sets.get(set).is_some_and(|set| set.state == State::Unkept);
        if member.sets.iter().any(is_unkept) {
            return self.dismiss(session, actions);
        }
        let mut shown = Vec::with_capacity(member.sets.len());
        for number in member.sets.clone() {
            if let Some(set) = self.sets.get_mut(&number) {
                shown.push((
                    number,
                    set.snapshot(self.subprotocol, Direction::Come, &self.budget),
                ));
            }
        }
        actions.push(Action::Tell(session, Item::Moved { shown }));
        self.gone(session, actions);
    }

    pub(super) fn gone(&mut self, session: u64, actions: &mut Vec<Action>) {
        let Some(member) = self.members.remove(&session) else {
            return;
        };
        if self.subprotocol == Subprotocol::V1 {
            self.unsubscribe(member.followed, actions);
        }
        for number in member.sets {
            if let Some(set) = self.sets.get_mut(&number) {
                set.members.retain(|of| *of != session);
                self.end_if_unused(number, actions);
            }
        }
        // It may have left before it was let in.
        let waiting = self.sets.iter_mut().filter_map(|(number, set)| {
            let before = set.waiting.len();
            set.waiting.retain(|joiner| joiner.session != session);
            (set.waiting.len() != before).then_some(*number)
        });
        for number in waiting.collect::<Vec<_>>() {
            self.end_if_unused(number, actions);
        }
    }

    /// A query set shows more than is kept: nobody joins any more. Its members go on, unless they have missed something.
    pub(super) fn outgrown(&mut self, number: u32, actions: &mut Vec<Action>) {
        let is_whole = !matches!(self.upstream, Upstream::Restoring { .. });
        let Some(set) = self.sets.get_mut(&number) else {
            return;
        };
        let (queries, waiting) = (set.queries.clone(), std::mem::take(&mut set.waiting));
        if set.state == State::Live && is_whole {
            set.state = State::Unkept;
            set.rows.clear();
            set.forget_snapshot();
        }
        let lost = match set.state {
            State::Unkept => Vec::new(),
            _ => set.members.clone(),
        };
        Self::decline(waiting, actions);
        self.remember_large(&queries);
        for session in lost {
            self.dismiss(session, actions);
        }
        self.end_if_unused(number, actions);
    }

    /// A member can't be told any more what it has been shown: it starts anew, by itself.
    pub(super) fn dismiss(&mut self, session: u64, actions: &mut Vec<Action>) {
        let why = "a subscription has grown beyond what clients can share: connect again";
        let reason = CloseReason::new(CloseReason::AGAIN, why);
        actions.push(Action::Tell(session, Item::Closed(reason)));
        self.gone(session, actions);
    }

    /// No more updates of a query set come: its members go on by themselves, from what it shows now.
    pub(super) fn freeze(&mut self, number: u32, actions: &mut Vec<Action>) {
        let Some(set) = self.sets.get_mut(&number) else {
            return;
        };
        if set.state != State::Unkept {
            set.state = State::Frozen;
        }
        Self::decline(std::mem::take(&mut set.waiting), actions);
        for session in set.members.clone() {
            self.evict(session, actions);
        }
        self.end_if_unused(number, actions);
    }

    /// Nothing can be shared any more on this connection: the members go on by themselves.
    pub(super) fn evict_all(&mut self, actions: &mut Vec<Action>) {
        self.flush(actions);
        self.ending = true;
        for number in self.sets.keys().copied().collect::<Vec<_>>() {
            if let Some(set) = self.sets.get_mut(&number) {
                Self::decline(std::mem::take(&mut set.waiting), actions);
            }
            self.end_if_unused(number, actions);
        }
        for session in self.members.keys().copied().collect::<Vec<_>>() {
            self.evict(session, actions);
        }
    }

    fn evict(&mut self, session: u64, actions: &mut Vec<Action>) {
        if let Some(member) = self.members.get_mut(&session)
            && !std::mem::replace(&mut member.evicted, true)
        {
            actions.push(Action::Tell(session, Item::Evicted));
        }
    }

    pub(super) fn end_if_unused(&mut self, number: u32, actions: &mut Vec<Action>) {
        let Some(set) = self.sets.get(&number) else {
            return;
        };
        if set.members.is_empty() && set.waiting.is_empty() {
            let subscribed = matches!(set.state, State::Asked | State::Live | State::Unkept);
            self.forget(number);
            if subscribed {
                self.unsubscribe(number, actions);
            }
            self.ask(actions);
        }
    }

    fn unsubscribe(&self, number: u32, actions: &mut Vec<Action>) {
        if matches!(self.upstream, Upstream::Open | Upstream::Restoring { .. }) {
            let end = client::unsubscribe(self.subprotocol, ReadKind::SubscribeMulti, number);
            actions.push(Action::Forward(end));
        }
    }

    pub(super) fn forget(&mut self, number: u32) -> Option<Set> {
        let set = self.sets.remove(&number)?;
        self.by_queries.remove(&set.queries);
        Some(set)
    }
}
