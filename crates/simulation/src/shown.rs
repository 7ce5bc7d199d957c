//! What subscribers may be shown: of each position, what each query shows there, as a sum over the rows.

use crate::module::QUERIES;
use crate::spacetime::query::Query;
use rtdb_consensus::Position;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::LazyLock;

/// Of each query, the sum of the hashes of the rows that it shows.
pub type Sums = [u64; QUERIES.len()];

/// Some of the queries: a bit for each.
pub type Mask = usize;

/// The queries, read.
pub fn queries() -> &'static [Query] {
    static READ: LazyLock<Vec<Query>> = LazyLock::new(|| {
        let read = QUERIES.iter().map(|query| Query::parse(query));
        read.collect::<Result<_, _>>()
            .expect("queries that the model knows")
    });
    &READ
}

/// A row's part in a sum.
pub fn hash_of(row: &[u8]) -> u64 {
    // Its keys are always the same.
    BuildHasherDefault::<DefaultHasher>::default().hash_one(row)
}

/// What some of the queries show together.
fn together(mask: Mask, sums: &Sums) -> u64 {
    let sums = sums.iter().enumerate();
    let shown = sums.filter(|(query, _)| mask >> query & 1 == 1);
    shown.fold(0, |sum, (_, of_one)| sum.wrapping_add(*of_one))
}

/// What there was to be seen.
#[derive(Debug, Default)]
pub struct Shown(BTreeMap<Position, Sums>);

impl Shown {
    /// What a database shows that has come to a position, where none was before.
    pub fn record(&mut self, position: Position, sums: Sums) {
        self.0.insert(position, sums);
    }

    /// The first position, from one on, at which queries together show this.
    pub fn find(&self, mask: Mask, sum: u64, from: Position) -> Option<Position> {
        let mut later = self.0.range(from..);
        let found = later.find(|(_, sums)| together(mask, sums) == sum);
        found.map(|(position, _)| *position)
    }

    /// Whether that is what there is at a position.
    pub fn is_at(&self, mask: Mask, sum: u64, position: Position) -> bool {
        let sums = self.0.get(&position);
        sums.is_some_and(|sums| together(mask, sums) == sum)
    }

    /// Whether that is what there is in the end.
    pub fn is_last(&self, mask: Mask, sum: u64) -> bool {
        let last = self.0.last_key_value();
        last.is_some_and(|(_, sums)| together(mask, sums) == sum)
    }
}
