//! Random programs that go round, branch and call in all manner of ways: metered they do what they did before, they pay
//! for what they do, and they end.

use proptest::prelude::*;
use proptest::sample::select;
use walrus::{ExportItem, FunctionBuilder, Module};
use wasmi::{CompilationMode, Config, Engine, Instance, Linker, Store, Val};

use super::Meter;

/// How long a program may run, in the interpreter's fuel.
const FUEL_MAX: u64 = 30_000;
/// No program may run longer by far than it pays for: the interpreter's fuel for each unit.
const FUEL_PER_UNIT: u64 = 2;
/// What may be unpaid when a program ends.
const UNPAID_MAX: u64 = 200;
/// How much these programs may use before they look whether anything is left.
const UNSEEN_MAX: u64 = 20_000;
/// A program of plenty.
const PLENTY: u64 = 1 << 40;

/// Some number, of locals and of what was done so far.
fn number() -> BoxedStrategy<String> {
    prop_oneof![
        select(&["(local.get $a)", "(local.get $b)", "(global.get $trace)"][..]).prop_map(str::to_owned),
        (0..9).prop_map(|n| format!("(i32.const {n})")),
        (1..9).prop_map(|n| format!("(i32.add (local.get $a) (i32.const {n}))")),
    ]
    .boxed()
}

fn condition() -> BoxedStrategy<String> {
    (number(), select(vec![1, 2, 4, 7]))
        .prop_map(|(number, mask)| format!("(i32.and {number} (i32.const {mask}))"))
        .boxed()
}

fn trace(number: &str) -> String {
    format!("(global.set $trace (i32.add (i32.mul (global.get $trace) (i32.const 31)) {number}))")
}

fn simple(labels: u32) -> BoxedStrategy<String> {
    let call = (0..4, number()).prop_map(|(callee, number)| {
        format!("(call $f{callee} (i32.sub (local.get $a) (i32.const 1)) {number}) (drop) (local.set $b)")
    });
    let indirect = (number(), number()).prop_map(|(which, number)| {
        format!(
            "(call_indirect (type $f) (i32.sub (local.get $a) (i32.const 1)) {number}
                (i32.and {which} (i32.const 3))) (drop) (local.set $b)"
        )
    });
    let tail = (0..4, condition()).prop_map(|(callee, condition)| {
        format!(
            "(if {condition}
                (then (return_call $f{callee} (i32.sub (local.get $a) (i32.const 1)) (local.get $b))))"
        )
    });
    prop_oneof![
        4 => number().prop_map(|number| trace(&number)),
        3 => (select(vec!["a", "b"]), number())
            .prop_map(|(name, number)| format!("(local.set ${name} {number})")),
        2 => (0..labels, condition())
            .prop_map(|(label, condition)| format!("(br_if {label} {condition})")),
        1 => (0..labels).prop_map(|label| format!("(br {label})")),
        1 => (0..labels, 0..labels, condition())
            .prop_map(|(one, two, condition)| format!("(br_table {one} {two} {condition})")),
        1 => condition().prop_map(|condition| {
            format!("(if {condition} (then (return (local.get $b) (i64.const 1))))")
        }),
        1 => Just("(return (local.get $a) (i64.const 2))".to_owned()),
        1 => (number(), condition()).prop_map(|(number, condition)| {
            format!("(local.set $b (block (result i32) (br_if 0 {number} {condition})))")
        }),
        2 => call,
        1 => indirect,
        1 => tail,
        // More than one point pays for. The interpreter counts a block's code when it begins, unlike that of an `if`.
        // It also sees through conditions that are constant.
        1 => number().prop_map(|number| {
            format!("(if (i32.and (global.get $trace) (i32.const 1)) (then {}))", trace(&number).repeat(60))
        }),
    ]
    .boxed()
}

fn statements(depth: u32, labels: u32) -> BoxedStrategy<String> {
    prop::collection::vec(statement(depth, labels), 1..5)
        .prop_map(|all| all.join("\n"))
        .boxed()
}

