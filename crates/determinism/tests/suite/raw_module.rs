//! Hand-made modules: a definition, and reducers that insert their arguments as a row.

use rtdb_determinism::prepare;
use spacetimedb_lib::db::raw_def::v9::{
    RawModuleDefV9, RawReducerDefV9, RawScopedTypeNameV9, RawSequenceDefV9, RawTableDefV9, RawTypeDefV9,
    TableAccess, TableType,
};
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_sats::raw_identifier::RawIdentifier;
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, ProductTypeElement};

/// A prepared module whose table `rows` has so many columns, of which `auto_inc` are generated. Its reducer `insert`
/// inserts a row; `fail` does and then fails, `explode` does and then traps.
pub(crate) fn numbered(columns: u16, auto_inc: &[u16], change: impl FnOnce(&mut RawModuleDefV9)) -> Vec<u8> {
    let column = |name: String, ty| ProductTypeElement::new(ty, Some(name.into()));
    let row: ProductType = (0..columns)
        .map(|at| column(format!("c{at}"), AlgebraicType::U64))
        .collect();
    let mut def = RawModuleDefV9::default();
    table(&mut def, "rows", row.clone(), auto_inc);
    let left = ProductType::from_iter([column("left".into(), AlgebraicType::bytes())]);
    table(&mut def, "left", left, &[]);
    for name in ["insert", "fail", "explode"] {
        reducer(&mut def, name);
    }
    for reducer in &mut def.reducers {
        reducer.params = row.clone();
    }
    change(&mut def);
    let prepared = prepare(&module(&encode(RawModuleDef::V9(def)), ""));
    prepared.expect("the module can be prepared").wasm
}

/// A type of a definition under construction.
pub(crate) fn named_type(def: &mut RawModuleDefV9, name: &str, ty: ProductType) -> AlgebraicTypeRef {
    let ty = def.typespace.add(AlgebraicType::Product(ty));
    def.types.push(RawTypeDefV9 {
        name: RawScopedTypeNameV9 {
            scope: Box::new([]),
            name: RawIdentifier::new(name),
        },
        ty,
        custom_ordering: true,
    });
    ty
}

/// The same as [`numbered`] with two columns, the second of them generated, and the first one a list of lists, so many of
/// them in each other.
pub(crate) fn nested(lists: u32) -> Vec<u8> {
    numbered(2, &[1], |def| {
        let mut inner = AlgebraicType::U64;
        for nth in 0..lists {
            let list = ProductType::from([("list", AlgebraicType::array(inner))]);
            inner = AlgebraicType::Ref(named_type(def, &format!("nested{nth}"), list));
        }
        let rows = def.tables[0].product_type_ref;
        let row = ProductType::from([("c0", inner), ("c1", AlgebraicType::U64)]);
        for reducer in &mut def.reducers {
            reducer.params = row.clone();
        }
        def.typespace[rows] = AlgebraicType::Product(row);
    })
}

/// A table of a definition under construction.
pub(crate) fn table(def: &mut RawModuleDefV9, name: &str, row: ProductType, auto_inc: &[u16]) {
    let product_type_ref = named_type(def, name, row);
    let sequences = auto_inc.iter().map(|&column| RawSequenceDefV9 {
        name: None,
        column: column.into(),
        start: None,
        min_value: None,
        max_value: None,
        increment: 1,
    });
    def.tables.push(RawTableDefV9 {
        name: RawIdentifier::new(name),
        product_type_ref,
        primary_key: Default::default(),
        indexes: Vec::new(),
        constraints: Vec::new(),
        sequences: sequences.collect(),
        schedule: None,
        table_type: TableType::User,
        table_access: TableAccess::Public,
    });
}

pub(crate) fn reducer(def: &mut RawModuleDefV9, name: &str) {
    def.reducers.push(RawReducerDefV9 {
        name: RawIdentifier::new(name),
        params: ProductType::unit(),
        lifecycle: None,
    });
}

pub(crate) fn encode(def: RawModuleDef) -> Vec<u8> {
    bsatn::to_vec(&def).expect("the definition encodes")
}

/// A module with this definition. Its reducers insert their arguments, as a row, into the table `rows`, and what the
/// host leaves in the row's place into the table `left`. Then the second one fails, and the third one traps. `extra`
/// goes before everything else. Lengths stand at the address 12: a real server takes 0 for no address.
pub(crate) fn module(def: &[u8], extra: &str) -> Vec<u8> {
    wat::parse_str(text(def, extra)).expect("the module is well formed")
}

/// The same with another table in the place of `rows`, whose name is as long.
pub(crate) fn module_of_table(def: &[u8], table: &str) -> Vec<u8> {
    let text = text(def, "").replace(r#""rows""#, &format!("{table:?}"));
    wat::parse_str(text).expect("the module is well formed")
}

/// The same with another memory: so many pages in 64 KiB at first, and at most.
pub(crate) fn module_with_memory(def: &[u8], initial: u32, maximum: u32) -> Vec<u8> {
    let memory = format!(r#"(export "memory") {initial} {maximum})"#);
    let text = text(def, "").replace(r#"(export "memory") 8)"#, &memory);
    wat::parse_str(text).expect("the module is well formed")
}

pub(crate) fn text(def: &[u8], extra: &str) -> String {
    let (len, data) = (def.len(), escape(def));
    format!(
        r#"(module
        {extra}
        (import "spacetime_10.0" "table_id_from_name" (func $table_id (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "bytes_source_read" (func $read (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_insert_bsatn" (func $insert (param i32 i32 i32) (result i32)))
        (memory (export "memory") 8)
        (data (i32.const 16) "rows")
        (data (i32.const 32) "left")
        (data (i32.const 262144) "{data}")
        (func (export "__describe_module__") (param $sink i32)
            (i32.store (i32.const 12) (i32.const {len}))
            (drop (call $write (local.get $sink) (i32.const 262144) (i32.const 12))))
        (func $must (param i32)
            (if (local.get 0) (then (unreachable))))
        (func (export "__call_reducer__")
            (param $id i32) (param i64 i64 i64 i64 i64 i64 i64) (param $source i32) (param i32) (result i32)
            (local $len i32) (local $result i32)
            (block $done (loop $more
                (br_if $done (i32.eqz (local.get $source)))
                (i32.store (i32.const 12) (i32.const 1000))
                (local.set $result (call $read (local.get $source) (i32.add (i32.const 1028) (local.get $len)) (i32.const 12)))
                (local.set $len (i32.add (local.get $len) (i32.load (i32.const 12))))
                (br_if $more (i32.eqz (local.get $result)))))
            (call $must (call $table_id (i32.const 16) (i32.const 4) (i32.const 8)))
            (i32.store (i32.const 12) (local.get $len))
            (call $must (call $insert (i32.load (i32.const 8)) (i32.const 1028) (i32.const 12)))
            (i32.store (i32.const 1024) (i32.load (i32.const 12)))
            (i32.store (i32.const 12) (i32.add (i32.const 4) (i32.load (i32.const 12))))
            (call $must (call $table_id (i32.const 32) (i32.const 4) (i32.const 8)))
            (call $must (call $insert (i32.load (i32.const 8)) (i32.const 1024) (i32.const 12)))
            (if (i32.eq (local.get $id) (i32.const 2)) (then (unreachable)))
            (local.get $id)))"#
    )
}

pub(crate) fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}
