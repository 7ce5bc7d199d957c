//! The order in which a module sees rows: the same on hosts whose rows stand in different orders.

use proptest::prelude::*;
use proptest::sample::Index;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{Module, prepare};
use spacetimedb_lib::db::raw_def::v9::{
    RawConstraintDataV9, RawConstraintDefV9, RawIndexAlgorithm, RawIndexDefV9, RawModuleDefV9,
    RawUniqueConstraintDataV9,
};
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_primitives::ColList;
use spacetimedb_sats::raw_identifier::RawIdentifier;
use spacetimedb_sats::{AlgebraicType, AlgebraicValue, ProductValue};

use crate::generated::{any_type, any_value, product};
use crate::host::{Failure, FakeHost};
use crate::raw_module::{encode, escape, reducer, table};

/// How the module reads rows.
const TABLE: u8 = 1;
const RANGE: u8 = 2;
const POINT: u8 = 3;
const POINT_RANGE: u8 = 4;
const HASH_POINT: u8 = 5;

/// A table under test.
#[derive(Debug, Clone)]
struct Layout {
    columns: Vec<AlgebraicType>,
    /// The columns of the index `by_key`; the first of them is that of `by_hash`.
    key: Vec<u16>,
    /// The columns that are unique, and have a btree index.
    unique: Option<Vec<u16>>,
}

/// The prepared module of `walker.wat`.
fn walker(layout: &Layout) -> Vec<u8> {
    let mut def = RawModuleDefV9::default();
    table(&mut def, "rows", product(layout.columns.clone()), &[]);
    table(&mut def, "seen", product(vec![AlgebraicType::bytes()]), &[]);
    let index = |name: &str, algorithm| RawIndexDefV9 {
        name: Some(RawIdentifier::new(name)),
        accessor_name: None,
        algorithm,
    };
    let columns = |columns: &[u16]| columns.iter().copied().collect::<ColList>();
    let rows = &mut def.tables[0];
    rows.indexes = vec![
        index(
            "by_key",
            RawIndexAlgorithm::BTree {
                columns: columns(&layout.key),
            },
        ),
        index(
            "by_hash",
            RawIndexAlgorithm::Hash {
                columns: columns(&layout.key[..1]),
            },
        ),
    ];
    if let Some(unique) = &layout.unique {
        let columns = columns(unique);
        rows.constraints = vec![RawConstraintDefV9 {
            name: None,
            data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 {
                columns: columns.clone(),
            }),
        }];
        rows.indexes
            .push(index("by_unique", RawIndexAlgorithm::BTree { columns }));
    }
    for name in ["walk", "peek", "leak"] {
        reducer(&mut def, name);
    }
    let def = encode(RawModuleDef::V9(def));
    let text = include_str!("walker.wat")
        .replace("{DEF}", &escape(&def))
        .replace("{LEN}", &def.len().to_string());
    let module = wat::parse_str(text).expect("the module is well formed");
    prepare(&module).expect("the module can be prepared").wasm
}

/// What a call does.
#[derive(Debug, Clone)]
struct Walk {
    rows: Vec<Vec<AlgebraicValue>>,
    buffer: u32,
    ways: [u8; 2],
    key: Vec<u8>,
}

impl Walk {
    fn args(&self) -> Vec<u8> {
        let mut args = self.buffer.to_le_bytes().to_vec();
        args.extend(self.ways);
        let rows: Vec<_> = self.rows.iter().map(|row| encoded(row)).collect();
        args.extend((rows.len() as u32).to_le_bytes());
        for bytes in rows.iter().chain([&self.key]) {
            args.extend((bytes.len() as u32).to_le_bytes());
            args.extend(bytes);
        }
        args
    }
}

fn encoded(row: &[AlgebraicValue]) -> Vec<u8> {
    bsatn::to_vec(&ProductValue::from_iter(row.to_vec())).unwrap()
}

fn call(host: &mut FakeHost, reducer: &str, index: u64, args: &[u8]) -> Result<(), Failure> {
    let header = CallHeader {
        index,
        timestamp_us: index as i64,
        ..CallHeader::default()
    };
    host.call(reducer, header, args)
}

