//! How long a real server takes for what a call may use, found by `$SPACETIMEDB_BIN`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rtdb_determinism::{Options, prepare_with};
use serde_json::json;
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{
    RawConstraintDataV9, RawConstraintDefV9, RawIndexAlgorithm, RawIndexDefV9, RawModuleDefV9,
    RawUniqueConstraintDataV9,
};
use spacetimedb_primitives::ColList;
use spacetimedb_sats::AlgebraicType;
use spacetimedb_sats::raw_identifier::RawIdentifier;

use crate::generated::product;
use crate::raw_module::{encode, escape, reducer, table};
use crate::real_server::{Server, is_2x, program};

/// What a call may use in these tests: a hundredth of what it may by default.
const UNITS: u64 = 1_000_000_000;
/// In the processor's time, while others use its caches: by default a call is given up after 120 s.
const TIME_MAX: Duration = Duration::from_millis(2_000);
const WIDE: u16 = 100;

fn definition() -> Vec<u8> {
    let mut def = RawModuleDefV9::default();
    table(&mut def, "rows", product(vec![AlgebraicType::U32]), &[]);
    table(&mut def, "tiny", product(vec![AlgebraicType::U16]), &[]);
    table(
        &mut def,
        "wide",
        product(vec![AlgebraicType::U32; WIDE.into()]),
        &[],
    );
    let words = vec![AlgebraicType::U64; 2];
    table(&mut def, "same", product(words), &[]);
    let mut index = |table: usize, column: u16, name: &str| {
        def.tables[table].indexes.push(RawIndexDefV9 {
            name: Some(RawIdentifier::new(name)),
            accessor_name: None,
            algorithm: RawIndexAlgorithm::BTree {
                columns: ColList::from(column),
            },
        });
    };
    index(0, 0, "by_key");
    for column in 0..WIDE {
        index(2, column, &format!("wide{column}"));
    }
    for table in [0, 2] {
        def.tables[table].constraints.push(RawConstraintDefV9 {
            name: None,
            data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 {
                columns: ColList::from(0),
            }),
        });
    }
    for name in ["fill", "act"] {
        reducer(&mut def, name);
    }
    encode(RawModuleDef::V9(def))
}

