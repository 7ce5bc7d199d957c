//! Generated numbers that other rows have already.

use proptest::prelude::*;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{LOAD, Successes, prepare};
use spacetimedb_lib::db::raw_def::v9::{
    RawConstraintDataV9, RawConstraintDefV9, RawIndexAlgorithm, RawIndexDefV9, RawModuleDefV9,
    RawUniqueConstraintDataV9,
};
use spacetimedb_lib::db::raw_def::v10::{ExplicitNames, RawModuleDefV10Builder};
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_primitives::ColList;
use spacetimedb_sats::raw_identifier::RawIdentifier;
use spacetimedb_sats::{AlgebraicType, AlgebraicValue, ProductType, ProductTypeElement, ProductValue};

use crate::generated::product;
use crate::host::{Failure, FakeHost};
use crate::raw_module::{encode, module_of_table, numbered};

/// What stands in the row of `rtdb_state` before its pairs.
const PAIRS_AT: usize = 25 + 16 * Successes::COLUMNS.len();

/// Makes columns of the table `rows` unique, the first one its primary key, each with an index.
pub(crate) fn unique(def: &mut RawModuleDefV9, columns: &[u16], hash: bool) {
    let rows = &mut def.tables[0];
    rows.primary_key = ColList::new(columns[0].into());
    for &column in columns {
        let columns = ColList::new(column.into());
        rows.indexes.push(RawIndexDefV9 {
            name: Some(RawIdentifier::from(format!("rows_c{column}_idx_btree"))),
            accessor_name: None,
            algorithm: match hash {
                true => RawIndexAlgorithm::Hash {
                    columns: columns.clone(),
                },
                false => RawIndexAlgorithm::BTree {
                    columns: columns.clone(),
                },
            },
        });
        rows.constraints.push(RawConstraintDefV9 {
            name: None,
            data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 { columns }),
        });
    }
}

/// A database whose table `rows` has two columns: a number of type `ty`, generated and unique, and a unique u64.
struct Numbers {
    host: FakeHost,
    ty: AlgebraicType,
    index: u64,
}

impl Numbers {
    fn new(ty: AlgebraicType, hash: bool, change: impl FnOnce(&mut RawModuleDefV9)) -> Self {
        let row = product(vec![ty.clone(), AlgebraicType::U64]);
        let wasm = numbered(2, &[0], |def| {
            let reference = def.tables[0].product_type_ref;
            def.typespace[reference] = AlgebraicType::Product(row.clone());
            def.reducers
                .iter_mut()
                .for_each(|reducer| reducer.params = row.clone());
            unique(def, &[0, 1], hash);
            change(def);
        });
        Self {
            host: FakeHost::new(&wasm, 4096),
            ty,
            index: 0,
        }
    }

    fn number(&self, number: i64) -> AlgebraicValue {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(32, if number < 0 { 0xff } else { 0 });
        AlgebraicValue::decode(&self.ty, &mut &bytes[..]).unwrap()
    }

    /// Rows that nobody has inserted by a call.
    fn import(&mut self, numbers: impl IntoIterator<Item = i64>) {
        for number in numbers {
            let row = [
                self.number(number),
                AlgebraicValue::U64(1_000_000_000 + number as u64),
            ];
            self.host.db.tables[0].rows.push(ProductValue::from_iter(row));
        }
    }

    fn call(&mut self, reducer: &str, number: i64, other: u64) -> Result<(), Failure> {
        self.index += 1;
        let header = CallHeader {
            index: self.index,
            ..CallHeader::default()
        };
        let row = ProductValue::from_iter([self.number(number), AlgebraicValue::U64(other)]);
        self.host.call(reducer, header, &bsatn::to_vec(&row).unwrap())
    }

    /// Inserts a row without a number, and gives the number that it got.
    fn generate(&mut self) -> Option<i64> {
        let other = self.index;
        self.call("insert", 0, other).ok()?;
        let row = self.host.db.tables[0].rows.last();
        let mut bytes = bsatn::to_vec(&row?.elements[0]).unwrap();
        // What the module was told is what the row has.
        let told = bsatn::to_vec(&bytes).unwrap();
        assert!(self.host.db.rows("left").contains(&told));
        bytes.resize(8, 0);
        Some(i64::from_le_bytes(bytes.try_into().unwrap()))
    }
}

