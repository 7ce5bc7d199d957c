//! Generated columns, wherever they stand in a row.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::prepare;
use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9;
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_sats::{
    AlgebraicType, AlgebraicValue, ProductType, ProductTypeElement, ProductValue, SumType, SumTypeVariant,
};

use crate::host::FakeHost;
use crate::raw_module::{encode, module, nested, reducer, table};

fn integer() -> impl Strategy<Value = AlgebraicType> {
    use AlgebraicType as T;
    let all = vec![
        T::I8,
        T::U8,
        T::I16,
        T::U16,
        T::I32,
        T::U32,
        T::I64,
        T::U64,
        T::I128,
        T::U128,
        T::I256,
        T::U256,
    ];
    proptest::sample::select(all)
}

pub(crate) fn any_type() -> impl Strategy<Value = AlgebraicType> {
    let leaf = prop_oneof![
        integer(),
        Just(AlgebraicType::Bool),
        Just(AlgebraicType::F64),
        Just(AlgebraicType::String)
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(AlgebraicType::array),
            inner.clone().prop_map(AlgebraicType::option),
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|types| AlgebraicType::Product(product(types))),
            proptest::collection::vec(inner, 1..4).prop_map(|types| {
                let variants = types.into_iter().map(SumTypeVariant::from);
                AlgebraicType::Sum(SumType::new(variants.collect()))
            }),
        ]
    })
}

pub(crate) fn product(types: Vec<AlgebraicType>) -> ProductType {
    let named = types
        .into_iter()
        .enumerate()
        .map(|(at, ty)| ProductTypeElement::new(ty, Some(format!("c{at}").into())));
    named.collect()
}

pub(crate) fn any_value(ty: &AlgebraicType) -> BoxedStrategy<AlgebraicValue> {
    use AlgebraicType as T;
    match ty {
        T::Bool => any::<bool>().prop_map_into().boxed(),
        T::String => "[a-z]{0,9}"
            .prop_map(|text| AlgebraicValue::String(text.into()))
            .boxed(),
        T::Product(product) => {
            let columns: Vec<_> = product
                .elements
                .iter()
                .map(|element| any_value(&element.algebraic_type))
                .collect();
            columns.prop_map(AlgebraicValue::product).boxed()
        }
        T::Sum(sum) => {
            let variants: Vec<_> = sum
                .variants
                .iter()
                .map(|variant| any_value(&variant.algebraic_type))
                .collect();
            let variants = variants.into_iter().zip(0..);
            let variants =
                variants.map(|(it, tag)| it.prop_map(move |value| AlgebraicValue::sum(tag, value)).boxed());
            proptest::strategy::Union::new(variants).boxed()
        }
        T::Array(array) => {
            let (ty, element) = (ty.clone(), any_value(&array.elem_ty));
            let elements = proptest::collection::vec(element, 0..4);
            elements.prop_map(move |values| array_of(&ty, &values)).boxed()
        }
        scalar => {
            let scalar = scalar.clone();
            any::<[u8; 32]>()
                .prop_map(move |bytes| decode(&scalar, &bytes[..width(&scalar)]))
                .boxed()
        }
    }
}

fn array_of(ty: &AlgebraicType, values: &[AlgebraicValue]) -> AlgebraicValue {
    let mut bytes = (values.len() as u32).to_le_bytes().to_vec();
    values
        .iter()
        .for_each(|value| bytes.extend(bsatn::to_vec(value).unwrap()));
    decode(ty, &bytes)
}

fn decode(ty: &AlgebraicType, bytes: &[u8]) -> AlgebraicValue {
    AlgebraicValue::decode(ty, &mut &bytes[..]).expect("the bytes are a value")
}

fn width(ty: &AlgebraicType) -> usize {
    use AlgebraicType as T;
    match ty {
        T::I8 | T::U8 => 1,
        T::I16 | T::U16 => 2,
        T::I32 | T::U32 => 4,
        T::I128 | T::U128 => 16,
        T::I256 | T::U256 => 32,
        _ => 8,
    }
}

/// Columns, each with whether it is generated.
fn columns() -> impl Strategy<Value = Vec<(AlgebraicType, bool)>> {
    let plain = any_type().prop_map(|ty| (ty, false));
    let generated = integer().prop_map(|ty| (ty, true));
    proptest::collection::vec(prop_oneof![2 => plain, 1 => generated], 1..6)
}

