//! A module of calls that a server does not survive, does not finish, or says nothing of. Where it is prepared as usual,
//! those that run for long are ended by their own code.

use anyhow::{Context, Result};

/// Does nothing.
pub const NOTHING: &str = "nothing";
/// Fails.
pub const FAIL: &str = "fail";
/// Runs out of energy at once: the host counts instructions that cost no time.
pub const DRAIN: &str = "drain";
/// Writes 16 MiB so many times over (a `u32`): it takes time, and hardly any energy.
pub const FILL: &str = "fill";
/// Takes memory until there is none.
pub const EAT: &str = "eat";
/// Never end: a loop, a recursion of loops, and a loop of calls of the host. [`FILL`] all but never does.
pub const ENDLESS: [&str; 3] = ["spin", "recurse", "ask"];

/// The reducers in their order, and whether each has an argument.
const REDUCERS: [(&str, bool); 8] = [
    (NOTHING, false),
    (FAIL, false),
    (DRAIN, false),
    (FILL, true),
    (EAT, false),
    (ENDLESS[0], false),
    (ENDLESS[1], false),
    (ENDLESS[2], false),
];

/// Instructions that are counted and not executed, in each round of [`DRAIN`].
const FREE: usize = 20_000;

/// BSATN's tags.
const V9: u8 = 1;
const SOME: u8 = 0;
const NONE: u8 = 1;
const U32: u8 = 11;
/// The first of the places in a module's life.
const INIT: u8 = 0;

/// The module.
pub fn wasm() -> Result<Vec<u8>> {
    let def = definition();
    let data: String = def.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let (len, free) = (def.len(), "(drop (i32.const 0))".repeat(FREE));
    let text = format!(
        r#"(module
        (import "spacetime_10.0" "bytes_source_read" (func $read (param i32 i32 i32) (result i32)))
        (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
        (memory (export "memory") 300)
        (data (i32.const 1024) "{data}")
        (func (export "__describe_module__") (param $sink i32)
            (i32.store (i32.const 12) (i32.const {len}))
            (drop (call $write (local.get $sink) (i32.const 1024) (i32.const 12))))
        (func $drain (loop $again {free} (br $again)))
        (func $fill (param $times i32)
            (loop $again
                (memory.fill (i32.const 1048576) (local.get $times) (i32.const 16777216))
                (local.set $times (i32.sub (local.get $times) (i32.const 1)))
                (br_if $again (local.get $times))))
        (func $eat (local $page i32)
            (loop $again
                (local.set $page (memory.grow (i32.const 256)))
                (if (i32.eq (local.get $page) (i32.const -1)) (then (unreachable)))
                (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 7) (i32.const 16777216))
                (br $again)))
        (func $spin (loop $again (br $again)))
        (func $recurse (param $depth i32) (local $n i32)
            (loop $again
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $again (i32.lt_u (local.get $n) (i32.const 1000))))
            (if (i32.eq (local.get $depth) (i32.const 100)) (then (return)))
            (call $recurse (i32.add (local.get $depth) (i32.const 1)))
            (call $recurse (i32.add (local.get $depth) (i32.const 1))))
        (func $ask (loop $again
            (i32.store (i32.const 12) (i32.const 4))
            (drop (call $read (i32.const -1) (i32.const 8) (i32.const 12)))
            (br $again)))
        (func (export "__call_reducer__")
            (param $id i32) (param i64 i64 i64 i64 i64 i64 i64) (param $source i32) (param i32) (result i32)
            (if (i32.eq (local.get $id) (i32.const 1)) (then (return (i32.const 1))))
            (if (i32.eq (local.get $id) (i32.const 2)) (then (call $drain)))
            (if (i32.eq (local.get $id) (i32.const 3)) (then
                (i32.store (i32.const 12) (i32.const 4))
                (drop (call $read (local.get $source) (i32.const 8) (i32.const 12)))
                (call $fill (i32.load (i32.const 8)))))
            (if (i32.eq (local.get $id) (i32.const 4)) (then (call $eat)))
            (if (i32.eq (local.get $id) (i32.const 5)) (then (call $spin)))
            (if (i32.eq (local.get $id) (i32.const 6)) (then (call $recurse (i32.const 0))))
            (if (i32.eq (local.get $id) (i32.const 7)) (then (call $ask)))
            (i32.const 0)))"#
    );
    wat::parse_str(text).context("the module is not well formed")
}