/// What the module saw in a call: the rows of either way.
fn seen(host: &FakeHost, index: u64) -> [Vec<u8>; 2] {
    let rows = host.db.rows("seen");
    let row = rows.iter().find(|row| row[4..12] == index.to_le_bytes());
    let row = &row.expect("the call saw something")[12..];
    let (len, rows) = row.split_at(4);
    let (first, second) = rows.split_at(u32::from_le_bytes(len.try_into().unwrap()) as usize);
    [first.to_vec(), second.to_vec()]
}

/// The rows in what the module saw.
fn split(host: &FakeHost, mut bytes: &[u8]) -> Vec<ProductValue> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let (row, rest) = host.db.decode_first(0, bytes);
        rows.push(row);
        bytes = rest;
    }
    rows
}

fn layout() -> impl Strategy<Value = Layout> {
    let columns = prop::collection::vec(any_type(), 1..5);
    (
        columns,
        any::<[Index; 3]>(),
        1..3_usize,
        prop::option::of(any::<Index>()),
    )
        .prop_map(|(mut columns, key, len, unique)| {
            // A row of no bytes is nothing that an iterator could show.
            columns.push(AlgebraicType::U8);
            let mut key: Vec<_> = key[..len]
                .iter()
                .map(|at| at.index(columns.len()) as u16)
                .collect();
            key.dedup();
            let unique = unique.map(|at| vec![at.index(columns.len()) as u16]);
            Layout { columns, key, unique }
        })
}

