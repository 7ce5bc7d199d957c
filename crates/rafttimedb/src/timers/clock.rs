//! Which rows are due, and when: pure.
//!
//! As natively, a row for one time is due at that time, one with an interval first when that has passed since the row came,
//! and then at the first multiple of it that is to come once the last run has ended: it doesn't drift, and doesn't pile up. A
//! row that changes is scheduled anew. A call that the module asks for at once is due as soon as it is there: its time is the log's,
//! which may be ahead of this clock.

use rtdb_consensus::command::IMMEDIATE_SCHEDULE;
use rtdb_replica::When;
use std::collections::{BTreeMap, BTreeSet};

/// A row: its schedule's place, and its primary key.
pub(super) type RowId = (u32, u64);

/// The least interval, in microseconds: shorter ones are taken for this.
const INTERVAL_MIN_US: i64 = 1_000;

/// The rows of a database's schedule tables.
#[derive(Debug, Default)]
pub(super) struct Clock {
    rows: BTreeMap<RowId, Row>,
    /// Those that wait, by when they are due.
    due: BTreeSet<(i64, RowId)>,
    /// Those among them that are due whatever the time is, by when they were asked for.
    at_once: BTreeSet<(i64, RowId)>,
    /// How often a row was taken.
    taken: u64,
    /// The latest time that was seen.
    seen_us: i64,
}

#[derive(Debug)]
struct Row {
    when: When,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until it is due.
    Waits(i64),
    /// Its run is under way.
    Runs {
        taken: u64,
        /// It has changed meanwhile.
        changed: bool,
    },
    /// It was for one time and has run. That it is gone was not seen yet.
    Over,
}

/// A row that is due. Its run is under way until [`Clock::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) row: RowId,
    pub(super) when: When,
    /// Since when, in microseconds since the Unix epoch.
    pub(super) due_us: i64,
    taken: u64,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is over, well or not.
    Ran,
    /// It never was.
    NotRun,
    /// Nobody knows. A row for one time tells, once it is looked at again: it is gone if it was.
    Unknown,
}

impl Clock {
    /// A row is there, or has changed.
    pub(super) fn came(&mut self, row: RowId, when: When, now_us: i64) {
        match self.rows.get_mut(&row) {
            Some(Row {
                when: known,
                state: State::Runs { changed, .. },
            }) => (*known, *changed) = (when, true),
            _ => self.schedule(row, when, first(when, now_us)),
        }
    }

    /// A row is gone.
    pub(super) fn went(&mut self, row: RowId) {
        if let Some(Row {
            state: State::Waits(due_us),
            ..
        }) = self.rows.remove(&row)
        {
            self.waiting(row).remove(&(due_us, row));
        }
    }

    /// These are all the rows that there are. What has not changed keeps its time, or its run, and what was due `last` under
    /// another leader goes on from there.
    pub(super) fn reset(
        &mut self,
        rows: impl Iterator<Item = (RowId, When)>,
        last: &BTreeMap<RowId, i64>,
        now_us: i64,
    ) {
        let rows: BTreeMap<RowId, When> = rows.collect();
        let gone: Vec<RowId> = self
            .rows
            .keys()
            .filter(|row| !rows.contains_key(row))
            .copied()
            .collect();
        gone.into_iter().for_each(|row| self.went(row));
        for (row, when) in rows {
            match self.rows.get(&row) {
                Some(known) if known.when == when && matches!(known.state, State::Waits(_)) => {}
                Some(known) if matches!(known.state, State::Runs { .. }) => {
                    if known.when != when {
                        self.came(row, when, now_us);
                    }
                }
                _ => {
                    let due_us = match (when, last.get(&row)) {
                        (When::Interval(interval_us), Some(last_us)) => next(*last_us, interval_us, now_us),
                        _ => first(when, now_us),
                    };
                    self.schedule(row, when, due_us);
                }
            }
        }
    }

    /// It is so late. If that is earlier than it was, no row with an interval waits for longer than that.
    pub(super) fn looked(&mut self, now_us: i64) {
        if now_us < self.seen_us {
            let waits = |(id, row): (&RowId, &Row)| match (row.state, row.when) {
                (State::Waits(due_us), When::Interval(interval_us)) => {
                    let at_most_us = first(row.when, now_us);
                    (due_us > at_most_us).then_some((*id, interval_us, at_most_us))
                }
                _ => None,
            };
            let waits: Vec<_> = self.rows.iter().filter_map(waits).collect();
            for (row, interval_us, due_us) in waits {
                self.schedule(row, When::Interval(interval_us), due_us);
            }
        }
        self.seen_us = now_us;
    }

    /// When the next row is due.
    pub(super) fn next_us(&self) -> Option<i64> {
        match self.at_once.is_empty() {
            true => self.due.first().map(|(due_us, _)| *due_us),
            false => Some(i64::MIN),
        }
    }

    /// Takes the row that is due, the longest first.
    pub(super) fn take(&mut self, now_us: i64) -> Option<Due> {
        let due = self.due.first().filter(|(due_us, _)| *due_us <= now_us);
        let (due_us, row) = *due.into_iter().chain(self.at_once.first()).min()?;
        self.waiting(row).remove(&(due_us, row));
        self.taken += 1;
        let taken = self.taken;
        let known = self.rows.get_mut(&row)?;
        known.state = State::Runs {
            taken,
            changed: false,
        };
        let when = known.when;
        Some(Due {
            row,
            when,
            due_us: due_us.min(now_us),
            taken,
        })
    }

    /// A run has ended.
    pub(super) fn done(&mut self, due: Due, ended: Ended, now_us: i64) {
        let Some(known) = self.rows.get_mut(&due.row) else {
            return;
        };
        let State::Runs { taken, changed } = known.state else {
            return;
        };
        // The row may have gone, and another have come under its key.
        if taken != due.taken {
            return;
        }
        let when = known.when;
        let next_us = match (ended, when) {
            _ if changed => first(when, now_us),
            (Ended::NotRun | Ended::Unknown, When::Time(at_us)) => at_us,
            (Ended::NotRun, When::Interval(_)) => due.due_us,
            (Ended::Ran, When::Time(_)) => {
                known.state = State::Over;
                return;
            }
            (_, When::Interval(interval_us)) => next(due.due_us, interval_us, now_us),
        };
        self.schedule(due.row, when, next_us);
    }

    fn schedule(&mut self, row: RowId, when: When, due_us: i64) {
        self.went(row);
        self.waiting(row).insert((due_us, row));
        let state = State::Waits(due_us);
        self.rows.insert(row, Row { when, state });
    }

    fn waiting(&mut self, row: RowId) -> &mut BTreeSet<(i64, RowId)> {
        match row.0 {
            IMMEDIATE_SCHEDULE => &mut self.at_once,
            _ => &mut self.due,
        }
    }
}

/// When a row is due for the first time.
fn first(when: When, now_us: i64) -> i64 {
    match when {
        When::Time(at_us) => at_us,
        When::Interval(interval_us) => now_us.saturating_add(period(interval_us)),
    }
}

/// The first time after now that is so many intervals behind the last one; if that was by a clock that was ahead, after one
/// interval.
fn next(last_us: i64, interval_us: i64, now_us: i64) -> i64 {
    let period = period(interval_us);
    let passed = now_us.saturating_sub(last_us).max(0) / period;
    let next_us = last_us.saturating_add(period.saturating_mul(passed.saturating_add(1)));
    next_us.min(now_us.saturating_add(period))
}

fn period(interval_us: i64) -> i64 {
    interval_us.saturating_abs().max(INTERVAL_MIN_US)
}

#[cfg(test)]
mod tests;
