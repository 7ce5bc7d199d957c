//! What the shim must know of a module: its tables, and the columns that the database would number.

use spacetimedb_lib::db::raw_def::v9::RawSequenceDefV9;
use spacetimedb_lib::db::raw_def::v10::RawSequenceDefV10;
use spacetimedb_sats::{AlgebraicType, ProductType, Typespace};

use crate::PrepareError;
use crate::order::{Indexes, Order, Sorting};
use crate::shape::{Shape, scalar_bytes};

/// The most generated columns of a module. The database has room for the numbers of twice as many, because columns of
/// earlier versions keep theirs.
pub(crate) const SEQUENCES_MAX: usize = 512;

/// The most numbers that are looked at, one after the other, for one that is not taken: all that 16 bits hold.
pub(crate) const TRIES_MAX: u32 = 1 << 16;

/// A module, as the shim sees it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The rewritten definition in BSATN.
    pub(crate) def: Vec<u8>,
    /// Whether the module is of SpacetimeDB 2.x.
    pub(crate) since_2: bool,
    /// How many reducers the module has itself. The hidden ones follow, as `hidden` has them.
    pub(crate) reducers: u32,
    /// The reducer that fills a new database.
    pub(crate) init: Option<u32>,
    /// The reducer that a client's departure calls.
    pub(crate) client_disconnected: Option<u32>,
    /// The names by which the module's reducers can be called at once, by id, and its procedures.
    pub(crate) names: [Vec<String>; 2],
    /// Whether the last one of the tables and of the schedules is that of [`IMMEDIATE`](crate::hidden::IMMEDIATE), and none of the
    /// module's.
    pub(crate) immediate: bool,
    /// The tables, in the definition's order.
    pub(crate) tables: Vec<TablePlan>,
    /// The schedules, in the order of [`Module::schedules`](crate::Module::schedules).
    pub(crate) schedules: Vec<SchedulePlan>,
    /// The views; `None` if the definition can't have any.
    pub(crate) views: Option<Vec<ViewPlan>>,
    /// How many procedures the module has itself. The hidden ones follow, as `hidden` has them, if it has any or HTTP handlers.
    pub(crate) procedures: u32,
    /// What the module's HTTP handlers are known by, if it has any.
    pub(crate) handlers: Option<u64>,
}

/// A table whose rows are calls that fall due.
#[derive(Debug)]
pub(crate) struct SchedulePlan {
    /// The table's place.
    pub(crate) table: usize,
    /// The place among the table's indexes of the primary key's.
    pub(crate) index: usize,
    /// What is called.
    pub(crate) called: Called,
    /// What stands in a row before the column that says when.
    pub(crate) before: Shape,
}

/// What a row that is due calls, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    Reducer(u32),
    Procedure(u32),
    /// The reducer that the row names.
    Named,
}

/// A view.
#[derive(Debug)]
pub(crate) struct ViewPlan {
    /// Whether it does not know its sender. Those that do not are counted apart.
    pub(crate) anonymous: bool,
    /// The number by which the host calls it.
    pub(crate) id: u32,
    /// The name of the index of its rows by sender.
    pub(crate) index: String,
    /// A row, as the module returns it.
    pub(crate) row: Shape,
}

/// A table.
#[derive(Debug)]
pub(crate) struct TablePlan {
    /// The name by which the module finds it.
    pub(crate) name: String,
    /// How to walk over a row up to its last generated column; empty if there is none.
    pub(crate) steps: Vec<Step>,
    /// In which order the module sees its rows.
    pub(crate) order: Order,
}

/// A part of a row.
#[derive(Debug)]
pub(crate) enum Step {
    /// Not generated.
    Skip(Shape),
    /// An integer that is generated if it is 0.
    Generate(Sequence),
}

