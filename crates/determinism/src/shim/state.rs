//! `rtdb_state` and `rtdb_session`: what has been applied, and who is told.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, Module};

use super::emit::{Emit, I32, function};
use super::host::Host;
use super::layout::*;
use super::scratch::Scratch;
use crate::abi;
use crate::header;

/// The functions that keep the hidden rows.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// `read() -> present`: fetches the row of `rtdb_state`; all zeros if there is none.
    pub(super) read: FunctionId,
    /// `write(present)`: writes it back.
    pub(super) write: FunctionId,
    /// `receipt()`: tells the call's session that the call is applied.
    pub(super) receipt: FunctionId,
    /// `forget()`: deletes the receipt of the call's session.
    pub(super) forget: FunctionId,
}

impl State {
    pub(super) fn add(module: &mut Module, host: Host, scratch: Scratch) -> Self {
        Self {
            read: add_read(module, host, scratch),
            write: add_write(module, host, scratch),
            receipt: add_receipt(module, host, scratch),
            forget: add_forget(module, host, scratch),
        }
    }
}

fn add_read(module: &mut Module, host: Host, scratch: Scratch) -> FunctionId {
    function(module, [], &[I32], |code, [], _| {
        for field in (STATE_INDEX..PAIRS_LEN).step_by(8) {
            scratch.set64(code, field, |code| {
                code.i64_const(0);
            });
        }
        scratch.put32(code, PAIRS_LEN, 0);
        scratch.get32(code, STATE_TABLE_ID);
        scratch.at(code, OUT);
        code.call(host.scan).must();
        scratch.put32(code, LEN, PAIRS_END - STATE_ROW);
        scratch.get32(code, OUT);
        scratch.at(code, STATE_ROW);
        scratch.at(code, LEN);
        code.call(host.advance)
            .i32_const(abi::EXHAUSTED)
            .binop(BinaryOp::I32Ne)
            .trap_if();
        scratch.get32(code, LEN);
    })
}

fn add_write(module: &mut Module, host: Host, scratch: Scratch) -> FunctionId {
    function(module, [I32], &[], |code, [present], _| {
        scratch.at(code, LEN);
        scratch.get32(code, PAIRS_LEN);
        code.plus(PAIRS - STATE_ROW).write32(scratch.memory, 0);
        code.local_get(present);
        code.if_else(
            None,
            |code| {
                scratch.get32(code, STATE_TABLE_ID);
                scratch.get32(code, STATE_INDEX_ID);
                scratch.at(code, STATE_ROW);
                scratch.at(code, LEN);
                code.call(host.update).must();
            },
            |code| {
                scratch.get32(code, STATE_TABLE_ID);
                scratch.at(code, STATE_ROW);
                scratch.at(code, LEN);
                code.call(host.insert).must();
            },
        );
    })
}

fn add_receipt(module: &mut Module, host: Host, scratch: Scratch) -> FunctionId {
    function(module, [], &[], |code, [], locals| {
        let errno = locals.add(I32);
        scratch.set64(code, RECEIPT, |code| {
            scratch.get64(code, HEADER + header::SESSION_AT)
        });
        scratch.set64(code, RECEIPT + 8, |code| {
            scratch.get64(code, HEADER + header::INDEX_AT)
        });
        scratch.put32(code, LEN, RECEIPT_BYTES);
        scratch.get32(code, SESSION_TABLE_ID);
        scratch.get32(code, SESSION_INDEX_ID);
        scratch.at(code, RECEIPT);
        scratch.at(code, LEN);
        code.call(host.update)
            .local_tee(errno)
            .is(abi::NO_SUCH_ROW)
            .when(|code| {
                scratch.put32(code, LEN, RECEIPT_BYTES);
                scratch.get32(code, SESSION_TABLE_ID);
                scratch.at(code, RECEIPT);
                scratch.at(code, LEN);
                code.call(host.insert).local_set(errno);
            });
        code.local_get(errno).must();
    })
}

fn add_forget(module: &mut Module, host: Host, scratch: Scratch) -> FunctionId {
    function(module, [], &[], |code, [], _| {
        scratch.set64(code, BOUND_KEY, |code| {
            scratch.get64(code, HEADER + header::SESSION_AT)
        });
        // No prefix, the same bound twice.
        scratch.get32(code, SESSION_INDEX_ID);
        scratch.at(code, BOUND);
        code.i32_const(0).i32_const(0);
        for _ in 0..2 {
            scratch.at(code, BOUND);
            code.i32_const(BOUND_BYTES as i32);
        }
        scratch.at(code, OUT);
        code.call(host.delete_range).must();
    })
}
