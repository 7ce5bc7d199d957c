//! The shim's data. What host functions see of it stands in the [window](super::window) at the same offsets.

use super::{names, timers};
use crate::claims::CLAIMS_BYTES_MAX;
use crate::hidden::{self, NOW, OUTBOX, SEQUENCE, SESSION, STATE, STATE_PAIRS, VERDICT};
use crate::plan::{Plan, SEQUENCES_MAX};
use crate::successes::SUMS;
use crate::{CONFLICT, IMMEDIATE_ARGS_BYTES_MAX, NOT_DUE, PrepareError, SKIPPED, TAKEN};

/// The call header.
pub(super) const HEADER: u32 = 0;
/// Where host functions take a length and leave one.
pub(super) const LEN: u32 = 72;
/// Where host functions leave a handle, an id or a count.
pub(super) const OUT: u32 = 80;
/// The columns of the row of `rtdb_session`.
pub(super) const RECEIPT: u32 = 88;
/// An inclusive bound of an index scan: its tag (0), then a u64.
pub(super) const BOUND: u32 = 111;
pub(super) const BOUND_BYTES: u32 = 9;
pub(super) const BOUND_KEY: u32 = 112;
/// A hidden reducer's own arguments.
pub(super) const ARGUMENT: u32 = 120;
/// In the window, while the module runs: a generated number as a bound of an index scan, of up to 32 bytes behind its tag.
pub(super) const PROBE: u32 = ARGUMENT;
/// The end of what it takes of the window to look for a number: this, and what stands before it.
pub(super) const PROBE_END: u32 = PROBE + 40;
/// The columns of the row of `rtdb_state`, aligned, behind its id.
pub(super) const STATE_INDEX: u32 = 136;
pub(super) const STATE_DIGEST: u32 = 144;
pub(super) const STATE_MODULE: u32 = 152;
/// Sums of 32 bits.
pub(super) const STATE_SUCCESSES: u32 = 160;
/// Pairs `key: u64, next: i64`. A key of 0 is a free pair.
pub(super) const PAIRS: u32 = STATE_SUCCESSES + SUMS as u32 * 4;
pub(super) const PAIRS_END: u32 = PAIRS + STATE_PAIRS as u32 * PAIR_BYTES;
pub(super) const PAIR_BYTES: u32 = 16;
pub(super) const PAIR_NEXT: u32 = 8;
/// Up to here goes what every call needs.
pub(super) const HOT_END: u32 = PAIRS_END;
/// The length in bytes of the last column of the row of `rtdb_sequence`, and the column: more pairs, none free.
pub(super) const MORE_LEN: u32 = PAIRS_END + 4;
pub(super) const MORE: u32 = MORE_LEN + 4;
pub(super) const MORE_END: u32 = MORE + MORE_MAX * PAIR_BYTES;
/// The most of these: with those in `rtdb_state`, [`SEQUENCES_MAX`] of a module, as many of its earlier versions, and ours.
const MORE_MAX: u32 = (2 * SEQUENCES_MAX + 1 - STATE_PAIRS) as u32;

/// Where a hidden row stands, and what it takes to fetch and put it.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// The place for the table's id.
    pub(super) table_id: u32,
    /// The place for the id of the primary key's index.
    pub(super) index_id: u32,
    /// The row. An id of one byte stands before the integers, so that these are aligned.
    pub(super) at: u32,
    /// The end of the room for it.
    pub(super) end: u32,
}

pub(super) const STATE_ROW: Row = Row {
    table_id: IDS,
    index_id: IDS + 4,
    at: STATE_INDEX - 1,
    end: PAIRS_END,
};
pub(super) const SESSION_ROW: Row = Row {
    table_id: IDS + 8,
    index_id: IDS + 12,
    at: RECEIPT,
    end: RECEIPT + 16,
};
pub(super) const SEQUENCE_ROW: Row = Row {
    table_id: IDS + 16,
    index_id: IDS + 20,
    at: MORE_LEN - 1,
    end: MORE_END,
};

