//! On which nodes calls have failed of which some server alone says so: only a majority makes that the outcome.

use rtdb_consensus::Position;
use rtdb_consensus::command::TRAPPED_MAX;
use std::collections::{BTreeMap, BTreeSet};

/// Calls of which that is kept. The oldest go first: whoever waits for them hears that their outcome is unknown.
const KEPT_MAX: usize = 4096;

/// On which nodes a database's calls have failed.
#[derive(Debug, Default)]
pub(crate) struct Witnesses(BTreeMap<Position, BTreeSet<u64>>);

impl Witnesses {
    pub(crate) fn hear(&mut self, node: u64, positions: &[u64]) {
        for position in positions.iter().take(TRAPPED_MAX) {
            self.0.entry(Position(*position)).or_default().insert(node);
        }
        while self.0.len() > KEPT_MAX {
            self.0.pop_first();
        }
    }

    /// How many nodes have said that the call has failed.
    pub(crate) fn count(&self, position: Position) -> usize {
        self.0.get(&position).map_or(0, BTreeSet::len)
    }

    /// The calls of which others have said it, and `node` has not.
    pub(crate) fn asked(&self, node: u64) -> impl Iterator<Item = Position> {
        let unsaid = self.0.iter().filter(move |(_, nodes)| !nodes.contains(&node));
        unsaid.map(|(position, _)| *position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_once() {
        let mut witnesses = Witnesses::default();
        witnesses.hear(1, &[5, 6]);
        witnesses.hear(1, &[5]);
        witnesses.hear(2, &[5]);
        let counts = [5, 6, 7].map(|position| witnesses.count(Position(position)));
        assert_eq!(counts, [2, 1, 0]);
        assert_eq!(witnesses.asked(2).collect::<Vec<_>>(), [Position(6)]);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut witnesses = Witnesses::default();
        let all: Vec<u64> = (1..=KEPT_MAX as u64 + 1).collect();
        for some in all.chunks(TRAPPED_MAX) {
            witnesses.hear(1, some);
        }
        assert_eq!(
            (witnesses.count(Position(1)), witnesses.count(Position(2))),
            (0, 1)
        );
    }
}
