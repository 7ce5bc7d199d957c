//! How query sets begin: they are counted, asked for, and their members let in.

use super::set::{Joiner, Set, State, subscribe};
use super::{Action, Core, Upstream};
use crate::feed::item::Item;
use crate::limits::{ASKED_ROWS_MAX, FEED_COUNTS_MAX, SHARED_ROWS_MAX};
use crate::rows::{Rows, Side};
use rtdb_protocol::reply::Direction;
use rtdb_protocol::server::{Change, Changes};
use rtdb_protocol::sql::Query;
use std::sync::Arc;

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
        if let Some(number) = self.by_queries.get(&queries).copied()
            && let Some(set) = self.sets.get_mut(&number)
        {
            let is_there =
                set.members.contains(&session) || set.waiting.iter().any(|joiner| joiner.session == session);
            match set.state {
                // What it shows to one client it shows once.
                _ if is_there || self.ending => Self::decline(vec![joiner(0)], actions),
                State::Unkept | State::Frozen => Self::decline(vec![joiner(0)], actions),
                State::New | State::Counting | State::Wanted => set.waiting.push(joiner(0)),
                State::Live if rtdb_runtime::planted("fences are not waited for") => {
                    set.waiting.push(joiner(0));
                    self.admit(number, 0, actions);
                }
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
        if !told && !rtdb_runtime::planted("late joiners are shown old rows") {
            set.forget_snapshot();
        }
        set.rows
            .apply_all(changes, if told { Side::Told } else { Side::Shown })
    }
}
