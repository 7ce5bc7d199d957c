//! Modules that look where they should not: they see the same on all hosts, and in every instance.

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::prepare;
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{
    RawConstraintDataV9, RawConstraintDefV9, RawIndexAlgorithm, RawIndexDefV9, RawModuleDefV9,
    RawUniqueConstraintDataV9,
};
use spacetimedb_primitives::ColList;
use spacetimedb_sats::AlgebraicType;
use spacetimedb_sats::raw_identifier::RawIdentifier;

use crate::generated::product;
use crate::host::{Failure, FakeHost};
use crate::raw_module::{encode, escape, reducer, table};

/// The prepared module of `hostile.wat`.
fn hostile(body: &str, loose: &str) -> Vec<u8> {
    let mut def = RawModuleDefV9::default();
    let bytes = AlgebraicType::bytes;
    table(&mut def, loose, product(vec![AlgebraicType::U32, bytes()]), &[]);
    table(
        &mut def,
        "keyed",
        product(vec![AlgebraicType::U32, AlgebraicType::U64]),
        &[],
    );
    table(&mut def, "seen", product(vec![bytes()]), &[]);
    let key = ColList::from(0);
    def.tables[1].indexes.push(RawIndexDefV9 {
        name: Some(RawIdentifier::new("by_key")),
        accessor_name: None,
        algorithm: RawIndexAlgorithm::BTree { columns: key.clone() },
    });
    def.tables[1].constraints.push(RawConstraintDefV9 {
        name: None,
        data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 { columns: key }),
    });
    for name in ["fill", "act"] {
        reducer(&mut def, name);
    }
    let def = encode(RawModuleDef::V9(def));
    let text = include_str!("hostile.wat")
        .replace("{BODY}", body)
        .replace("{DEF}", &escape(&def))
        .replace("{LEN}", &def.len().to_string())
        .replace("{LOOSE}", loose)
        .replace("{LOOSE_LEN}", &loose.len().to_string());
    let module = wat::parse_str(text).expect("the module is well formed");
    prepare(&module).expect("the module can be prepared").wasm
}

fn call(host: &mut FakeHost, reducer: &str, index: u64) -> Result<(), Failure> {
    let header = CallHeader {
        index,
        timestamp_us: index as i64,
        ..CallHeader::default()
    };
    host.call(reducer, header, &[])
}

/// What `act` puts down in each of three calls. It must be the same on hosts that differ in whatever they may, of which
/// one has a new instance for each call.
fn acts_of(wasm: &[u8]) -> [Vec<u32>; 3] {
    let mut hosts = [FakeHost::new(wasm, 4_096), FakeHost::new(wasm, 70_000)];
    for host in &mut hosts {
        assert_eq!(call(host, "fill", 1), Ok(()));
    }
    let acts = [2, 3, 4].map(|index| {
        hosts[1].restart();
        let acts = hosts.each_mut().map(|host| {
            assert_eq!(call(host, "act", index), Ok(()));
            noted(host, index)
        });
        assert_eq!(acts[0], acts[1], "in call {index}");
        acts.into_iter().next().unwrap_or_default()
    });
    assert_eq!(hosts[0].state(), hosts[1].state());
    acts
}

fn acts(body: &str) -> [Vec<u32>; 3] {
    acts_of(&hostile(body, "loose"))
}

fn noted(host: &FakeHost, index: u64) -> Vec<u32> {
    let rows = host.db.rows("seen").into_iter();
    let rows = rows.map(|row| -> Vec<u32> {
        let words = row[4..].chunks(4);
        words
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect()
    });
    let mut rows = rows.filter(|row| u64::from(row[0]) == index);
    rows.next().expect("the call has put something down")[1..].to_vec()
}

#[test]
fn a_buffer_holds_nothing_but_the_rows_that_are_told_of() {
    const ROOM: usize = 160;
    let [first, second, third] = acts(&format!(
        "(call $must (call $scan (call $loose) (i32.const 8)))
        (drop (call $read (i32.load (i32.const 8)) (i32.const {ROOM})))
        (call $note (i32.load (i32.const 12)))
        (loop $more
            (call $note (i32.load8_u (i32.add (i32.const 0x8000) (local.get $n))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const {ROOM}))))"
    ));
    assert_eq!([&first, &first], [&second, &third]);
    let rows = first[0] as usize;
    assert!((1..ROOM).contains(&rows));
    assert_eq!((first[1], first.len()), (7, 1 + ROOM));
    assert!(first[1 + rows..].iter().all(|byte| *byte == 0), "{first:?}");
}

