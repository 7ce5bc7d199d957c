//! Random programs that write in all manner of ways: rewritten they do what they did before, and whatever they have done
//! is undone.

use proptest::prelude::*;
use proptest::sample::select;
use walrus::{ExportItem, FunctionBuilder, Module};
use wasmi::{Config, Engine, Global, Instance, Linker, Memory, Store, Val};

use super::Reset;
use crate::emit::{I32, function};
use crate::{Options, PrepareError};

/// The plain programs' memory: so many pages, up to so many.
const PAGES: usize = 3;
const PAGES_GROWN: usize = 8;
/// Addresses are mostly below.
const REACH: u32 = 0x2_0000;
/// How long a plain program may run, in the interpreter's fuel.
const FUEL_MAX: u64 = 200_000;
const LOCALS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn local() -> BoxedStrategy<String> {
    select(&LOCALS[..])
        .prop_map(|name| format!("(local.get ${name})"))
        .boxed()
}

fn offset() -> BoxedStrategy<u32> {
    prop_oneof![
        3 => select(vec![0, 4, 8, 16]),
        2 => 0_u32..300,
        1 => 0_u32..3_000,
        1 => select(vec![0x1_0000, 0xffff_fff0]),
    ]
    .boxed()
}

/// An address: near a local, a constant, made up, or at either end of the address space.
fn address() -> BoxedStrategy<String> {
    let near = (
        local(),
        prop_oneof![select(vec![8, 16, 100, 200, 250, -8, -300, 1_000]), 0_i32..2_000,],
    );
    prop_oneof![
        5 => local(),
        2 => near.prop_map(|(local, n)| format!("(i32.add {local} (i32.const {n}))")),
        1 => (local(), 0_i32..300).prop_map(|(local, n)| format!("(i32.sub {local} (i32.const {n}))")),
        1 => (0..PAGES as u32 * 65_536).prop_map(|at| format!("(i32.const {at})")),
        1 => (local(), 1_u32..99).prop_map(|(local, n)| format!(
            "(i32.and (i32.mul {local} (i32.const {n})) (i32.const {}))", REACH - 1
        )),
        1 => (local(), local()).prop_map(|(one, two)| format!(
            "(select {one} {two} (i32.and {one} (i32.const 1)))"
        )),
        1 => (local(), 0..300).prop_map(|(local, n)| format!(
            "(i32.sub (i32.const {n}) (i32.and {local} (i32.const 255)))"
        )),
    ]
    .boxed()
}

/// A new value for a local.
fn value() -> BoxedStrategy<String> {
    prop_oneof![
        3 => address(),
        2 => select(vec![16, 48, 400, 1_500, 20_000]).prop_map(|bytes| {
            format!("(i32.sub (global.get $stack) (i32.const {bytes}))")
        }),
        1 => address().prop_map(|address| format!(
            "(i32.and (i32.load align=1 (i32.and {address} (i32.const 0xffff))) (i32.const {}))", REACH - 1
        )),
        1 => Just("(i32.mul (memory.size) (i32.const 1000))".to_owned()),
    ]
    .boxed()
}

fn store() -> BoxedStrategy<String> {
    let kinds = vec![
        ("i32.store", "(i32.const -1)"),
        ("i32.store8", "(i32.const 7)"),
        ("i32.store16", "(i32.const -2)"),
        ("i64.store", "(i64.const -3)"),
        ("i64.store8", "(i64.const -4)"),
        ("i64.store16", "(i64.const -5)"),
        ("i64.store32", "(i64.const -6)"),
        ("f32.store", "(f32.const 1.5)"),
        ("f64.store", "(f64.const 2.5)"),
        ("v128.store", "(v128.const i32x4 1 2 3 4)"),
    ];
    let lanes = vec![(8, 16), (16, 8), (32, 4), (64, 2)];
    prop_oneof![
        6 => (select(kinds), offset(), address()).prop_map(|((kind, value), offset, address)| {
            format!("({kind} offset={offset} align=1 {address} {value})")
        }),
        1 => (select(lanes), any::<u8>(), offset(), address()).prop_map(|((bits, lanes), lane, offset, address)| {
            let lane = lane % lanes;
            format!("(v128.store{bits}_lane offset={offset} align=1 {lane} {address} (v128.const i32x4 5 6 7 8))")
        }),
        // The mark is below the first address.
        1 => local().prop_map(|local| format!(
            "(local.set $low (i32.sub (i32.const 0) (i32.and {local} (i32.const 240))))
            (i32.store align=1 (i32.add (local.get $low) (i32.const 240)) (i32.const -10))"
        )),
        // The address is on the stack while its local changes.
        1 => (offset(), local(), select(&LOCALS[..]), value()).prop_map(|(offset, address, other, value)| {
            format!("(i32.store offset={offset} align=1 {address} (local.tee ${other} {value}))")
        }),
        1 => (offset(), select(&LOCALS[..]), value()).prop_map(|(offset, name, value)| {
            format!("(i32.store offset={offset} align=1 (local.tee ${name} {value}) (i32.const -7))")
        }),
    ].boxed()
}

