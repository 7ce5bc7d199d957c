//! What can't be prepared, and what its publisher is told.

use rtdb_determinism::{MODULE_BYTES_MAX, PrepareError, prepare};
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{
    Lifecycle, RawColumnDefaultValueV9, RawConstraintDataV9, RawConstraintDefV9, RawIndexAlgorithm,
    RawIndexDefV9, RawMiscModuleExportV9, RawModuleDefV9, RawProcedureDefV9, RawRowLevelSecurityDefV9,
    RawScheduleDefV9, RawUniqueConstraintDataV9, RawViewDefV9, TableType,
};
use spacetimedb_lib::db::raw_def::v10::{
    ExplicitNames, MethodOrAny, RawLifeCycleReducerDefV10, RawModuleDefV10, RawModuleDefV10Builder,
    RawModuleDefV10Section, RawSubmoduleV10,
};
use spacetimedb_lib::http::Method;
use spacetimedb_primitives::ColList;
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, ProductTypeElement};

use crate::raw_module::{encode, module, module_of_table, reducer, table};

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

fn hidden(name: &str) -> PrepareError {
    PrepareError::HiddenName(name.into())
}

#[test]
fn reserved_names() {
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
    for name in ["rtdbMark", "RTDB_mark", "Rtdb_Mark"] {
        assert_eq!(v10(|def| def.add_reducer(name, row(vec![]))), hidden("rtdb_mark"));
    }
    let parameter = || {
        ProductType::from_iter([ProductTypeElement::new(
            AlgebraicType::U64,
            Some("rtdb_index".into()),
        )])
    };
    assert_eq!(
        v10(|def| def.add_reducer("fine", parameter())),
        hidden("rtdb_index")
    );
    // The index of its column `state_id` would be called like ours.
    assert_eq!(v9(|def| table(def, "rtdb", row(vec![]), &[])), hidden("rtdb"));
    // The name of a row type is ours, too.
    let named_type = |def: &mut RawModuleDefV9| {
        table(def, "fine", row(vec![]), &[]);
        def.types[0].name.name = "RtdbState".into();
    };
    assert_eq!(v9(named_type), hidden("rtdb_state"));
    let index = |def: &mut RawModuleDefV9| {
        table(def, "fine", row(vec![AlgebraicType::U64]), &[]);
        def.tables[0].indexes.push(RawIndexDefV9 {
            name: Some("rtdb_state_id_idx_btree".into()),
            accessor_name: None,
            algorithm: RawIndexAlgorithm::BTree {
                columns: ColList::new(0.into()),
            },
        });
    };
    assert_eq!(v9(index), hidden("rtdb_state_id_idx_btree"));
    let default = |def: &mut RawModuleDefV9| {
        def.misc_exports.push(RawMiscModuleExportV9::ColumnDefaultValue(
            RawColumnDefaultValueV9 {
                table: "rtdb_state".into(),
                col_id: 0.into(),
                value: Box::new([]),
            },
        ));
    };
    assert_eq!(v9(default), hidden("rtdb_state"));
    let security = "SELECT * FROM rtdb_session WHERE session = 0";
    let rule = |def: &mut RawModuleDefV9| {
        def.row_level_security
            .push(RawRowLevelSecurityDefV9 { sql: security.into() });
    };
    assert_eq!(v9(rule), hidden("rtdb_session"));
    assert_eq!(
        v10(|def| def.add_row_level_security(security)),
        hidden("rtdb_session")
    );
}

#[test]
fn explicit_names_that_hide_or_rename_what_is_hidden() {
    let renaming = |rename: fn(&mut ExplicitNames)| {
        v10(|def| {
            let mut names = ExplicitNames::default();
            rename(&mut names);
            def.add_explicit_names(names);
        })
    };
    assert_eq!(
        renaming(|it| it.insert_function("rtdb_mark", "x")),
        hidden("rtdb_mark")
    );
    assert_eq!(
        renaming(|it| it.insert_function("x", "rtdb_load")),
        hidden("rtdb_load")
    );
    assert_eq!(
        renaming(|it| it.insert_table("rtdb_state", "x")),
        hidden("rtdb_state")
    );
    let index = "rtdb_state_id_idx_btree";
    assert_eq!(
        renaming(|it| it.insert_index("rtdb_state_id_idx_btree", "x")),
        hidden(index)
    );
}

