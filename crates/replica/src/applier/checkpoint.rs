//! When to look at what this replica holds, so that it is compared with the others.
//!
//! Replicas are compared at places that the log itself names: where its time passes from one period into the next, between
//! two commands of the database, with nothing under way. Whatever has become of the commands before, the place is the same.
//! When the log rests, all of them have come to its end.

use rtdb_consensus::Holding;

/// A period of the log's time, in microseconds.
const PERIOD_US: i64 = 5_000_000;

/// When to look.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// The time of the last command that was taken; `None` if that is not known.
    last_us: Option<i64>,
    /// What was found the last time.
    last: Option<Holding>,
    /// Whether anything was taken since.
    is_dirty: bool,
    /// Whether anything was taken since the last of the log's places.
    is_open: bool,
}

impl Checkpoints {
    /// Begins behind a command of that time.
    pub(super) fn begin(&mut self, last_us: Option<i64>) {
        (self.last_us, self.is_dirty, self.is_open) = (last_us, true, true);
    }

    /// Whether what is held is to be looked at before a command of that time is taken.
    pub(super) fn is_due(&self, next_us: i64) -> bool {
        let period = |time: i64| time.div_euclid(PERIOD_US);
        self.is_open && self.last_us.is_some_and(|last| period(last) != period(next_us))
    }

    /// A command of that time is taken.
    pub(super) fn took(&mut self, time_us: i64) {
        self.begin(Some(time_us));
    }

    /// Whether what is held is worth a look while there is nothing to do.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// What was found: to be told, unless it was. At one of the log's places it is told in any case: that nothing has
    /// changed may be what differs.
    pub(super) fn found(&mut self, held: Option<Holding>, is_place: bool) -> Option<Holding> {
        self.is_dirty = false;
        self.is_open &= !is_place;
        let news = held.filter(|held| is_place || self.last != Some(*held));
        self.last = held.or(self.last);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_look_at_the_same_places_wherever_they_began() {
        let times = [
            1,
            2,
            PERIOD_US - 1,
            PERIOD_US,
            PERIOD_US + 5,
            7 * PERIOD_US,
            7 * PERIOD_US + 1,
        ];
        let places = |from: usize| {
            let mut checkpoints = Checkpoints::default();
            checkpoints.begin(from.checked_sub(1).map(|last| times[last]));
            let mut places = Vec::new();
            for (place, time) in times.iter().enumerate().skip(from) {
                if checkpoints.is_due(*time) {
                    places.push(place);
                    let held = Holding {
                        position: place as u64,
                        digest: 1,
                    };
                    assert_eq!(checkpoints.found(Some(held), true), Some(held));
                    assert!(!checkpoints.is_due(*time));
                }
                checkpoints.took(*time);
            }
            places
        };
        assert_eq!(places(0), [3, 5]);
        for from in 1..times.len() {
            let expected: Vec<usize> = [3, 5].into_iter().filter(|place| *place >= from).collect();
            assert_eq!(places(from), expected, "from {from}");
        }
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let mut checkpoints = Checkpoints::default();
        let held = Some(Holding {
            position: 1,
            digest: 2,
        });
        assert!(!checkpoints.is_dirty());
        checkpoints.took(5);
        assert!(checkpoints.is_dirty());
        assert_eq!(checkpoints.found(held, false), held);
        checkpoints.took(6);
        assert_eq!(checkpoints.found(held, false), None);
        assert_eq!(checkpoints.found(None, false), None);
        assert_eq!(checkpoints.found(held, false), None);
        // A look at rest takes no place's turn, and there it is told though nothing is new.
        assert!(!checkpoints.is_dirty() && checkpoints.is_due(PERIOD_US));
        assert_eq!(checkpoints.found(held, true), held);
        assert!(!checkpoints.is_due(PERIOD_US));
    }
}