fn bulk() -> BoxedStrategy<String> {
    let low = || address().prop_map(|address| format!("(i32.and {address} (i32.const 0xffff))"));
    let bytes = || {
        (local(), select(vec![0xff, 0x7ff, 0xffff]))
            .prop_map(|(local, mask)| format!("(i32.and {local} (i32.const {mask}))"))
    };
    prop_oneof![
        (low(), bytes()).prop_map(|(to, bytes)| format!("(memory.fill {to} (i32.const 9) {bytes})")),
        (low(), low(), bytes()).prop_map(|(to, from, bytes)| format!("(memory.copy {to} {from} {bytes})")),
        (low(), 0..40)
            .prop_map(|(to, bytes)| format!("(memory.init $data {to} (i32.const 0) (i32.const {bytes}))")),
    ]
    .boxed()
}

/// A local that is assigned to on one of two ways only, near another one that may have been marked.
fn maybe_assigned() -> BoxedStrategy<String> {
    let near = (local(), select(vec![4, 8, 100, 200]))
        .prop_map(|(local, n)| format!("(i32.add {local} (i32.const {n}))"));
    let set = (select(&LOCALS[..]), near).prop_map(|(name, near)| format!("(local.set ${name} {near})"));
    let condition = || local().prop_map(|local| format!("(i32.and {local} (i32.const 1))"));
    prop_oneof![
        (condition(), 0..PAGES * 65_536 - 8).prop_map(|(condition, at)| format!(
            "(block (br_if 0 {condition}) (i32.store align=1 (i32.const {at}) (i32.const 3)))
            (i32.store8 align=1 (i32.const {at}) (i32.const 4))"
        )),
        (condition(), set.clone())
            .prop_map(|(condition, set)| format!("(block (br_if 0 {condition}) {set})")),
        (condition(), set.clone()).prop_map(|(condition, set)| format!("(if {condition} (then {set}))")),
        (condition(), set.clone(), store(), set, store()).prop_map(
            |(condition, set, store, other, last)| format!(
                "(if {condition} (then {set} {store}) (else {last} {other}))"
            )
        ),
    ]
    .boxed()
}

/// A pointer that runs ahead of the mark that was made where it began.
fn pointer_loop() -> BoxedStrategy<String> {
    (select(&LOCALS[..]), 1..4, select(vec![8, 300, 1_024, 5_000]))
        .prop_map(|(name, times, step)| {
            format!(
                "(i32.store align=1 (local.get ${name}) (i32.const -8))
            (local.set $times (i32.const {times}))
            (loop
                (i32.store offset=4 align=1 (local.get ${name}) (i32.const -9))
                (local.set ${name} (i32.add (local.get ${name}) (i32.const {step})))
                (local.set $times (i32.sub (local.get $times) (i32.const 1)))
                (br_if 0 (local.get $times)))"
            )
        })
        .boxed()
}

fn simple() -> BoxedStrategy<String> {
    prop_oneof![
        8 => store(),
        5 => (select(&LOCALS[..]), value()).prop_map(|(name, value)| format!("(local.set ${name} {value})")),
        2 => bulk(),
        1 => (0..3).prop_map(|pages| format!("(local.set $e (memory.grow (i32.const {pages})))")),
        1 => Just("(global.set $count (i64.add (global.get $count) (i64.const 1)))".to_owned()),
        1 => value().prop_map(|value| format!("(global.set $stack {value})")),
        3 => maybe_assigned(),
        2 => pointer_loop(),
        1 => (local(), value()).prop_map(|(local, value)| format!("(local.set $b (call $other {local} {value}))")),
    ].boxed()
}