/// In the window: the row of `rtdb_claims`. Its columns are the session, an index, and a text.
pub(super) const CLAIMS: u32 = PAIRS_END.next_multiple_of(8);
pub(super) const CLAIMS_INDEX: u32 = 8;
pub(super) const CLAIMS_LEN: u32 = 16;
pub(super) const CLAIMS_TEXT: u32 = 20;
pub(super) const CLAIMS_END: u32 = CLAIMS + CLAIMS_TEXT + CLAIMS_BYTES_MAX as u32;
pub(super) const CLAIMS_ROW: Row = Row {
    table_id: IDS + 24,
    index_id: IDS + 28,
    at: CLAIMS,
    end: CLAIMS_END,
};

/// In the window: a table's name, or a part of the definition.
pub(super) const NAME: u32 = MORE_END;
/// In the window while a view's rows are kept, behind where the name of an index was: a bound, the number of rows, and how
/// many bytes of them stand at the window's end.
pub(super) const VIEW_BOUND: u32 = NAME + 7;
pub(super) const VIEW_COUNT: u32 = NAME + 48;
pub(super) const VIEW_BYTES: u32 = NAME + 56;
/// The longest name of a table or an index, in bytes.
pub(super) const NAME_BYTES_MAX: u32 = 8_192;
/// The end of the window.
pub(super) const WINDOW_END: u32 = NAME + NAME_BYTES_MAX;
const _: () = assert!(CLAIMS_END <= WINDOW_END);
/// In the shim's memory: what was in the window.
pub(super) const SAVED: u32 = WINDOW_END.next_multiple_of(8);
/// In the shim's memory: the ids of the hidden tables and of their indexes, see [`Row`].
const IDS: u32 = SAVED + WINDOW_END.next_multiple_of(8);
pub(super) const NOW_TABLE_ID: u32 = IDS + 32;
pub(super) const NOW_INDEX_ID: u32 = IDS + 36;
pub(super) const OUTBOX_TABLE_ID: u32 = IDS + 40;
pub(super) const OUTBOX_INDEX_ID: u32 = IDS + 44;
pub(super) const VERDICT_TABLE_ID: u32 = IDS + 48;
pub(super) const VERDICT_INDEX_ID: u32 = IDS + 52;
/// In the shim's memory: the hash of the instance of a view that is evaluated.
pub(super) const VIEW_HASH: u32 = IDS + 56;
/// Up to here all is 0 at first; what depends on the module follows.
pub(super) const VARIABLE: u32 = VIEW_HASH + 32;

/// The most bytes that a row of `rtdb_immediate` has, behind its length.
pub(super) const IMMEDIATE_BYTES: u32 =
    4 + hidden::IMMEDIATE_NAME + 4 + NAME_BYTES_MAX + 4 + IMMEDIATE_ARGS_BYTES_MAX;

/// A slot of a map of ids: `id: u32, value: u32`. The id 0 is an empty slot.
pub(super) const SLOT_BYTES: u32 = 8;

/// The server's id of a table.
pub(super) const TABLE_BYTES: u32 = 4;
/// An index: `id: u32, sorting: u32, deleted: u32, one_row: u32`. The id is the server's; then, how what it gives is
/// sorted, where the deleted rows of its table are counted, and whether no two rows have the same key.
pub(super) const INDEX_BYTES: u32 = 16;
pub(super) const INDEX_SORTING: u32 = 4;
pub(super) const INDEX_DELETED: u32 = 8;
pub(super) const INDEX_ONE_ROW: u32 = 12;
/// How many rows of a table the call has deleted.
pub(super) const DELETED_BYTES: u32 = 4;

/// The order of a table: `index_id: u32, sorting: u32`, one of which is 0.
pub(super) const ORDER_BYTES: u32 = 8;
pub(super) const ORDER_SORTING: u32 = 4;

/// A column that the current write has generated: `address: u32, bytes: u32, sequence: u32`, the last one in the order of
/// [`Plan::sequences`].
pub(super) const GENERATED_BYTES: u32 = 12;
pub(super) const GENERATED_SEQUENCE: u32 = 8;

