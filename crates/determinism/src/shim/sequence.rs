//! Generated numbers, from `rtdb_sequence` instead of the host's sequences.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, LocalId, Module, ModuleLocals};

use super::emit::{Code, Emit, I32, I64, function, global};
use super::host::Host;
use super::layout::*;
use super::scratch::Scratch;
use crate::abi;
use crate::plan::Sequence;

/// A sequence's row is there.
const PRESENT: i32 = 1;
/// A sequence has not been used before: it has no row yet.
const ABSENT: i32 = 2;

/// The functions that hand out numbers. What they have read stays in the slots from call to call, for as long as
/// `call` can tell that nothing else has been applied meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Sequences {
    /// Whether the current call has taken a number.
    used: GlobalId,
    load: FunctionId,
    /// `store()`: writes back what the current call has used.
    pub(super) store: FunctionId,
    /// `forget()`: what the slots hold is not, or may not be, what the database holds.
    pub(super) forget: FunctionId,
}

impl Sequences {
    pub(super) fn add(module: &mut Module, host: Host, scratch: Scratch, layout: &Layout) -> Self {
        let used = global(module, I32);
        Self {
            used,
            load: add_load(module, host, scratch),
            store: add_store(module, host, scratch, layout, used),
            forget: add_forget(module, scratch, layout, used),
        }
    }

    /// `take() -> i64`: the next number of the sequence in slot `at`.
    pub(super) fn add_take(
        self,
        module: &mut Module,
        scratch: Scratch,
        at: u32,
        sequence: &Sequence,
    ) -> FunctionId {
        let memory = scratch.memory;
        let &Sequence {
            start,
            increment,
            last,
            wrap,
            ..
        } = sequence;
        let beyond = if increment > 0 {
            BinaryOp::I64GtS
        } else {
            BinaryOp::I64LtS
        };
        function(module, [], &[I64], |code, [], locals| {
            let (slot, value) = (locals.add(I32), locals.add(I64));
            scratch.at(code, at);
            code.local_tee(slot)
                .read32(memory, SEQUENCE_LOADED)
                .is_zero()
                .when(|code| {
                    code.local_get(slot).i64_const(start).call(self.load);
                });
            code.local_get(slot)
                .i32_const(1)
                .write32(memory, SEQUENCE_DIRTY)
                .i32_const(1)
                .global_set(self.used);
            code.local_get(slot)
                .read64(memory, SEQUENCE_NEXT)
                .local_set(value);
            code.local_get(slot).local_get(value);
            code.local_get(value).i64_const(last).binop(beyond);
            code.if_else(
                I64,
                |code| {
                    code.i64_const(wrap);
                },
                |code| {
                    code.i64_const(increment);
                },
            );
            code.binop(BinaryOp::I64Add)
                .write64(memory, SEQUENCE_NEXT)
                .local_get(value);
        })
    }
}

/// `load(slot, start)`.
fn add_load(module: &mut Module, host: Host, scratch: Scratch) -> FunctionId {
    let memory = scratch.memory;
    function(module, [I32, I64], &[], |code, [slot, start], _| {
        scratch.set64(code, BOUND_KEY, |code| {
            code.local_get(slot).read64(memory, SEQUENCE_ROW);
        });
        scratch.get32(code, SEQUENCE_INDEX_ID);
        equal_to_bound(code, scratch);
        code.call(host.scan_range).must();
        scratch.put32(code, LEN, SEQUENCE_ROW_BYTES);
        scratch.get32(code, OUT);
        code.local_get(slot).plus(SEQUENCE_ROW);
        scratch.at(code, LEN);
        code.call(host.advance)
            .i32_const(abi::EXHAUSTED)
            .binop(BinaryOp::I32Ne)
            .trap_if();
        scratch.get32(code, LEN);
        code.if_else(
            None,
            |code| {
                code.local_get(slot)
                    .i32_const(PRESENT)
                    .write32(memory, SEQUENCE_LOADED);
            },
            |code| {
                code.local_get(slot)
                    .i32_const(ABSENT)
                    .write32(memory, SEQUENCE_LOADED);
                code.local_get(slot)
                    .local_get(start)
                    .write64(memory, SEQUENCE_NEXT);
            },
        );
    })
}

/// Pushes what a scan of a one-column index takes behind the index: no prefix, [`BOUND`] as both bounds, [`OUT`].
pub(super) fn equal_to_bound(code: &mut Code<'_>, scratch: Scratch) {
    scratch.at(code, BOUND);
    code.i32_const(0).i32_const(0);
    for _ in 0..2 {
        scratch.at(code, BOUND);
        code.i32_const(BOUND_BYTES as i32);
    }
    scratch.at(code, OUT);
}

/// `store()`.
fn add_store(
    module: &mut Module,
    host: Host,
    scratch: Scratch,
    layout: &Layout,
    used: GlobalId,
) -> FunctionId {
    let memory = scratch.memory;
    function(module, [], &[], |code, [], locals| {
        code.global_get(used).is_zero().when(|code| {
            code.return_();
        });
        code.i32_const(0).global_set(used);
        each_slot(code, scratch, layout, locals, |code, slot| {
            code.local_get(slot).read32(memory, SEQUENCE_DIRTY).when(|code| {
                scratch.put32(code, LEN, SEQUENCE_ROW_BYTES);
                code.local_get(slot).read32(memory, SEQUENCE_LOADED).is(PRESENT);
                code.if_else(
                    None,
                    |code| {
                        scratch.get32(code, SEQUENCE_TABLE_ID);
                        scratch.get32(code, SEQUENCE_INDEX_ID);
                        code.local_get(slot).plus(SEQUENCE_ROW);
                        scratch.at(code, LEN);
                        code.call(host.update).must();
                    },
                    |code| {
                        scratch.get32(code, SEQUENCE_TABLE_ID);
                        code.local_get(slot).plus(SEQUENCE_ROW);
                        scratch.at(code, LEN);
                        code.call(host.insert).must();
                    },
                );
                code.local_get(slot)
                    .i32_const(PRESENT)
                    .write32(memory, SEQUENCE_LOADED);
                code.local_get(slot).i32_const(0).write32(memory, SEQUENCE_DIRTY);
            });
        });
    })
}

/// `forget()`.
fn add_forget(module: &mut Module, scratch: Scratch, layout: &Layout, used: GlobalId) -> FunctionId {
    let memory = scratch.memory;
    function(module, [], &[], |code, [], locals| {
        code.i32_const(0).global_set(used);
        each_slot(code, scratch, layout, locals, |code, slot| {
            code.local_get(slot).i32_const(0).write32(memory, SEQUENCE_LOADED);
            code.local_get(slot).i32_const(0).write32(memory, SEQUENCE_DIRTY);
        });
    })
}

/// Does something with every slot.
fn each_slot(
    code: &mut Code<'_>,
    scratch: Scratch,
    layout: &Layout,
    locals: &mut ModuleLocals,
    body: impl FnOnce(&mut Code<'_>, LocalId),
) {
    let (slot, end) = (locals.add(I32), locals.add(I32));
    scratch.at(code, layout.sequences);
    code.local_set(slot);
    scratch.at(code, layout.sequences + layout.sequence_count * SEQUENCE_BYTES);
    code.local_set(end);
    code.repeat(
        |code| {
            code.local_get(slot).local_get(end).binop(BinaryOp::I32LtU);
        },
        |code| {
            body(code, slot);
            code.advance(slot, SEQUENCE_BYTES);
        },
    );
}