fn statements(depth: usize) -> BoxedStrategy<String> {
    prop::collection::vec(statement(depth), 1..5)
        .prop_map(|all| all.join("\n"))
        .boxed()
}

fn statement(depth: usize) -> BoxedStrategy<String> {
    if depth == 0 {
        return simple().boxed();
    }
    let inner = || statements(depth - 1);
    prop_oneof![
        6 => simple(),
        1 => (inner(), local(), inner()).prop_map(|(one, local, two)| {
            format!("(block {one} (br_if 0 (i32.and {local} (i32.const 1))) {two})")
        }),
        1 => (local(), inner(), inner()).prop_map(|(local, one, two)| {
            format!("(if (i32.and {local} (i32.const 2)) (then {one}) (else {two}))")
        }),
        1 => (1..6, inner()).prop_map(move |(times, body)| format!(
            "(local.set $n{depth} (i32.const {times}))
            (loop {body}
                (local.set $n{depth} (i32.sub (local.get $n{depth}) (i32.const 1)))
                (br_if 0 (i32.gt_s (local.get $n{depth}) (i32.const 0))))"
        )),
        1 => (local(), inner(), inner()).prop_map(|(local, one, two)| format!(
            "(block (block (block (br_table 0 1 2 (i32.and {local} (i32.const 3)))) {one}) {two})"
        )),
        // The address is on the stack, below a block.
        1 => (local(), inner(), local(), inner()).prop_map(|(address, one, local, two)| format!(
            "(i32.store offset=4 {address} (block (result i32)
                {one} (drop (br_if 0 (i32.const 1) (i32.and {local} (i32.const 4)))) {two} (i32.const 2)))"
        )),
    ]
    .boxed()
}

/// A program: `run(a, b, c) -> i32`.
fn program() -> impl Strategy<Value = String> {
    (statements(3), statements(2), statements(3)).prop_map(|(first, other, second)| {
        format!(
            r#"(module
            (memory (export "memory") {PAGES} {PAGES_GROWN})
            (global $stack (mut i32) (i32.const 60000))
            (global $count (export "count") (mut i64) (i64.const 5))
            (data $data "0123456789012345678901234567890123456789")
            (func $other (param $a i32) (param $b i32) (result i32)
                (local $c i32) (local $d i32) (local $e i32) (local $n1 i32) (local $n2 i32) (local $low i32) (local $times i32)
                {other}
                (local.get $c))
            (func (export "run") (param $a i32) (param $b i32) (param $c i32) (result i32)
                (local $d i32) (local $e i32) (local $n1 i32) (local $n2 i32) (local $n3 i32) (local $low i32) (local $times i32)
                {first}
                {second}
                (i32.add (local.get $e) (memory.size))))"#
        )
    })
}

fn argument() -> BoxedStrategy<i32> {
    prop_oneof![
        3 => 0..REACH as i32,
        1 => (0..1_024).prop_map(|n| n * 16),
        1 => -256..300,
        1 => -256..-8,
        1 => Just(1_020),
    ]
    .boxed()
}