/// Where a name stands.
#[derive(Clone, Copy)]
pub(super) struct Name {
    pub(super) at: u32,
    pub(super) bytes: u32,
}

/// A map of ids that the server has given.
#[derive(Clone, Copy)]
pub(super) struct Map {
    pub(super) slots: u32,
    /// One less than the number of its slots, which is a power of two.
    pub(super) mask: u32,
}

/// The module's reducers and procedures, in the order of their names: each `at: u32, bytes: u32, number: u32`, where the name
/// stands, and what it is of.
#[derive(Clone, Copy)]
pub(super) struct Callable {
    pub(super) entries: u32,
    pub(super) count: u32,
}

pub(super) const CALLABLE_BYTES: u32 = 12;
pub(super) const CALLABLE_LEN: u32 = 4;
pub(super) const CALLABLE_NUMBER: u32 = 8;
/// In the place of a reducer's number: it is a procedure.
pub(super) const OF_PROCEDURE: u32 = u32::MAX - 1;

/// An index to look up at first use.
pub(super) struct Index {
    pub(super) name: Name,
    /// The places for its id: as the order of a table, as what knows the numbers that are taken, and as what finds rows that
    /// are due.
    pub(super) places: Vec<u32>,
}

/// Where everything stands whose size depends on the module, and the region's initial contents.
pub(super) struct Layout {
    /// From a server's id of a table, or of an index, to the module's.
    pub(super) known_tables: Map,
    pub(super) known_indexes: Map,
    /// The tables by ordinal, [`TABLE_BYTES`] each.
    pub(super) table_ids: u32,
    /// The indexes, [`INDEX_BYTES`] each.
    pub(super) index_ids: u32,
    /// The orders of the module's tables, by ordinal.
    pub(super) orders: u32,
    /// How many rows the call has deleted, by the table's ordinal: [`DELETED_BYTES`] each.
    pub(super) deleted: u32,
    /// The columns that the current write has generated.
    pub(super) generated: u32,
    /// The ids of the indexes that know which numbers are taken, in the order of [`Plan::sequences`]: each a u32.
    pub(super) probes: u32,
    /// The ids of the indexes that find rows that are due, in the order of [`Plan::schedules`]: each a u32.
    pub(super) schedules: u32,
    /// Whether the last table and its one index are none of the module's.
    pub(super) has_ours: bool,
    /// The tables, by ordinal.
    pub(super) tables: Vec<Name>,
    /// Their indexes.
    pub(super) indexes: Vec<Index>,
    /// What to look up at first use: tables, then indexes, each with the place for its id.
    pub(super) hidden_tables: Vec<(Name, u32)>,
    pub(super) hidden_indexes: Vec<(Name, u32)>,
    /// The indexes of the views, to look up when they are needed.
    pub(super) views: Vec<Name>,
    /// The error of a call that is passed over.
    pub(super) skipped: Name,
    /// The error of changes with a unique value that is taken.
    pub(super) taken: Name,
    /// The error of a row that is due at another time.
    pub(super) not_due: Name,
    /// The error of a procedure's transaction that comes too late.
    pub(super) conflict: Name,
    /// The place for a row of `rtdb_claims`.
    pub(super) claims: u32,
    /// What the data begins with from [`VARIABLE`] on.
    pub(super) initial: Vec<u8>,
    /// The names that the module has looked up: of tables, and of indexes.
    pub(super) known_names: [u32; 2],
    /// The module's timers.
    pub(super) timers: u32,
    /// What can be called at once by its name.
    pub(super) callable: Callable,
    /// The place for a row of `rtdb_immediate`, and for what was where it stands for the host.
    pub(super) immediate: [u32; 2],
    /// The end of the data.
    pub(super) end: u32,
}

