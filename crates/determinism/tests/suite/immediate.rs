//! `volatile_nonatomic_schedule_immediate` on the fake host: what is asked for stands in a table until it is called, once.

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{
    Firing, IMMEDIATE, IMMEDIATE_ARGS_BYTES_MAX, IMMEDIATE_ROWS_MAX, IMMEDIATE_SCHEDULE, NOT_DUE, Options,
    PrepareError, Prepared, SCHEDULED, SKIPPED, UNSCHEDULED, When, calls_at_once, encode_timer, prepare_with,
};
use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawModuleDefV9};
use spacetimedb_lib::{RawModuleDef, ScheduleAt, Timestamp, bsatn};
use spacetimedb_sats::{AlgebraicType, AlgebraicValue, ProductType};

use crate::fixtures::{NAMES, TIMERS, wasm};
use crate::host::{Failure, FakeHost};
use crate::raw_module::{encode, escape, reducer, table};

/// A call that has been asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) at_us: i64,
    pub(crate) reducer: String,
    pub(crate) args: Vec<u8>,
}

type Row = (u64, ScheduleAt, String, Vec<u8>);

/// With the table for such calls.
pub(crate) fn prepare(module: &[u8]) -> Result<Prepared, PrepareError> {
    let options = Options {
        calls_at_once: true,
        ..Options::default()
    };
    prepare_with(module, &options)
}

fn prepared(name: &str) -> Prepared {
    prepare(&wasm(name)).expect("the fixture can be prepared")
}

