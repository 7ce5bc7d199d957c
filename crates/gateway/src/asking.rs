//! What is asked of all replicas for those who wait here: what came of calls with keys. Many questions go together.

use crate::limits::FIRST_ASK;
use rtdb_consensus::Position;
use rtdb_consensus::command::{OUTCOMES_MAX, Outcomes};
use rtdb_runtime::Instant;
use spacetimedb_lib::Identity;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Databases that are asked about at one time. Who waits for another one asks again.
const DATABASES_MAX: usize = 64;

/// The questions of a node.
#[derive(Default)]
pub(crate) struct Asking(Mutex<Wanted>);

#[derive(Default)]
struct Wanted {
    positions: BTreeMap<Identity, BTreeSet<u64>>,
    asked: Option<Instant>,
}

impl Asking {
    /// Takes a question, and gives all that there are, if it is time to ask.
    pub(crate) fn ask(&self, database: &Identity, position: Position, now: Instant) -> Vec<Outcomes> {
        let mut it = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if it.positions.contains_key(database) || it.positions.len() < DATABASES_MAX {
            let wanted = it.positions.entry(*database).or_default();
            if wanted.len() < OUTCOMES_MAX {
                wanted.insert(position.0);
            }
        }
        if it.asked.is_some_and(|asked| now - asked < FIRST_ASK) {
            return Vec::new();
        }
        it.asked = Some(now);
        let questions = std::mem::take(&mut it.positions).into_iter();
        let question = |(database, wanted): (Identity, BTreeSet<u64>)| Outcomes {
            database: database.to_byte_array().to_vec().into(),
            wanted: wanted.into_iter().collect(),
            ..Outcomes::default()
        };
        questions.map(question).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_questions_go_together_and_not_often() {
        let (asking, now) = (Asking::default(), Instant::now());
        let database = Identity::ONE;
        let first = asking.ask(&database, Position(1), now);
        assert_eq!(
            first.iter().map(|it| it.wanted.clone()).collect::<Vec<_>>(),
            [[1]]
        );
        for position in 0..2 * OUTCOMES_MAX as u64 {
            assert_eq!(asking.ask(&database, Position(position), now), []);
        }
        for number in 0..2 * DATABASES_MAX as u64 {
            let other = Identity::from_u256(number.into());
            assert_eq!(asking.ask(&other, Position(7), now), []);
        }
        let all = asking.ask(&database, Position(1), now + FIRST_ASK);
        assert_eq!(all.len(), DATABASES_MAX);
        assert!(all.iter().any(|it| it.wanted.len() == OUTCOMES_MAX));
        assert_eq!(asking.ask(&database, Position(1), now + FIRST_ASK), []);
    }
}