/// The rewritten program, with `started` and `reset` for the test to call. What grows in vain is no program's fault.
fn rewritten(plain: &[u8], options: &Options) -> Vec<u8> {
    let mut module = Module::from_buffer(plain).unwrap();
    let memory = module.exports.iter().find_map(|export| match export.item {
        ExportItem::Memory(memory) => Some(memory),
        _ => None,
    });
    let reset = Reset::install(&mut module, memory.unwrap(), options).unwrap();
    type Part = fn(Reset, &mut crate::emit::Code<'_>);
    let parts: [(&str, Part); 2] = [("started", Reset::started), ("reset", Reset::reset)];
    for (name, part) in parts {
        let mut builder = FunctionBuilder::new(&mut module.types, &[], &[]);
        part(reset, &mut builder.func_body());
        let function = builder.finish(Vec::new(), &mut module.funcs);
        module.exports.add(name, function);
    }
    module.emit_wasm()
}

struct Machine {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
    count: Global,
}

impl Machine {
    fn new(wasm: &[u8], contents: &[u8]) -> Self {
        let mut config = Config::default();
        config.consume_fuel(true);
        let engine = Engine::new(&config);
        let module = wasmi::Module::new(&engine, wasm).unwrap();
        let mut store = Store::new(&engine, ());
        store.set_fuel(u64::MAX).unwrap();
        let mut linker = Linker::new(&engine);
        let log = |_: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| {};
        linker.func_wrap("spacetime_10.0", "console_log", log).unwrap();
        let instance = linker.instantiate_and_start(&mut store, &module).unwrap();
        let memory = instance.get_memory(&store, "memory").unwrap();
        let count = instance.get_global(&store, "count").unwrap();
        memory.data_mut(&mut store)[..contents.len()].copy_from_slice(contents);
        Self {
            store,
            instance,
            memory,
            count,
        }
    }

    /// What the program returns, if it does not trap.
    fn run(&mut self, arguments: [i32; 3], fuel: u64) -> Option<i32> {
        self.store.set_fuel(fuel).unwrap();
        let [a, b, c] = arguments;
        let run = self
            .instance
            .get_typed_func::<(i32, i32, i32), i32>(&self.store, "run");
        run.unwrap().call(&mut self.store, (a, b, c)).ok()
    }

    fn call(&mut self, name: &str) {
        self.store.set_fuel(u64::MAX).unwrap();
        let function = self.instance.get_typed_func::<(), ()>(&self.store, name);
        function.unwrap().call(&mut self.store, ()).unwrap();
    }

    fn contents(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    fn count(&self) -> Option<i64> {
        match self.count.get(&self.store) {
            Val::I64(count) => Some(count),
            _ => None,
        }
    }
}

/// Bytes that are not 0, so that a block that is not put back shows.
fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8 | 1)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_a_program_does_is_undone(
        text in program(),
        calls in prop::collection::vec(prop::array::uniform3(argument()), 1..6),
    ) {
        let plain = wat::parse_str(&text).unwrap();
        let rewritten = rewritten(&plain, &Options::default());
        let contents = noise(PAGES * 65_536);
        let mut machine = Machine::new(&rewritten, &contents);
        machine.call("started");
        for arguments in calls {
            // Each call finds the plain program as new.
            let mut original = Machine::new(&plain, &contents);
            let expected = original.run(arguments, FUEL_MAX);
            if expected.is_none() {
                continue;
            }
            prop_assert_eq!(machine.run(arguments, u64::MAX), expected);
            prop_assert_eq!(machine.count(), original.count());
            let (left, right) = (machine.contents(), original.contents());
            prop_assert!(left[..right.len()] == *right && left[right.len()..].iter().all(|byte| *byte == 0));
            machine.call("reset");
            let (first, grown) = machine.contents().split_at(contents.len());
            prop_assert!(first == contents, "memory differs");
            prop_assert!(grown.iter().all(|byte| *byte == 0), "what had grown differs");
            prop_assert_eq!(machine.count(), Some(5));
        }
    }
}

/// The stack has run over, and a large frame begins below 0.
#[test]
fn a_frame_that_wraps_around_is_put_back() {
    let plain = wat::parse_str(
        r#"(module
            (memory (export "memory") 1)
            (global $stack (mut i32) (i32.const 12000))
            (global (export "count") (mut i64) (i64.const 5))
            (func (export "run") (param i32 i32 i32) (result i32) (local $frame i32)
                (local.set $frame (i32.sub (global.get $stack) (i32.const 20000)))
                (i32.store8 (i32.add (local.get $frame) (local.get 0)) (i32.const 7))
                (i32.store (i32.add (local.get $frame) (i32.const 8000)) (i32.const -1))
                (i32.store (i32.add (local.get $frame) (i32.const 14000)) (i32.const -1))
                (i32.store (i32.add (local.get $frame) (i32.const 19996)) (i32.const -1))
                (i32.const 1)))"#,
    );
    let contents = noise(65_536);
    let mut machine = Machine::new(&rewritten(&plain.unwrap(), &Options::default()), &contents);
    machine.call("started");
    assert_eq!(machine.run([9_000, 0, 0], u64::MAX), Some(1));
    assert!(machine.contents() != contents, "the stores reach memory");
    machine.call("reset");
    assert!(machine.contents() == contents, "memory differs");
}

