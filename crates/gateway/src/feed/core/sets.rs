//! Query sets: who has them, and what they show.

use super::{Action, Core, Upstream};
use crate::budget::Budget;
use crate::close::CloseReason;
use crate::feed::item::Item;
use crate::limits::SHARED_ROWS_MAX;
use crate::rows::{Rows, Side};
use bytes::Bytes;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client::{self, ReadKind};
use rtdb_protocol::reply::{Direction, TableRows, applied_rows};
use rtdb_protocol::server::{Change, Changes};
use rtdb_protocol::sql::Query;
use std::sync::Arc;

/// How far a query set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its rows are being counted.
    Counting,
    /// It is to be subscribed to once the upstream is open.
    Wanted,
    /// The answer is due.
    Asked,
    /// Its updates come.
    Live,
    /// They come no more: its members go on by themselves.
    Frozen,
}

/// A session that waits for a query set to begin.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) session: u64,
    pub(super) ticket: u32,
    /// The fence that it waits for; 0: it asked before the set was subscribed to.
    pub(super) fence: u32,
}

/// A list of queries that members are subscribed to.
pub(super) struct Set {
    pub(super) queries: Arc<[Query]>,
    pub(super) state: State,
    pub(super) members: Vec<u64>,
    pub(super) waiting: Vec<Joiner>,
    /// What it shows; nothing any more if that is too much: then nobody can join, and it ends with the upstream.
    pub(super) rows: Option<Rows>,
    /// The tables of its first answer: some may be empty.
    tables: Vec<(Box<str>, u32)>,
    /// What it shows now, as members are told when they join.
    snapshot: Option<Bytes>,
}

impl Set {
    fn texts(&self) -> Vec<&str> {
        self.queries.iter().map(Query::text).collect()
    }

    fn rows(&self, subprotocol: Subprotocol, direction: Direction) -> Bytes {
        let shown = self.rows.as_ref().map(Rows::shown).unwrap_or_default();
        let empty = self.tables.iter().filter(|(name, _)| {
            let mut tables = shown.iter();
            tables.all(|rows| *rows.table != **name)
        });
        let empty = empty.map(|(name, table_id)| TableRows {
            table: name,
            table_id: *table_id,
            rows: Vec::new(),
        });
        let tables: Vec<_> = shown.iter().cloned().chain(empty).collect();
        applied_rows(subprotocol, direction, Some(&tables))
    }

    /// What it shows now.
    fn snapshot(&mut self, subprotocol: Subprotocol, budget: &Budget) -> Bytes {
        if let Some(snapshot) = &self.snapshot {
            return snapshot.clone();
        }
        let snapshot = budget.shared(self.rows(subprotocol, Direction::Come));
        self.snapshot = Some(snapshot.clone());
        snapshot
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.rows.as_ref().map_or(0, Rows::bytes)
    }

    pub(super) fn forget_snapshot(&mut self) {
        self.snapshot = None;
    }
}

impl Core {
    pub(super) fn join(&mut self, session: u64, ticket: u32, queries: Vec<Query>, actions: &mut Vec<Action>) {
        if !self.members.contains_key(&session) {
            return;
        }
        let queries: Arc<[Query]> = queries.into();
        let joiner = |fence| Joiner {
            session,
            ticket,
            fence,
        };
        if let Some(number) = self.by_queries.get(&queries)
            && let Some(set) = self.sets.get_mut(number)
        {
            let is_there =
                set.members.contains(&session) || set.waiting.iter().any(|joiner| joiner.session == session);
            match set.state {
                // What it shows to one client it shows once.
                _ if is_there || self.ending || set.rows.is_none() => Self::decline(vec![joiner(0)], actions),
                State::Frozen => Self::decline(vec![joiner(0)], actions),
                State::Counting | State::Wanted => set.waiting.push(joiner(0)),
                State::Asked | State::Live => {
                    let next = self.fences.last + 1;
                    set.waiting.push(joiner(next));
                    self.fence(actions);
                }
            }
            return;
        }
        let is_taken = !self.ending && !self.large.contains(&queries);
        let Some(number) = is_taken.then(|| self.next_set()).flatten() else {
            return Self::decline(vec![joiner(0)], actions);
        };
        let counts = queries.iter().filter_map(Query::count).collect();
        actions.push(Action::Count(number, counts));
        self.by_queries.insert(queries.clone(), number);
        self.sets.insert(
            number,
            Set {
                queries,
                state: State::Counting,
                members: Vec::new(),
                waiting: vec![joiner(0)],
                rows: Some(Rows::new(self.row_bytes.clone())),
                tables: Vec::new(),
                snapshot: None,
            },
        );
    }

    /// A query set has so many rows; `None` if that could not be found out.
    pub(in crate::feed) fn counted(&mut self, number: u32, rows: Option<u64>, actions: &mut Vec<Action>) {
        let Some(set) = self
            .sets
            .get_mut(&number)
            .filter(|set| set.state == State::Counting)
        else {
            return;
        };
        if rows.is_some_and(|rows| rows <= SHARED_ROWS_MAX) {
            set.state = State::Wanted;
            return self.ask(number, actions);
        }
        if let Some(set) = self.forget(number) {
            if rows.is_some() {
                self.remember_large(set.queries);
            }
            Self::decline(set.waiting, actions);
        }
    }

    /// Subscribes to a query set that is wanted, if the upstream is open.
    pub(super) fn ask(&mut self, number: u32, actions: &mut Vec<Action>) {
        let Some(set) = self.sets.get_mut(&number) else {
            return;
        };
        if set.state == State::Wanted && self.upstream == Upstream::Open {
            set.state = State::Asked;
            actions.push(Action::Forward(subscribe(self.subprotocol, number, set)));
        }
    }

