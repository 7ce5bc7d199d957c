//! For how long the disk has kept a node waiting, as far as the node was awake.

use std::time::Duration;

/// Looks at the disk every `step`.
///
/// A process that is stopped, or whose machine is, finds a long time gone by when it goes on, and what it had asked of the disk
/// yet to be taken note of: that is no fault of the disk. So each look counts no more than a look that comes late does.
#[derive(Debug)]
pub(super) struct Stall {
    step: Duration,
    waited: Duration,
}

/// How many steps of time a look may count for: a busy machine's looks come late.
const STEPS_A_LOOK_MAX: u32 = 2;

impl Stall {
    pub(super) fn new(step: Duration) -> Self {
        let waited = Duration::ZERO;
        Self { step, waited }
    }

    /// A look, `since_last` after the one before: the disk has been `busy` with one thing. For how long the node has waited for it.
    pub(super) fn look(&mut self, busy: Duration, since_last: Duration) -> Duration {
        if busy < since_last {
            // It has finished what it was busy with at the last look.
            self.waited = Duration::ZERO;
        }
        let since = busy.min(since_last).min(self.step * STEPS_A_LOOK_MAX);
        // What it is busy with may be another thing, which has begun before that one was finished.
        self.waited = (self.waited + since).min(busy);
        self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(1);
    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_disk_that_hangs_is_waited_for_as_long_as_it_does() {
        let mut stall = Stall::new(STEP);
        let waited: Vec<Duration> = (0..5).map(|look| stall.look(S(look), STEP)).collect();
        assert_eq!(waited, [S(0), S(1), S(2), S(3), S(4)]);
    }

    #[test]
    fn one_that_finishes_is_waited_for_anew() {
        let mut stall = Stall::new(STEP);
        let half = STEP / 2;
        stall.look(S(1), STEP);
        assert_eq!(stall.look(S(2), STEP), S(2));
        assert_eq!(stall.look(half, STEP), half);
        assert_eq!(stall.look(S(0), STEP), S(0));
        assert_eq!(stall.look(half, STEP), half);
    }

    /// Reads that others follow before they have ended.
    #[test]
    fn of_what_overlaps_each_is_waited_for_by_itself() {
        let mut stall = Stall::new(STEP);
        let waited: Vec<_> = (1..9).map(|_| stall.look(STEP * 3 / 2, STEP)).collect();
        assert!(waited.iter().all(|waited| *waited <= STEP * 3 / 2), "{waited:?}");
    }

    #[test]
    fn what_passes_while_the_node_stands_still_does_not_count() {
        let mut stall = Stall::new(STEP);
        stall.look(STEP / 2, STEP);
        assert_eq!(stall.look(S(20), S(20)), STEP / 2 + 2 * STEP);
        // And it has hardly begun before that.
        let mut stall = Stall::new(STEP);
        assert_eq!(stall.look(S(19), S(20)), 2 * STEP);
        // It does hang.
        assert_eq!(stall.look(S(20), STEP), 3 * STEP);
    }
}
