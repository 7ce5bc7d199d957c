//! Arbitrary bytes as modules, and as definitions of a module: what is accepted works.
#![no_main]

#[path = "../../crates/determinism/tests/suite/database.rs"]
#[allow(dead_code, reason = "shared with tests that use more of it")]
mod database;
#[path = "../../crates/determinism/tests/suite/exercise.rs"]
mod exercise;
#[path = "../../crates/determinism/tests/suite/host.rs"]
#[allow(dead_code, reason = "shared with tests that use more of it")]
mod host;
#[path = "../../crates/determinism/tests/suite/raw_module.rs"]
#[allow(dead_code, reason = "shared with tests that use more of it")]
mod raw_module;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (args, rest) = data.split_at(data.len().min(24));
    match rest.starts_with(b"\0asm") {
        true => exercise::exercise(rest, args),
        false => exercise::exercise(&raw_module::module(rest, ""), args),
    };
});