impl Layout {
    /// Refuses names that the window has no room for.
    pub(super) fn new(plan: &Plan) -> Result<Self, PrepareError> {
        let of_tables = plan.tables.iter().map(|table| &table.name);
        let of_indexes = plan.tables.iter().flat_map(|table| &table.order.indexes);
        let of_views = plan.views.iter().flatten().map(|view| &view.index);
        let mut names = of_tables
            .chain(of_indexes.map(|index| &index.name))
            .chain(of_views);
        if names.any(|name| name.len() > NAME_BYTES_MAX as usize) {
            return Err(PrepareError::Definition(format!(
                "the name of a table or an index is longer than {NAME_BYTES_MAX} bytes"
            )));
        }
        let mut initial = Vec::new();
        let known_tables = map(&mut initial, plan.tables.len());
        let index_count = plan.tables.iter().map(|table| table.order.indexes.len()).sum();
        let known_indexes = map(&mut initial, index_count);
        let table_ids = reserve(&mut initial, plan.tables.len() as u32 * TABLE_BYTES);
        let index_ids = reserve(&mut initial, index_count as u32 * INDEX_BYTES);
        let orders = reserve(&mut initial, plan.tables.len() as u32 * ORDER_BYTES);
        let deleted = reserve(&mut initial, plan.tables.len() as u32 * DELETED_BYTES);
        let widest = plan
            .tables
            .iter()
            .map(|table| table.steps.len())
            .max()
            .unwrap_or(0);
        let generated = reserve(&mut initial, widest as u32 * GENERATED_BYTES);

        let tables = plan
            .tables
            .iter()
            .map(|table| name(&mut initial, &table.name))
            .collect();
        let probes = reserve(&mut initial, plan.sequences().count() as u32 * 4);
        let mut indexes = indexes(&mut initial, plan, [orders, index_ids, probes, deleted]);
        let schedules = reserve(&mut initial, plan.schedules.len() as u32 * 4);
        for (schedule, place) in plan.schedules.iter().zip((schedules..).step_by(4)) {
            let before = plan.tables[..schedule.table].iter();
            let before: usize = before.map(|table| table.order.indexes.len()).sum();
            indexes[before + schedule.index].places.push(place);
        }
        let mut hidden = vec![
            (&STATE, STATE_ROW.table_id, STATE_ROW.index_id),
            (&SESSION, SESSION_ROW.table_id, SESSION_ROW.index_id),
            (&SEQUENCE, SEQUENCE_ROW.table_id, SEQUENCE_ROW.index_id),
            (&hidden::CLAIMS, CLAIMS_ROW.table_id, CLAIMS_ROW.index_id),
        ];
        if plan.views.is_some() {
            hidden.push((&NOW, NOW_TABLE_ID, NOW_INDEX_ID));
            hidden.push((&OUTBOX, OUTBOX_TABLE_ID, OUTBOX_INDEX_ID));
            hidden.push((&VERDICT, VERDICT_TABLE_ID, VERDICT_INDEX_ID));
        }
        let (mut hidden_tables, mut hidden_indexes) = (Vec::new(), Vec::new());
        for (table, table_id, index_id) in hidden {
            hidden_tables.push((name(&mut initial, table.name), table_id));
            hidden_indexes.push((name(&mut initial, table.index), index_id));
        }
        let views = plan.views.iter().flatten();
        let views = views.map(|view| name(&mut initial, &view.index)).collect();
        let skipped = name(&mut initial, SKIPPED);
        let taken = name(&mut initial, TAKEN);
        let not_due = name(&mut initial, NOT_DUE);
        let conflict = name(&mut initial, CONFLICT);
        let callable = callable(&mut initial, plan);
        let end = (VARIABLE + initial.len() as u32).next_multiple_of(8);
        let claims = end + 2 * names::CACHE_BYTES;
        let timers = claims + (CLAIMS_END - CLAIMS).next_multiple_of(8);
        let immediate = (timers + timers::BYTES).next_multiple_of(8);
        Ok(Self {
            known_tables,
            known_indexes,
            table_ids,
            index_ids,
            orders,
            deleted,
            generated,
            probes,
            schedules,
            has_ours: plan.immediate,
            tables,
            indexes,
            hidden_tables,
            hidden_indexes,
            views,
            skipped,
            taken,
            not_due,
            conflict,
            claims,
            initial,
            known_names: [end, end + names::CACHE_BYTES],
            timers,
            callable,
            immediate: [0, 1].map(|nth| immediate + nth * IMMEDIATE_BYTES.next_multiple_of(8)),
            end: immediate + 2 * IMMEDIATE_BYTES.next_multiple_of(8),
        })
    }
}

