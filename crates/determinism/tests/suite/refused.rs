//! What can't be prepared, and what its publisher is told.

use rtdb_determinism::{MODULE_BYTES_MAX, PrepareError, prepare};
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{RawMiscModuleExportV9, RawModuleDefV9, RawProcedureDefV9};
use spacetimedb_lib::db::raw_def::v10::{
    RawHttpHandlerDefV10, RawModuleDefV10, RawModuleDefV10Builder, RawModuleDefV10Section, RawSubmoduleV10,
};
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, ProductTypeElement};

use crate::raw_module::{encode, module, reducer, table};

fn refusal(wasm: &[u8]) -> PrepareError {
    let error = prepare(wasm).expect_err("the module is refused");
    assert!(!error.to_string().is_empty());
    error
}

fn v9(build: impl FnOnce(&mut RawModuleDefV9)) -> PrepareError {
    let mut def = RawModuleDefV9::default();
    build(&mut def);
    refusal(&module(&encode(RawModuleDef::V9(def)), ""))
}

fn v10(build: impl FnOnce(&mut RawModuleDefV10Builder)) -> PrepareError {
    let mut builder = RawModuleDefV10Builder::new();
    build(&mut builder);
    refusal(&module(&encode(RawModuleDef::V10(builder.finish())), ""))
}

fn row(types: Vec<AlgebraicType>) -> ProductType {
    let columns = types.into_iter().enumerate();
    columns
        .map(|(at, ty)| ProductTypeElement::new(ty, Some(format!("c{at}").into())))
        .collect()
}