/// The numbers of a generated column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// The column among all of the module's generated columns, now and after updates.
    pub(crate) key: u64,
    /// The key under which an earlier version of this program has kept the number; 0 for none.
    pub(crate) former_key: u64,
    /// The place among the table's indexes of the one that knows which numbers are taken. Without it, any number is good.
    pub(crate) index: Option<usize>,
    /// The column's length in bytes.
    pub(crate) bytes: u32,
    /// The first number.
    pub(crate) start: i64,
    /// The step, not 0.
    pub(crate) increment: i64,
    /// The last number that can be stepped from without leaving the bounds.
    pub(crate) last: i64,
    /// What to add beyond it, in place of the step.
    pub(crate) wrap: i64,
    /// After so many numbers it begins anew, as far as the column can tell; at most [`TRIES_MAX`].
    pub(crate) tries: u32,
}

/// A sequence as the definitions of both versions hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawSequence {
    pub(crate) column: u16,
    pub(crate) start: Option<i128>,
    pub(crate) min: Option<i128>,
    pub(crate) max: Option<i128>,
    pub(crate) increment: i128,
}

impl RawSequence {
    pub(crate) fn of_v9(it: &RawSequenceDefV9) -> Self {
        let &RawSequenceDefV9 {
            ref column,
            start,
            min_value: min,
            max_value: max,
            increment,
            ..
        } = it;
        Self {
            column: column.0,
            start,
            min,
            max,
            increment,
        }
    }

    pub(crate) fn of_v10(it: &RawSequenceDefV10) -> Self {
        let &RawSequenceDefV10 {
            ref column,
            start,
            min_value: min,
            max_value: max,
            increment,
            ..
        } = it;
        Self {
            column: column.0,
            start,
            min,
            max,
            increment,
        }
    }
}

impl Plan {
    /// Whether something runs as procedures do.
    pub(crate) fn runs_procedures(&self) -> bool {
        self.procedures > 0 || self.handlers.is_some()
    }

    /// How many schedules the module has itself.
    pub(crate) fn own_schedules(&self) -> u32 {
        (self.schedules.len() - usize::from(self.immediate)) as u32
    }

    /// All generated columns, in the order of their tables.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.tables.iter().flat_map(TablePlan::sequences)
    }

    /// All ways of sorting, in the order of their tables: of the whole table, then of its indexes.
    pub(crate) fn sortings(&self) -> impl Iterator<Item = &Sorting> {
        self.tables.iter().flat_map(|table| {
            let indexes = table
                .order
                .indexes
                .iter()
                .filter_map(|index| index.sorting.as_ref());
            table.order.scan.iter().chain(indexes)
        })
    }

    /// Refuses too many generated columns, and two with one key: astronomically unlikely by accident. What was kept under
    /// a key that is another column's by now is that column's.
    pub(crate) fn check_sequences(&mut self) -> Result<(), PrepareError> {
        let mut keys: Vec<_> = self.sequences().map(|sequence| sequence.key).collect();
        let columns = keys.len() - usize::from(self.immediate);
        if columns > SEQUENCES_MAX {
            return Err(PrepareError::TooManySequences {
                columns,
                max: SEQUENCES_MAX,
            });
        }
        keys.sort_unstable();
        let steps = self.tables.iter_mut().flat_map(|table| &mut table.steps);
        for step in steps {
            if let Step::Generate(sequence) = step
                && keys.binary_search(&sequence.former_key).is_ok()
            {
                sequence.former_key = 0;
            }
        }
        match keys.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(PrepareError::Definition(
                "two generated columns share a name".into(),
            )),
            false => Ok(()),
        }
    }
}

/// The names of a table or of a column.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    /// In the module's source.
    pub(crate) source: String,
    /// By which the database knows it, whatever the source calls it.
    pub(crate) canonical: String,
}

impl Named {
    /// Both names in one.
    pub(crate) fn plain(name: &str) -> Self {
        Self {
            source: name.to_owned(),
            canonical: name.to_owned(),
        }
    }
}