/// Few different values, so that keys are equal and unique columns are taken.
fn calls() -> impl Strategy<Value = (Layout, Vec<Walk>)> {
    layout().prop_flat_map(|layout| {
        let pools: Vec<_> = layout
            .columns
            .iter()
            .map(|ty| prop::collection::vec(any_value(ty), 1..6))
            .collect();
        (Just(layout), pools).prop_flat_map(|(layout, pools)| {
            let row: Vec<_> = pools.iter().cloned().map(prop::sample::select).collect();
            let key: Vec<_> = layout
                .key
                .iter()
                .map(|&at| prop::sample::select(pools[usize::from(at)].clone()))
                .collect();
            let rows = prop::collection::vec(row, 0..30);
            let walk = (rows, 0..300_u32, [0..6_u8, 0..6], key);
            let walk = walk.prop_map(|(rows, buffer, ways, mut key)| {
                if ways.contains(&HASH_POINT) || ways.contains(&POINT_RANGE) {
                    key.truncate(1);
                }
                Walk {
                    rows,
                    buffer,
                    ways,
                    key: encoded(&key),
                }
            });
            (Just(layout), prop::collection::vec(walk, 1..8))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn hosts_whose_rows_stand_differently_show_the_same((layout, walks) in calls()) {
        let wasm = walker(&layout);
        let mut hosts = [FakeHost::new(&wasm, 4_096), FakeHost::new(&wasm, 70_000)];
        for (mut walk, index) in walks.into_iter().zip(1..) {
            // A key of one column is not one of an index of two.
            if layout.key.len() > 1 && !walk.ways.contains(&HASH_POINT) && !walk.ways.contains(&POINT_RANGE) {
                walk.ways = walk.ways.map(|way| if way > POINT { RANGE } else { way });
            } else if layout.key.len() > 1 {
                walk.ways = walk.ways.map(|way| if way == POINT { RANGE } else { way });
            }
            for host in &mut hosts {
                prop_assert_eq!(call(host, "walk", index, &walk.args()), Ok(()));
            }
            let host = &hosts[0];
            prop_assert_eq!(seen(host, index), seen(&hosts[1], index));
            for (way, bytes) in walk.ways.into_iter().zip(seen(host, index)) {
                let mut rows = split(host, &bytes);
                let all = |rows: &[ProductValue]| {
                    let mut rows = rows.to_vec();
                    rows.sort();
                    rows
                };
                match way {
                    0 => prop_assert!(rows.is_empty()),
                    TABLE | RANGE => prop_assert_eq!(all(&rows), all(&host.db.table("rows").rows)),
                    POINT => prop_assert_eq!(all(&rows), all(&host.db.select_point(0, &walk.key))),
                    POINT_RANGE => prop_assert_eq!(all(&rows), all(&host.db.select(0, &[], 0, [&bound(&walk.key), &[]]))),
                    _ => prop_assert_eq!(all(&rows), all(&host.db.select_point(1, &walk.key))),
                }
                if way == RANGE && !layout.key.iter().any(|&at| float_within(&layout.columns[usize::from(at)])) {
                    // Those of the transaction, then the others.
                    rows.dedup_by(|next, row| host.db.key(0, next) >= host.db.key(0, row));
                    prop_assert!(rows.len() <= 2, "{:?}", rows);
                }
            }
        }
        prop_assert_eq!(hosts[0].state(), hosts[1].state());
    }
}

/// Whether a value holds floats, but is none: the order of such keys is not kept.
fn float_within(ty: &AlgebraicType) -> bool {
    use AlgebraicType as T;
    let has_float = |ty: &T| matches!(ty, T::F32 | T::F64) || float_within(ty);
    match ty {
        T::Product(product) => product.elements.iter().any(|it| has_float(&it.algebraic_type)),
        T::Sum(sum) => sum.variants.iter().any(|it| has_float(&it.algebraic_type)),
        T::Array(array) => has_float(&array.elem_ty),
        _ => false,
    }
}

/// An inclusive bound.
fn bound(key: &[u8]) -> Vec<u8> {
    [&[0], key].concat()
}

/// A table of `columns` without any unique ones.
fn plain(columns: Vec<AlgebraicType>) -> Layout {
    Layout {
        columns,
        key: vec![0],
        unique: None,
    }
}

fn walk(rows: Vec<Vec<AlgebraicValue>>, ways: [u8; 2], key: impl Into<AlgebraicValue>) -> Walk {
    Walk {
        rows,
        buffer: 1_000,
        ways,
        key: bsatn::to_vec(&key.into()).unwrap(),
    }
}

#[test]
fn thousands_of_rows_are_sorted_whether_their_hashes_differ_or_not() {
    let layout = plain(vec![AlgebraicType::U32, AlgebraicType::U64, AlgebraicType::U64]);
    let wasm = walker(&layout);
    // A row is three words to the hash: (key, low half of n), (high half of n, low half of x), (high half of x).
    let mix = |hash: u64, word: u64| (hash ^ word).rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let row = |n: u64, alike: bool| {
        let second = mix(20, 7 | n << 32);
        let (n, x) = if alike {
            (n | second << 32, second >> 32)
        } else {
            (n, n)
        };
        vec![7_u32.into(), n.into(), x.into()]
    };
    for alike in [false, true] {
        let mut hosts = [FakeHost::new(&wasm, 4_096), FakeHost::new(&wasm, 70_000)];
        let mut index = 0;
        for step in 0..6_u64 {
            let rows = (0..300).map(|n| row(step * 300 + n, alike));
            index += 1;
            let walk = walk(rows.collect(), [TABLE, RANGE], 7_u32);
            for host in &mut hosts {
                assert_eq!(call(host, "walk", index, &walk.args()), Ok(()));
            }
        }
        assert_eq!(seen(&hosts[0], index), seen(&hosts[1], index));
        let [table, range] = seen(&hosts[0], index);
        assert_eq!(table, range, "all have the same key");
        let rows: Vec<_> = table.chunks(20).collect();
        assert_eq!((rows.len(), rows.is_sorted()), (1_800, alike));
    }
}

#[test]
fn iterators_can_be_closed_at_any_time_and_be_left_open_until_the_call_ends() {
    let wasm = walker(&plain(vec![AlgebraicType::U32, AlgebraicType::U64]));
    let mut host = FakeHost::new(&wasm, 4_096);
    let rows: Vec<Vec<AlgebraicValue>> = (0..40_u64).map(|n| vec![7_u32.into(), n.into()]).collect();
    assert_eq!(
        call(&mut host, "walk", 1, &walk(rows, [TABLE, 0], 7_u32).args()),
        Ok(())
    );
    let look = |count: u32| [&100_u32.to_le_bytes()[..], &[TABLE, 0], &count.to_le_bytes()].concat();
    assert_eq!(call(&mut host, "peek", 2, &look(5_000)), Ok(()));
    for index in 3..6 {
        assert_eq!(call(&mut host, "leak", index, &look(4_096)), Ok(()));
    }
    assert_eq!(call(&mut host, "leak", 6, &look(4_097)), Err(Failure::Trapped));
    assert_eq!(call(&mut host, "leak", 7, &look(4_096)), Ok(()));
}

#[test]
fn a_row_that_is_longer_than_the_buffer_is_asked_for_by_its_length() {
    let wasm = walker(&plain(vec![AlgebraicType::U32, AlgebraicType::String]));
    let mut hosts = [FakeHost::new(&wasm, 4_096), FakeHost::new(&wasm, 70_000)];
    let lens = [10_usize, 20_000, 3, 90_000, 50, 70_000];
    let rows = lens.map(|len| vec![7_u32.into(), AlgebraicValue::String("x".repeat(len).into())]);
    for (row, index) in rows.into_iter().zip(1..) {
        let mut walk = walk(vec![row], [TABLE, POINT], 7_u32);
        walk.buffer = 0;
        for host in &mut hosts {
            assert_eq!(call(host, "walk", index, &walk.args()), Ok(()));
        }
        let [table, point] = seen(&hosts[0], index);
        assert_eq!([&table, &point], seen(&hosts[1], index).each_ref());
        assert_eq!(table, point);
        assert_eq!(split(&hosts[0], &table).len(), index as usize);
    }
}

#[test]
fn a_table_with_a_unique_index_is_read_in_its_order_without_a_copy() {
    let layout = Layout {
        columns: vec![AlgebraicType::U32, AlgebraicType::U64],
        key: vec![0],
        unique: Some(vec![1]),
    };
    let mut host = FakeHost::new(&walker(&layout), 4_096);
    let rows: Vec<Vec<AlgebraicValue>> = (0..40_u64)
        .map(|n| vec![7_u32.into(), (n * 7 % 40).into()])
        .collect();
    assert_eq!(
        call(&mut host, "walk", 1, &walk(rows, [TABLE, 0], 7_u32).args()),
        Ok(())
    );
    let rows: Vec<Vec<AlgebraicValue>> = vec![vec![8_u32.into(), 41_u64.into()]];
    assert_eq!(
        call(&mut host, "walk", 2, &walk(rows, [TABLE, 0], 7_u32).args()),
        Ok(())
    );
    let ids = |index: u64| -> Vec<u64> {
        let rows = split(&host, &seen(&host, index)[0]);
        let ids = rows.iter().map(|row| *row.elements[1].as_u64().unwrap());
        ids.collect()
    };
    assert_eq!(ids(1), Vec::from_iter(0..40));
    assert_eq!(ids(2), Vec::from_iter([41].into_iter().chain(0..40)));
}

/// What a hash index takes for two values may be one to another index, so that its keys are not unique.
#[test]
fn a_unique_float_makes_no_other_index_unique() {
    let float = || AlgebraicType::option(AlgebraicType::F32);
    for (ty, unique, key, ordered) in [
        (AlgebraicType::U32, vec![0], vec![0, 1], true),
        (AlgebraicType::F32, vec![0], vec![0, 1], false),
        (float(), vec![0], vec![0, 1], false),
        (float(), vec![0, 1], vec![1, 0], true),
    ] {
        let mut def = RawModuleDefV9::default();
        table(
            &mut def,
            "rows",
            product(vec![ty.clone(), AlgebraicType::U64]),
            &[],
        );
        let columns = |columns: &[u16]| columns.iter().copied().collect::<ColList>();
        def.tables[0].constraints = vec![RawConstraintDefV9 {
            name: None,
            data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 {
                columns: columns(&unique),
            }),
        }];
        let algorithms = [
            RawIndexAlgorithm::Hash {
                columns: columns(&unique),
            },
            RawIndexAlgorithm::BTree {
                columns: columns(&key),
            },
        ];
        let indexes = algorithms.into_iter().map(|algorithm| RawIndexDefV9 {
            name: None,
            accessor_name: None,
            algorithm,
        });
        def.tables[0].indexes = indexes.collect();
        let module = Module::from_def(&encode(RawModuleDef::V9(def))).unwrap();
        assert_eq!(module.tables()[0].ordered, ordered, "{ty:?}, {unique:?}, {key:?}");
    }
}
