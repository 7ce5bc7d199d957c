//! The row of `rtdb_state`, as it travels with a database's other rows.

use crate::hidden::STATE_PAIRS;
use crate::successes::Successes;

/// Where its columns stand, in bytes.
const INDEX_AT: usize = 1;
const DIGEST_AT: usize = 9;
const MODULE_AT: usize = 17;
const NUMBERS_END: usize = 25;

const PAIRS_AT: usize = NUMBERS_END + Successes::COLUMNS.len() * size_of::<u128>();

/// The bytes of a row.
const LEN: usize = NUMBERS_END + (Successes::COLUMNS.len() + STATE_PAIRS) * size_of::<u128>();

/// The row of `rtdb_state`, in BSATN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateRow([u8; LEN]);

impl StateRow {
    /// Reads one; `None` if that is none.
    pub fn read(row: &[u8]) -> Option<Self> {
        row.try_into().ok().map(Self)
    }

    /// That of a database to which nothing was done yet.
    pub fn fresh() -> Self {
        Self([0; LEN])
    }

    /// The position of the last command that is part of the database.
    pub fn index(&self) -> u64 {
        self.number(INDEX_AT)
    }

    /// The digest of what was written.
    pub fn digest(&self) -> u64 {
        self.number(DIGEST_AT)
    }

    /// The position of the running module's publication.
    pub fn module(&self) -> u64 {
        self.number(MODULE_AT)
    }

    /// The same database in another log: there its rows and its module are of these positions.
    pub fn moved(mut self, index: u64, module: u64) -> Self {
        self.set(INDEX_AT, index);
        self.set(MODULE_AT, module);
        self
    }

    /// With these pairs of a generated column's key and the number that comes next there, as many as there is room for.
    pub(crate) fn with_pairs(mut self, pairs: impl Iterator<Item = (u64, i64)>) -> Self {
        for (nth, (key, next)) in pairs.take(STATE_PAIRS).enumerate() {
            let at = PAIRS_AT + nth * size_of::<u128>();
            self.set(at, key);
            self.set(at + size_of::<u64>(), next.cast_unsigned());
        }
        self
    }

    /// In BSATN.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn number(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().map(u64::from_le_bytes).unwrap_or_default()
    }

    fn set(&mut self, at: usize, number: u64) {
        if let Some(bytes) = self.0.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *bytes = number.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hidden::STATE;
    use spacetimedb_sats::{AlgebraicType, AlgebraicValue, bsatn};

    #[test]
    fn its_columns_stand_where_the_table_has_them() {
        let columns = (STATE.row)();
        let values = columns
            .elements
            .iter()
            .zip(1..)
            .map(|(column, nth)| match column.algebraic_type {
                AlgebraicType::U8 => AlgebraicValue::U8(nth as u8),
                AlgebraicType::U64 => AlgebraicValue::U64(nth),
                _ => AlgebraicValue::U128(u128::from(nth).into()),
            });
        let row = AlgebraicValue::product(values.collect::<Vec<_>>());
        let row = StateRow::read(&bsatn::to_vec(&row).unwrap()).unwrap();
        assert_eq!((row.index(), row.digest(), row.module()), (2, 3, 4));
        let moved = row.moved(70, 60);
        assert_eq!((moved.index(), moved.digest(), moved.module()), (70, 3, 60));
        assert_eq!(moved.bytes()[NUMBERS_END..], row.bytes()[NUMBERS_END..]);
        assert_eq!(StateRow::read(&row.bytes()[1..]), None);
    }
}
