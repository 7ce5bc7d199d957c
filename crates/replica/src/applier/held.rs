//! Failures that are the server's word rather than the module's: a trap, no more energy, troubles of its own, an answer that
//! was lost with it. They are held until a majority of the replicas has said that the call has failed there too, because a
//! server that stands alone with them has not told its caller the truth. Pure.

use super::window::Told;
use rtdb_consensus::command::TRAPPED_MAX;
use rtdb_consensus::{Position, Unapplied};
use rtdb_runtime::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// How long such an answer is held at most: then its caller hears that the outcome is unknown.
const HOLD_MAX: Duration = Duration::from_secs(15);
/// Positions that wait to be said to the others. Beyond it, the oldest are not said.
const UNSAID_MAX: usize = 8 * TRAPPED_MAX;

/// Failures of the module's own that are remembered, in case that another node asks.
const FAILURES_MAX: usize = 4096;

/// What the caller of a call hears that a majority has not confirmed.
const ALONE: &str = "SpacetimeDB did not run the call to its end on this node, and a majority of the nodes has not said the \
                     same";

/// The answers of one database.
#[derive(Debug, Default)]
pub(super) struct Held {
    waiting: VecDeque<Waiting>,
    unsaid: VecDeque<Position>,
    /// Calls that have failed by the module's own word, and of which nothing was said: in the log's order.
    failures: VecDeque<Position>,
}

#[derive(Debug)]
struct Waiting {
    position: Position,
    since: Instant,
    told: Told,
}

impl Held {
    /// The server has answered the call at `position` itself. `told` is for a caller on this node, or for who asks later.
    pub(super) fn take(&mut self, position: Position, told: Option<Told>, now: Instant) {
        self.say(position);
        let since = now;
        self.waiting.extend(told.map(|told| Waiting {
            position,
            since,
            told,
        }));
    }

    /// The call at `position` has failed by the module's own word. `is_asked`: another node has only its server's.
    pub(super) fn failed(&mut self, position: Position, is_asked: bool) {
        if is_asked {
            return self.say(position);
        }
        if self.failures.len() == FAILURES_MAX {
            self.failures.pop_front();
        }
        self.failures.push_back(position);
    }

    /// Other nodes have only their servers' word that these calls have failed: if they have failed here, that is said.
    pub(super) fn confirm(&mut self, asked: impl Iterator<Item = Position>) {
        for position in asked {
            if let Ok(place) = self.failures.binary_search(&position) {
                self.failures.remove(place);
                self.say(position);
            }
        }
    }

    fn say(&mut self, position: Position) {
        if self.unsaid.len() == UNSAID_MAX {
            self.unsaid.pop_front();
        }
        self.unsaid.push_back(position);
    }

    /// Whether somebody waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What is to be said next, if anything is.
    pub(super) fn unsaid(&self) -> Option<Vec<u64>> {
        let unsaid = self.unsaid.iter().take(TRAPPED_MAX);
        let unsaid: Vec<_> = unsaid.map(|position| position.0).collect();
        (!unsaid.is_empty()).then_some(unsaid)
    }

    /// So many of them are on their way.
    pub(super) fn said(&mut self, count: usize) {
        self.unsaid.drain(..count.min(self.unsaid.len()));
    }

    /// The answers that are held no longer: `is_shared` says which calls a majority has ended in the same way.
    pub(super) fn settled(&mut self, now: Instant, is_shared: impl Fn(Position) -> bool) -> Vec<Told> {
        let mut settled = Vec::new();
        self.waiting = std::mem::take(&mut self.waiting)
            .into_iter()
            .filter_map(|waiting| {
                if is_shared(waiting.position) {
                    settled.push(waiting.told);
                    return None;
                }
                if now.duration_since(waiting.since) >= HOLD_MAX {
                    settled.push(unknown(waiting.told));
                    return None;
                }
                Some(waiting)
            })
            .collect();
        settled
    }

    /// The database is set aside: nobody will know.
    pub(super) fn give_up(&mut self) -> Vec<Told> {
        self.unsaid.clear();
        self.failures.clear();
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        waiting.map(|waiting| unknown(waiting.told)).collect()
    }
}

fn unknown(told: Told) -> Told {
    Told {
        outcome: Err(Unapplied::Unknown {
            why: ALONE,
            position: told.doubtful,
        }),
        ..told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::{Applied, Origin, Reply};

    fn told(seq: u64) -> Told {
        let applied = Applied {
            position: Position(seq),
            timestamp_us: 0,
            reply: Reply::Done,
        };
        Told {
            origin: Origin { node: 1, epoch: 1 },
            seq,
            outcome: Ok(applied),
            doubtful: Some(Position(seq)),
            keyed: None,
            in_session: None,
        }
    }

    #[test]
    fn an_answer_waits_for_a_majority() {
        let (mut held, now) = (Held::default(), Instant::now());
        for position in [5, 6] {
            held.take(Position(position), Some(told(position)), now);
        }
        assert_eq!(held.settled(now, |_| false), []);
        assert_eq!(held.settled(now, |position| position == Position(6)), [told(6)]);
        assert!(held.is_waiting());
        assert_eq!(held.settled(now, |_| true), [told(5)]);
        assert!(!held.is_waiting());
    }

    #[test]
    fn one_that_stands_alone_is_unknown_in_the_end() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.take(Position(5), Some(told(5)), now);
        let just_before = now + HOLD_MAX - Duration::from_millis(1);
        assert_eq!(held.settled(just_before, |_| false), []);
        let settled = held.settled(now + HOLD_MAX, |_| false);
        assert!(matches!(settled[0].outcome, Err(Unapplied::Unknown { .. })));
        held.take(Position(6), Some(told(6)), now);
        assert!(matches!(
            held.give_up()[0].outcome,
            Err(Unapplied::Unknown { .. })
        ));
    }

    #[test]
    fn a_failure_of_the_modules_own_is_said_once_somebody_asks() {
        let mut held = Held::default();
        for position in [3, 5, 8] {
            held.failed(Position(position), false);
        }
        assert_eq!(held.unsaid(), None);
        for _ in 0..2 {
            held.confirm([4, 5, 9].map(Position).into_iter());
        }
        assert_eq!(held.unsaid(), Some(vec![5]));
        held.failed(Position(9), true);
        assert_eq!(held.unsaid(), Some(vec![5, 9]));
        for position in 10..2 * FAILURES_MAX as u64 {
            held.failed(Position(position), false);
        }
        assert_eq!(held.failures.len(), FAILURES_MAX);
    }

    #[test]
    fn what_is_said_to_the_others_is_said_once_and_bounded() {
        let (mut held, now) = (Held::default(), Instant::now());
        for position in 0..(UNSAID_MAX + 10) as u64 {
            held.take(Position(position), None, now);
        }
        let first = held.unsaid().unwrap();
        assert_eq!((first.len(), first[0]), (TRAPPED_MAX, 10));
        held.said(first.len());
        assert_eq!(held.unsaid().unwrap()[0], 10 + TRAPPED_MAX as u64);
        held.said(UNSAID_MAX);
        assert_eq!(held.unsaid(), None);
        assert!(!held.is_waiting());
    }
}