impl TablePlan {
    /// Its generated columns.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.steps.iter().filter_map(|step| match step {
            Step::Generate(sequence) => Some(sequence),
            Step::Skip(_) => None,
        })
    }

    pub(crate) fn new(
        table: &Named,
        column_named: impl Fn(&str) -> Named,
        row: &ProductType,
        types: &Typespace,
        sequences: &[RawSequence],
        indexes: &Indexes,
    ) -> Result<Self, PrepareError> {
        let name = table.source.as_str();
        let generated = |column: usize| {
            sequences
                .iter()
                .find(|sequence| usize::from(sequence.column) == column)
        };
        let last = sequences
            .iter()
            .map(|sequence| usize::from(sequence.column))
            .max();
        let walked = last.map_or(0, |last| last + 1);
        if walked > row.elements.len() {
            return Err(PrepareError::Definition(format!(
                "table `{name}` has a sequence on a column it lacks"
            )));
        }
        let mut steps = Vec::with_capacity(walked);
        for (at, column) in row.elements[..walked].iter().enumerate() {
            let column_name = column
                .name()
                .map_or_else(|| at.to_string(), |name| name.to_string());
            let column_type = &column.algebraic_type;
            steps.push(match generated(at) {
                Some(raw) => {
                    let index = indexes.of_unique(raw.column);
                    Step::Generate(sequence(
                        table,
                        &column_named(&column_name),
                        column_type,
                        raw,
                        index,
                    )?)
                }
                None => Step::Skip(Shape::of(column_type, types).ok_or_else(|| {
                    PrepareError::Unwalkable {
                        table: name.to_owned(),
                        column: sequences
                            .iter()
                            .map(|raw| raw.column)
                            .filter(|&next| usize::from(next) > at)
                            .min()
                            .and_then(|next| {
                                row.elements[usize::from(next)]
                                    .name()
                                    .map(|name| name.to_string())
                            })
                            .unwrap_or(column_name),
                    }
                })?),
            });
        }
        Ok(Self {
            name: name.to_owned(),
            steps,
            order: indexes.order(name, row, types)?,
        })
    }
}

/// The host's sequences (SpacetimeDB 1.2.0 and 2.8.3, `locking_tx_datastore/sequence.rs`) count in 128 bits from 1
/// unless told otherwise. We count in 64: no table outgrows that.
fn sequence(
    table: &Named,
    column: &Named,
    ty: &AlgebraicType,
    raw: &RawSequence,
    index: Option<usize>,
) -> Result<Sequence, PrepareError> {
    let refused = || PrepareError::Sequence {
        table: table.source.clone(),
        column: column.source.clone(),
    };
    let bytes = scalar_bytes(ty).filter(|_| ty.is_integer()).ok_or_else(refused)?;
    let (min, start) = (raw.min.unwrap_or(1), raw.start.unwrap_or(1));
    let max = raw.max.unwrap_or(i128::from(i64::MAX));
    let [min64, max64, start, increment] = narrow([min, max, start, raw.increment]).ok_or_else(refused)?;
    let count = max - min + 1;
    if min64 > start || start > max64 || increment == 0 || i128::from(increment.unsigned_abs()) >= count {
        return Err(refused());
    }
    let (last, wrap) = match increment > 0 {
        true => (max64 - increment, raw.increment - count),
        false => (min64 - increment, raw.increment + count),
    };
    let (key, former_key) = (
        key(&table.canonical, &column.canonical),
        key(&table.source, &column.source),
    );
    let representable = 1_i128 << (8 * bytes.min(8));
    Ok(Sequence {
        key,
        former_key: if former_key == key { 0 } else { former_key },
        index,
        tries: count.min(representable).min(TRIES_MAX.into()) as u32,
        bytes,
        start,
        increment,
        last,
        wrap: wrap as i64,
    })
}

fn narrow<const N: usize>(values: [i128; N]) -> Option<[i64; N]> {
    let mut narrow = [0; N];
    for (to, from) in narrow.iter_mut().zip(values) {
        *to = i64::try_from(from).ok()?;
    }
    Some(narrow)
}

/// Names a column in 64 bits, the same in every build: FNV-1a over `table.column`. Never 0, which is no column.
pub(crate) fn key(table: &str, column: &str) -> u64 {
    let bytes = table.bytes().chain([b'.']).chain(column.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}