#[test]
fn iterators_are_counted_anew_in_each_call_and_end_with_it() {
    for table in ["keyed", "loose"] {
        let [first, second, third] = acts(&format!(
            "(call $note (call $read (i32.const 1) (i32.const 1000)))
            (call $note (call $close (i32.const 2)))
            (loop $more
                (call $must (call $scan (call ${table}) (i32.const 8)))
                (call $note (i32.load (i32.const 8)))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 3))))
            (call $must (call $read (i32.const 2) (i32.const 200)))
            (call $must (call $close (i32.const 2)))
            (call $note (call $read (i32.const 2) (i32.const 1000)))
            (call $must (call $point (call $by_key) (i32.const 0x7000) (i32.const 4) (i32.const 8)))
            (call $note (i32.load (i32.const 8)))
            (call $note (call $read (i32.load (i32.const 8)) (i32.const 1000)))
            (call $note (call $read (i32.load (i32.const 8)) (i32.const 1000)))
            (call $note (call $read (i32.const 0) (i32.const 1000)))
            (call $note (call $read (i32.const 0x80000001) (i32.const 1000)))
            (call $note (call $read (i32.const 0x10000001) (i32.const 1000)))"
        ));
        assert_eq!(first, [6, 6, 1, 2, 3, 6, 2, u32::MAX, 6, 6, 6, 6], "{table}");
        assert_eq!([&first, &first], [&second, &third]);
    }
}

#[test]
fn timers_are_counted_anew_in_each_call_and_end_with_it() {
    let [first, second, third] = acts(
        "(call $note (call $timer_end (i32.const 1)))
        (loop $more
            (call $note (call $timer (i32.const 32) (i32.const 5)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 3))))
        (call $note (call $timer_end (i32.const 2)))
        (call $note (call $timer_end (i32.const 2)))
        (call $note (call $timer_end (i32.const 3)))
        (call $note (call $timer_end (i32.const 3)))
        (call $note (call $timer (i32.const 32) (i32.const 5)))
        ;; More of them than are measured.
        (local.set $n (i32.const 0))
        (loop $more
            (local.set $handle (call $timer (i32.const 32) (i32.const 5)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 500))))
        (call $note (local.get $handle))
        (loop $more
            (call $must (call $timer_end (local.get $handle)))
            (local.set $handle (i32.sub (local.get $handle) (i32.const 1)))
            (br_if $more (i32.gt_u (local.get $handle) (i32.const 3))))
        (call $note (call $timer (i32.const 32) (i32.const 5)))",
    );
    assert_eq!(first, [7, 1, 2, 3, 0, 7, 0, 7, 3, 503, 4]);
    assert_eq!([&first, &first], [&second, &third]);
}

#[test]
fn an_iterator_may_be_put_anywhere() {
    let [first, second, third] = acts(
        "(local.set $n (i32.const 1020))
        (loop $more
            (i64.store (local.get $n) (i64.const -1))
            (call $must (call $scan (call $keyed) (local.get $n)))
            (call $note (i32.load (local.get $n)))
            (call $note (i32.load8_u (i32.add (local.get $n) (i32.const 4))))
            (call $must (call $close (i32.load (local.get $n))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 1026))))",
    );
    assert_eq!(first, [1, 255].repeat(6));
    assert_eq!([&first, &first], [&second, &third]);
}

#[test]
fn ids_are_those_of_the_module_and_there_are_no_others() {
    let [first, second, third] = acts(
        "(call $note (call $loose))
        (call $note (call $keyed))
        (call $note (call $by_key))
        (i32.store (i32.const 8) (i32.const 0))
        (call $note (call $table_id (i32.const 56) (i32.const 9) (i32.const 8)))
        (call $note (i32.load (i32.const 8)))
        (call $note (call $table_id (i32.const 72) (i32.const 12) (i32.const 8)))
        (call $note (i32.load (i32.const 8)))
        (call $must (call $count (call $keyed) (i32.const 128)))
        (call $note (i32.load (i32.const 128)))",
    );
    assert_eq!(first, [1, 2, 1, 4, 0, 4, 0, 40]);
    assert_eq!([&first, &first], [&second, &third]);
    // The server's own: `st_client`, an index of `rtdb_session`.
    for body in [
        "(call $must (call $count (i32.const 12) (i32.const 128)))",
        "(call $must (call $scan (i32.const 4) (i32.const 128)))",
        "(call $must (call $scan (i32.const 0) (i32.const 128)))",
        "(call $must (call $delete (i32.const 2) (i32.const 0x7000) (i32.const 8) (i32.const 128)))",
        "(call $must (call $point (i32.const 0) (i32.const 0x7000) (i32.const 8) (i32.const 128)))",
    ] {
        let mut host = FakeHost::new(&hostile(body, "loose"), 1);
        assert_eq!(call(&mut host, "act", 1), Err(Failure::Trapped), "{body}");
    }
}