/// The module of a text.
fn parsed(text: &str) -> (Module, walrus::MemoryId) {
    let module = Module::from_buffer(&wat::parse_str(text).unwrap()).unwrap();
    let memory = module.memories.iter().next().unwrap().id();
    (module, memory)
}

#[test]
fn whatever_the_host_calls_is_undone() {
    let (mut module, memory) = parsed(
        r#"(module
            (memory (export "memory") 1)
            (global (export "count") (mut i64) (i64.const 0))
            (func (export "run") (param i32 i32 i32) (result i32)
                (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (local.get 0)))
                (i32.load (i32.const 8))))"#,
    );
    let reset = Reset::install(&mut module, memory, &Options::default()).unwrap();
    let original = module.exports.get_func("run").unwrap();
    let wrapper = function(&mut module, [I32, I32, I32], &[I32], |code, params, _| {
        reset.require_image(code);
        for param in params {
            code.local_get(param);
        }
        code.call(original);
        reset.reset(code);
    });
    module.exports.remove("run").unwrap();
    module.exports.add("run", wrapper);
    let mut builder = FunctionBuilder::new(&mut module.types, &[], &[]);
    reset.started(&mut builder.func_body());
    let started = builder.finish(Vec::new(), &mut module.funcs);
    module.exports.add("started", started);

    let mut machine = Machine::new(&module.emit_wasm(), &[]);
    assert_eq!(
        machine.run([5, 0, 0], u64::MAX),
        None,
        "there is nothing to go back to"
    );
    let mut machine = Machine::new(&module.emit_wasm(), &[]);
    machine.call("started");
    for _ in 0..2 {
        assert_eq!(machine.run([5, 0, 0], u64::MAX), Some(5));
    }
}

#[test]
fn what_can_not_be_undone_is_refused() {
    let cases = [
        (
            "(func (param v128) (result v128) (f32x4.relaxed_min (local.get 0) (local.get 0)))",
            "relaxed SIMD",
        ),
        (
            "(func (param v128) (result v128) (i32x4.relaxed_trunc_f32x4_s (local.get 0)))",
            "relaxed SIMD",
        ),
        (
            "(func (param v128) (result v128) (f32x4.relaxed_madd (local.get 0) (local.get 0) (local.get 0)))",
            "relaxed SIMD",
        ),
        (
            "(func (result i32) (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))",
            "atomic instructions",
        ),
        (
            "(func (i32.atomic.store (i32.const 0) (i32.const 1)))",
            "atomic instructions",
        ),
        (
            "(table 1 funcref) (func (table.set (i32.const 0) (ref.null func)))",
            "tables that change",
        ),
        ("(tag $tag) (func (throw $tag))", "exceptions"),
        (
            "(global (mut funcref) (ref.null func))",
            "mutable globals of reference type",
        ),
    ];
    for (text, feature) in cases {
        let (mut module, memory) = parsed(&format!("(module (memory 1) {text})"));
        let refused = Reset::install(&mut module, memory, &Options::default()).map(drop);
        assert_eq!(refused, Err(PrepareError::Feature(feature)), "{text}");
    }
    for pages in [0, 65_536] {
        let (mut module, memory) = parsed(&format!("(module (memory {pages}))"));
        let refused = Reset::install(&mut module, memory, &Options::default()).map(drop);
        assert!(matches!(refused, Err(PrepareError::WrongAbi(_))), "{pages} pages");
    }
}

/// Deeper than any stack, and assigning to locals at each level.
#[test]
fn hostile_code_takes_no_more_than_its_length() {
    const DEPTH: usize = 20_000;
    let open = "(loop (local.set $a (i32.add (local.get $a) (i32.const 8))) (i32.store (local.get $a) (i32.const 1))";
    let text = format!(
        "(module (memory 1) (func (local $a i32) {} {}))",
        open.repeat(DEPTH)
            .replace("(loop", "loop")
            .replace(")loop", ") loop"),
        "end ".repeat(DEPTH)
    );
    let (mut module, memory) = parsed(&text);
    Reset::install(&mut module, memory, &Options::default()).unwrap();
    assert!(!module.emit_wasm().is_empty());
}