/// Labels are those of blocks, with the function's own as the last one: branches to that carry its results, so that
/// none are made.
fn statement(depth: u32, labels: u32) -> BoxedStrategy<String> {
    if depth == 0 {
        return simple(labels);
    }
    let inner = || statements(depth - 1, labels + 1);
    prop_oneof![
        4 => simple(labels),
        1 => inner().prop_map(|inner| format!("(block {inner})")),
        2 => inner().prop_map(|inner| format!("(loop {inner})")),
        1 => (condition(), inner(), inner())
            .prop_map(|(condition, one, two)| format!("(if {condition} (then {one}) (else {two}))")),
        1 => (number(), number(), inner()).prop_map(|(one, two, inner)| format!(
            "{one} {two} (block (param i32 i32) (local.set $b (i32.add)) {inner})"
        )),
    ]
    .boxed()
}

fn program() -> impl Strategy<Value = String> {
    prop::array::uniform4(statements(3, 1)).prop_map(|bodies| {
        let functions = bodies.iter().enumerate().map(|(nth, body)| {
            // So that a branch out of everything leaves nothing behind.
            format!(
                "(func $f{nth} (type $f) (param $a i32) (param $b i32) (result i32 i64)
                    (block {body}) (local.get $a) (i64.const 3))"
            )
        });
        format!(
            r#"(module
            (type $f (func (param i32 i32) (result i32 i64)))
            (memory (export "memory") 1)
            (global $trace (export "trace") (mut i32) (i32.const 1))
            (table funcref (elem $f0 $f1 $f2 $f3))
            {}
            (func (export "run") (param i32) (result i32)
                (call $f0 (local.get 0) (i32.const 5)) (drop)))"#,
            functions.collect::<String>()
        )
    })
}

/// The metered program, with `begin` for the test to call.
fn metered(plain: &[u8], units: u64) -> Vec<u8> {
    let mut module = Module::from_buffer(plain).unwrap();
    let memory = module.exports.iter().find_map(|export| match export.item {
        ExportItem::Memory(memory) => Some(memory),
        _ => None,
    });
    let functions: Vec<_> = module.funcs.iter_local().map(|(id, _)| id).collect();
    let meter = Meter::add(&mut module, memory.unwrap(), units);
    meter.functions(&mut module, &functions);
    let mut builder = FunctionBuilder::new(&mut module.types, &[], &[]);
    meter.begin_call(&mut builder.func_body());
    let begin = builder.finish(Vec::new(), &mut module.funcs);
    module.exports.add("begin", begin);
    module.exports.add("left", meter.left);
    module.emit_wasm()
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// What it returns, and what it has done.
    Returned(i32, Option<i32>),
    /// It has used up its units, and said so.
    Exhausted,
    /// The interpreter's fuel is used up.
    Endless,
    /// The stack is used up.
    Trapped,
}

struct Run {
    end: End,
    fuel: u64,
    /// The units that are left.
    left: i64,
}

