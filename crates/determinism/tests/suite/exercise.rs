//! Whatever is accepted works: its hidden parts run, before and after a restart, and one of its own reducers is called.
//! Shared with `fuzz/`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{DISCONNECT, MARK, Module, prepare};

use crate::host::{Failure, FakeHost};

/// How many instructions a call may take.
const FUEL_MAX: u64 = 200_000_000;

/// Prepares a module and, if it is accepted, runs it. Panics only if it should not have been accepted; says whether it
/// was.
pub(crate) fn exercise(wasm: &[u8], args: &[u8]) -> bool {
    let Ok(prepared) = prepare(wasm) else {
        return false;
    };
    let module = Module::from_def(&prepared.original_def).expect("the definition was read before");
    let mut host = FakeHost::with_fuel(&prepared.wasm, 4096, Some(FUEL_MAX));
    let mut next = 0;
    let mut header = || {
        next += 1;
        CallHeader {
            index: next,
            session: next,
            ..CallHeader::default()
        }
    };
    hidden(&mut host, MARK, header(), &[1]);
    if let Some(reducer) = module.reducers().first() {
        // A module that was tampered with may ask the fake host for what only a real one bears.
        let mut one = host.twin();
        let called = catch_unwind(AssertUnwindSafe(|| {
            let _ = one.call_by_id(reducer.id, header(), args);
            one
        }));
        if let Ok(called) = called {
            host = called;
        }
    }
    hidden(&mut host, DISCONNECT, header(), &[]);
    host.restart();
    hidden(&mut host, MARK, header(), &[0]);
    true
}

fn hidden(host: &mut FakeHost, reducer: &str, header: CallHeader, own: &[u8]) {
    let called: Result<(), Failure> = host.call(reducer, header, own);
    assert_eq!(called, Ok(()), "{reducer}");
    assert_eq!(host.state().0, header.index, "{reducer}");
}