fn rows() -> impl Strategy<Value = (Vec<(AlgebraicType, bool)>, Vec<Vec<AlgebraicValue>>)> {
    columns().prop_flat_map(|columns| {
        let row = columns.iter().map(|(ty, generated)| match generated {
            true => prop_oneof![Just(number(ty, 0)), any_value(ty)].boxed(),
            false => any_value(ty),
        });
        let row: Vec<_> = row.collect();
        (Just(columns), proptest::collection::vec(row, 1..8))
    })
}

fn number(ty: &AlgebraicType, next: u8) -> AlgebraicValue {
    let mut bytes = [0; 32];
    bytes[0] = next;
    decode(ty, &bytes[..width(ty)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn columns_are_found_filled_and_handed_back((columns, rows) in rows()) {
        let auto_inc: Vec<u16> = (0..).zip(&columns).filter(|(_, (_, generated))| *generated).map(|(at, _)| at).collect();
        let mut def = RawModuleDefV9::default();
        table(&mut def, "rows", product(columns.iter().map(|(ty, _)| ty.clone()).collect()), &auto_inc);
        table(&mut def, "left", product(vec![AlgebraicType::bytes()]), &[]);
        reducer(&mut def, "insert");
        let prepared = prepare(&module(&encode(RawModuleDef::V9(def)), "")).expect("the module can be prepared");
        let mut host = FakeHost::new(&prepared.wasm, 4096);

        let mut next = vec![1_u8; columns.len()];
        let (mut expected, mut left) = (BTreeSet::new(), BTreeSet::new());
        for (mut row, index) in rows.into_iter().zip(1..) {
            let args = bsatn::to_vec(&ProductValue::from_iter(row.clone())).unwrap();
            let mut generated = Vec::new();
            for ((value, (ty, is_generated)), next) in row.iter_mut().zip(&columns).zip(&mut next) {
                if *is_generated && value.is_numeric_zero() {
                    *value = number(ty, *next);
                    *next += 1;
                    generated.extend(bsatn::to_vec(&*value).unwrap());
                }
            }
            expected.insert(bsatn::to_vec(&ProductValue::from_iter(row)).unwrap());
            left.insert(bsatn::to_vec(&generated).unwrap());
            prop_assert_eq!(host.call("insert", CallHeader { index, ..CallHeader::default() }, &args), Ok(()));
        }
        prop_assert_eq!(host.db.rows("rows"), Vec::from_iter(expected));
        prop_assert_eq!(host.db.rows("left"), Vec::from_iter(left));
    }

    #[test]
    fn no_upload_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
        let upload = if header { [b"\0asm\x01\0\0\0", bytes.as_slice()].concat() } else { bytes };
        let _ = prepare(&upload);
    }

    #[test]
    fn no_definition_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0..4_u8) {
        let def = [&[version], bytes.as_slice()].concat();
        prop_assert!(prepare(&module(&def, "")).is_err());
    }

    #[test]
    fn a_damaged_module_makes_it_fail_at_most(at in any::<proptest::sample::Index>(), bit in 0..8_u8) {
        let mut def = RawModuleDefV9::default();
        table(&mut def, "rows", product(vec![AlgebraicType::String, AlgebraicType::U64]), &[1]);
        let mut wasm = module(&encode(RawModuleDef::V9(def)), "");
        let at = at.index(wasm.len());
        wasm[at] ^= 1 << bit;
        let _ = prepare(&wasm);
    }
}

#[test]
fn a_column_is_numbered_behind_one_that_nests_deep() {
    const LISTS: u32 = 40;
    let mut host = FakeHost::new(&nested(LISTS), 4096);
    let ones = vec![1_u32.to_le_bytes(); LISTS as usize].concat();
    let row = |number: u64| [&ones[..], &7_u64.to_le_bytes(), &number.to_le_bytes()].concat();
    let header = CallHeader {
        index: 1,
        ..CallHeader::default()
    };
    host.call("insert", header, &row(0)).expect("the row is inserted");
    let rows: Vec<_> = host.db.rows("rows").iter().map(|row| row.to_vec()).collect();
    assert_eq!(rows, [row(1)]);
}