#[test]
fn lifecycle_reducers_out_of_the_ordinary() {
    let param = || row(vec![AlgebraicType::U32]);
    for lifecycle in [Lifecycle::Init, Lifecycle::OnConnect, Lifecycle::OnDisconnect] {
        let with_params = |def: &mut RawModuleDefV9| {
            reducer(def, "begin");
            def.reducers[0].lifecycle = Some(lifecycle);
            def.reducers[0].params = param();
        };
        let refused = PrepareError::LifecycleParams("begin".into());
        assert_eq!(v9(with_params), refused);
        assert_eq!(
            v10(|def| def.add_lifecycle_reducer(lifecycle, "begin", param())),
            refused
        );
    }
    let twice = |def: &mut RawModuleDefV9| {
        for name in ["one", "two"] {
            reducer(def, name);
        }
        for reducer in &mut def.reducers {
            reducer.lifecycle = Some(Lifecycle::Init);
        }
    };
    assert!(matches!(v9(twice), PrepareError::Definition(_)));
    let section = RawModuleDefV10Section::LifeCycleReducers(vec![RawLifeCycleReducerDefV10 {
        lifecycle_spec: Lifecycle::Init,
        function_name: "nobody".into(),
    }]);
    let def = RawModuleDefV10 {
        sections: vec![section],
    };
    assert!(matches!(
        refusal(&module(&encode(RawModuleDef::V10(def)), "")),
        PrepareError::Definition(_)
    ));
}

/// A table `timer` with a schedule, and the reducer `tick` that takes its rows.
struct Timer {
    /// Whether it has `scheduled_id: u64` as its primary key, or another one.
    key: Option<AlgebraicType>,
    at: AlgebraicType,
    /// The column that says when.
    column: u16,
    called: &'static str,
    params: fn(AlgebraicTypeRef) -> Vec<AlgebraicType>,
    lifecycle: Option<Lifecycle>,
}

const TIMES: [&str; 2] = [
    "__time_duration_micros__",
    "__timestamp_micros_since_unix_epoch__",
];

/// A type like `ScheduleAt`, by the names of its variants.
fn schedule_at(variants: [&'static str; 2]) -> AlgebraicType {
    let times = TIMES.map(|name| AlgebraicType::product([(name, AlgebraicType::I64)]));
    let [interval, time] = times;
    AlgebraicType::sum([(variants[0], interval), (variants[1], time)])
}

impl Timer {
    fn sound() -> Self {
        Self {
            key: Some(AlgebraicType::U64),
            at: schedule_at(["Interval", "Time"]),
            column: 1,
            called: "tick",
            params: |row| vec![AlgebraicType::Ref(row)],
            lifecycle: None,
        }
    }

    fn row(&self) -> ProductType {
        row(vec![
            self.key.clone().unwrap_or(AlgebraicType::U64),
            self.at.clone(),
        ])
    }

    fn v9(&self) -> Result<(), PrepareError> {
        let mut def = RawModuleDefV9::default();
        table(&mut def, "timer", self.row(), &[]);
        reducer(&mut def, "tick");
        let timer = &mut def.tables[0];
        timer.schedule = Some(RawScheduleDefV9 {
            name: None,
            reducer_name: self.called.into(),
            scheduled_at_column: self.column.into(),
        });
        if self.key.is_some() {
            timer.primary_key = ColList::new(0.into());
            timer.constraints = vec![RawConstraintDefV9 {
                name: None,
                data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 {
                    columns: ColList::new(0.into()),
                }),
            }];
            timer.indexes = vec![RawIndexDefV9 {
                name: Some("timer_by_key".into()),
                accessor_name: None,
                algorithm: RawIndexAlgorithm::BTree {
                    columns: ColList::new(0.into()),
                },
            }];
        }
        def.reducers[0].params = row((self.params)(timer.product_type_ref));
        def.reducers[0].lifecycle = self.lifecycle;
        prepare(&module_of_table(&encode(RawModuleDef::V9(def)), "timer")).map(drop)
    }

    fn v10(&self) -> Result<(), PrepareError> {
        let mut builder = RawModuleDefV10Builder::new();
        let timer = builder.build_table_with_new_type("timer", self.row(), true);
        let timer = match self.key {
            Some(_) => {
                let columns = ColList::new(0.into());
                timer.with_primary_key(0).with_unique_constraint(0).with_index(
                    RawIndexAlgorithm::BTree { columns },
                    "timer_by_key",
                    "by_key",
                )
            }
            None => timer,
        };
        let params = row((self.params)(timer.finish()));
        match self.lifecycle {
            None => builder.add_reducer("tick", params),
            Some(lifecycle) => builder.add_lifecycle_reducer(lifecycle, "tick", params),
        }
        builder.add_schedule("timer", self.column, self.called);
        prepare(&module_of_table(
            &encode(RawModuleDef::V10(builder.finish())),
            "timer",
        ))
        .map(drop)
    }
}

