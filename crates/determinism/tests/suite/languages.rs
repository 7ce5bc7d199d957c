//! What modules of other languages than Rust look like, hand-made: Debian's emscripten is too old for SpacetimeDB's C++.

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::prepare;
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::bsatn;
use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9;
use spacetimedb_sats::{AlgebraicType, ProductType, ProductTypeElement};

use crate::host::FakeHost;
use crate::raw_module::{encode, escape, reducer, table};

fn def() -> Vec<u8> {
    let mut def = RawModuleDefV9::default();
    let row = ProductType::from_iter([ProductTypeElement::new(AlgebraicType::U32, Some("break".into()))]);
    table(&mut def, "breaks", row, &[]);
    for name in ["allocate", "exhaust"] {
        reducer(&mut def, name);
    }
    encode(RawModuleDef::V9(def))
}

/// As emscripten lays out the template of SpacetimeDB 2.8.3: 16 MiB that can't grow, the stack below the heap, an exported
/// `_initialize` that must run first, `malloc` on a break of its own, and stubs in the place of WASI.
fn cpp() -> Vec<u8> {
    let def = def();
    let text = format!(
        r#"(module
        (import "spacetime_10.0" "table_id_from_name" (func $table_id (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_insert_bsatn" (func $insert (param i32 i32 i32) (result i32)))
        (memory (export "memory") 256 256)
        (table (export "__indirect_function_table") 1 1 funcref)
        (global $stack (mut i32) (i32.const 5308416))
        (data (i32.const 1024) "breaks")
        (data (i32.const 4096) "{}")
        (func $heap_base (result i32) (i32.const 5308416))
        ;; The break stands at 2048, and is 0 until everything is initialised.
        (func (export "_initialize") (i32.store (i32.const 2048) (call $heap_base)))
        (func $sbrk (param $bytes i32) (result i32) (local $old i32) (local $new i32)
            (local.set $old (i32.load (i32.const 2048)))
            (local.set $new (i32.add (local.get $old) (local.get $bytes)))
            (if (i32.gt_u (local.get $new) (i32.shl (memory.size) (i32.const 16)))
                (then (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (return (i32.const -1))))))
            (i32.store (i32.const 2048) (local.get $new))
            (local.get $old))
        (func (export "malloc") (param i32) (result i32) (call $sbrk (local.get 0)))
        (func (export "free") (param i32))
        (func (export "__describe_module__") (param $sink i32)
            (if (i32.eqz (i32.load (i32.const 2048))) (then (unreachable)))
            (i32.store (call $sbrk (i32.const 16)) (i32.const 1))
            (i32.store (i32.const 2052) (i32.const {}))
            (drop (call $write (local.get $sink) (i32.const 4096) (i32.const 2052))))
        (func (export "__call_reducer__")
            (param $id i32) (param i64 i64 i64 i64 i64 i64 i64) (param i32 i32) (result i32)
            (local $row i32)
            (if (local.get $id) (then
                (block $full (loop $more
                    (local.set $row (call $sbrk (i32.const 65536)))
                    (br_if $full (i32.eq (local.get $row) (i32.const -1)))
                    (i64.store (local.get $row) (i64.const -1))
                    (br $more)))
                (return (i32.const 0))))
            (local.set $row (call $sbrk (i32.const 1000000)))
            (i32.store (local.get $row) (local.get $row))
            (i32.store (i32.const 2052) (i32.const 4))
            (if (call $table_id (i32.const 1024) (i32.const 6) (i32.const 2056)) (then (unreachable)))
            (call $insert (i32.load (i32.const 2056)) (local.get $row) (i32.const 2052))))"#,
        escape(&def),
        def.len()
    );
    wat::parse_str(text).expect("the module is well formed")
}

#[test]
fn a_module_like_those_of_cpp_runs() {
    let prepared = prepare(&cpp()).expect("the module can be prepared");
    let mut host = FakeHost::new(&prepared.wasm, 4096);
    let mut index = 0;
    let mut call = |host: &mut FakeHost, reducer: &str| {
        index += 1;
        let header = CallHeader {
            index,
            session: 7,
            ..CallHeader::default()
        };
        let own = if reducer == "rtdb_mark" { &[1][..] } else { &[] };
        host.call(reducer, header, own)
    };
    assert_eq!(call(&mut host, "rtdb_mark"), Ok(()));
    for _ in 0..40 {
        assert_eq!(call(&mut host, "allocate"), Ok(()));
        assert_eq!(call(&mut host, "exhaust"), Ok(()));
    }
    host.restart();
    assert_eq!(call(&mut host, "allocate"), Ok(()));
    // Each call has found the heap as it was after the start, and so all have left the same row.
    let expected = bsatn::to_vec(&(5_308_416_u32 + 16)).expect("a number encodes");
    assert_eq!(host.db.rows("breaks"), [expected]);
}

/// C# modules import all of the interface: what they never call does not count.
#[test]
fn what_is_imported_and_never_called_does_no_harm() {
    let def = def();
    let text = format!(
        r#"(module
        (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "volatile_nonatomic_schedule_immediate"
            (func $schedule (param i32 i32 i32 i32)))
        (memory (export "memory") 1)
        (data (i32.const 4096) "{}")
        (func (export "__describe_module__") (param $sink i32)
            (i32.store (i32.const 16) (i32.const {}))
            (drop (call $write (local.get $sink) (i32.const 4096) (i32.const 16))))
        (func (export "__call_reducer__")
            (param $id i32) (param i64 i64 i64 i64 i64 i64 i64) (param i32 i32) (result i32)
            (if (i32.gt_u (local.get $id) (i32.const 1))
                (then (call $schedule (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
            (i32.const 0)))"#,
        escape(&def),
        def.len()
    );
    let wasm = wat::parse_str(text).expect("the module is well formed");
    let prepared = prepare(&wasm).expect("the module can be prepared");
    let mut host = FakeHost::new(&prepared.wasm, 4096);
    let header = CallHeader {
        index: 1,
        ..CallHeader::default()
    };
    assert_eq!(host.call("allocate", header, &[]), Ok(()));
}

/// A module that was built from SpacetimeDB's own C++ bindings, which can't be kept here: `RTDB_CPP_MODULE` names it. Its
/// table `entry` (`id: u64` generated, `text: String`, `calls: u64`) tells how many calls a static remembers.
#[test]
fn a_module_of_cpp_runs() {
    let Some(path) = std::env::var_os("RTDB_CPP_MODULE") else {
        return;
    };
    let wasm = std::fs::read(path).expect("the module is there");
    let prepared = prepare(&wasm).expect("the module can be prepared");
    let mut hosts = [4096, 70_000].map(|first_id| FakeHost::new(&prepared.wasm, first_id));
    let text = bsatn::to_vec("hello").expect("a text encodes");
    for index in 1..20 {
        let header = CallHeader {
            index,
            session: 7,
            ..CallHeader::default()
        };
        let (reducer, own): (_, &[u8]) = match index {
            1 => ("init", &[]),
            2 => ("rtdb_mark", &[1]),
            _ if index % 3 == 0 => ("add", &text),
            _ if index % 3 == 1 => ("recite", &[]),
            _ => ("exhaust", &[]),
        };
        for host in &mut hosts {
            host.call(reducer, header, own).expect("the reducer runs");
        }
        hosts[1].restart();
    }
    let [one, two] = hosts.map(|host| host.db.rows("entry"));
    assert_eq!(one, two);
    assert_eq!(one.len(), 18);
    assert!(one.iter().all(|row| row.ends_with(&1_u64.to_le_bytes())));
}