/// A module that takes memory until there is none as soon as it is loaded. It can't be prepared.
pub fn eats_when_loaded() -> Result<Vec<u8>> {
    // A server wants to know of which ABI it is.
    let text = r#"(module
        (import "spacetime_10.0" "bytes_sink_write" (func (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func $eat (local $page i32)
            (loop $again
                (local.set $page (memory.grow (i32.const 256)))
                (if (i32.eq (local.get $page) (i32.const -1)) (then (unreachable)))
                (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 7) (i32.const 16777216))
                (br $again)))
        (func (export "__describe_module__") (param i32) (call $eat))
        (func (export "__call_reducer__")
            (param i32 i64 i64 i64 i64 i64 i64 i64 i32 i32) (result i32) (i32.const 0)))"#;
    wat::parse_str(text).context("the module is not well formed")
}

/// Modules that a stranger may try: each harms whoever trusts it, some of them only once they run. With what is wrong.
pub fn crafted() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let describes = |def: &[u8], start: &str, call: &str| {
        let data: String = def.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let len = def.len();
        let text = format!(
            r#"(module
            (import "spacetime_10.0" "bytes_source_read" (func $read (param i32 i32 i32) (result i32)))
            (import "spacetime_10.0" "bytes_sink_write" (func $write (param i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (data (i32.const 1024) "{data}")
            (func (export "__preinit__00") {start})
            (func (export "__describe_module__") (param $sink i32)
                (i32.store (i32.const 12) (i32.const {len}))
                (drop (call $write (local.get $sink) (i32.const 1024) (i32.const 12))))
            (func (export "__call_reducer__")
                (param $id i32) (param i64 i64 i64 i64 i64 i64 i64) (param $source i32) (param i32) (result i32)
                {call} (i32.const 0)))"#
        );
        wat::parse_str(text).context("a crafted module is not well formed")
    };
    let endless = "(loop $again (br $again))";
    let def = definition();
    let init = definition_of(&[("init", false)], Some(INIT));
    Ok(vec![
        ("it is no module", b"\x7fELF\x02\x01\x01".to_vec()),
        ("it is cut off", b"\0asm\x01\0\0\0\x01\x7f".to_vec()),
        ("it never starts", describes(&def, endless, "")?),
        ("it traps when it starts", describes(&def, "(unreachable)", "")?),
        ("it describes itself as nothing", describes(b"\xff\xff", "", "")?),
        (
            "its definition lies about lengths",
            describes(&[V9, 0xff, 0xff, 0xff, 0xff], "", "")?,
        ),
        (
            "it has a name of ours",
            describes(&definition_of(&[("rtdb_mark", false)], None), "", "")?,
        ),
        (
            "its `init` has a parameter",
            describes(&definition_of(&[("init", true)], Some(INIT)), "", "")?,
        ),
        ("its `init` traps", describes(&init, "", "(unreachable)")?),
        ("its `init` never ends", describes(&init, "", endless)?),
        ("it takes all memory when it is loaded", eats_when_loaded()?),
    ])
}

/// `RawModuleDefV9`: no types, no tables, and the reducers.
fn definition() -> Vec<u8> {
    definition_of(&REDUCERS, None)
}

/// The same of other reducers, the first of which has a place in the module's life.
fn definition_of(reducers: &[(&str, bool)], lifecycle: Option<u8>) -> Vec<u8> {
    let count = |out: &mut Vec<u8>, count: usize| out.extend((count as u32).to_le_bytes());
    let text = |out: &mut Vec<u8>, text: &str| {
        count(out, text.len());
        out.extend(text.as_bytes());
    };
    let mut out = vec![V9];
    for of in [0, 0, reducers.len()] {
        count(&mut out, of);
    }
    let lifecycles = lifecycle.into_iter().map(Some).chain(std::iter::repeat(None));
    for ((name, has_argument), lifecycle) in reducers.iter().zip(lifecycles) {
        text(&mut out, name);
        count(&mut out, usize::from(*has_argument));
        if *has_argument {
            out.push(SOME);
            text(&mut out, "times");
            out.push(U32);
        }
        match lifecycle {
            Some(lifecycle) => out.extend([SOME, lifecycle]),
            None => out.push(NONE),
        }
    }
    // Types, other exports, row level security.
    out.extend([0; 12]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_prepared() {
        rtdb_determinism::prepare(&wasm().unwrap()).unwrap();
    }

    #[test]
    fn only_what_shows_when_it_runs_can_be_prepared() {
        for (what, module) in crafted().unwrap() {
            let prepared = rtdb_determinism::prepare(&module);
            let runs = what.starts_with("its `init` traps") || what.starts_with("its `init` never");
            assert_eq!(prepared.is_ok(), runs, "{what}: {:?}", prepared.err());
        }
    }
}
