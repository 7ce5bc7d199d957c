//! Who asks to succeed a leader whose process is gone, when, and what is enough.

use std::collections::BTreeSet;
use std::time::Duration;

/// Rounds of turns. After them the election timeout decides, as it always does.
const ROUNDS_MAX: u32 = 3;

/// A node's turns to ask: one at a time does, in an order that all know, so that they don't stand against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turns {
    place: u32,
    heirs: u32,
    step: Duration,
}

impl Turns {
    /// Those of node `me` among the voters, a `step` for each, when `leader` is gone. Who is fit comes first, then who has
    /// the higher id: of two that stand in one term all the same, that one is elected. `None` if `me` is no voter.
    pub(super) fn new(
        me: u64,
        leader: u64,
        voters: &BTreeSet<u64>,
        is_fit: impl Fn(u64) -> bool,
        step: Duration,
    ) -> Option<Self> {
        let heirs = voters.iter().rev().filter(|node| **node != leader);
        let (fit, unfit): (Vec<u64>, Vec<u64>) = heirs.partition(|node| is_fit(**node));
        let place = fit.iter().chain(&unfit).position(|node| *node == me)?;
        Some(Self {
            place: place as u32,
            heirs: (fit.len() + unfit.len()) as u32,
            step,
        })
    }

    /// When they come, from when the leader was seen to be gone.
    pub(super) fn times(self) -> impl Iterator<Item = Duration> {
        (0..ROUNDS_MAX).map(move |round| self.step * (round * self.heirs + self.place))
    }
}

/// Whether those who agree are a majority of each set of voters.
pub(super) fn is_majority(sets: &[BTreeSet<u64>], agreed: &BTreeSet<u64>) -> bool {
    sets.iter()
        .all(|voters| voters.intersection(agreed).count() > voters.len() / 2)
}

/// Whether a leader lives after all: whether it was heard later than it was seen to be gone, by more than messages take that
/// were on their way. The times are how long ago.
pub(super) fn is_refuted(gone: Duration, heard: Duration, grace: Duration) -> bool {
    heard + grace < gone
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(50);

    fn times(me: u64, leader: u64, voters: &[u64], unfit: &[u64]) -> Option<Vec<u128>> {
        let voters = voters.iter().copied().collect();
        let turns = Turns::new(me, leader, &voters, |node| !unfit.contains(&node), STEP)?;
        Some(turns.times().map(|time| time.as_millis()).collect())
    }

    #[test]
    fn heirs_take_turns_which_come_to_an_end() {
        assert_eq!(times(3, 1, &[1, 2, 3], &[]), Some(vec![0, 100, 200]));
        assert_eq!(times(2, 1, &[1, 2, 3], &[]), Some(vec![50, 150, 250]));
        assert_eq!(times(4, 5, &[1, 2, 3, 4, 5], &[]), Some(vec![0, 200, 400]));
        assert_eq!(times(1, 5, &[1, 2, 3, 4, 5], &[]), Some(vec![150, 350, 550]));
        assert_eq!(times(2, 1, &[1, 2, 3], &[3]), Some(vec![0, 100, 200]));
        assert_eq!(times(3, 1, &[1, 2, 3], &[3]), Some(vec![50, 150, 250]));
        assert_eq!(times(3, 1, &[1, 2, 3], &[2, 3]), Some(vec![0, 100, 200]));
        assert_eq!(times(4, 1, &[1, 2, 3], &[]), None);
        assert_eq!(times(1, 1, &[1, 2, 3], &[]), None);
    }

    #[test]
    fn a_majority_of_all_sets_must_agree() {
        let set = |nodes: &[u64]| nodes.iter().copied().collect::<BTreeSet<u64>>();
        let agree = |sets: &[&[u64]], agreed: &[u64]| {
            let sets: Vec<_> = sets.iter().map(|nodes| set(nodes)).collect();
            is_majority(&sets, &set(agreed))
        };
        assert!(agree(&[&[1, 2, 3]], &[2, 3]) && agree(&[&[1]], &[1]));
        assert!(!agree(&[&[1, 2, 3]], &[3]) && !agree(&[&[1, 2]], &[2]));
        assert!(!agree(&[&[1, 2, 3, 4]], &[3, 4]));
        assert!(!agree(&[&[1, 2, 3]], &[3, 4, 5]), "learners have no say");
        assert!(!agree(&[&[1, 2, 3], &[3, 4, 5]], &[2, 3]));
        assert!(agree(&[&[1, 2, 3], &[3, 4, 5]], &[2, 3, 4]));
    }

    #[test]
    fn a_leader_that_is_still_heard_lives() {
        let ms = Duration::from_millis;
        assert!(!is_refuted(ms(0), ms(30), ms(150)), "it was heard before");
        assert!(!is_refuted(ms(100), ms(0), ms(150)), "that was on its way");
        assert!(is_refuted(ms(200), ms(0), ms(150)));
    }
}
