//! Query sets: who has them, and what they show.

use super::{Action, Core, Upstream};
use crate::budget::Budget;
use crate::close::CloseReason;
use crate::feed::item::Item;
use crate::limits::{ASKED_ROWS_MAX, FEED_COUNTS_MAX, SHARED_ROWS_MAX};
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
    /// Its rows are to be counted when it is its turn.
    New,
    /// Its rows are being counted.
    Counting,
    /// It is to be subscribed to once the upstream is open, and it is its turn.
    Wanted,
    /// The answer is due.
    Asked,
    /// Its updates come.
    Live,
    /// Its updates come, but its rows are more than are kept: nobody joins any more, and its members can't be told what they
    /// miss when the upstream is lost.
    Unkept,
    /// They come no more: its members go on by themselves.
    Frozen,
}

/// What a query set without rows costs, in rows.
const ROWS_OF_ANY_SET: u64 = 16;

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
    pub(super) rows: Rows,
    /// How many rows it had when they were counted.
    counted: u64,
    /// The tables of its first answer: some may be empty.
    tables: Vec<(Box<str>, u32)>,
    /// What it shows now, as members are told when they join, and when they leave.
    come: Option<Bytes>,
    leave: Option<Bytes>,
}

impl Set {
    /// The session that asked for it first.
    fn first(&self) -> u64 {
        self.waiting.first().map_or(0, |joiner| joiner.session)
    }

    /// What its answer costs those who wait behind it: a little, and its rows.
    fn cost(&self) -> u64 {
        ROWS_OF_ANY_SET + self.counted
    }

    fn texts(&self) -> Vec<&str> {
        self.queries.iter().map(Query::text).collect()
    }

    fn rows(&self, subprotocol: Subprotocol, direction: Direction) -> Bytes {
        let shown = self.rows.shown();
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
    fn snapshot(&mut self, subprotocol: Subprotocol, direction: Direction, budget: &Budget) -> Bytes {
        let made = match direction {
            Direction::Come => &self.come,
            Direction::Leave => &self.leave,
        };
        if let Some(snapshot) = made {
            return snapshot.clone();
        }
        let snapshot = budget.shared(self.rows(subprotocol, direction));
        *match direction {
            Direction::Come => &mut self.come,
            Direction::Leave => &mut self.leave,
        } = Some(snapshot.clone());
        snapshot
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.rows.bytes()
    }

    pub(super) fn forget_snapshot(&mut self) {
        (self.come, self.leave) = (None, None);
    }

    /// Bytes that have to be gone through before those can be let in who wait for a fence up to this one.
    pub(super) fn bytes_to_admit(&self, fence: u32) -> usize {
        let waits = self.waiting.iter().any(|joiner| joiner.fence <= fence);
        match waits && self.come.is_none() {
            true => self.rows.bytes(),
            false => 0,
        }
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
                _ if is_there || self.ending => Self::decline(vec![joiner(0)], actions),
                State::Unkept | State::Frozen => Self::decline(vec![joiner(0)], actions),
                State::New | State::Counting | State::Wanted => set.waiting.push(joiner(0)),
                State::Asked | State::Live => {
                    let next = self.fences.last + 1;
                    set.waiting.push(joiner(next));
                    self.fence(actions);
                }
            }
            return;
        }
        let is_taken = !self.ending && !self.is_large(&queries);
        let Some(number) = is_taken.then(|| self.next_set()).flatten() else {
            return Self::decline(vec![joiner(0)], actions);
        };
        self.by_queries.insert(queries.clone(), number);
        self.sets.insert(
            number,
            Set {
                queries,
                state: State::New,
                members: Vec::new(),
                waiting: vec![joiner(0)],
                rows: Rows::new(self.row_bytes.clone()),
                counted: 0,
                tables: Vec::new(),
                come: None,
                leave: None,
            },
        );
        self.count(actions);
    }

    /// Counts the rows of new query sets, of a few at a time; the sessions take turns.
    fn count(&mut self, actions: &mut Vec<Action>) {
        while self.counting < FEED_COUNTS_MAX
            && let Some(number) = self.next_in(State::New, self.last_counted)
            && let Some(set) = self.sets.get_mut(&number)
        {
            set.state = State::Counting;
            self.counting += 1;
            self.last_counted = set.first();
            let counts = set.queries.iter().filter_map(Query::count).collect();
            actions.push(Action::Count(number, counts));
        }
    }

    /// The query set of whose turn it is, after a session's.
    fn next_in(&self, state: State, last: u64) -> Option<u32> {
        let sets = self.sets.iter().filter(|(_, set)| set.state == state);
        let next =
            sets.min_by_key(|(number, set)| (set.first().wrapping_sub(last).wrapping_sub(1), **number));
        next.map(|(number, _)| *number)
    }

    /// A query set has so many rows; `None` if that could not be found out.
    pub(in crate::feed) fn counted(&mut self, number: u32, rows: Option<u64>, actions: &mut Vec<Action>) {
        self.counting = self.counting.saturating_sub(1);
        self.count(actions);
        let Some(set) = self
            .sets
            .get_mut(&number)
            .filter(|set| set.state == State::Counting)
        else {
            return;
        };
        if let Some(rows) = rows.filter(|rows| *rows <= SHARED_ROWS_MAX) {
            set.state = State::Wanted;
            set.counted = rows;
            return self.ask(actions);
        }
        if let Some(set) = self.forget(number) {
            if rows.is_some() {
                self.remember_large(&set.queries);
            }
            Self::decline(set.waiting, actions);
        }
    }

    /// Subscribes to query sets that are wanted, if the upstream is open: to few rows at a time, since all updates wait
    /// behind them, and the sessions take turns.
    pub(super) fn ask(&mut self, actions: &mut Vec<Action>) {
        if self.upstream != Upstream::Open {
            return;
        }
        let asked = self.sets.values().filter(|set| set.state == State::Asked);
        let mut due: u64 = asked.map(Set::cost).sum();
        while due < ASKED_ROWS_MAX
            && let Some(number) = self.next_in(State::Wanted, self.last_asked)
            && let Some(set) = self.sets.get_mut(&number)
        {
            set.state = State::Asked;
            due += set.cost();
            self.last_asked = set.first();
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
            // It has ended, or its members have left, since it was asked for.
            return self.one_restored(actions);
        };
        match state {
            State::Asked if error => {
                let set = self.forget(number);
                // They ask by themselves, and hear why.
                Self::decline(set.map(|set| set.waiting).unwrap_or_default(), actions);
                self.ask(actions);
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
                match kept {
                    true => self.admit(number, 0, actions),
                    false => self.outgrown(number, actions),
                }
                self.ask(actions);
            }
            State::Live => self.answered_again(number, error, changes, actions),
            State::New | State::Counting | State::Wanted | State::Unkept | State::Frozen => {
                self.one_restored(actions);
            }
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
            let rows = set.snapshot(self.subprotocol, Direction::Come, &self.budget);
            let joined = Item::Joined {
                ticket,
                set: number,
                rows,
            };
            actions.push(Action::Tell(session, joined));
        }
        // Nobody may ask for it again before it has changed.
        if !self.budget.is_ample() {
            set.forget_snapshot();
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
        if !told {
            set.forget_snapshot();
        }
        set.rows
            .apply_all(changes, if told { Side::Told } else { Side::Shown })
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

    fn end_if_unused(&mut self, number: u32, actions: &mut Vec<Action>) {
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