/// Those that wait, in order.
pub(crate) fn asked(host: &FakeHost) -> Vec<Asked> {
    let rows = host.db.rows(IMMEDIATE).into_iter();
    let rows = rows.map(|row| {
        let (id, at, reducer, args) = bsatn::from_slice::<Row>(&row).expect("the row decodes");
        let ScheduleAt::Time(at) = at else {
            panic!("{at:?}")
        };
        let at_us = at.to_micros_since_unix_epoch();
        Asked {
            id,
            at_us,
            reducer,
            args,
        }
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| row.id);
    rows
}

/// What the log does with one, at `index` and the position behind it: what the call says.
pub(crate) fn make(host: &mut FakeHost, index: u64, asked: &Asked) -> Result<(), Failure> {
    let due = encode_timer(
        Firing::ByTime,
        IMMEDIATE_SCHEDULE,
        asked.id,
        Some(When::Time(asked.at_us)),
    );
    let called = host.call(SCHEDULED, header(index), &due);
    host.call(UNSCHEDULED, header(index + 1), &due).unwrap();
    called
}

fn header(index: u64) -> CallHeader {
    CallHeader {
        sender: [9; 32],
        timestamp_us: 1_000 * index as i64,
        index,
        ..CallHeader::default()
    }
}

fn ask(host: &mut FakeHost, index: u64, name: &str, count: u32) -> Result<(), Failure> {
    let args = [bsatn::to_vec(name).unwrap(), count.to_le_bytes().to_vec()].concat();
    host.call("at_once", header(index), &args)
}

/// The names that `soon` was called with.
fn ran(host: &FakeHost) -> Vec<String> {
    let rows = host.db.table("ran").rows.iter();
    rows.map(|row| match &row.elements[1] {
        AlgebraicValue::String(name) => name.to_string(),
        other => panic!("{other:?}"),
    })
    .collect()
}

#[test]
fn each_call_is_made_once_and_the_same_everywhere() {
    for name in TIMERS {
        let prepared = prepared(name).wasm;
        assert!(calls_at_once(&prepared));
        let mut hosts = [4_096, 70_000].map(|first_id| FakeHost::new(&prepared, first_id));
        for host in &mut hosts {
            host.call("init", header(1), &[]).unwrap();
            ask(host, 2, "a", 3).unwrap();
            host.restart();
            ask(host, 3, "b", 1).unwrap();
            let waiting = asked(host);
            let ids: Vec<_> = waiting.iter().map(|it| (it.id, it.at_us)).collect();
            assert_eq!(ids, [(1, 2_000), (2, 2_000), (3, 2_000), (4, 3_000)]);
            assert!(ran(host).is_empty(), "nothing has been called yet");
            for (nth, call) in (0..).zip(&waiting) {
                make(host, 10 + 2 * nth, call).unwrap();
                assert_eq!(asked(host), waiting[nth as usize + 1..]);
            }
            assert_eq!(ran(host), ["a 0", "a 1", "a 2", "b 0"]);
            // The row has gone, and a call that comes again is passed over.
            make(host, 30, &waiting[0]).unwrap();
            assert_eq!(
                host.call(
                    SCHEDULED,
                    header(30),
                    &encode_timer(Firing::ByTime, IMMEDIATE_SCHEDULE, 1, None)
                ),
                Err(Failure::Failed(SKIPPED.to_owned()))
            );
            assert_eq!(ran(host).len(), 4);
        }
        let [one, two] = hosts;
        assert_eq!(one.state(), two.state());
        assert_eq!(one.db.rows("ran"), two.db.rows("ran"));
    }
}

#[test]
fn what_comes_of_the_call_does_not_matter_and_it_may_ask_again() {
    for name in TIMERS {
        let mut host = FakeHost::new(&prepared(name).wasm, 4_096);
        host.call("rtdb_mark", header(1), &[1]).unwrap();
        for (index, word, expected) in [
            (10, "fails", Failure::Failed("as was asked for".to_owned())),
            (20, "panics", Failure::Trapped),
        ] {
            ask(&mut host, index, word, 1).unwrap();
            let [call] = &asked(&host)[..] else { panic!() };
            assert_eq!(make(&mut host, index + 1, call), Err(expected));
            assert!(asked(&host).is_empty() && ran(&host).is_empty());
        }
        let again = [bsatn::to_vec("again").unwrap(), 2_u32.to_le_bytes().to_vec()].concat();
        host.call("soon", header(30), &again).unwrap();
        for index in [31, 33] {
            let [call] = &asked(&host)[..] else { panic!() };
            make(&mut host, index, call).unwrap();
        }
        assert!(asked(&host).is_empty());
        assert_eq!(ran(&host), ["again"; 3]);
    }
}

/// Natively it would be made.
#[test]
fn a_call_that_fails_has_asked_for_nothing() {
    for name in TIMERS {
        let mut host = FakeHost::new(&prepared(name).wasm, 4_096);
        host.call("rtdb_mark", header(1), &[1]).unwrap();
        let state = host.state();
        let failed = host.call("at_once_in_vain", header(2), &bsatn::to_vec("x").unwrap());
        assert_eq!(failed, Err(Failure::Failed("as was asked for".to_owned())));
        assert!(asked(&host).is_empty());
        assert_eq!(host.state(), state);
    }
}

#[test]
fn arguments_and_calls_that_wait_have_their_limits() {
    for name in TIMERS {
        let mut host = FakeHost::new(&prepared(name).wasm, 4_096);
        host.call("rtdb_mark", header(1), &[1]).unwrap();
        // The text, its length and a number.
        for (index, bytes, fits) in [
            (2, IMMEDIATE_ARGS_BYTES_MAX - 8, true),
            (4, IMMEDIATE_ARGS_BYTES_MAX - 7, false),
        ] {
            let done = host.call("at_once_with", header(index), &bytes.to_le_bytes());
            assert_eq!(done.is_ok(), fits);
        }
        let [call] = &asked(&host)[..] else { panic!() };
        make(&mut host, 5, call).unwrap();
        assert_eq!(ran(&host), ["x".repeat(IMMEDIATE_ARGS_BYTES_MAX as usize - 8)]);

        ask(&mut host, 10, "a", 1).unwrap();
        let place = host.db.tables.iter().position(|it| it.name == IMMEDIATE).unwrap();
        for id in 1_000..1_000 + u64::from(IMMEDIATE_ROWS_MAX) - 2 {
            let at = ScheduleAt::Time(Timestamp::from_micros_since_unix_epoch(0));
            let row: Row = (id, at, String::new(), Vec::new());
            let row = host.db.decode(place, &bsatn::to_vec(&row).unwrap());
            host.db.tables[place].rows.push(row);
        }
        assert_eq!(ask(&mut host, 11, "b", 2), Err(Failure::Trapped));
        ask(&mut host, 12, "c", 1).unwrap();
        assert_eq!(host.db.rows(IMMEDIATE).len(), IMMEDIATE_ROWS_MAX as usize);
        assert_eq!(ask(&mut host, 13, "d", 1), Err(Failure::Trapped));
    }
}

/// Where another module has taken its place that asks for no such calls, nobody looks at what is left.
#[test]
fn calls_that_wait_end_with_the_modules_that_ask_for_any() {
    for (asking, other) in TIMERS.into_iter().zip(NAMES) {
        let asking = prepared(asking).wasm;
        let other = prepared(other).wasm;
        assert!(!calls_at_once(&other));
        for (next, left) in [(&asking, 2), (&other, 0)] {
            let mut host = FakeHost::new(&asking, 4_096);
            host.call("rtdb_mark", header(1), &[1]).unwrap();
            ask(&mut host, 2, "a", 2).unwrap();
            let digest = host.state().1;
            host.update(next);
            host.call("rtdb_mark", header(3), &[1]).unwrap();
            assert_eq!(host.db.rows(IMMEDIATE).len(), left);
            assert_eq!(host.state().1 == digest, left > 0);
        }
    }
}

/// A module whose reducer `ask` asks for what its argument says: a name's place and length, and those of its arguments. `plain` and
/// `depart`, which is the reducer for departures, leave what they are called with in `called`.
fn module(def: impl FnOnce(&mut RawModuleDefV9)) -> Vec<u8> {
    with_imports(&definition(def), "")
}

fn definition(def: impl FnOnce(&mut RawModuleDefV9)) -> Vec<u8> {
    let mut raw = RawModuleDefV9::default();
    let row = ProductType::from([("args", AlgebraicType::bytes())]);
    table(&mut raw, "called", row, &[]);
    for name in ["ask", "plain", "depart"] {
        reducer(&mut raw, name);
    }
    raw.reducers[2].lifecycle = Some(Lifecycle::OnDisconnect);
    def(&mut raw);
    encode(RawModuleDef::V9(raw))
}

fn with_imports(def: &[u8], imports: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
        {imports}
        (import "spacetime_10.0" "table_id_from_name" (func $table_id (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "bytes_source_read" (func $read (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_insert_bsatn" (func $insert (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "volatile_nonatomic_schedule_immediate"
            (func $schedule (param i32 i32 i32 i32)))
        (memory (export "memory") {pages})
        (data (i32.const 16) "called")
        (data (i32.const 25820) "plaindepartnothing")
        (data (i32.const 65536) "{data}")
        (func (export "__describe_module__") (param $sink i32)
            (i32.store (i32.const 8) (i32.const {len}))
            (drop (call $write (local.get $sink) (i32.const 65536) (i32.const 8))))
        (func $must (param i32) (if (local.get 0) (then (unreachable))))
        (func (export "__call_reducer__")
            (param $id i32) (param i64 i64 i64 i64 i64 i64 i64) (param $source i32) (param i32) (result i32)
            (i32.store (i32.const 8) (i32.const 1000))
            (if (local.get $source)
                (then (drop (call $read (local.get $source) (i32.const 1028) (i32.const 8))))
                (else (i32.store (i32.const 8) (i32.const 0))))
            (if (i32.eqz (local.get $id)) (then
                (call $schedule (i32.load (i32.const 1028)) (i32.load (i32.const 1032))
                    (i32.load (i32.const 1036)) (i32.load (i32.const 1040)))
                ;; What stood around has not changed.
                (if (i64.ne (i64.load (i32.const 25820)) (i64.const 0x7065646e69616c70)) (then (unreachable)))
                (return (i32.const 0))))
            (i32.store (i32.const 1024) (i32.load (i32.const 8)))
            (i32.store (i32.const 8) (i32.add (i32.const 4) (i32.load (i32.const 8))))
            (call $must (call $table_id (i32.const 16) (i32.const 6) (i32.const 12)))
            (call $must (call $insert (i32.load (i32.const 12)) (i32.const 1024) (i32.const 8)))
            (i32.const 0)))"#,
        data = escape(def),
        len = def.len(),
        pages = 1 + def.len().div_ceil(65_536),
    );
    wat::parse_str(text).expect("the module is well formed")
}

/// Where the names stand.
const PLAIN: [u32; 2] = [25_820, 5];
const DEPART: [u32; 2] = [25_825, 6];
const UNKNOWN: [u32; 2] = [25_831, 7];

fn ask_for(host: &mut FakeHost, index: u64, name: [u32; 2], args: [u32; 2]) -> Result<(), Failure> {
    let words = name.into_iter().chain(args);
    let own: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    host.call("ask", header(index), &own)
}

#[test]
fn a_reducer_gets_the_bytes_that_were_given_wherever_they_stood() {
    let prepared = prepare(&module(|_| {})).expect("the module can be prepared");
    let mut host = FakeHost::new(&prepared.wasm, 4_096);
    host.call("rtdb_mark", header(1), &[1]).unwrap();
    let mut index = 2;
    for (name, reducer) in [(PLAIN, "plain"), (DEPART, "depart")] {
        for (args, expected) in [
            ([0, 0], &b""[..]),
            ([25_820, 18], b"plaindepartnothing"),
            ([25_815, 6], b"\0\0\0\0\0p"),
        ] {
            ask_for(&mut host, index, name, args).unwrap();
            let [call] = &asked(&host)[..] else { panic!() };
            assert_eq!((call.reducer.as_str(), call.args.as_slice()), (reducer, expected));
            make(&mut host, index + 1, call).unwrap();
            let called = host.db.rows("called");
            assert_eq!(called, [bsatn::to_vec(expected).unwrap()]);
            let place = host.db.tables.iter().position(|it| it.name == "called").unwrap();
            host.db.tables[place].rows.clear();
            index += 10;
        }
    }
    // Nowhere.
    assert_eq!(
        ask_for(&mut host, index, [u32::MAX - 3, 5], [0, 0]),
        Err(Failure::Trapped)
    );
    assert_eq!(
        ask_for(&mut host, index, PLAIN, [131_072 - 3, 4]),
        Err(Failure::Trapped)
    );
}

#[test]
fn what_the_module_has_not_is_not_called() {
    let prepared = prepare(&module(|_| {})).expect("the module can be prepared");
    let mut host = FakeHost::new(&prepared.wasm, 4_096);
    host.call("rtdb_mark", header(1), &[1]).unwrap();
    for (index, name) in [(2, UNKNOWN), (3, [16, 0]), (4, [25_820, 18])] {
        ask_for(&mut host, index, name, [0, 0]).unwrap();
        assert!(asked(&host).is_empty());
    }
    // By then another module may be there.
    ask_for(&mut host, 5, PLAIN, [0, 0]).unwrap();
    let renamed = module(|def| def.reducers[1].name = "other".into());
    let renamed = prepare(&renamed).expect("the module can be prepared");
    host.update(&renamed.wasm);
    let [call] = &asked(&host)[..] else { panic!() };
    let state = host.state();
    assert_eq!(make(&mut host, 6, call), Err(Failure::Failed(NOT_DUE.to_owned())));
    assert!(asked(&host).is_empty() && host.db.rows("called").is_empty());
    assert_eq!((state.0, host.state().0), (5, 7));
}

#[test]
fn no_other_signature_is_taken() {
    let text = r#"(module
        (import "spacetime_10.0" "bytes_sink_write" (func (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "volatile_nonatomic_schedule_immediate" (func (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "__describe_module__") (param i32))
        (func (export "__call_reducer__")
            (param i32 i64 i64 i64 i64 i64 i64 i64 i32 i32) (result i32) (i32.const 0)))"#;
    let wasm = wat::parse_str(text).expect("the module is well formed");
    assert!(prepare(&wasm).is_err());
}

/// So many reducers with long names that differ at their ends, and a table called as none of them is, but much alike: its name's
/// place is told, too.
fn crowd(reducers: u32) -> (Vec<u8>, [u32; 2]) {
    let name = |nth: u32| format!("{}{nth:08}", "n".repeat(72));
    let unknown = name(reducers);
    let def = definition(|def| {
        (0..reducers).for_each(|nth| reducer(def, &name(nth)));
        table(def, &unknown, ProductType::unit(), &[]);
    });
    let at = def.windows(unknown.len()).position(|it| it == unknown.as_bytes());
    let at = 65_536 + at.expect("it is there") as u32;
    (def, [at, unknown.len() as u32])
}

/// A few kilobytes may import the function hundreds of times, and define thousands of reducers.
#[test]
fn each_reducer_and_each_import_takes_little_code() {
    const EACH_MAX: usize = 400;
    let (reducers, imports) = (300, 200);
    let import =
        r#"(import "spacetime_10.0" "volatile_nonatomic_schedule_immediate" (func (param i32 i32 i32 i32)))"#;
    let module = with_imports(&crowd(reducers).0, &import.repeat(imports));
    let bytes = |calls_at_once| {
        let options = Options {
            calls_at_once,
            ..Options::default()
        };
        let prepared = prepare_with(&module, &options).expect("the module can be prepared");
        prepared.wasm.len()
    };
    let more = bytes(true).saturating_sub(bytes(false));
    assert!(
        more < EACH_MAX * (reducers as usize + imports),
        "{more} bytes more"
    );
}

/// What is not there is looked for at the price of a call, however many there are.
#[test]
fn a_reducer_is_found_quickly_among_many() {
    const FUEL_MAX: u64 = 1_500_000;
    let (def, unknown) = crowd(4_000);
    let prepared = prepare(&with_imports(&def, "")).expect("the module can be prepared");
    let mut host = FakeHost::with_fuel(&prepared.wasm, 4_096, Some(FUEL_MAX));
    host.call("rtdb_mark", header(1), &[1]).unwrap();
    ask_for(&mut host, 2, unknown, [0, 0]).unwrap();
    assert!(asked(&host).is_empty());
    ask_for(&mut host, 3, PLAIN, [0, 0]).unwrap();
    let [call] = &asked(&host)[..] else { panic!() };
    make(&mut host, 4, call).unwrap();
    assert_eq!(host.db.rows("called").len(), 1);
}

#[test]
fn each_reducer_is_found_among_those_much_alike() {
    let mut names: Vec<String> = Vec::new();
    for bytes in 1..=20 {
        for at in [0, bytes / 2, bytes - 1] {
            let mut name = "m".repeat(bytes);
            names.push(name.clone());
            for letter in ["a", "z"] {
                name.replace_range(at..=at, letter);
                names.push(name.clone());
            }
        }
    }
    names.sort();
    names.dedup();
    let def = definition(|def| names.iter().for_each(|name| reducer(def, name)));
    let prepared = prepare(&with_imports(&def, "")).expect("the module can be prepared");
    let mut host = FakeHost::new(&prepared.wasm, 4_096);
    host.call("rtdb_mark", header(1), &[1]).unwrap();
    for (name, index) in names.iter().zip(2..) {
        let stands = bsatn::to_vec(name).unwrap();
        let at = def.windows(stands.len()).position(|it| it == stands).unwrap();
        ask_for(
            &mut host,
            index,
            [65_536 + 4 + at as u32, name.len() as u32],
            [0, 0],
        )
        .unwrap();
    }
    let asked: Vec<_> = asked(&host).into_iter().map(|it| it.reducer).collect();
    assert_eq!(asked, names);
}

/// Before all nodes of a cluster know of the table.
#[test]
fn without_the_table_it_traps() {
    for name in TIMERS {
        let prepared = crate::fixtures::prepared(name).wasm;
        assert!(!calls_at_once(&prepared));
        let mut host = FakeHost::new(&prepared, 4_096);
        host.call("rtdb_mark", header(1), &[1]).unwrap();
        assert_eq!(ask(&mut host, 2, "a", 1), Err(Failure::Trapped));
        assert!(host.db.tables.iter().all(|table| table.name != IMMEDIATE));
        let due = encode_timer(Firing::ByTime, IMMEDIATE_SCHEDULE, 1, None);
        assert_eq!(host.call(SCHEDULED, header(3), &due), Err(Failure::Trapped));
    }
}