fn importing(from: &str, name: &str, ty: &str) -> PrepareError {
    let def = encode(RawModuleDef::V9(RawModuleDefV9::default()));
    refusal(&module(
        &def,
        &format!(r#"(import "{from}" "{name}" (func {ty}))"#),
    ))
}

fn text(wat: &str) -> PrepareError {
    refusal(&wat::parse_str(wat).expect("the module is well formed"))
}

const REDUCER: &str = "(param i32 i64 i64 i64 i64 i64 i64 i64 i32 i32) (result i32)";

#[test]
fn what_is_no_module() {
    assert!(matches!(refusal(b""), PrepareError::NotWasm(_)));
    assert!(matches!(refusal(&[0xff; 100]), PrepareError::NotWasm(_)));
    assert!(matches!(
        refusal(b"\0asm\x01\0\0\0junk"),
        PrepareError::NotWasm(_)
    ));
    assert_eq!(refusal(b"export default schema({})"), PrepareError::JavaScript);
    let bytes = MODULE_BYTES_MAX + 1;
    assert_eq!(
        refusal(&vec![0; bytes]),
        PrepareError::TooLarge {
            bytes,
            max: MODULE_BYTES_MAX
        }
    );
}

#[test]
fn webassembly_that_is_no_module_of_ours() {
    assert!(matches!(text("(module)"), PrepareError::NoModule(_)));
    assert!(matches!(
        text(r#"(module (memory (export "memory") 1))"#),
        PrepareError::NoModule(_)
    ));
    let signature = r#"(module (memory (export "memory") 1) (func (export "__call_reducer__")))"#;
    assert!(matches!(text(signature), PrepareError::WrongAbi(_)));
    let no_describe = format!(
        r#"(module (memory (export "memory") 1) (func (export "__call_reducer__") {REDUCER} unreachable))"#
    );
    assert!(matches!(text(&no_describe), PrepareError::NoModule(_)));
}

#[test]
fn other_interfaces() {
    assert!(matches!(
        importing("spacetime_11.0", "table_id_from_name", "(param i32)"),
        PrepareError::WrongAbi(_)
    ));
    assert!(matches!(
        importing("wasi_snapshot_preview1", "fd_write", ""),
        PrepareError::WrongAbi(_)
    ));
    assert!(matches!(
        importing("spacetime_10.0", "datastore_clear", "(param i64)"),
        PrepareError::WrongAbi(_)
    ));
    let schedule = "volatile_nonatomic_schedule_immediate";
    let refused = importing("spacetime_10.0", schedule, "(param i32 i32 i32 i32)");
    assert_eq!(refused, PrepareError::Import(schedule.into()));
    assert_eq!(
        importing("spacetime_10.5", "datastore_new", ""),
        PrepareError::Import("datastore_new".into())
    );
}

#[test]
fn modules_that_describe_themselves_badly() {
    let describing = |body: &str| {
        text(&format!(
            r#"(module (memory (export "memory") 1)
                (func (export "__call_reducer__") {REDUCER} unreachable)
                (func (export "__describe_module__") (param i32) {body}))"#
        ))
    };
    assert!(matches!(describing("unreachable"), PrepareError::Describe(_)));
    assert!(matches!(
        describing("(loop $forever (br $forever))"),
        PrepareError::Describe(_)
    ));
    assert!(matches!(
        describing("(drop (memory.grow (i32.const 65000))) unreachable"),
        PrepareError::Describe(_)
    ));
    assert!(matches!(describing(""), PrepareError::Definition(_)));
}

#[test]
fn types_nested_without_end() {
    // Version 9, one type: arrays of arrays of arrays.
    let def = [&[1, 1, 0, 0, 0][..], &vec![3; 200_000]].concat();
    assert!(matches!(refusal(&module(&def, "")), PrepareError::Definition(_)));
}

#[test]
fn reserved_names() {
    let hidden = |name: &str| PrepareError::HiddenName(name.into());
    assert_eq!(
        v9(|def| table(def, "rtdb_rows", row(vec![]), &[])),
        hidden("rtdb_rows")
    );
    assert_eq!(v9(|def| reducer(def, "rtdb_mark")), hidden("rtdb_mark"));
    assert_eq!(
        v10(|def| def.add_reducer("rtdb_mark", row(vec![]))),
        hidden("rtdb_mark")
    );
    // What the server makes of it counts.
    assert_eq!(
        v10(|def| def.add_reducer("rtdbMark", row(vec![]))),
        hidden("rtdb_mark")
    );
    let parameter = ProductTypeElement::new(AlgebraicType::U64, Some("rtdb_index".into()));
    assert_eq!(
        v10(|def| def.add_reducer("fine", ProductType::from_iter([parameter]))),
        hidden("rtdb_index")
    );
}

#[test]
fn columns_that_cannot_be_generated() {
    let recursive = |def: &mut RawModuleDefV9| {
        let itself = def
            .typespace
            .add(AlgebraicType::array(AlgebraicType::Ref(AlgebraicTypeRef(0))));
        table(
            def,
            "tree",
            row(vec![AlgebraicType::Ref(itself), AlgebraicType::U64]),
            &[1],
        );
    };
    let unwalkable = PrepareError::Unwalkable {
        table: "tree".into(),
        column: "c1".into(),
    };
    assert_eq!(v9(recursive), unwalkable);

    let sequence = PrepareError::Sequence {
        table: "rows".into(),
        column: "c0".into(),
    };
    assert_eq!(
        v9(|def| table(def, "rows", row(vec![AlgebraicType::String]), &[0])),
        sequence
    );
    let unbounded = |def: &mut RawModuleDefV9| {
        table(def, "rows", row(vec![AlgebraicType::U64]), &[0]);
        def.tables[0].sequences[0].max_value = Some(i128::MAX);
    };
    assert_eq!(v9(unbounded), sequence);
    assert!(matches!(
        v9(|def| table(def, "rows", row(vec![]), &[3])),
        PrepareError::Definition(_)
    ));
}

#[test]
fn too_many_generated_columns() {
    let with = |columns: u16| {
        let mut def = RawModuleDefV9::default();
        // Spread over tables: they are counted together.
        for (nth, columns) in [("one", columns / 2), ("two", columns - columns / 2)] {
            let auto_inc: Vec<_> = (0..columns).collect();
            table(
                &mut def,
                nth,
                row(vec![AlgebraicType::U64; columns.into()]),
                &auto_inc,
            );
        }
        prepare(&module(&encode(RawModuleDef::V9(def)), ""))
    };
    assert!(with(512).is_ok());
    assert_eq!(
        with(513),
        Err(PrepareError::TooManySequences {
            columns: 513,
            max: 512
        })
    );
}

#[test]
fn what_is_not_served_yet() {
    let procedure = RawProcedureDefV9 {
        name: "fetch".into(),
        params: row(vec![]),
        return_type: AlgebraicType::unit(),
    };
    let refused = v9(|def| def.misc_exports.push(RawMiscModuleExportV9::Procedure(procedure)));
    assert_eq!(refused, PrepareError::Procedures("fetch".into()));

    let section = |section| {
        let def = RawModuleDefV10 {
            sections: vec![section],
        };
        refusal(&module(&encode(RawModuleDef::V10(def)), ""))
    };
    let handlers = RawModuleDefV10Section::HttpHandlers(vec![RawHttpHandlerDefV10 {
        source_name: "hook".into(),
    }]);
    assert_eq!(section(handlers), PrepareError::HttpHandlers("hook".into()));
    let submodule = RawSubmoduleV10 {
        namespace: "inner".into(),
        module: RawModuleDefV10::default(),
    };
    assert_eq!(
        section(RawModuleDefV10Section::Submodules(vec![submodule])),
        PrepareError::Submodules("inner".into())
    );
}