/// Results of all operations on NaNs with payloads have the one pattern; those on other numbers stay.
#[test]
fn all_nans_become_one() {
    let options = Options {
        canonical_nan: true,
        ..Options::default()
    };
    let scalar = |ty: &str, size: usize| {
        let nan = if size == 4 {
            "nan:0x200001"
        } else {
            "nan:0x4000000000001"
        };
        let operand = format!("({ty}.const -{nan})");
        let binary = ["add", "sub", "mul", "div", "min", "max"]
            .map(|op| format!("({ty}.{op} {operand} ({ty}.const 1))"));
        let unary = ["ceil", "floor", "trunc", "nearest", "sqrt"].map(|op| format!("({ty}.{op} {operand})"));
        let bits = if size == 4 { "i32" } else { "i64" };
        binary
            .into_iter()
            .chain(unary)
            .map(move |value| format!("({bits}.store (i32.const 0) ({bits}.reinterpret_{ty} {value}))"))
            .collect::<Vec<_>>()
    };
    let simd = |shape: &str, operand: &str| {
        let binary = ["add", "sub", "mul", "div", "min", "max"]
            .map(|op| format!("({shape}.{op} {operand} {operand})"));
        let unary =
            ["ceil", "floor", "trunc", "nearest", "sqrt"].map(|op| format!("({shape}.{op} {operand})"));
        binary
            .into_iter()
            .chain(unary)
            .map(|value| format!("(v128.store (i32.const 0) {value})"))
            .collect::<Vec<_>>()
    };
    let wide_f32 = "(v128.const f32x4 -nan:0x200001 4 nan:0x200001 1)";
    let wide_f64 = "(v128.const f64x2 -nan:0x4000000000001 4)";
    let f32_nan = 0x7fc0_0000_u32.to_le_bytes();
    let f64_nan = 0x7ff8_0000_0000_0000_u64.to_le_bytes();
    let cases = [
        (scalar("f32", 4), f32_nan.to_vec()),
        (scalar("f64", 8), f64_nan.to_vec()),
        (simd("f32x4", wide_f32), f32_nan.to_vec()),
        (simd("f64x2", wide_f64), f64_nan.to_vec()),
        (
            vec!["(f32.store (i32.const 0) (f32.demote_f64 (f64.const -nan:0x4000000000001)))".into()],
            f32_nan.to_vec(),
        ),
        (
            vec!["(f64.store (i32.const 0) (f64.promote_f32 (f32.const -nan:0x200001)))".into()],
            f64_nan.to_vec(),
        ),
        (
            vec![format!(
                "(v128.store (i32.const 0) (f32x4.demote_f64x2_zero {wide_f64}))"
            )],
            f32_nan.to_vec(),
        ),
        (
            vec![format!(
                "(v128.store (i32.const 0) (f64x2.promote_low_f32x4 {wide_f32}))"
            )],
            f64_nan.to_vec(),
        ),
    ];
    for (code, nan) in cases
        .into_iter()
        .flat_map(|(all, nan)| all.into_iter().map(move |it| (it, nan.clone())))
    {
        let text = format!(
            r#"(module (memory (export "memory") 1) (global (export "count") (mut i64) (i64.const 0))
            (func (export "run") (param i32 i32 i32) (result i32) {code} (i32.const 0)))"#
        );
        let mut plain = Machine::new(&wat::parse_str(&text).unwrap(), &[]);
        let mut machine = Machine::new(&rewritten(&wat::parse_str(&text).unwrap(), &options), &[]);
        assert_eq!(
            [&mut plain, &mut machine].map(|it| it.run([0; 3], u64::MAX)),
            [Some(0); 2]
        );
        assert_eq!(machine.contents()[..nan.len()], nan, "{code}");
        // The last lane is no NaN.
        if code.starts_with("(v128") {
            assert_eq!(machine.contents()[12..16], plain.contents()[12..16], "{code}");
        }
    }
}