#[test]
fn rows_with_numbers_of_their_own_do_not_stop_the_count() {
    for ty in [
        AlgebraicType::U64,
        AlgebraicType::I128,
        AlgebraicType::U256,
        AlgebraicType::U32,
    ] {
        for hash in [false, true] {
            let mut numbers = Numbers::new(ty.clone(), hash, |_| {});
            for number in 1..4 {
                numbers.call("insert", number, number as u64 + 100).unwrap();
            }
            assert_eq!(numbers.call("fail", 0, 1), Err(Failure::Failed(String::new())));
            assert_eq!(numbers.call("explode", 0, 1), Err(Failure::Trapped));
            assert_eq!(numbers.generate(), Some(4), "{ty:?}");
            numbers.call("insert", 6, 200).unwrap();
            numbers.host.restart();
            assert_eq!(numbers.generate(), Some(5));
            assert_eq!(numbers.generate(), Some(7));
        }
    }
}

#[test]
fn many_rows_with_numbers_of_their_own_are_leapt_over() {
    let mut numbers = Numbers::new(AlgebraicType::U64, false, |_| {});
    numbers.import(1..=700);
    numbers.import([703]);
    assert_eq!(numbers.generate(), Some(701));
    assert_eq!(numbers.generate(), Some(702));
    assert_eq!(numbers.generate(), Some(704));

    // Downwards, and to the very end of the bounds, from where it begins anew.
    let mut numbers = Numbers::new(AlgebraicType::I64, false, |def| {
        let sequence = &mut def.tables[0].sequences[0];
        (sequence.start, sequence.increment) = (Some(1_000), -1);
        (sequence.min_value, sequence.max_value) = (Some(401), Some(1_001));
    });
    numbers.import(402..=1_000);
    assert_eq!(numbers.generate(), Some(401));
    assert_eq!(numbers.generate(), Some(1_001));
    assert_eq!(numbers.generate(), None);
    numbers.host.db.tables[0].rows.remove(300);
    assert_eq!(numbers.generate(), Some(702));

    let mut numbers = Numbers::new(AlgebraicType::I64, false, |def| {
        let sequence = &mut def.tables[0].sequences[0];
        (sequence.start, sequence.increment) = (Some(i64::MIN.into()), 7);
        (sequence.min_value, sequence.max_value) = (Some(i64::MIN.into()), Some(i64::MAX.into()));
    });
    numbers.import((0..500).map(|nth| i64::MIN + 7 * nth));
    assert_eq!(numbers.generate(), Some(i64::MIN + 7 * 500));
}

#[test]
fn another_unique_column_is_left_to_the_module() {
    let mut numbers = Numbers::new(AlgebraicType::U64, false, |_| {});
    numbers.import([1, 2]);
    numbers.call("insert", 9, 77).unwrap();
    // Its number would be good, or be found: the other column is what fails.
    for _ in 0..3 {
        assert_eq!(numbers.call("insert", 0, 77), Err(Failure::Trapped));
        assert_eq!(numbers.call("insert", 9, 78), Err(Failure::Trapped));
    }
    assert_eq!(numbers.generate(), Some(3));
    assert_eq!(numbers.call("insert", 0, 77), Err(Failure::Trapped));
    assert_eq!(numbers.generate(), Some(4));
}