/// A prepared module whose reducer `act` does this. `fill` puts 200,000 rows into `rows`, all there can be into `tiny`,
/// 100,000 of one hash into `same`, and one into `wide`.
fn module(act: &str, units: u64) -> Vec<u8> {
    let def = definition();
    let text = format!(
        r#"(module
        (import "spacetime_10.0" "table_id_from_name" (func $table_id (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "index_id_from_name" (func $index_id (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_insert_bsatn" (func $insert (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_update_bsatn" (func $update (param i32 i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_table_scan_bsatn" (func $scan (param i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_table_row_count" (func $count (param i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_delete_all_by_eq_bsatn"
            (func $delete_eq (param i32 i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_delete_by_index_scan_range_bsatn"
            (func $delete_range (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "datastore_index_scan_range_bsatn"
            (func $range (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "row_iter_bsatn_advance" (func $advance (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "row_iter_bsatn_close" (func $close (param i32) (result i32)))
        (import "spacetime_10.0" "console_timer_start" (func $timer (param i32 i32) (result i32)))
        (import "spacetime_10.0" "console_timer_end" (func $timer_end (param i32) (result i32)))
        (import "spacetime_10.0" "identity" (func $identity (param i32)))
        (memory (export "memory") 128)
        (data (i32.const 16) "rows")
        (data (i32.const 32) "tiny")
        (data (i32.const 40) "wide")
        (data (i32.const 44) "same")
        (data (i32.const 48) "by_key")
        (data (i32.const 56) "wide0")
        (data (i32.const 64) "\02")
        (data (i32.const 0x40000) "{def}")
        (func (export "__describe_module__") (param $sink i32)
            (i32.store (i32.const 12) (i32.const {len}))
            (drop (call $write (local.get $sink) (i32.const 0x40000) (i32.const 12))))
        (func $must (param i32) (if (local.get 0) (then (unreachable))))
        (func $table (param i32) (result i32)
            (call $must (call $table_id (local.get 0) (i32.const 4) (i32.const 8)))
            (i32.load (i32.const 8)))
        (func $index (param i32 i32) (result i32)
            (call $must (call $index_id (local.get 0) (local.get 1) (i32.const 8)))
            (i32.load (i32.const 8)))
        (func $all (param $index i32) (result i32)
            (call $must (call $range (local.get $index) (i32.const 64) (i32.const 0) (i32.const 0)
                (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 8)))
            (i32.load (i32.const 8)))
        (func $put (param $table i32) (param $len i32)
            (i32.store (i32.const 12) (local.get $len))
            (call $must (call $insert (local.get $table) (i32.const 1024) (i32.const 12))))
        (func $read (param $handle i32)
            (loop $more
                (i32.store (i32.const 12) (i32.const 0x400000))
                (br_if $more (i32.eqz (call $advance (local.get $handle) (i32.const 0x200000) (i32.const 12))))))
        (func $fill (local $n i32)
            (loop $more
                (i32.store (i32.const 1024) (i32.mul (local.get $n) (i32.const 0x9e3779b1)))
                (call $put (call $table (i32.const 16)) (i32.const 4))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 200000))))
            (local.set $n (i32.const 0))
            (loop $more
                (i32.store (i32.const 1024) (local.get $n))
                (call $put (call $table (i32.const 32)) (i32.const 2))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 65536))))
            (local.set $n (i32.const 0))
            (loop $more
                (i64.store (i32.const 1024) (i64.shl (i64.extend_i32_u (local.get $n)) (i64.const 40)))
                (i64.store (i32.const 1032) (i64.mul (i64.const 0x9e3779b97f4a7c15)
                    (i64.rotl (i64.xor (i64.const 16) (i64.load (i32.const 1024))) (i64.const 29))))
                (call $put (call $table (i32.const 44)) (i32.const 16))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 100000))))
            (memory.fill (i32.const 1024) (i32.const 0) (i32.const 400))
            (call $put (call $table (i32.const 40)) (i32.const 400)))
        (func $act (local $n i32) (local $table i32) (local $index i32) (local $x f64)
            {act})
        (func (export "__call_reducer__")
            (param $id i32) (param i64 i64 i64 i64 i64 i64 i64) (param i32) (param i32) (result i32)
            (if (local.get $id) (then (call $act)) (else (call $fill)))
            (i32.const 0)))"#,
        def = escape(&def),
        len = def.len(),
    );
    let plain = wat::parse_str(text).expect("the module is well formed");
    let options = Options {
        call_units_max: units,
        ..Options::default()
    };
    prepare_with(&plain, &options)
        .expect("the module can be prepared")
        .wasm
}

/// The processor's time that a server has had, in ticks of 10 ms.
fn cpu(server: &Server) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.child.id())).unwrap();
    // The fields behind the name: of these the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|it| it.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// How a call ended: its status, what the server says that it used, and for how long the processor worked.
fn call(server: &Server, reducer: &str, index: u64) -> (u16, u64, Duration) {
    let body = json!(["0x07", 9, index * 1_000, index, 7]).to_string();
    let began = cpu(server);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        stream,
        "POST /v1/database/prepared/call/{reducer} HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        server.token,
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    let energy = answer
        .lines()
        .find_map(|line| line.strip_prefix("spacetime-energy-used: "));
    let energy = energy.and_then(|it| it.parse().ok()).unwrap_or(0);
    (status.unwrap_or(0), energy, cpu(server) - began)
}

/// Whatever a call does, it is ended in about a hundredth of the time that one may take.
#[test]
fn what_a_call_may_use_takes_no_longer_than_it_should() {
    let Some(bin) = program() else { return };
    let acts = [
        ("an empty loop", "(loop $l (br $l))"),
        ("rows that the call has deleted, by a scan of the table", "
            (call $must (call $delete_range (call $index (i32.const 48) (i32.const 6)) (i32.const 64) (i32.const 0)
                (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 8)))
            (local.set $table (call $table (i32.const 16)))
            (loop $l
                (call $must (call $scan (local.get $table) (i32.const 8)))
                (drop (call $close (i32.load (i32.const 8))))
                (br $l))"),
        ("rows that the call has deleted, deleted again", "
            (local.set $index (call $index (i32.const 48) (i32.const 6)))
            (loop $l
                (call $must (call $delete_range (local.get $index) (i32.const 64) (i32.const 0)
                    (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 8)))
                (br $l))"),
        ("rows that the call has deleted, counted", "
            (call $must (call $delete_range (call $index (i32.const 48) (i32.const 6)) (i32.const 64) (i32.const 0)
                (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 8)))
            (local.set $table (call $table (i32.const 16)))
            (loop $l (drop (call $count (local.get $table) (i32.const 1024))) (br $l))"),
        ("all rows, again and again", "
            (local.set $table (call $table (i32.const 16)))
            (loop $l
                (call $must (call $scan (local.get $table) (i32.const 8)))
                (call $read (i32.load (i32.const 8)))
                (br $l))"),
        ("all rows, not read", "
            (local.set $table (call $table (i32.const 16)))
            (loop $l
                (call $must (call $scan (local.get $table) (i32.const 8)))
                (drop (call $close (i32.load (i32.const 8))))
                (br $l))"),
        ("small rows that are sorted", "
            (local.set $table (call $table (i32.const 32)))
            (loop $l
                (call $must (call $scan (local.get $table) (i32.const 8)))
                (call $read (i32.load (i32.const 8)))
                (br $l))"),
        ("rows of one hash that are sorted", "
            (local.set $table (call $table (i32.const 44)))
            (loop $l
                (call $must (call $scan (local.get $table) (i32.const 8)))
                (call $read (i32.load (i32.const 8)))
                (br $l))"),
        ("a range of no rows", "
            (call $must (call $delete_range (call $index (i32.const 56) (i32.const 5)) (i32.const 64) (i32.const 0)
                (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 8)))
            (local.set $index (call $index (i32.const 56) (i32.const 5)))
            (loop $l
                (drop (call $close (call $all (local.get $index))))
                (br $l))"),
        ("deletions of rows that there are not", "
            (i32.store (i32.const 0x200000) (i32.const 1000000))
            (local.set $table (call $table (i32.const 32)))
            (loop $l
                (drop (call $delete_eq (local.get $table) (i32.const 0x200000) (i32.const 2000004) (i32.const 8)))
                (br $l))"),
        ("counting rows", "
            (local.set $table (call $table (i32.const 32)))
            (loop $l (drop (call $count (local.get $table) (i32.const 1024))) (br $l))"),
        ("updates of a row with a hundred indexes", "
            (local.set $table (call $table (i32.const 40)))
            (local.set $index (call $index (i32.const 56) (i32.const 5)))
            (loop $l
                (local.set $n (i32.const 4))
                (loop $m
                    (i32.store (i32.add (i32.const 1024) (local.get $n))
                        (i32.add (i32.const 7) (i32.load (i32.add (i32.const 1024) (local.get $n)))))
                    (local.set $n (i32.add (local.get $n) (i32.const 4)))
                    (br_if $m (i32.lt_u (local.get $n) (i32.const 400))))
                (i32.store (i32.const 12) (i32.const 400))
                (call $must (call $update (local.get $table) (local.get $index) (i32.const 1024) (i32.const 12)))
                (br $l))"),
        ("names", "(loop $l (drop (call $table (i32.const 16))) (drop (call $table (i32.const 32))) (br $l))"),
        ("timers", "(loop $l (drop (call $timer_end (call $timer (i32.const 16) (i32.const 4)))) (br $l))"),
        ("its own identity", "(loop $l (call $identity (i32.const 1024)) (br $l))"),
        ("large copies", "
            (drop (memory.grow (i32.const 8192)))
            (loop $l (memory.copy (i32.const 0x10000000) (i32.const 0) (i32.const 0x10000000)) (br $l))"),
        ("numbers next to 0", "
            (local.set $x (f64.const 0x1p-1060))
            (loop $l
                (local.set $x (f64.mul (f64.mul (f64.mul (f64.mul (local.get $x) (f64.const 1.5))
                    (f64.const 0.7)) (f64.const 1.4)) (f64.const 0.68)))
                (br_if $l (f64.lt (local.get $x) (f64.const 1))))"),
    ];
    let only = std::env::var("ACT").unwrap_or_default();
    let mut late = Vec::new();
    for (what, act) in acts.iter().filter(|(what, _)| what.contains(&only)) {
        let data = tempfile::tempdir().unwrap();
        let server = Server::start(&bin, data.path()).with_token(None);
        server.publish("prepared", &module(act, 100 * UNITS));
        assert_eq!(call(&server, "fill", 1).0, 200);
        server.publish("prepared", &module(act, UNITS));
        let (status, energy, time) = call(&server, "act", 2);
        eprintln!("{what}: {status}, {energy} of the server's, {time:?}");
        // The server counts in its own way, and must not be the first to end a call: what it counts depends on how rows
        // stand. 1.2.0 says a thousand times as much.
        let fuel = if is_2x(&bin) { energy } else { energy / 1_000 };
        if time > TIME_MAX || fuel > UNITS / 5 * 6 {
            late.push(*what);
        }
    }
    assert_eq!(late, [""; 0]);
}

/// What is found by its key and deleted, one row after the other, is charged for what it is.
#[test]
fn a_call_may_delete_many_rows_one_by_one() {
    let Some(bin) = program() else { return };
    let act = "
        (local.set $index (call $index (i32.const 48) (i32.const 6)))
        (loop $l
            ;; Bounds that are the same, at two places.
            (i32.store8 (i32.const 0x20000) (i32.const 0))
            (i32.store (i32.const 0x20001) (i32.mul (local.get $n) (i32.const 0x9e3779b1)))
            (i64.store (i32.const 0x20010) (i64.load (i32.const 0x20000)))
            (call $must (call $range (local.get $index) (i32.const 64) (i32.const 0) (i32.const 0)
                (i32.const 0x20000) (i32.const 5) (i32.const 0x20010) (i32.const 5) (i32.const 8)))
            (call $read (i32.load (i32.const 8)))
            (if (i32.ne (i32.load (i32.const 0x200000)) (i32.load (i32.const 0x20001))) (then (unreachable)))
            (call $must (call $delete_range (local.get $index) (i32.const 64) (i32.const 0) (i32.const 0)
                (i32.const 0x20000) (i32.const 5) (i32.const 0x20010) (i32.const 5) (i32.const 8)))
            (if (i32.ne (i32.load (i32.const 8)) (i32.const 1)) (then (unreachable)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $n) (i32.const 200000))))";
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&bin, data.path()).with_token(None);
    server.publish("prepared", &module(act, 15 * UNITS));
    for (reducer, index) in [("fill", 1), ("act", 2)] {
        let (status, _, time) = call(&server, reducer, index);
        assert_eq!(status, 200, "{reducer}, after {time:?}");
    }
}
