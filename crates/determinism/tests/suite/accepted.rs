//! Mutated modules and mutated definitions: most are refused, and what is accepted works.

use proptest::prelude::*;
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::bsatn;
use spacetimedb_lib::db::raw_def::v9::{
    Lifecycle, RawConstraintDataV9, RawConstraintDefV9, RawIndexAlgorithm, RawIndexDefV9, RawModuleDefV9,
    RawScheduleDefV9, RawSequenceDefV9, RawUniqueConstraintDataV9, TableAccess, TableType,
};
use spacetimedb_lib::db::raw_def::v10::{ExplicitNames, RawModuleDefV10, RawModuleDefV10Builder};
use spacetimedb_primitives::{ColId, ColList};
use spacetimedb_sats::raw_identifier::RawIdentifier;
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, ProductTypeElement};

use crate::exercise::exercise;
use crate::fixtures::{NAMES, STATEFUL, wasm};
use crate::raw_module::{encode, module, module_with_memory, reducer, table};

/// Names that are told apart by case alone, that are nearly ours, and that are nobody's.
const POOL: [&str; 14] = [
    "rows",
    "left",
    "Rows",
    "rowsId",
    "rows_id",
    "rtd",
    "rtdbx",
    "Rtdb",
    "st",
    "",
    "a b",
    "ä",
    "init",
    "rows_c0_idx_btree",
];

/// A change to a definition: what kind, and two numbers whose meaning depends on it.
type Change = (u8, u16, u16);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((0..16_u8, 0..16_u16, 0..16_u16), 0..6)
}

fn name(n: u16) -> RawIdentifier {
    RawIdentifier::from(POOL[usize::from(n) % POOL.len()])
}

fn ty(n: u16) -> AlgebraicType {
    match n % 8 {
        0 => AlgebraicType::U64,
        1 => AlgebraicType::String,
        2 => AlgebraicType::Ref(AlgebraicTypeRef(u32::from(n / 8))),
        3 => AlgebraicType::array(AlgebraicType::U8),
        4 => AlgebraicType::F32,
        5 => AlgebraicType::option(AlgebraicType::I128),
        6 => AlgebraicType::unit(),
        _ => AlgebraicType::Bool,
    }
}

fn columns(a: u16, b: u16) -> ColList {
    match b % 3 {
        0 => ColList::new((a % 4).into()),
        1 => [a % 4, b % 4].map(ColId).into_iter().collect(),
        _ => ColList::empty(),
    }
}

fn base() -> RawModuleDefV9 {
    let row = |types: &[AlgebraicType]| -> ProductType {
        let columns = types.iter().zip(0..);
        columns
            .map(|(ty, at)| ProductTypeElement::new(ty.clone(), Some(format!("c{at}").into())))
            .collect()
    };
    let mut def = RawModuleDefV9::default();
    table(
        &mut def,
        "rows",
        row(&[AlgebraicType::U64, AlgebraicType::String]),
        &[0],
    );
    table(&mut def, "left", row(&[AlgebraicType::bytes()]), &[]);
    reducer(&mut def, "insert");
    def
}

/// A row of the first table.
fn row() -> Vec<u8> {
    bsatn::to_vec(&(0_u64, "text")).expect("the row encodes")
}

