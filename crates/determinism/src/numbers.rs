//! Where the generated columns of a database stand that comes from elsewhere.

use crate::Module;
use crate::hidden::STATE_PAIRS;
use crate::plan;
use crate::state_row::StateRow;

/// The rows of ours that a database begins with whose generated columns have given out numbers before.
#[derive(Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The row of `rtdb_state`.
    pub state: StateRow,
    /// The row of `rtdb_sequence`, in BSATN, if there are more of them than that has room for.
    pub sequence: Option<Vec<u8>>,
}

/// `next` says which number comes next in a column of a table, by the name that SQL knows it by; `None` for one that begins.
pub fn numbers(module: &Module, next: impl Fn(&str, u16) -> Option<i64>) -> Numbers {
    let columns = module.tables().iter().flat_map(|table| {
        let columns = table.auto_inc.iter().copied();
        columns.map(move |column| (table, column))
    });
    let mut pairs = columns.filter_map(|(table, column)| {
        let name = table.columns.get(usize::from(column))?;
        let key = plan::key(&table.name, name);
        Some((key, next(&table.name, column)?))
    });
    let state = StateRow::fresh().with_pairs(pairs.by_ref().take(STATE_PAIRS));
    let more: Vec<u8> = pairs
        .flat_map(|(key, next)| [key.to_le_bytes(), next.to_le_bytes()].concat())
        .collect();
    let sequence = (!more.is_empty()).then(|| [&[0][..], &(more.len() as u32).to_le_bytes(), &more].concat());
    Numbers { state, sequence }
}