#[test]
fn the_handles_of_a_call_tell_nothing_of_it() {
    let [first, second, third] = acts(
        "(call $note (global.get $source))
        (call $note (global.get $sink))
        (i32.store (i32.const 12) (i32.const 1))
        (call $note (call $write (global.get $sink) (i32.const 16) (i32.const 12)))
        (loop $more
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (call $note (call $write (i32.add (global.get $sink) (local.get $n)) (i32.const 16) (i32.const 12)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 5))))",
    );
    assert_eq!(first, [0, 1, 0, 8, 8, 8, 8, 8]);
    assert_eq!([&first, &first], [&second, &third]);
}

/// A call that grows memory leaves pages which a later one, that has not grown, can write to: they are zeros again when they
/// are grown.
#[test]
fn what_is_written_behind_the_end_of_memory_is_undone() {
    let body =
        "(if (i32.ne (i32.load (i32.const 260)) (i32.const 2)) (then (drop (memory.grow (i32.const 2)))))
        (call $note (i32.load (i32.const 0x90000)))
        (if (i32.eq (i32.load (i32.const 260)) (i32.const 2)) (then
            (i32.store (i32.const 0x90000) (i32.const 77))))";
    let mut host = FakeHost::new(&hostile(body, "loose"), 1);
    for index in 1..=3 {
        assert_eq!(call(&mut host, "act", index), Ok(()));
    }
    assert_eq!([1, 2, 3].map(|index| noted(&host, index)), [[0], [0], [0]]);
}

/// An id that is put where the name stands does not become a part of the name that is kept.
#[test]
fn a_name_may_be_overwritten_by_its_id() {
    // Where a name is kept, see `names`.
    let slot = |name: &[u8]| {
        let word = |at: usize| u64::from_le_bytes(name[at..at + 8].try_into().unwrap());
        let mixed = word(name.len() - 8).rotate_left(21) ^ word(0) ^ name.len() as u64;
        mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56
    };
    let written = |name: &str| [&name.as_bytes()[..8], &1_u32.to_le_bytes()].concat();
    let mut names = (0..).map(|n| format!("loose_{n:06}"));
    let name = names.find(|name| slot(name.as_bytes()) == slot(&written(name)));
    let body = "(call $must (call $table_id (i32.const 16) (i32.const 12) (i32.const 24)))
        (call $note (i32.load (i32.const 24)))
        (call $note (call $table_id (i32.const 16) (i32.const 12) (i32.const 8)))";
    let [first, second, third] = acts_of(&hostile(body, &name.expect("there are enough names")));
    assert_eq!(first, [1, 4]);
    assert_eq!([&first, &first], [&second, &third]);
}

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1_024
}

/// A module may have 16 MiB of code, and a node must live through its publication.
#[test]
fn no_code_takes_much_memory_while_it_is_rewritten() {
    const CODE: usize = 2 * 1024 * 1024;
    const TIMES_MAX: u64 = 128;
    for code in [
        "(i32.store (local.get 0) (local.get 0))",
        "(if (local.get 0) (then))",
        "(block (br_if 0 (local.get 0)))",
        "(memory.grow (local.get 0)) (drop)",
        "(return_call $empty (local.get 0))",
        "(loop)",
    ] {
        let many = |count| {
            format!(
                "(module (memory 1) (func $empty (param i32) {}))",
                code.repeat(count)
            )
        };
        let bytes = wat::parse_str(many(1_000)).unwrap().len() / 1_000;
        let functions = format!("(func (param i32) (loop) {})", code.repeat(500)).repeat(CODE / bytes / 500);
        let mut def = RawModuleDefV9::default();
        table(&mut def, "rows", product(vec![AlgebraicType::U32]), &[]);
        table(&mut def, "left", product(vec![AlgebraicType::U32]), &[]);
        reducer(&mut def, "act");
        let text = crate::raw_module::text(&encode(RawModuleDef::V9(def)), "");
        let end = text.rfind(')').unwrap();
        let text = format!("{}(func $empty (param i32)) {functions})", &text[..end]);
        let module = wat::parse_str(text).unwrap();
        let before = peak();
        let result = prepare(&module).map(|it| it.wasm.len());
        let more = peak() - before;
        assert!(
            more < TIMES_MAX * CODE as u64,
            "{more} bytes of memory for {} of code: {code}, {result:?}",
            module.len()
        );
    }
}
