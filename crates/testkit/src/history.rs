//! What clients were told, held against what is in the tables.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::demo_module::Added;

/// What a client knows of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Answered with success.
    Acknowledged,
    /// Answered with an error.
    Refused,
    /// Its connection broke before an answer: applied once, or not at all.
    Unknown,
}

/// One call of [`crate::demo_module::ADD`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The client's name for the connection it was made on; calls of one connection take effect in their order.
    pub name: String,
    /// The call's number, unique with `name`.
    pub number: i64,
    /// Called with an empty name, which the module refuses.
    pub invalid: bool,
    /// What came of it.
    pub fate: Fate,
}

/// Everything one client did.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order they were made.
    pub calls: Vec<Call>,
    /// From the sending of each answered call to its answer.
    pub latencies: Vec<Duration>,
    /// The longest time without an answer while answers were due.
    pub longest_gap: Duration,
    /// The node it began with, from 0.
    pub home: usize,
    /// How often it had to connect again.
    pub reconnects: u32,
    /// How each of its broken connections ended.
    pub ends: Vec<String>,
    /// Rows of its own calls that came without the call's answer.
    pub rows_apart: usize,
    /// Answers that came without the row that the call added.
    pub rows_missing: usize,
    /// Answers that were not as they should be; empty if all is well.
    pub wrong: Vec<String>,
}

/// What a set of histories comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Calls answered with success.
    pub acknowledged: usize,
    /// Calls that the module refused, as it should.
    pub refused: usize,
    /// Calls that were answered with an error but should have succeeded.
    pub failed: usize,
    /// Calls without an answer.
    pub unknown: usize,
    /// Those of them that were applied.
    pub unknown_applied: usize,
    /// Acknowledged calls whose row is missing.
    pub lost: usize,
    /// Calls whose row is there more than once.
    pub applied_twice: usize,
    /// Rows of calls that were answered with an error, or that nobody made.
    pub unaccountable: usize,
    /// Rows that stand before a row of an earlier call of the same connection.
    pub out_of_order: usize,
    /// Answers that were not as they should be.
    pub wrong: usize,
}

impl Verdict {
    /// Whether everything held that must always hold.
    pub fn holds(&self) -> bool {
        let Self {
            failed,
            lost,
            applied_twice,
            unaccountable,
            out_of_order,
            wrong,
            ..
        } = self;
        [failed, lost, applied_twice, unaccountable, out_of_order, wrong]
            .iter()
            .all(|&&count| count == 0)
    }
}

/// Answers that were not as they should be. Over a whole connection each row has come once, with its answer or apart.
fn wrong(history: &History) -> usize {
    let unbalanced = history.reconnects == 0 && history.rows_apart != history.rows_missing;
    history.wrong.len() + usize::from(unbalanced)
}

/// Holds `histories` against `rows`, which are in the order they were applied.
pub fn check(histories: &[History], rows: &[Added]) -> Verdict {
    let mut verdict = Verdict {
        wrong: histories.iter().map(wrong).sum(),
        ..Verdict::default()
    };
    let mut applied: HashMap<(&str, i64), usize> = HashMap::new();
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    for row in rows {
        *applied.entry((&row.name, row.value)).or_default() += 1;
        let newest = newest.entry(&row.name).or_insert(row.value);
        verdict.out_of_order += usize::from(row.value < *newest);
        *newest = row.value.max(*newest);
    }
    for call in histories.iter().flat_map(|history| &history.calls) {
        let times = applied.remove(&(call.name.as_str(), call.number)).unwrap_or(0);
        verdict.applied_twice += usize::from(times > 1);
        match (call.fate, call.invalid) {
            (Fate::Acknowledged, false) => {
                verdict.acknowledged += 1;
                verdict.lost += usize::from(times == 0);
            }
            (Fate::Refused, true) => verdict.refused += 1,
            (Fate::Refused, false) => {
                verdict.failed += 1;
                verdict.unaccountable += times;
            }
            (Fate::Acknowledged, true) => verdict.wrong += 1,
            (Fate::Unknown, _) => {
                verdict.unknown += 1;
                verdict.unknown_applied += usize::from(times > 0);
            }
        }
    }
    verdict.unaccountable += applied.into_values().sum::<usize>();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: i64, fate: Fate) -> Call {
        Call {
            name: "c".to_string(),
            number,
            invalid: false,
            fate,
        }
    }

    fn rows(values: &[i64]) -> Vec<Added> {
        (1..)
            .zip(values)
            .map(|(id, &value)| Added {
                id,
                name: "c".to_string(),
                value,
            })
            .collect()
    }

    fn verdict(calls: Vec<Call>, values: &[i64]) -> Verdict {
        check(
            &[History {
                calls,
                ..History::default()
            }],
            &rows(values),
        )
    }

    #[test]
    fn a_call_without_an_answer_may_be_applied_or_not() {
        let calls = vec![
            call(1, Fate::Acknowledged),
            call(2, Fate::Unknown),
            call(3, Fate::Unknown),
        ];
        let verdict = verdict(calls, &[1, 2]);
        assert!(verdict.holds());
        assert_eq!(
            (verdict.acknowledged, verdict.unknown, verdict.unknown_applied),
            (1, 2, 1)
        );
    }

    #[test]
    fn lost_doubled_reordered_and_foreign_rows_are_found() {
        let calls = || {
            vec![
                call(1, Fate::Acknowledged),
                call(2, Fate::Acknowledged),
                call(3, Fate::Unknown),
            ]
        };
        assert_eq!(verdict(calls(), &[1]).lost, 1);
        assert_eq!(verdict(calls(), &[1, 2, 3, 3]).applied_twice, 1);
        assert_eq!(verdict(calls(), &[2, 1]).out_of_order, 1);
        assert_eq!(verdict(calls(), &[1, 2, 9]).unaccountable, 1);
        assert_eq!(verdict(vec![call(1, Fate::Refused)], &[1]).unaccountable, 1);
    }
}