fn run(wasm: &[u8], fuel: u64) -> Run {
    let mut config = Config::default();
    // Translating code takes no fuel if it is done before.
    config.consume_fuel(true).compilation_mode(CompilationMode::Eager);
    let engine = Engine::new(&config);
    let module = wasmi::Module::new(&engine, wasm).unwrap();
    let mut store = Store::new(&engine, false);
    store.set_fuel(u64::MAX).unwrap();
    let mut linker = Linker::new(&engine);
    let log = |mut caller: wasmi::Caller<'_, bool>,
               _: i32,
               _: i32,
               _: i32,
               _: i32,
               _: i32,
               _: i32,
               at: u32,
               bytes: u32| {
        let memory = caller
            .get_export("memory")
            .and_then(|it| it.into_memory())
            .unwrap();
        let said = &memory.data(&caller)[at as usize..][..bytes as usize];
        assert!(said.starts_with(b"this ran for too long"));
        *caller.data_mut() = true;
    };
    linker.func_wrap("spacetime_10.0", "console_log", log).unwrap();
    let instance: Instance = linker.instantiate_and_start(&mut store, &module).unwrap();
    if let Ok(begin) = instance.get_typed_func::<(), ()>(&store, "begin") {
        begin.call(&mut store, ()).unwrap();
    }
    store.set_fuel(fuel).unwrap();
    let function = instance.get_typed_func::<i32, i32>(&store, "run").unwrap();
    let result = function.call(&mut store, 7);
    let used = fuel - store.get_fuel().unwrap();
    let global = |name: &str| instance.get_global(&store, name).map(|it| it.get(&store));
    let trace = match global("trace") {
        Some(Val::I32(trace)) => Some(trace),
        _ => None,
    };
    let left = match global("left") {
        Some(Val::I64(left)) => left,
        _ => 0,
    };
    let end = match result {
        Ok(value) => End::Returned(value, trace),
        Err(_) if *store.data() => End::Exhausted,
        Err(error) if error.as_trap_code() == Some(wasmi::TrapCode::OutOfFuel) => End::Endless,
        Err(_) => End::Trapped,
    };
    Run {
        end,
        fuel: used,
        left,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_program_does_the_same_pays_for_it_and_ends(text in program()) {
        let plain = wat::parse_str(&text).unwrap();
        let original = run(&plain, FUEL_MAX);
        match original.end {
            End::Returned(..) => {
                let rich = run(&metered(&plain, PLENTY), u64::MAX);
                prop_assert_eq!(&rich.end, &original.end);
                let units = PLENTY - rich.left.cast_unsigned();
                prop_assert!(original.fuel <= FUEL_PER_UNIT * units + UNPAID_MAX, "{} > {units}", original.fuel);
                prop_assert_eq!(run(&metered(&plain, units), u64::MAX).end, original.end);
                if units > UNSEEN_MAX {
                    prop_assert_eq!(run(&metered(&plain, units - UNSEEN_MAX), u64::MAX).end, End::Exhausted);
                }
            }
            End::Endless => {
                let end = run(&metered(&plain, FUEL_MAX / 50), 1_000 * FUEL_MAX).end;
                prop_assert!(matches!(end, End::Exhausted | End::Trapped), "{end:?}");
            }
            End::Trapped | End::Exhausted => {}
        }
    }
}

/// What a program does with so many units. Its text is that of functions, one of which is `$f`.
fn ended(functions: &str, units: u64) -> Run {
    let text = format!(
        r#"(module
        (type $t (func (param i32) (result i32)))
        (memory (export "memory") 1)
        {functions}
        (func (export "run") (param i32) (result i32) (call $f (local.get 0))))"#
    );
    run(&metered(&wat::parse_str(text).unwrap(), units), 1_000_000_000)
}

const SOME: u64 = 1_000_000;

