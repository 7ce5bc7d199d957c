//! Which of the calls whose results were lost have failed: pure.

use rtdb_consensus::Position;
use rtdb_determinism::header::success_mark;
use std::collections::HashMap;

/// Sums that are tried at most, before the outcomes count as unknown.
const TRIES_MAX: u64 = 4_000_000;

/// The sum of the marks of the calls that are part of the database: every one that succeeds adds its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Successes(pub(super) u64);

impl Successes {
    pub(super) fn add(&mut self, position: Position) {
        self.0 = self.0.wrapping_add(success_mark(position.0));
    }

    /// Which of the calls at `ran` failed, given the sum after them; `None` if it can't be said.
    pub(super) fn failures(self, ran: &[Position], after: Self) -> Option<Vec<Position>> {
        let mut all = self;
        ran.iter().for_each(|position| all.add(*position));
        let missing = all.0.wrapping_sub(after.0);
        let marks: Vec<u64> = ran.iter().map(|position| success_mark(position.0)).collect();
        let places = marks
            .iter()
            .enumerate()
            .map(|(place, mark)| (*mark, place))
            .collect();
        // The last mark of a sum is looked up, so that each further failure multiplies the tries by the number of calls.
        let tries = |failures: u32| (ran.len() as u64).saturating_pow(failures.saturating_sub(1));
        (0..=ran.len() as u32)
            .take_while(|failures| tries(*failures) <= TRIES_MAX)
            .find_map(|failures| find(&marks, &places, missing, failures, 0))
            .map(|places| places.into_iter().map(|place| ran[place]).collect())
    }
}

/// `count` marks, from place `from` on, whose sum is `sum`.
fn find(
    marks: &[u64],
    places: &HashMap<u64, usize>,
    sum: u64,
    count: u32,
    from: usize,
) -> Option<Vec<usize>> {
    match count {
        0 => (sum == 0).then(Vec::new),
        1 => places
            .get(&sum)
            .filter(|place| **place >= from)
            .map(|place| vec![*place]),
        _ => (from..marks.len()).find_map(|place| {
            let mut found = find(
                marks,
                places,
                sum.wrapping_sub(marks[place]),
                count - 1,
                place + 1,
            )?;
            found.push(place);
            Some(found)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    fn positions(count: u64) -> Vec<Position> {
        // As they stand in a log: some in one entry, some in the next.
        (0..count)
            .map(|n| Position::new(7 + n / 5, (n % 5) as usize))
            .collect()
    }

    fn after(ran: &[Position], failed: &[Position]) -> Successes {
        let mut sum = Successes(42);
        ran.iter()
            .filter(|position| !failed.contains(position))
            .for_each(|position| sum.add(*position));
        sum
    }

    proptest! {
        #[test]
        fn the_failures_are_found(failed in subsequence(positions(30), 0..5)) {
            let ran = positions(30);
            let mut found = Successes(42).failures(&ran, after(&ran, &failed)).unwrap();
            found.sort();
            prop_assert_eq!(found, failed);
        }
    }

    #[test]
    fn too_many_failures_are_not_looked_for() {
        let ran = positions(4_000);
        assert_eq!(
            Successes(42).failures(&ran, after(&ran, &ran[7..9])),
            Some(vec![ran[8], ran[7]])
        );
        assert_eq!(Successes(42).failures(&ran, after(&ran, &ran[7..20])), None);
    }

    #[test]
    fn a_sum_of_something_else_is_no_answer() {
        assert_eq!(Successes(42).failures(&positions(10), Successes(7)), None);
    }
}