#[test]
fn schedules_that_the_server_does_not_take() {
    let sound = Timer::sound();
    assert_eq!((sound.v9(), sound.v10()), (Ok(()), Ok(())));
    type Change = fn(&mut Timer);
    let cases: [(&str, Change); 11] = [
        ("column 0, which is no", |it| it.column = 0),
        ("column 2, which is no", |it| it.column = 2),
        ("column 1, which is no", |it| it.at = AlgebraicType::I64),
        ("column 1, which is no", |it| {
            it.at = schedule_at(["Time", "Interval"])
        }),
        ("a primary key", |it| it.key = None),
        ("a primary key", |it| it.key = Some(AlgebraicType::I64)),
        ("does not exist, `tock`", |it| it.called = "tock"),
        ("must have one parameter", |it| it.params = |_| Vec::new()),
        ("must have one parameter", |it| {
            it.params = |_| vec![AlgebraicType::U64]
        }),
        ("must have one parameter", |it| {
            it.params = |row| vec![AlgebraicType::Ref(row), AlgebraicType::U64];
        }),
        ("must have one parameter", |it| {
            (it.params, it.lifecycle) = (|_| Vec::new(), Some(Lifecycle::OnConnect));
        }),
    ];
    for (expected, change) in cases {
        let mut timer = Timer::sound();
        change(&mut timer);
        for refused in [timer.v9(), timer.v10()] {
            let Err(PrepareError::Definition(text)) = &refused else {
                panic!("{expected}: {refused:?}");
            };
            assert!(
                text.starts_with("the schedule of table `timer` ") && text.contains(expected),
                "{text}"
            );
        }
    }
    let nowhere = v10(|def| def.add_schedule("nowhere", 0_u16, "nobody"));
    assert!(
        nowhere.to_string().contains("a table that does not exist"),
        "{nowhere}"
    );
    let twice = v10(|def| {
        let timer = def.build_table_with_new_type("timer", sound.row(), true);
        let timer = timer.with_primary_key(0).finish();
        for name in ["tick", "tock"] {
            def.add_reducer(name, row(vec![AlgebraicType::Ref(timer)]));
            def.add_schedule("timer", 1_u16, name);
        }
    });
    assert!(twice.to_string().contains("is one of two"), "{twice}");
}

#[test]
fn tables_of_the_server() {
    let refused = PrepareError::SystemTable("st_client".into());
    assert_eq!(v9(|def| table(def, "st_client", row(vec![]), &[])), refused);
    let system = |def: &mut RawModuleDefV9| {
        table(def, "st_client", row(vec![]), &[]);
        def.tables[0].table_type = TableType::System;
    };
    assert_eq!(v9(system), refused);
}