#[test]
fn whatever_has_no_end_is_ended() {
    let doubling: String = (0..60)
        .map(|nth| {
            let next = nth + 1;
            format!("(func $d{nth} (param i32) (result i32) (drop (call $d{next} (local.get 0))) (call $d{next} (local.get 0)))")
        })
        .collect();
    let endless = [
        "(func $f (param i32) (result i32) (loop $l (br $l)) (unreachable))",
        // Out of the loop by all ways, each time before much has been counted.
        "(func $g (param i32) (result i32)
            (loop (if (i32.and (local.get 0) (i32.const 1)) (then (return (local.get 0)))) (br 1 (local.get 0)))
            (unreachable))
        (func $f (param i32) (result i32)
            (loop $l (local.set 0 (i32.add (i32.const 1) (call $g (local.get 0)))) (br $l)) (unreachable))",
        "(func $f (param i32) (result i32) (return_call $f (local.get 0)))",
        "(func $f (param i32) (result i32) (loop (return_call $f (local.get 0))) (unreachable))",
        "(table funcref (elem $f))
        (func $f (param i32) (result i32) (return_call_indirect (type $t) (local.get 0) (i32.const 0)))",
        // No deeper than any stack, and twice as long with each level.
        "(func $f (param i32) (result i32)
            (if (i32.eq (local.get 0) (i32.const 60)) (then (return (i32.const 0))))
            (drop (call $f (i32.add (local.get 0) (i32.const 1))))
            (call $f (i32.add (local.get 0) (i32.const 1))))",
        &format!(
            "{doubling} (func $d60 (param i32) (result i32) (local.get 0))
            (func $f (param i32) (result i32) (call $d0 (local.get 0)))"
        ),
        // Loops in a recursion.
        "(func $f (param i32) (result i32) (local $n i32)
            (loop $l
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get $n) (i32.const 100))))
            (if (i32.eq (local.get 0) (i32.const 60)) (then (return (i32.const 0))))
            (drop (call $f (i32.add (local.get 0) (i32.const 1))))
            (call $f (i32.add (local.get 0) (i32.const 1))))",
    ];
    for text in endless {
        let run = ended(text, SOME);
        assert_eq!(run.end, End::Exhausted, "{text}");
        assert!(run.fuel < 10 * SOME, "{} of fuel: {text}", run.fuel);
        assert!(run.left > -5_000, "{} are left: {text}", run.left);
    }
}

#[test]
fn small_functions_are_paid_for_by_their_callers() {
    let text = "(func $small (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
        (func $f (param i32) (result i32)
            (loop $l
                (local.set 0 (call $small (local.get 0)))
                (br_if $l (i32.lt_u (local.get 0) (i32.const 1000))))
            (local.get 0))";
    let run = ended(text, SOME);
    assert_eq!(run.end, End::Returned(1_000, None));
    let units = SOME - run.left.cast_unsigned();
    assert!((10_000..30_000).contains(&units), "{units}");
}

/// Code that is passed over is not paid for, but for a little.
#[test]
fn what_is_passed_over_is_hardly_paid_for() {
    let much = "(local.set 0 (i32.add (local.get 0) (i32.const 1)))".repeat(100);
    let arms = format!("(if (i32.eq (local.get 0) (i32.const -1)) (then {much}))").repeat(50);
    let text = format!(
        "(func $f (param i32) (result i32) (local $n i32)
            (loop $l
                {arms}
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get $n) (i32.const 1000))))
            (local.get $n))"
    );
    let run = ended(&text, 100 * SOME);
    assert_eq!(run.end, End::Returned(1_000, None));
    let units = 100 * SOME - run.left.cast_unsigned();
    // All of it would be 20,000 in each round.
    assert!(units < 4_000_000, "{units}");
}

#[test]
fn hostile_code_takes_no_more_than_its_length() {
    const MANY: usize = 20_000;
    let nested = |open: &str| format!("{} {}", open.repeat(MANY), "end ".repeat(MANY));
    let branches = "0 ".repeat(2 * MANY);
    let locals = "i32 ".repeat(49_000);
    let texts = [
        format!(
            "(func $f (param i32) (result i32) {} local.get 0)",
            nested("loop ")
        ),
        format!(
            "(func $f (param i32) (result i32) {} local.get 0)",
            nested("local.get 0 if ")
        ),
        format!(
            "(func $f (param i32) (result i32) {} local.get 0)",
            nested("block local.get 0 br_if 0 ")
        ),
        format!(
            "(func $f (param i32) (result i32) (loop (br_table {branches} (local.get 0))) (unreachable))"
        ),
        format!("(func $f (param i32) (result i32) (local {locals}) (loop (br 0)) (unreachable))"),
        format!(
            "(func $f (param i32) (result i32) (loop {} (br 0)) (unreachable))",
            "(drop (local.get 0))".repeat(MANY)
        ),
        // What can't be reached has a place, too.
        format!(
            "(func $f (param i32) (result i32) (loop (br 0) {} (unreachable)) (unreachable))",
            "(loop (br 0)) (return (i32.const 1))".repeat(MANY)
        ),
    ];
    for text in texts {
        let text = format!(
            r#"(module (memory (export "memory") 1) {text} (func (export "run") (param i32) (result i32) (call $f (local.get 0))))"#
        );
        let plain = wat::parse_str(text).unwrap();
        let metered = metered(&plain, SOME);
        assert!(metered.len() < 20 * plain.len() + 2_000);
        wasmi::Module::new(&Engine::default(), &metered[..])
            .map(drop)
            .unwrap_or_else(|error| {
                // The interpreter has limits of its own.
                assert!(!error.to_string().contains("type mismatch"), "{error}");
            });
    }
}

