//! What an instance remembers, on the fake host.

use proptest::prelude::*;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{LOAD, prepare};
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::bsatn;
use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9;
use spacetimedb_sats::{AlgebraicType, ProductType, ProductTypeElement};

use crate::fixtures::{STATEFUL, prepared};
use crate::host::FakeHost;
use crate::raw_module::{encode, escape, module_with_memory, reducer, table};

fn stir(host: &mut FakeHost, index: u64, kind: u8, seed: u64) -> bool {
    let header = CallHeader {
        index,
        ..CallHeader::default()
    };
    let args = bsatn::to_vec(&(kind, seed)).expect("the arguments encode");
    host.call("stir", header, &args).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn calls_see_nothing_of_earlier_ones(
        calls in prop::collection::vec((0_u8..8, any::<u64>(), prop::bool::weighted(0.2)), 1..40),
    ) {
        for name in STATEFUL {
            let wasm = prepared(name).wasm;
            let mut hosts = [FakeHost::new(&wasm, 4096), FakeHost::new(&wasm, 70_000)];
            for (index, &(kind, seed, restart)) in (1..).zip(&calls) {
                if restart {
                    hosts[1].restart();
                }
                let [one, two] = hosts.each_mut().map(|host| stir(host, index, kind, seed));
                prop_assert_eq!(one, two);
            }
            let [one, two] = &hosts;
            for table in &one.db.tables {
                prop_assert_eq!(one.db.rows(&table.name), two.db.rows(&table.name), "{}", table.name);
            }
        }
    }
}

/// Each of these tells of all calls before it.
#[test]
fn statics_and_memory_are_as_after_start_up() {
    for name in STATEFUL {
        let mut host = FakeHost::new(&prepared(name).wasm, 4096);
        for (index, kind) in (0..4)
            .flat_map(|_| [0, 1, 3, 4])
            .zip(1..)
            .map(|(kind, index)| (index, kind))
        {
            assert!(stir(&mut host, index, kind, 9));
        }
        // Without their ids: four calls of a kind have left the same four times.
        let mut seen: Vec<_> = host.db.rows("seen").iter().map(|row| row[8..].to_vec()).collect();
        seen.sort();
        assert!(seen.chunks(4).all(|same| same.iter().all(|row| *row == same[0])));
        assert_eq!(seen.len(), 4 * (8 + 1 + 1 + 2));
    }
}

/// A row that is larger than the module's memory passes through it, and leaves no trace there.
#[test]
fn a_load_of_large_rows_leaves_the_instance_as_it_was() {
    const BYTES: usize = 3_000_000;
    for name in STATEFUL {
        let wasm = prepared(name).wasm;
        let mut hosts = [FakeHost::new(&wasm, 4096), FakeHost::new(&wasm, 4096)];
        let rows: Vec<Vec<u8>> = [BYTES, 10, BYTES]
            .into_iter()
            .zip(1_u64..)
            .map(|(bytes, id)| bsatn::to_vec(&("x".repeat(bytes), id)).expect("the row encodes"))
            .collect();
        let load = bsatn::to_vec(&("wide", rows.clone())).expect("the arguments encode");
        hosts[1]
            .call(LOAD, CallHeader::default(), &load)
            .expect("the rows are loaded");
        assert_eq!(hosts[1].db.rows("wide").len(), rows.len());
        for host in &mut hosts {
            for (index, kind) in (1..).zip([0, 1, 3, 4]) {
                assert!(stir(host, index, kind, 9));
            }
        }
        let [one, two] = &hosts;
        assert_eq!(one.db.rows("seen"), two.db.rows("seen"));
    }
}

/// Whatever the hidden parts need beyond what the module has is not taken from the module.
#[test]
fn modules_whose_memory_can_hardly_grow_run() {
    const ROWS: usize = 40;
    const ROW_BYTES: usize = 900_000;
    let mut def = RawModuleDefV9::default();
    let bytes =
        || ProductType::from_iter([ProductTypeElement::new(AlgebraicType::bytes(), Some("b".into()))]);
    for name in ["rows", "left"] {
        table(&mut def, name, bytes(), &[]);
    }
    reducer(&mut def, "insert");
    def.reducers[0].params = bytes();
    let def = encode(RawModuleDef::V9(def));
    for maximum in [8, 9, 10] {
        let prepared = prepare(&module_with_memory(&def, 8, maximum)).expect("the module can be prepared");
        let mut host = FakeHost::new(&prepared.wasm, 4096);
        let row = bsatn::to_vec(&vec![7_u8; ROW_BYTES]).expect("the row encodes");
        let rows = vec![row; ROWS];
        let load = bsatn::to_vec(&("left", rows)).expect("the arguments encode");
        host.call(LOAD, CallHeader::default(), &load)
            .expect("the rows are loaded");
        assert_eq!(host.db.rows("left").len(), 1);
        let call = |index| CallHeader {
            index,
            ..CallHeader::default()
        };
        host.call("rtdb_mark", call(1), &[0]).expect("the mark is taken");
        let own = bsatn::to_vec(&vec![1_u8; 100]).expect("the arguments encode");
        host.call("insert", call(2), &own).expect("the reducer runs");
        assert_eq!(host.state().0, 2);
        assert_eq!(host.instances, 1);
    }
}

/// The maximum that the module declares is what it gets, though its memory has none any more.
#[test]
fn a_module_is_held_to_its_own_maximum() {
    let mut def = RawModuleDefV9::default();
    reducer(&mut def, "grow");
    let def = encode(RawModuleDef::V9(def));
    let text = format!(
        r#"(module
        (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
        (memory (export "memory") 2 3)
        (data (i32.const 1024) "{}")
        (func (export "__describe_module__") (param $sink i32)
            (i32.store (i32.const 12) (i32.const {}))
            (drop (call $write (local.get $sink) (i32.const 1024) (i32.const 12))))
        (func (export "__call_reducer__")
            (param i32 i64 i64 i64 i64 i64 i64 i64 i32 i32) (result i32)
            (if (i32.ne (memory.grow (i32.const 1)) (i32.const 2)) (then (unreachable)))
            (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
            (i32.const 0)))"#,
        escape(&def),
        def.len()
    );
    let wasm = wat::parse_str(text).expect("the module is well formed");
    let prepared = prepare(&wasm).expect("the module can be prepared");
    let mut host = FakeHost::new(&prepared.wasm, 4096);
    for index in 1..4 {
        let header = CallHeader {
            index,
            ..CallHeader::default()
        };
        host.call("grow", header, &[]).expect("it grows by one page");
    }
}
