//! Generated numbers from call to call, and where they are kept.

use proptest::prelude::*;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{LOAD, Successes};
use spacetimedb_lib::bsatn;

use crate::host::{Failure, FakeHost};
use crate::raw_module::numbered;

/// How many pairs there is room for, in the row of `rtdb_state` and in all.
const STATE_PAIRS: usize = 4;
const PAIRS_MAX: usize = 1_025;
/// What stands in the row before its pairs.
const PAIRS_AT: usize = 25 + 16 * Successes::COLUMNS.len();
/// A pair's bytes.
const PAIR: usize = 16;

/// A prepared module whose table `rows` has two columns.
fn two_columns(auto_inc: &[u16]) -> Vec<u8> {
    numbered(2, auto_inc, |_| {})
}

/// Calls a reducer with a row.
fn call(host: &mut FakeHost, reducer: &str, index: u64, row: &[u64]) -> Result<(), Failure> {
    let header = CallHeader {
        index,
        ..CallHeader::default()
    };
    host.call(reducer, header, &words(row))
}

fn insert(host: &mut FakeHost, index: u64, row: (u64, u64)) -> Result<(), Failure> {
    call(host, "insert", index, &[row.0, row.1])
}

fn words(row: &[u64]) -> Vec<u8> {
    row.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The rows, by their last column.
fn rows(host: &FakeHost) -> Vec<Vec<u64>> {
    let words = |row: &[u8]| -> Vec<u64> {
        let words = row.chunks(8).map(|word| word.try_into().unwrap());
        words.map(u64::from_le_bytes).collect()
    };
    let mut rows: Vec<_> = host.db.rows("rows").iter().map(|row| words(row)).collect();
    rows.sort_by_key(|row| row.last().copied());
    rows
}

/// The pairs in the row of `rtdb_state`, then those in the row of `rtdb_sequence`: key, next.
fn pairs(host: &FakeHost) -> Vec<(u64, i64)> {
    let Some(state) = host.db.rows("rtdb_state").pop() else {
        return Vec::new();
    };
    assert_eq!(state.len(), PAIRS_AT + STATE_PAIRS * PAIR);
    let decode = |pairs: &[u8]| -> Vec<(u64, i64)> {
        let pairs = pairs.chunks(PAIR);
        pairs.map(|pair| bsatn::from_slice(pair).unwrap()).collect()
    };
    let mut all = decode(&state[PAIRS_AT..]);
    let used = all.iter().take_while(|pair| pair.0 != 0).count();
    assert!(all.drain(used..).all(|free| free == (0, 0)));
    if let Some(row) = host.db.rows("rtdb_sequence").pop() {
        let (id, more): (u8, Vec<u8>) = bsatn::from_slice(&row).unwrap();
        assert_eq!((id, used), (0, STATE_PAIRS));
        all.extend(decode(&more));
    }
    all
}

#[test]
fn numbers_go_on_after_an_update() {
    let [one, both] = [&[1][..], &[0, 1]].map(two_columns);
    let mut host = FakeHost::new(&one, 4096);
    insert(&mut host, 1, (7, 0)).unwrap();
    insert(&mut host, 2, (8, 0)).unwrap();
    let key = pairs(&host)[0].0;
    assert_eq!(pairs(&host), [(key, 3)]);

    // The column that is generated now stands before the old one in its row, but behind it in the state.
    host.update(&both);
    insert(&mut host, 3, (0, 0)).unwrap();
    let other = pairs(&host)[1].0;
    assert_eq!(pairs(&host), [(key, 4), (other, 2)]);

    // What the module has no use for stays.
    host.update(&one);
    insert(&mut host, 4, (9, 0)).unwrap();
    assert_eq!(pairs(&host), [(key, 5), (other, 2)]);
    host.update(&both);
    insert(&mut host, 5, (0, 0)).unwrap();
    assert_eq!(pairs(&host), [(key, 6), (other, 3)]);
    assert_eq!(rows(&host), [[7, 1], [8, 2], [1, 3], [9, 4], [2, 5]]);
}

#[test]
fn numbers_step_and_start_over_within_their_bounds() {
    // The ninth column has its number in the other row.
    for column in [0, 8] {
        let numbers = |start, min, max, increment| {
            let all: Vec<_> = (0..=column).collect();
            let wasm = numbered(column + 2, &all, |def| {
                let sequence = &mut def.tables[0].sequences[usize::from(column)];
                (sequence.start, sequence.increment) = (Some(start), increment);
                (sequence.min_value, sequence.max_value) = (Some(min), Some(max));
            });
            let mut host = FakeHost::new(&wasm, 4096);
            for index in 1..7 {
                let row = [vec![0; all.len()], vec![index]].concat();
                call(&mut host, "insert", index, &row).unwrap();
            }
            let rows = rows(&host).into_iter();
            rows.map(|row| row[usize::from(column)]).collect::<Vec<_>>()
        };
        assert_eq!(numbers(2, 1, 3, 1), [2, 3, 1, 2, 3, 1]);
        assert_eq!(numbers(5, 1, 5, -2), [5, 3, 1, 4, 2, 5]);
    }
}

#[test]
fn a_column_without_room_for_its_number_makes_the_call_fail() {
    let wasm = two_columns(&[0]);
    let loaded = |count: usize| {
        // With these ids, nothing that the call needs stands behind the pairs: only the check can make it fail.
        let mut host = FakeHost::new(&wasm, 4098);
        let strangers: Vec<_> = (1..=count as u64).flat_map(|key| [key, 1]).collect();
        let strangers = words(&strangers);
        let (some, more) = strangers.split_at(STATE_PAIRS * PAIR);
        let more = bsatn::to_vec(&(0_u8, more.to_vec())).unwrap();
        let state = [&[0][..], &words(&[1]), &[0; PAIRS_AT - 9], some].concat();
        for (table, row) in [("rtdb_sequence", more), ("rtdb_state", state)] {
            let args = bsatn::to_vec(&(table, vec![row])).unwrap();
            host.call(LOAD, CallHeader::default(), &args).unwrap();
        }
        host
    };
    let mut host = loaded(PAIRS_MAX - 1);
    for index in 2..4 {
        insert(&mut host, index, (0, index)).unwrap();
    }
    assert_eq!((rows(&host).len(), pairs(&host).len()), (2, PAIRS_MAX));
    host.restart();
    insert(&mut host, 4, (0, 4)).unwrap();
    assert_eq!(pairs(&host).last().map(|pair| pair.1), Some(4));

    let mut host = loaded(PAIRS_MAX);
    assert_eq!(insert(&mut host, 2, (0, 2)), Err(Failure::Trapped));
    // A call that generates nothing does not mind.
    insert(&mut host, 3, (5, 3)).unwrap();
    assert_eq!(rows(&host), [[5, 3]]);
}

#[test]
fn only_a_call_that_needs_the_second_row_touches_it() {
    let all: Vec<_> = (0..12).collect();
    let mut host = FakeHost::new(&numbered(12, &all, |_| {}), 4096);
    call(&mut host, "insert", 1, &[0; 12]).unwrap();
    let without = ["rtdb_state", "rows", "left", "rtdb_state"].as_slice();
    let with = [
        "rtdb_state",
        "rtdb_sequence",
        "rows",
        "left",
        "rtdb_sequence",
        "rtdb_state",
    ]
    .as_slice();
    for (index, zeros, touched) in [
        (2, 0..STATE_PAIRS, without),
        (3, STATE_PAIRS..STATE_PAIRS + 1, with),
        (4, STATE_PAIRS - 1..12, with),
        (5, 0..0, without),
    ] {
        let mut row = [9_000 + index; 12];
        row[zeros].fill(0);
        call(&mut host, "insert", index, &row).unwrap();
        assert_eq!(host.touched, touched);
    }
}

/// The columns of the table that all of this happens to.
const COLUMNS: u16 = 20;

#[derive(Clone, Debug)]
enum Step {
    /// A reducer is called with a row that is 0 in the columns of a set.
    Call(&'static str, u32),
    /// The next call finds a new instance.
    Restart,
    /// The columns of a set are those that are generated.
    Update(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reducer = prop_oneof![4 => Just("insert"), 2 => Just("fail"), 1 => Just("explode")];
    let step = prop_oneof![
        12 => (reducer, any::<u32>()).prop_map(|(reducer, zeros)| Step::Call(reducer, zeros)),
        1 => Just(Step::Restart),
        1 => any::<u32>().prop_map(Step::Update),
        1 => Just(Step::Update(u32::MAX)),
    ];
    proptest::collection::vec(step, 1..60)
}

/// The columns in a set.
fn members(set: u32) -> impl Iterator<Item = u16> {
    (0..COLUMNS).filter(move |column| set >> column & 1 == 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_of_many_columns_counts_on_whatever_happens(first: u32, steps in steps()) {
        let module = |generated| numbered(COLUMNS, &members(generated).collect::<Vec<_>>(), |_| {});
        let mut host = FakeHost::new(&module(first), 4096);
        let mut generated = first;
        // The columns that have a number, in the order of first use, each with the one that comes next.
        let mut numbers: Vec<(u16, i64)> = Vec::new();
        let mut inserted = Vec::new();
        for (step, index) in steps.into_iter().zip(1..) {
            let (reducer, zeros) = match step {
                Step::Call(reducer, zeros) => (reducer, zeros),
                Step::Restart => {
                    host.restart();
                    continue;
                }
                Step::Update(columns) => {
                    generated = columns;
                    host.update(&module(columns));
                    continue;
                }
            };
            let mut row = [1_000_000 + index; COLUMNS as usize];
            members(zeros).for_each(|column| row[usize::from(column)] = 0);
            let result = call(&mut host, reducer, index, &row);
            prop_assert_eq!(result.is_ok(), reducer == "insert");
            if reducer == "insert" {
                for column in members(zeros & generated) {
                    let at = numbers.iter().position(|number| number.0 == column);
                    let at = at.unwrap_or_else(|| {
                        numbers.push((column, 1));
                        numbers.len() - 1
                    });
                    row[usize::from(column)] = numbers[at].1 as u64;
                    numbers[at].1 += 1;
                }
                inserted.push(words(&row));
            }
            let kept: Vec<_> = pairs(&host).into_iter().map(|pair| pair.1).collect();
            prop_assert_eq!(kept, numbers.iter().map(|number| number.1).collect::<Vec<_>>());
        }
        inserted.sort();
        inserted.dedup();
        prop_assert_eq!(host.db.rows("rows"), inserted);
    }
}
