//! How far a database's replica lags behind the log, or whoever looks through it for databases: pure.

use rtdb_consensus::{Lag, LogIndex};
use rtdb_runtime::Instant;
use std::collections::VecDeque;

/// How finely the backlog is known, in marks. When there are more, each two neighbours become one.
const MARKS_MAX: usize = 1_024;

/// Commands of the database up to an index of the log, behind the mark before.
#[derive(Clone, Copy, Debug)]
struct Mark {
    index: LogIndex,
    /// In so many entries of the log.
    entries: u64,
    commands: u64,
    /// When the first of them was known to be resolved.
    at: Instant,
}

/// What is resolved and not applied yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The index up to which all is applied.
    done: LogIndex,
    marks: VecDeque<Mark>,
    /// Entries to a mark.
    grain: u64,
    commands: u64,
    applied: u64,
}

impl Backlog {
    /// So many commands are resolved, the last of them at `index`. Of none it is known only that there may be some up to
    /// there: as after a start, before the log that there was is applied.
    pub(super) fn resolved(&mut self, index: LogIndex, commands: u64, now: Instant) {
        if index <= self.done {
            self.applied += commands;
            return;
        }
        if commands == 0 && self.marks.back().is_some_and(|last| last.index >= index) {
            return;
        }
        self.commands += commands;
        if let Some(last) = self.marks.back_mut().filter(|last| last.entries < self.grain) {
            last.index = index;
            last.entries += 1;
            last.commands += commands;
            return;
        }
        self.marks.push_back(Mark {
            index,
            entries: 1,
            commands,
            at: now,
        });
        if self.marks.len() > MARKS_MAX {
            self.thin();
        }
    }

    /// All up to `index` is applied. A server that has lost its last transactions goes back: what is applied again is as
    /// old as that.
    pub(super) fn done(&mut self, index: LogIndex, now: Instant) {
        if index < self.done {
            self.marks.push_front(Mark {
                index: self.done,
                entries: 1,
                commands: 0,
                at: now,
            });
        }
        self.done = index;
        while let Some(mark) = self.marks.front().filter(|mark| mark.index <= index) {
            self.commands -= mark.commands;
            self.applied += mark.commands;
            self.marks.pop_front();
        }
        if self.marks.len() < MARKS_MAX / 4 {
            self.grain /= 2;
        }
    }

    /// Since when it is known that what is not applied yet is resolved up to `index`; `None` if it is not known, or is applied.
    pub(super) fn since(&self, index: LogIndex) -> Option<Instant> {
        let before = self.marks.partition_point(|mark| mark.index < index);
        let mark = self.marks.get(before).filter(|_| index > self.done)?;
        Some(mark.at)
    }

    /// How far the replica lags.
    pub(super) fn lag(&self, now: Instant) -> Lag {
        let oldest = self.marks.front().map_or(now, |mark| mark.at);
        Lag {
            commands: self.commands,
            age_ms: now.duration_since(oldest).as_millis() as u64,
            applied: self.applied,
        }
    }

    /// Makes one mark of each two neighbours.
    fn thin(&mut self) {
        self.grain = 2 * self.grain.max(1);
        let mut marks = std::mem::take(&mut self.marks).into_iter();
        while let Some(first) = marks.next() {
            self.marks.push_back(match marks.next() {
                Some(second) => Mark {
                    index: second.index,
                    entries: first.entries + second.entries,
                    commands: first.commands + second.commands,
                    at: first.at,
                },
                None => first,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn lag(commands: u64, age_ms: u64, applied: u64) -> Lag {
        Lag {
            commands,
            age_ms,
            applied,
        }
    }

    #[test]
    fn what_is_resolved_lags_until_it_is_applied() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut backlog = Backlog::default();
        assert_eq!(backlog.lag(at(9)), Lag::default());
        backlog.resolved(3, 2, at(0));
        backlog.resolved(7, 1, at(10));
        assert_eq!(backlog.lag(at(15)), lag(3, 15, 0));
        backlog.done(6, at(20));
        assert_eq!(backlog.lag(at(20)), lag(1, 10, 2));
        backlog.done(9, at(30));
        assert_eq!(backlog.lag(at(99)), lag(0, 0, 3));
        // The applier is sometimes faster than the one who counts.
        backlog.resolved(8, 4, at(40));
        assert_eq!(backlog.lag(at(99)), lag(0, 0, 7));
    }

    #[test]
    fn what_must_be_applied_anew_is_as_old_as_its_loss() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut backlog = Backlog::default();
        backlog.resolved(50, 0, at(0));
        assert_eq!(backlog.lag(at(5)), lag(0, 5, 0), "the log from before the start");
        backlog.done(50, at(6));
        backlog.resolved(60, 3, at(10));
        backlog.done(20, at(30));
        assert_eq!(backlog.lag(at(40)), lag(3, 10, 0));
        backlog.done(50, at(50));
        assert_eq!(backlog.lag(at(50)), lag(3, 40, 0));
        backlog.done(60, at(60));
        assert_eq!(backlog.lag(at(60)), lag(0, 0, 3));
    }

    #[test]
    fn what_is_not_read_yet_is_as_old_as_it_was_seen() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut unread = Backlog::default();
        unread.resolved(5, 0, at(0));
        unread.resolved(5, 0, at(10));
        unread.resolved(9, 0, at(20));
        assert_eq!(unread.marks.len(), 2);
        assert_eq!(unread.lag(at(30)), lag(0, 30, 0));
        let since = |unread: &Backlog| [4, 5, 6, 9, 10].map(|index| unread.since(index));
        assert_eq!(
            since(&unread),
            [Some(at(0)), Some(at(0)), Some(at(20)), Some(at(20)), None]
        );
        unread.done(5, at(30));
        assert_eq!(since(&unread), [None, None, Some(at(20)), Some(at(20)), None]);
        assert_eq!(unread.lag(at(30)), lag(0, 10, 0));
    }

    #[test]
    fn a_long_backlog_is_known_more_roughly() {
        let start = Instant::now();
        let count = 100 * MARKS_MAX as u64;
        let mut backlog = Backlog::default();
        for index in 1..=count {
            backlog.resolved(index, 1, start + Duration::from_micros(index));
        }
        assert!(backlog.marks.len() <= MARKS_MAX);
        assert_eq!(backlog.lag(start + Duration::from_secs(1)), lag(count, 999, 0));
        backlog.done(count / 2, start);
        let left = backlog.lag(start).commands;
        assert!((count / 2..count / 2 + count / 500).contains(&left), "{left}");
        backlog.done(count, start);
        assert_eq!(backlog.lag(start), lag(0, 0, count));
        // A short one is known finely again.
        for index in count..count + 50 {
            backlog.resolved(index + 1, 1, start);
            backlog.done(index, start);
        }
        assert_eq!(backlog.lag(start).commands, 1);
    }
}
