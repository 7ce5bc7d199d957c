//! Arbitrary bytes as frames of clients and payloads of SpacetimeDB, in every subprotocol.
#![no_main]

#[path = "../../crates/protocol/tests/wire/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::exercise(data));