fn change(def: &mut RawModuleDefV9, (kind, a, b): Change) {
    let tables = def.tables.len();
    let reducers = def.reducers.len();
    let at = usize::from(b);
    match kind {
        0 => def.tables[at % tables].name = name(a),
        1 => def.reducers[at % reducers].name = name(a),
        2 => table(def, POOL[usize::from(a) % POOL.len()], ProductType::unit(), &[]),
        3 => reducer(def, POOL[usize::from(a) % POOL.len()]),
        4 => {
            def.typespace.add(ty(a));
        }
        5 => def.tables[at % tables].product_type_ref = AlgebraicTypeRef(a.into()),
        6 => {
            let lifecycle = [Lifecycle::Init, Lifecycle::OnConnect, Lifecycle::OnDisconnect];
            def.reducers[at % reducers].lifecycle = Some(lifecycle[usize::from(a) % 3]);
        }
        7 => {
            let param = ProductTypeElement::new(ty(a), Some(name(b)));
            def.reducers[at % reducers].params = ProductType::from_iter([param]);
        }
        8 => def.tables[at % tables].indexes.push(RawIndexDefV9 {
            name: (a % 2 == 0).then(|| name(a)),
            accessor_name: None,
            algorithm: match b % 4 {
                0 => RawIndexAlgorithm::Direct {
                    column: (a % 4).into(),
                },
                1 => RawIndexAlgorithm::Hash {
                    columns: columns(a, b),
                },
                _ => RawIndexAlgorithm::BTree {
                    columns: columns(a, b),
                },
            },
        }),
        9 => def.tables[at % tables].constraints.push(RawConstraintDefV9 {
            name: None,
            data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 {
                columns: columns(a, b),
            }),
        }),
        10 => def.tables[at % tables].sequences.push(RawSequenceDefV9 {
            name: None,
            column: (a % 4).into(),
            start: (b % 3 == 0).then(|| i128::from(a)),
            min_value: (b % 3 == 1).then(|| i128::from(a) - 8),
            max_value: (b % 3 == 2).then(|| i128::from(a)),
            increment: i128::from(a) - 4,
        }),
        11 => {
            def.tables[at % tables].schedule = Some(RawScheduleDefV9 {
                name: None,
                reducer_name: name(a),
                scheduled_at_column: (b % 4).into(),
            })
        }
        12 => def.tables[at % tables].table_type = TableType::System,
        13 => def.tables[at % tables].table_access = TableAccess::Private,
        14 => def.types.clear(),
        _ => def.tables[at % tables].primary_key = columns(a, b),
    }
}

/// The same tables and reducers in version 10, with names made in the ways that are new there.
fn v10(changes: &[Change]) -> RawModuleDefV10 {
    let mut builder = RawModuleDefV10Builder::new();
    let mut names = ExplicitNames::default();
    builder
        .build_table_with_new_type("rows", ProductType::from([("c0", AlgebraicType::U64)]), true)
        .finish();
    builder.add_reducer("insert", ProductType::unit());
    for &(kind, a, b) in changes {
        match kind % 6 {
            0 => names.insert_table(name(a), name(b)),
            1 => names.insert_function(name(a), name(b)),
            2 => names.insert_index(name(a), name(b)),
            3 => builder.add_reducer(name(a), ProductType::from_iter([ty(b)])),
            4 => builder.add_lifecycle_reducer(Lifecycle::Init, name(a), ProductType::unit()),
            _ => builder.add_schedule(name(a), b, name(b)),
        }
    }
    builder.add_explicit_names(names);
    builder.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn mutated_definitions_are_refused_or_work(changes in changes()) {
        let mut def = base();
        changes.iter().for_each(|it| change(&mut def, *it));
        exercise(&module(&encode(RawModuleDef::V9(def)), ""), &row());
        exercise(&module(&encode(RawModuleDef::V10(v10(&changes))), ""), &row());
    }

    #[test]
    fn memories_of_all_kinds_work(initial in 5..12_u32, more in 0..3_u32) {
        let wasm = module_with_memory(&encode(RawModuleDef::V9(base())), initial, initial + more);
        prop_assert!(exercise(&wasm, &row()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn mutated_modules_are_refused_or_work(
        which in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        args in any::<[u8; 24]>(),
    ) {
        let names = [NAMES, STATEFUL].concat();
        let mut wasm = wasm(names[which]);
        for (at, byte) in changes {
            let at = at.index(wasm.len());
            wasm[at] = byte;
        }
        exercise(&wasm, &args);
    }
}

/// Natively there is no end to how deep its arguments go: the gateway sets one.
#[test]
fn a_reducer_may_take_a_type_that_contains_itself() {
    crate::raw_module::numbered(1, &[], |def| {
        let itself = AlgebraicType::Ref(AlgebraicTypeRef(def.typespace.types.len() as u32));
        let tree = ProductType::from([("branches", AlgebraicType::array(itself.clone()))]);
        crate::raw_module::named_type(def, "tree", tree);
        for reducer in &mut def.reducers {
            reducer.params = ProductType::from([("tree", itself.clone())]);
        }
    });
}