/// A map that is half full at most.
fn map(initial: &mut Vec<u8>, entries: usize) -> Map {
    let count = (entries as u32 * 2).max(1).next_power_of_two();
    Map {
        slots: reserve(initial, count * SLOT_BYTES),
        mask: count - 1,
    }
}

/// None of them if nothing is called like that.
fn callable(initial: &mut Vec<u8>, plan: &Plan) -> Callable {
    let [reducers, procedures] = plan.names.each_ref().map(|names| names.iter());
    let numbered = reducers.zip(0..).chain(procedures.map(|it| (it, OF_PROCEDURE)));
    let mut named: Vec<_> = numbered
        .filter(|(it, _)| plan.immediate && it.len() <= NAME_BYTES_MAX as usize)
        .collect();
    named.sort_by_cached_key(|&(it, _)| name_order(it));
    let count = named.len() as u32;
    let entries = reserve(initial, count * CALLABLE_BYTES);
    for ((text, number), at) in named
        .into_iter()
        .zip((entries..).step_by(CALLABLE_BYTES as usize))
    {
        let name = name(initial, text);
        put(initial, at, name.at);
        put(initial, at + CALLABLE_LEN, name.bytes);
        put(initial, at + CALLABLE_NUMBER, number);
    }
    Callable { entries, count }
}

/// An order in which names are compared word by word.
fn name_order(name: &str) -> (usize, Vec<u64>, &[u8]) {
    let (words, rest) = name.as_bytes().as_chunks();
    (
        name.len(),
        words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
        rest,
    )
}

/// The module's indexes; their sortings are counted from 1, in the order of [`Plan::sortings`].
fn indexes(initial: &mut Vec<u8>, plan: &Plan, [orders, ids, probes, deleted]: [u32; 4]) -> Vec<Index> {
    let mut indexes = Vec::new();
    let mut probes = (probes..).step_by(4);
    let mut sortings = 0;
    let mut next = |sorted: bool| {
        sortings += u32::from(sorted);
        if sorted { sortings } else { 0 }
    };
    for (table, ordinal) in plan.tables.iter().zip(0..) {
        let at = orders + ordinal * ORDER_BYTES;
        put(initial, at + ORDER_SORTING, next(table.order.scan.is_some()));
        let probes: Vec<_> = table.sequences().zip(&mut probes).collect();
        for (nth, index) in table.order.indexes.iter().enumerate() {
            let described = ids + indexes.len() as u32 * INDEX_BYTES;
            put(initial, described + INDEX_SORTING, next(index.sorting.is_some()));
            put(
                initial,
                described + INDEX_DELETED,
                deleted + ordinal * DELETED_BYTES,
            );
            put(initial, described + INDEX_ONE_ROW, index.one_row.into());
            let order = (table.order.index == Some(nth)).then_some(at);
            let probes = probes.iter().filter(|(sequence, _)| sequence.index == Some(nth));
            indexes.push(Index {
                name: name(initial, &index.name),
                places: order.into_iter().chain(probes.map(|(_, place)| *place)).collect(),
            });
        }
    }
    indexes
}

fn put(initial: &mut [u8], at: u32, value: u32) {
    let at = (at - VARIABLE) as usize;
    initial[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn reserve(initial: &mut Vec<u8>, bytes: u32) -> u32 {
    let at = initial.len().next_multiple_of(8);
    initial.resize(at + bytes as usize, 0);
    VARIABLE + at as u32
}

fn name(initial: &mut Vec<u8>, name: &str) -> Name {
    let at = VARIABLE + initial.len() as u32;
    initial.extend_from_slice(name.as_bytes());
    Name {
        at,
        bytes: name.len() as u32,
    }
}