#[test]
fn a_full_column_fails_and_goes_on_when_there_is_room() {
    for ty in [AlgebraicType::U8, AlgebraicType::I8] {
        let mut numbers = Numbers::new(ty, false, |_| {});
        numbers.import(
            (0..256)
                .map(|number| number as u8 as i64)
                .filter(|number| *number != 200),
        );
        assert_eq!(numbers.generate(), Some(200));
        for _ in 0..2 {
            assert_eq!(numbers.generate(), None);
        }
        numbers.host.db.tables[0].rows.remove(7);
        assert_eq!(numbers.generate(), Some(7));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// All numbers of a byte, 0 among them, as the host's own sequence comes by them.
    #[test]
    fn the_next_number_of_a_byte_that_is_free_is_taken(steps in proptest::collection::vec((0..4_u8, any::<u8>()), 1..80), full: bool) {
        let mut numbers = Numbers::new(AlgebraicType::U8, false, |_| {});
        let mut taken = [false; 256];
        if full {
            numbers.import((0..256).filter(|number| number % 50 != 3));
            taken = std::array::from_fn(|number| number % 50 != 3);
        }
        let mut next = 1_usize;
        for (step, byte) in steps {
            let at = usize::from(byte);
            match step {
                0 if byte != 0 => {
                    let other = numbers.index;
                    prop_assert_eq!(numbers.call("insert", byte.into(), other).is_ok(), !taken[at]);
                    taken[at] = true;
                }
                1 => {
                    let row = numbers.number(byte.into());
                    numbers.host.db.tables[0].rows.retain(|other| other.elements[0] != row);
                    taken[at] = false;
                }
                _ => {
                    let free = (next..next + 256).find(|number| !taken[number % 256]);
                    prop_assert_eq!(numbers.generate(), free.map(|number| (number % 256) as i64));
                    if let Some(free) = free {
                        taken[free % 256] = true;
                        next = free + 1;
                    }
                }
            }
        }
    }
}

/// A prepared module of 2.x. Its source calls its table and its columns so; their canonical names are `rows`, `the_id` and
/// `other`.
fn named(source: &str, id: &str) -> Vec<u8> {
    let columns =
        [id, "other"].map(|name| ProductTypeElement::new(AlgebraicType::U64, Some(RawIdentifier::new(name))));
    let row = ProductType::from_iter(columns);
    let mut builder = RawModuleDefV10Builder::new();
    builder
        .build_table_with_new_type(source.to_owned(), row.clone(), true)
        .with_column_sequence(0)
        .finish();
    builder
        .build_table_with_new_type("left", product(vec![AlgebraicType::bytes()]), true)
        .finish();
    builder.add_reducer("insert", row);
    let mut names = ExplicitNames::default();
    names.insert_table(RawIdentifier::new(source), "rows");
    builder.add_explicit_names(names);
    let wasm = module_of_table(&encode(RawModuleDef::V10(builder.finish())), source);
    prepare(&wasm).expect("the module can be prepared").wasm
}

/// The only generated column's key and next number.
fn pair(host: &FakeHost) -> (u64, i64) {
    let state = host.db.rows("rtdb_state").remove(0);
    bsatn::from_slice(&state[PAIRS_AT..]).unwrap()
}

/// The key of a column.
fn key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn insert(host: &mut FakeHost, index: u64) {
    let header = CallHeader {
        index,
        ..CallHeader::default()
    };
    let row = [[0; 8], index.to_le_bytes()].concat();
    host.call("insert", header, &row).unwrap();
}

#[test]
fn numbers_go_on_when_only_the_source_calls_them_otherwise() {
    let mut host = FakeHost::new(&named("rows", "the_id"), 4096);
    insert(&mut host, 1);
    assert_eq!(pair(&host), (key("rows.the_id"), 2));
    for (source, id, index) in [("pets", "theId", 2), ("cats", "TheId", 3)] {
        host.update(&named(source, id));
        insert(&mut host, index);
        assert_eq!(pair(&host), (key("rows.the_id"), 1 + index as i64));
    }
}

#[test]
fn a_number_that_was_kept_under_the_sources_name_is_found() {
    for strangers in 0..8_u64 {
        let mut host = FakeHost::new(&named("pets", "theId"), 4096);
        let mut pairs: Vec<_> = (1..=strangers).map(|key| (key, 1_i64)).collect();
        pairs.push((key("pets.theId"), 5));
        let encoded: Vec<_> = pairs.iter().map(|pair| bsatn::to_vec(pair).unwrap()).collect();
        let (some, more) = encoded.split_at(encoded.len().min(4));
        let mut state = [&[0][..], &1_u64.to_le_bytes(), &[0; PAIRS_AT - 9], &some.concat()].concat();
        state.resize(PAIRS_AT + 64, 0);
        if !more.is_empty() {
            load(
                &mut host,
                "rtdb_sequence",
                bsatn::to_vec(&(0_u8, more.concat())).unwrap(),
            );
        }
        load(&mut host, "rtdb_state", state);
        for index in 2..4 {
            insert(&mut host, index);
        }
        let rows = host.db.rows("pets");
        let numbers: Vec<_> = rows.iter().map(|row| row[0]).collect();
        assert_eq!(numbers, [5, 6]);
        host.update(&named("cats", "theId"));
        insert(&mut host, 4);
        assert_eq!(host.db.rows("cats")[0][0], 7);
    }
}

fn load(host: &mut FakeHost, table: &str, row: Vec<u8>) {
    let args = bsatn::to_vec(&(table, vec![row])).unwrap();
    host.call(LOAD, CallHeader::default(), &args).unwrap();
}