#[test]
fn types_that_double_with_each_reference() {
    const DOUBLINGS: u32 = 60;
    let doubling = |def: &mut RawModuleDefV9| {
        let mut last = def.typespace.add(AlgebraicType::Product(row(vec![])));
        for _ in 0..DOUBLINGS {
            let twice = vec![AlgebraicType::Ref(last); 2];
            last = def.typespace.add(AlgebraicType::Product(row(twice)));
        }
    };
    assert!(matches!(v9(doubling), PrepareError::Definition(_)));
    let long = |def: &mut RawModuleDefV9| {
        for at in 1..10_000 {
            def.typespace.add(AlgebraicType::Ref(AlgebraicTypeRef(at)));
        }
    };
    assert!(matches!(v9(long), PrepareError::Definition(_)));
    let nowhere = |def: &mut RawModuleDefV9| {
        reducer(def, "act");
        def.reducers[0].params = row(vec![AlgebraicType::Ref(AlgebraicTypeRef(7))]);
    };
    assert!(matches!(v9(nowhere), PrepareError::Definition(_)));
    let endless = |def: &mut RawModuleDefV9| {
        table(
            def,
            "rows",
            row(vec![AlgebraicType::Ref(AlgebraicTypeRef(0))]),
            &[],
        );
    };
    assert!(matches!(
        v9(endless),
        PrepareError::Definition(_) | PrepareError::Unsortable(_)
    ));
    // Many tables with one large row type: no type is too big, but all of them together.
    let many = |def: &mut RawModuleDefV9| {
        let wide = row(vec![AlgebraicType::U8; 4_000]);
        table(def, "rows", wide, &[]);
        for nth in 0..1_000 {
            let mut table = def.tables[0].clone();
            table.name = format!("rows{nth}").into();
            def.tables.push(table);
        }
    };
    assert!(matches!(v9(many), PrepareError::Definition(_)));
}

#[test]
fn modules_that_fail_at_their_first_call() {
    let names = |def: &mut RawModuleDefV9| {
        for _ in 0..2 {
            table(def, "rows", row(vec![]), &[]);
        }
    };
    // One name for two tables: one id for both.
    assert!(matches!(v9(names), PrepareError::Trial(_)));
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
    let refused = v9(|def| {
        let names = AlgebraicType::array(AlgebraicType::String);
        def.misc_exports.push(RawMiscModuleExportV9::View(RawViewDefV9 {
            name: "names".into(),
            index: 0,
            is_public: true,
            is_anonymous: true,
            params: row(vec![]),
            return_type: names,
        }));
    });
    assert_eq!(refused, PrepareError::OldViews("names".into()));
    let scheduled = v10(|def| {
        let timer = def.build_table_with_new_type("timer", Timer::sound().row(), true);
        timer.with_primary_key(0).finish();
        def.add_procedure("fetch", row(vec![]), AlgebraicType::unit());
        def.add_schedule("timer", 1, "fetch");
    });
    let why = "the schedule of table `timer` names the procedure `fetch`, which must have one parameter, a row of that table";
    assert_eq!(scheduled, PrepareError::Definition(why.into()));

    let section = |section| {
        let def = RawModuleDefV10 {
            sections: vec![section],
        };
        refusal(&module(&encode(RawModuleDef::V10(def)), ""))
    };
    let submodule = RawSubmoduleV10 {
        namespace: "inner".into(),
        module: RawModuleDefV10::default(),
    };
    assert_eq!(
        section(RawModuleDefV10Section::Submodules(vec![submodule])),
        PrepareError::Submodules("inner".into())
    );
}

#[test]
fn procedures_that_are_none() {
    let of = |name: &'static str| {
        v10(|def| {
            def.add_reducer("add", row(vec![]));
            def.add_procedure(name, row(vec![]), AlgebraicType::unit());
        })
    };
    // There is nothing to enter it by.
    assert!(matches!(of("fetch"), PrepareError::NoModule(_)));
    assert_eq!(of("rtdb_fetch"), PrepareError::HiddenName("rtdb_fetch".into()));
    assert!(matches!(of("add"), PrepareError::Definition(_)));
    assert_eq!(of("1"), PrepareError::Name("1".into()));
}