/// What is left of a function by ways that the random programs do not take.
#[test]
fn functions_are_left_by_all_ways() {
    let bodies = [
        "(loop (br 1 (i32.const 3))) (unreachable)",
        "(loop (br_if 1 (i32.const 4) (local.get 0)) (drop)) (i32.const 5)",
        "(loop (result i32) (br_table 1 1 1 (i32.const 6) (local.get 0)))",
        "(block (result i32) (loop (br_table 1 2 1 (i32.const 6) (local.get 0))) (unreachable))",
        "(i32.const 9) (i32.const 8) (loop (br 1 (i32.const 7))) (unreachable)",
        "(i64.const 9) (i32.const 8) (loop (param i32) (result i32) (return (i32.const 7))) (drop) (drop) (i32.const 1)",
        "(i32.const 3) (i32.const 5) (loop (param i32 i32) (result i32) (i32.add)
            (local.tee 0) (br_if 1 (local.get 0)))",
        "(i32.const 3) (i64.const 5) (loop $l (param i32 i64) (result i64 i32)
            (local.set 1) (local.set 0) (i64.add (local.get 1) (i64.const -1)) (local.set 1)
            (local.get 0) (local.get 1) (br_if $l (i64.ne (local.get 1) (i64.const 0)))
            (local.set 1) (local.set 0) (local.get 1) (local.get 0)) (local.set 0) (drop) (local.get 0)",
        "(loop (br 1 (i32.const 1)) (i32.add) (drop)) (unreachable) (i32.add)",
        "(loop (return (i32.const 1)) (br_table 0 0 0) (i32.add) (drop)) (unreachable)",
        "(loop $l (return_call $g (local.get 0)) (i32.add) (br $l)) (unreachable)",
        "(i64.const 1) (f64.const 2) (loop (return_call_indirect (type $t) (local.get 0) (i32.const 0))) (unreachable)",
        "(if (result i32) (local.get 0) (then (loop (result i32) (return (i32.const 1)))) (else (br 1 (i32.const 2)) ))",
        "(loop $l (if (local.get 0) (then (local.set 0 (i32.const 0)) (br $l)) (else (return (i32.const 4))))) (unreachable)",
    ];
    for body in bodies {
        let text = format!(
            r#"(module
            (type $t (func (param i32) (result i32)))
            (memory (export "memory") 1)
            (table funcref (elem $g))
            (func $g (type $t) (loop (nop)) (i32.add (local.get 0) (i32.const 100)))
            (func $f (type $t) (local i64) {body})
            (func (export "run") (param i32) (result i32) (call $f (local.get 0))))"#
        );
        let plain = wat::parse_str(&text).unwrap();
        let original = run(&plain, FUEL_MAX);
        let rich = run(&metered(&plain, SOME), u64::MAX);
        assert!(
            matches!(original.end, End::Returned(..) | End::Endless),
            "{:?}: {body}",
            original.end
        );
        match original.end {
            End::Endless => assert_eq!(rich.end, End::Exhausted, "{body}"),
            end => {
                assert_eq!(rich.end, end, "{body}");
                assert!(rich.left < SOME.cast_signed(), "{body}");
            }
        }
    }
}
