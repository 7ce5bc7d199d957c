//! What the host has done for an iterator that is closed early.
//!
//! It puts all rows together when the iterator is opened, whether anybody asks for them or not. What has been read is
//! charged as it is read; so what has not been is fetched for nothing, when a call closes iterators again and again.

use walrus::{FunctionId, GlobalId, MemoryId, Module};

use super::super::emit::{Code, Emit, I32, function, global};
use super::arena::Arena;
use super::collect::{BORROWED_LEN, BORROWED_ROWS};
use crate::abi;
use crate::meter::{Meter, UNREAD_BYTE};

/// A call may close so many iterators early that nobody looks at what is in them.
const UNCHARGED: i32 = 16;

/// What looks at iterators that are closed early.
#[derive(Clone, Copy)]
pub(super) struct Drain {
    /// How many the call has closed.
    closed: GlobalId,
    /// `drain(handle) -> result`: -1 if the host's iterator has come to its end, and is closed.
    drain: FunctionId,
}

/// What it takes.
pub(super) struct Parts {
    pub(super) arena: Arena,
    /// The module's memory.
    pub(super) memory: MemoryId,
    pub(super) meter: Meter,
    /// The host's `row_iter_bsatn_advance`.
    pub(super) advance: FunctionId,
    /// `borrow(handle, to, len_at) -> result`.
    pub(super) borrow: FunctionId,
}

impl Drain {
    pub(super) fn add(module: &mut Module, parts: &Parts) -> Self {
        let closed = global(module, I32);
        Self {
            closed,
            drain: add_drain(module, parts, closed),
        }
    }

    /// Pops the handle of the host's iterator, pushes whether it is still open.
    pub(super) fn is_left_open(self, code: &mut Code<'_>) {
        code.call(self.drain)
            .i32_const(abi::EXHAUSTED)
            .binop(walrus::ir::BinaryOp::I32Ne);
    }

    /// A call ends.
    pub(super) fn end(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.closed);
    }
}

fn add_drain(module: &mut Module, parts: &Parts, closed: GlobalId) -> FunctionId {
    let &Parts {
        arena,
        memory,
        meter,
        advance,
        borrow,
    } = parts;
    function(module, [I32], &[I32], |code, [handle], locals| {
        let [kept, result, bytes] = [(); 3].map(|()| locals.add(I32));
        code.global_get(closed).plus(1).global_set(closed);
        code.global_get(closed)
            .i32_const(UNCHARGED + 1)
            .less()
            .when(|code| {
                code.i32_const(0).return_();
            });
        code.i32_const(BORROWED_LEN).read32(memory, 0).local_set(kept);
        code.loop_(None, |code| {
            let more = code.id();
            // There is no room for rows: this says how much they need.
            code.i32_const(BORROWED_LEN).i32_const(0).write32(memory, 0);
            code.local_get(handle)
                .i32_const(BORROWED_ROWS as i32)
                .i32_const(BORROWED_LEN)
                .call(advance)
                .local_tee(result)
                .is(abi::BUFFER_TOO_SMALL)
                .when(|code| {
                    code.i32_const(BORROWED_LEN).read32(memory, 0).local_set(bytes);
                    meter.charge_each(code, UNREAD_BYTE, bytes);
                    code.local_get(handle)
                        .global_get(arena.top)
                        .i32_const(BORROWED_LEN)
                        .call(borrow)
                        .local_tee(result)
                        .is_zero()
                        .br_if(more);
                });
        });
        code.i32_const(BORROWED_LEN).local_get(kept).write32(memory, 0);
        code.local_get(result);
    })
}