#[test]
fn handlers_that_are_none() {
    let of = |handlers: &[&'static str], routes: &[(&'static str, MethodOrAny, &str)]| {
        v10(|def| {
            handlers.iter().for_each(|name| def.add_http_handler(*name));
            for (handler, method, path) in routes {
                def.add_http_route(*handler, method.clone(), (*path).to_owned());
            }
        })
    };
    let get = || MethodOrAny::Method(Method::Get);
    // There is nothing to enter them by.
    assert!(matches!(of(&["a"], &[]), PrepareError::NoModule(_)));
    assert_eq!(of(&["rtdb_a"], &[]), PrepareError::HiddenName("rtdb_a".into()));
    assert_eq!(of(&["1"], &[]), PrepareError::Name("1".into()));
    for path in ["a", "/A", "/a b", "/ä", "/{a}", "/*a", "/a.b", &"/a".repeat(600)] {
        let refused = of(&["a"], &[("a", get(), path)]);
        assert_eq!(
            refused,
            PrepareError::RoutePath(path.chars().take(1_024).collect())
        );
    }
    let definition = [
        of(&["a", "a"], &[]),
        of(&["a"], &[("b", get(), "")]),
        of(&[], &[("b", get(), "")]),
        of(&["a", "b"], &[("a", get(), "/x"), ("b", get(), "/x")]),
        of(&["a"], &[("a", get(), "/x"), ("a", MethodOrAny::Any, "/x")]),
    ];
    for refused in definition {
        assert!(matches!(refused, PrepareError::Definition(_)), "{refused}");
    }
    let paths: Vec<_> = (0..1_025).map(|nth| format!("/{nth}")).collect();
    let many: Vec<_> = paths.iter().map(|path| ("a", get(), path.as_str())).collect();
    let refused = of(&["a"], &many);
    assert!(
        matches!(refused, PrepareError::TooMuch { count: 1_025, .. }),
        "{refused}"
    );
}

/// A module with an empty definition, and these functions and imports.
fn with(extra: &str) -> Result<rtdb_determinism::Prepared, PrepareError> {
    let def = encode(RawModuleDef::V9(RawModuleDefV9::default()));
    let text = crate::raw_module::text(&def, "");
    let (imports, functions) = match extra.starts_with("(import") {
        true => (extra, ""),
        false => ("", extra),
    };
    let text = text
        .strip_prefix("(module")
        .and_then(|text| text.strip_suffix(')'));
    let text = text.expect("a module in parentheses");
    prepare(
        &wat::parse_str(format!("(module {imports} {text} {functions})")).expect("the module is well formed"),
    )
}

#[test]
fn a_small_upload_that_would_grow_large() {
    let too_much = |what, count, max| Err(PrepareError::TooMuch { what, count, max });
    let locals =
        |functions: usize| with(&format!("(func (local {}))", "i64 ".repeat(40_000)).repeat(functions));
    assert!(locals(10).is_ok());
    assert_eq!(
        locals(101).map(drop),
        too_much("local variables", 4_000_002, 4_000_000)
    );
    let import = r#"(import "spacetime_10.0" "table_id_from_name" (func (param i32 i32 i32) (result i32)))"#;
    assert!(with(&import.repeat(100)).is_ok());
    assert_eq!(
        with(&import.repeat(1_000)).map(drop),
        too_much("imports", 1_004, 512)
    );
}

