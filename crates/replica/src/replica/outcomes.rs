//! What came of calls with keys, as this replica has seen it: said to the log by the node whose client has called, and by all
//! who know it if somebody asks.

use rtdb_consensus::command::{Known, OUTCOMES_MAX};
use rtdb_consensus::{Outcome, Position};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Calls of which that is remembered. Beyond, those are forgotten of which the log knows it, then the oldest.
const KEPT_MAX: usize = 4096;

/// As many are left then, at most.
const KEPT_AFTER_MAX: usize = KEPT_MAX / 4 * 3;

/// Calls of which it is wanted before they are applied here. The oldest go first: who wants it asks again.
const WANTED_MAX: usize = 4096;

/// Outcomes that wait to be said. The oldest go first: who wants them asks.
const UNSAID_MAX: usize = 4096;

/// What came of one database's calls with keys.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    known: BTreeMap<u64, Known>,
    wanted: BTreeSet<u64>,
    unsaid: VecDeque<Known>,
}

impl Outcomes {
    /// The call at `position` has an outcome. `is_own`: a client of this node has made it. `is_open` says of which calls the log
    /// does not know it.
    pub(crate) fn learn(
        &mut self,
        position: Position,
        outcome: &Outcome,
        is_own: bool,
        is_open: impl Fn(Position) -> bool,
    ) {
        let Some(known) = Known::of(position, outcome) else {
            return;
        };
        if self.wanted.remove(&position.0) || is_own {
            self.say(known.clone());
        }
        self.known.insert(position.0, known);
        if self.known.len() > KEPT_MAX {
            self.known.retain(|position, _| is_open(Position(*position)));
            while self.known.len() > KEPT_AFTER_MAX {
                self.known.pop_first();
            }
        }
    }

    /// Somebody would like to know what came of the call at `position`.
    pub(crate) fn want(&mut self, position: Position) {
        if let Some(known) = self.known.get(&position.0).cloned() {
            return self.say(known);
        }
        self.wanted.insert(position.0);
        if self.wanted.len() > WANTED_MAX {
            self.wanted.pop_first();
        }
    }

    fn say(&mut self, known: Known) {
        if self.unsaid.len() == UNSAID_MAX {
            self.unsaid.pop_front();
        }
        self.unsaid.push_back(known);
    }

    /// What is to be said next, if anything is: of calls of which the log does not know it.
    pub(crate) fn unsaid(&mut self, is_open: impl Fn(Position) -> bool) -> Option<Vec<Known>> {
        while self
            .unsaid
            .pop_front_if(|known| !is_open(Position(known.position)))
            .is_some()
        {}
        let unsaid: Vec<_> = self.unsaid.iter().take(OUTCOMES_MAX).cloned().collect();
        (!unsaid.is_empty()).then_some(unsaid)
    }

    /// So many of them are on their way.
    pub(crate) fn said(&mut self, count: usize) {
        self.unsaid.drain(..count.min(self.unsaid.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::command::{Ended, Succeeded};
    use rtdb_consensus::{Applied, Reply, Unapplied};

    fn done(position: u64) -> Outcome {
        Ok(Applied {
            position: Position(position),
            timestamp_us: 0,
            reply: Reply::Done,
        })
    }

    fn said(outcomes: &mut Outcomes) -> Vec<u64> {
        let Some(unsaid) = outcomes.unsaid(|_| true) else {
            return Vec::new();
        };
        outcomes.said(unsaid.len());
        unsaid.iter().map(|known| known.position).collect()
    }

    #[test]
    fn the_callers_node_says_it_and_the_others_if_they_are_asked() {
        let mut outcomes = Outcomes::default();
        outcomes.want(Position(3));
        for position in 1..=4 {
            outcomes.learn(Position(position), &done(position), position == 1, |_| true);
        }
        assert_eq!(said(&mut outcomes), [1, 3]);
        outcomes.want(Position(2));
        outcomes.want(Position(2));
        assert_eq!(said(&mut outcomes), [2, 2], "the log takes the first one");
        outcomes.want(Position(4));
        assert_eq!(
            outcomes.unsaid(|position| position != Position(4)),
            None,
            "the log knows"
        );
        assert!(said(&mut outcomes).is_empty());
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut outcomes = Outcomes::default();
        let unknown = Err(Unapplied::unknown("a test"));
        outcomes.learn(Position(1), &unknown, true, |_| true);
        outcomes.want(Position(1));
        assert!(said(&mut outcomes).is_empty());
        outcomes.learn(Position(1), &done(1), false, |_| true);
        let ended = Some(Ended::Succeeded(Succeeded::default()));
        let known = Known { position: 1, ended };
        assert_eq!(outcomes.unsaid(|_| true), Some(vec![known]));
    }

    #[test]
    fn what_the_log_knows_is_forgotten_first() {
        let mut outcomes = Outcomes::default();
        let last = 3 * KEPT_MAX as u64;
        for position in 1..=last {
            outcomes.learn(Position(position), &done(position), false, |position| {
                position.0 < 10
            });
        }
        assert!(outcomes.known.len() <= KEPT_MAX);
        assert!(
            (1..10)
                .chain([last])
                .all(|position| outcomes.known.contains_key(&position))
        );
        for position in last + 1..=2 * last {
            outcomes.learn(Position(position), &done(position), true, |_| true);
            outcomes.want(Position(last + position));
        }
        assert!(outcomes.known.len() <= KEPT_MAX && outcomes.wanted.len() <= WANTED_MAX);
        assert_eq!(outcomes.unsaid.len(), UNSAID_MAX);
        assert!(outcomes.known.contains_key(&(2 * last)));
        assert_eq!(outcomes.unsaid(|_| true).unwrap().len(), OUTCOMES_MAX);
    }
}
