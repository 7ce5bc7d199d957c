//! Generated numbers from call to call, and where they are kept.

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{LOAD, Successes, prepare};
use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9;
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_sats::{AlgebraicType, ProductType, ProductTypeElement};

use crate::host::{Failure, FakeHost};
use crate::raw_module::{encode, module, reducer, table};

/// How many pairs the row of `rtdb_state` has room for.
const PAIRS_MAX: usize = 1_024;
/// What stands in the row before its pairs, their length included.
const PAIRS_AT: usize = 25 + 8 * Successes::COLUMNS.len() + 4;

/// A prepared module whose table `rows` has two columns, of which `auto_inc` are generated.
fn two_columns(auto_inc: &[u16], change: impl FnOnce(&mut RawModuleDefV9)) -> Vec<u8> {
    let product = |types: Vec<AlgebraicType>| -> ProductType {
        let columns = types.into_iter().zip(["a", "b"]);
        columns
            .map(|(ty, name)| ProductTypeElement::new(ty, Some(name.into())))
            .collect()
    };
    let mut def = RawModuleDefV9::default();
    table(&mut def, "rows", product(vec![AlgebraicType::U64; 2]), auto_inc);
    table(&mut def, "left", product(vec![AlgebraicType::bytes()]), &[]);
    reducer(&mut def, "insert");
    change(&mut def);
    let prepared = prepare(&module(&encode(RawModuleDef::V9(def)), ""));
    prepared.expect("the module can be prepared").wasm
}

/// Inserts a row.
fn insert(host: &mut FakeHost, index: u64, row: (u64, u64)) -> Result<(), Failure> {
    let header = CallHeader {
        index,
        ..CallHeader::default()
    };
    host.call("insert", header, &bsatn::to_vec(&row).unwrap())
}

/// The rows, by their second column.
fn rows(host: &FakeHost) -> Vec<(u64, u64)> {
    let rows = host.db.rows("rows");
    let mut rows: Vec<(u64, u64)> = rows.iter().map(|row| bsatn::from_slice(row).unwrap()).collect();
    rows.sort_by_key(|row| row.1);
    rows
}

/// The pairs in the row of `rtdb_state`: key, next.
fn pairs(host: &FakeHost) -> Vec<(u64, i64)> {
    let row = host.db.rows("rtdb_state").remove(0);
    let (len, pairs) = row[PAIRS_AT - 4..].split_at(4);
    assert_eq!(len, (pairs.len() as u32).to_le_bytes());
    let pairs = pairs.chunks(16);
    pairs.map(|pair| bsatn::from_slice(pair).unwrap()).collect()
}

#[test]
fn numbers_go_on_after_an_update() {
    let [one, both] = [&[1][..], &[0, 1]].map(|auto_inc| two_columns(auto_inc, |_| {}));
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
    assert_eq!(rows(&host), [(7, 1), (8, 2), (1, 3), (9, 4), (2, 5)]);
}

#[test]
fn numbers_step_and_start_over_within_their_bounds() {
    let numbers = |start, min, max, increment| {
        let wasm = two_columns(&[0], |def| {
            let sequence = &mut def.tables[0].sequences[0];
            (sequence.start, sequence.increment) = (Some(start), increment);
            (sequence.min_value, sequence.max_value) = (Some(min), Some(max));
        });
        let mut host = FakeHost::new(&wasm, 4096);
        for index in 1..7 {
            insert(&mut host, index, (0, index)).unwrap();
        }
        rows(&host).into_iter().map(|row| row.0).collect::<Vec<_>>()
    };
    assert_eq!(numbers(2, 1, 3, 1), [2, 3, 1, 2, 3, 1]);
    assert_eq!(numbers(5, 1, 5, -2), [5, 3, 1, 4, 2, 5]);
}

#[test]
fn a_column_without_room_for_its_number_makes_the_call_fail() {
    let wasm = two_columns(&[0], |_| {});
    let loaded = |count: usize| {
        // With these ids, nothing that the call needs stands behind the pairs: only the check can make it fail.
        let mut host = FakeHost::new(&wasm, 4098);
        let strangers = (0..count).flat_map(|key| [key as u64, 1]);
        let strangers: Vec<u8> = strangers.flat_map(u64::to_le_bytes).collect();
        let head = [&[0_u8][..], &1_u64.to_le_bytes(), &[0; PAIRS_AT - 13]].concat();
        let state = [head, bsatn::to_vec(&strangers).unwrap()].concat();
        let args = bsatn::to_vec(&("rtdb_state", vec![state])).unwrap();
        host.call(LOAD, CallHeader::default(), &args).unwrap();
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
    assert_eq!(rows(&host), [(5, 3)]);
}