#[test]
fn names_that_are_no_identifiers() {
    for name in ["timed out", "", "1a", "a`b", "a-b", "\u{1F600}"] {
        let refused = PrepareError::Name(name.into());
        let column =
            || ProductType::from_iter([ProductTypeElement::new(AlgebraicType::U64, Some(name.into()))]);
        assert_eq!(v9(|def| table(def, name, row(vec![]), &[])), refused);
        assert_eq!(v9(|def| table(def, "rows", column(), &[])), refused);
        assert_eq!(v9(|def| reducer(def, name)), refused);
        let with_param = |def: &mut RawModuleDefV9| {
            reducer(def, "act");
            def.reducers[0].params = column();
        };
        assert_eq!(v9(with_param), refused);
        let with_type = |def: &mut RawModuleDefV9| {
            table(def, "rows", row(vec![]), &[]);
            def.types[0].name.name = name.into();
        };
        assert_eq!(v9(with_type), refused);
        let renamed = |def: &mut RawModuleDefV10Builder| {
            def.add_reducer("act", row(vec![]));
            let mut names = ExplicitNames::default();
            names.insert_function("act", name);
            def.add_explicit_names(names);
        };
        assert_eq!(v10(renamed), refused);
        assert_eq!(v10(|def| def.add_view_primary_key(name, ["c0"])), refused);
    }
}

#[test]
fn two_functions_of_one_name() {
    let twice = |def: &mut RawModuleDefV9| {
        for _ in 0..2 {
            reducer(def, "act");
        }
    };
    assert!(matches!(v9(twice), PrepareError::Definition(_)));
    let in_one_spelling = |def: &mut RawModuleDefV10Builder| {
        for name in ["actNow", "act_now"] {
            def.add_reducer(name, row(vec![]));
        }
    };
    assert!(matches!(v10(in_one_spelling), PrepareError::Definition(_)));
}

#[test]
fn what_would_end_a_server() {
    let rules = [
        format!("SELECT * FROM rows WHERE c0 = 1{}", " AND c0 = 1".repeat(4_000)),
        format!("SELECT * FROM rows WHERE c0 = {}1", "- ".repeat(65)),
        format!("SELECT * FROM rows WHERE {} c0 = 1", "not ".repeat(65)),
        format!(
            "SELECT * FROM rows WHERE {}c0 = 1{}",
            "(".repeat(65),
            ")".repeat(65)
        ),
    ];
    for rule in rules {
        let refused = v9(|def| {
            def.row_level_security.push(RawRowLevelSecurityDefV9 {
                sql: rule.clone().into(),
            })
        });
        assert!(matches!(refused, PrepareError::Definition(_)), "{rule}");
        let refused = v10(|def| def.add_row_level_security(&rule));
        assert!(matches!(refused, PrepareError::Definition(_)), "{rule}");
    }
    let direct = |def: &mut RawModuleDefV9| {
        table(def, "rows", row(vec![AlgebraicType::U64]), &[]);
        def.tables[0].indexes.push(RawIndexDefV9 {
            name: Some("by".into()),
            accessor_name: None,
            algorithm: RawIndexAlgorithm::Direct { column: 0.into() },
        });
    };
    assert!(matches!(v9(direct), PrepareError::Definition(_)));
}

/// Entry points that nothing is behind are taken away, whatever they are: a server would look at them.
#[test]
fn entry_points_of_nothing_are_gone() {
    for export in [
        r#"(func (export "__call_view__") (param i32))"#,
        r#"(table (export "__call_view_anon__") 1 funcref)"#,
        r#"(func (export "__call_procedure__") (result f64) (f64.const 1))"#,
        r#"(global (export "__call_http_handler__") i32 (i32.const 1))"#,
    ] {
        let prepared = with(export).expect("it is taken").wasm;
        let module = wasmi::Module::new(&wasmi::Engine::default(), &prepared).expect("a module");
        let called = module
            .exports()
            .filter(|export| export.name().starts_with("__call_"));
        assert_eq!(
            called.map(|export| export.name().to_owned()).collect::<Vec<_>>(),
            ["__call_reducer__"]
        );
    }
}

/// What only procedures use, and what tells the time during start-up, does not reach the host.
#[test]
fn functions_of_procedures_are_not_imported() {
    let import = r#"(import "spacetime_10.3" "procedure_start_mut_tx" (func (param i32) (result i32)))"#;
    let prepared = with(import).expect("it is taken").wasm;
    let module = wasmi::Module::new(&wasmi::Engine::default(), &prepared).expect("a module");
    assert!(
        module
            .imports()
            .all(|import| !import.name().starts_with("procedure_"))
    );
}