    /// The server has answered the subscription to a query set.
    pub(super) fn answered(
        &mut self,
        number: u32,
        error: bool,
        changes: &Changes,
        actions: &mut Vec<Action>,
    ) {
        let Some(state) = self.sets.get(&number).map(|set| set.state) else {
            return;
        };
        match state {
            State::Asked if error => {
                let set = self.forget(number);
                // They ask by themselves, and hear why.
                Self::decline(set.map(|set| set.waiting).unwrap_or_default(), actions);
            }
            State::Asked => {
                let changes: Vec<_> = changes.visible().collect();
                let kept = self.apply(number, &changes, false);
                if let Some(set) = self.sets.get_mut(&number) {
                    let tables = changes.iter();
                    set.tables = tables
                        .map(|change| ((&*change.table).into(), change.table_id))
                        .collect();
                    set.state = State::Live;
                }
                if !kept {
                    return self.outgrown(number, actions);
                }
                self.admit(number, 0, actions);
            }
            State::Live => self.answered_again(number, error, changes, actions),
            State::Counting | State::Wanted | State::Frozen => {}
        }
    }

    /// Lets those in who wait for a fence up to this one.
    pub(super) fn admit(&mut self, number: u32, fence: u32, actions: &mut Vec<Action>) {
        let Some(set) = self.sets.get_mut(&number) else {
            return;
        };
        let (now, later): (Vec<_>, _) = set.waiting.drain(..).partition(|joiner| joiner.fence <= fence);
        set.waiting = later;
        for Joiner { session, ticket, .. } in now {
            let Some(member) = self.members.get_mut(&session) else {
                continue;
            };
            member.sets.push(number);
            set.members.push(session);
            let rows = set.snapshot(self.subprotocol, &self.budget);
            let joined = Item::Joined {
                ticket,
                set: number,
                rows,
            };
            actions.push(Action::Tell(session, joined));
        }
        self.end_if_unused(number, actions);
    }

    /// Takes note of rows that came and left. False if there are too many.
    pub(super) fn apply(&mut self, number: u32, changes: &[Change], told: bool) -> bool {
        let Some(set) = self.sets.get_mut(&number) else {
            return true;
        };
        if !matches!(set.state, State::Asked | State::Live) {
            return true;
        }
        let Some(rows) = &mut set.rows else {
            return true;
        };
        if !told {
            set.snapshot = None;
        }
        rows.apply_all(changes, if told { Side::Told } else { Side::Shown })
    }

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
        member.sets.retain(|of| *of != number);
        set.members.retain(|of| *of != session);
        let rows = match rows {
            true => set.rows(self.subprotocol, Direction::Leave),
            false => applied_rows(self.subprotocol, Direction::Leave, None),
        };
        actions.push(Action::Tell(session, Item::Left { ticket, rows }));
        self.end_if_unused(number, actions);
    }

    pub(super) fn move_out(&mut self, session: u64, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get(&session) else {
            return;
        };
        let mut shown = Vec::with_capacity(member.sets.len());
        for number in member.sets.clone() {
            if let Some(set) = self.sets.get_mut(&number).filter(|set| set.rows.is_some()) {
                shown.push((number, set.snapshot(self.subprotocol, &self.budget)));
            }
        }
        actions.push(Action::Tell(session, Item::Moved { shown }));
        self.gone(session, actions);
    }

    pub(super) fn gone(&mut self, session: u64, actions: &mut Vec<Action>) {
        let Some(member) = self.members.remove(&session) else {
            return;
        };
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

    /// A query set shows more than is kept.
    pub(super) fn outgrown(&mut self, number: u32, actions: &mut Vec<Action>) {
        let Some(set) = self.sets.get_mut(&number) else {
            return;
        };
        (set.rows, set.snapshot) = (None, None);
        let (waiting, queries) = (std::mem::take(&mut set.waiting), set.queries.clone());
        Self::decline(waiting, actions);
        self.remember_large(queries);
        self.end_if_unused(number, actions);
    }

    /// The members of a query set that shows more than is kept can't be told what they miss.
    pub(super) fn close_members(&mut self, number: u32, actions: &mut Vec<Action>) {
        let members = self.sets.get(&number).map(|set| set.members.clone());
        for session in members.into_iter().flatten() {
            actions.push(Action::Tell(session, Item::Closed(CloseReason::restart())));
            self.gone(session, actions);
        }
    }

    /// No more updates of a query set come: its members go on by themselves, from what it shows now.
    pub(super) fn freeze(&mut self, number: u32, actions: &mut Vec<Action>) {
        let Some(set) = self.sets.get_mut(&number) else {
            return;
        };
        set.state = State::Frozen;
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

    fn end_if_unused(&mut self, number: u32, actions: &mut Vec<Action>) {
        let Some(set) = self.sets.get(&number) else {
            return;
        };
        if set.members.is_empty() && set.waiting.is_empty() {
            let subscribed = matches!(set.state, State::Asked | State::Live);
            self.forget(number);
            if subscribed {
                self.unsubscribe(number, actions);
            }
        }
    }

    fn unsubscribe(&self, number: u32, actions: &mut Vec<Action>) {
        if matches!(self.upstream, Upstream::Open | Upstream::Restoring { .. }) {
            let end = client::unsubscribe(self.subprotocol, ReadKind::SubscribeMulti, number);
            actions.push(Action::Forward(end));
        }
    }

    fn forget(&mut self, number: u32) -> Option<Set> {
        let set = self.sets.remove(&number)?;
        self.by_queries.remove(&set.queries);
        Some(set)
    }
}

/// The subscription to a query set. Its number is the request's, too.
pub(super) fn subscribe(subprotocol: Subprotocol, number: u32, set: &Set) -> Bytes {
    client::subscribe(subprotocol, &set.texts(), number, number)
}
