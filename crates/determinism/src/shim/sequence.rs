//! Generated numbers, from the row of `rtdb_state` instead of the host's sequences. `state` reads the row before the
//! module runs, and writes it back after: here it only changes in the shim's memory. The columns that come too late for a pair in
//! this row have theirs in the row of `rtdb_sequence`, which is read when a call first needs it.

use walrus::ir::{BinaryOp, UnaryOp};
use walrus::{FunctionId, GlobalId, LocalId, Module};

use super::emit::{Code, Emit, I32, I64, function, global};
use super::layout::*;
use super::scratch::Scratch;
use super::state::Rows;
use super::window::Window;
use crate::plan::Sequence;

/// What hands out numbers.
#[derive(Clone, Copy)]
pub(super) struct Sequences {
    window: Window,
    rows: Rows,
    /// Whether the current call has read the row of `rtdb_sequence`. It only does that to take a number from it.
    more: GlobalId,
    /// `find(key, former, start) -> address`.
    find: FunctionId,
}

impl Sequences {
    pub(super) fn add(module: &mut Module, window: Window, rows: Rows) -> Self {
        let more = global(module, I32);
        Self {
            window,
            rows,
            more,
            find: add_find(module, window, rows, more),
        }
    }

    /// A call begins: whatever an earlier one has left in memory may have been rolled back, or be outdated.
    pub(super) fn begin(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.more);
    }

    /// Writes the row of `rtdb_sequence` back, if the current call has taken numbers from it.
    pub(super) fn store(self, code: &mut Code<'_>) {
        code.global_get(self.more).when(|code| {
            self.window.mark(code, MORE_END);
            self.window.show_part(code, SEQUENCE_ROW.at, MORE_END);
            self.window.own.get32(code, MORE_LEN);
            code.plus(MORE - SEQUENCE_ROW.at);
            self.rows.put(code, SEQUENCE_ROW);
        });
    }

    /// Pushes the address of a column's pair.
    fn pair(self, code: &mut Code<'_>, sequence: &Sequence) {
        code.i64_const(sequence.key.cast_signed())
            .i64_const(sequence.former_key.cast_signed())
            .i64_const(sequence.start)
            .call(self.find);
    }

    /// `take() -> i64`: the next number of `sequence`.
    pub(super) fn add_take(self, module: &mut Module, sequence: &Sequence) -> FunctionId {
        let memory = self.window.own.memory;
        function(module, [], &[I64], |code, [], locals| {
            let (pair, value) = (locals.add(I32), locals.add(I64));
            self.pair(code, sequence);
            code.local_tee(pair)
                .local_get(pair)
                .read64(memory, PAIR_NEXT)
                .local_tee(value);
            code.local_get(value)
                .i64_const(sequence.last)
                .binop(beyond(sequence));
            code.if_else(
                I64,
                |code| {
                    code.i64_const(sequence.wrap);
                },
                |code| {
                    code.i64_const(sequence.increment);
                },
            );
            code.binop(BinaryOp::I64Add)
                .write64(memory, PAIR_NEXT)
                .local_get(value);
        })
    }

    /// Has `sequence` go on with `number`.
    pub(super) fn set_next(self, code: &mut Code<'_>, sequence: &Sequence, number: LocalId) {
        self.pair(code, sequence);
        code.local_get(number).write64(self.window.own.memory, PAIR_NEXT);
    }
}

/// Whether a number is so far on that the next step would leave the bounds.
pub(super) fn beyond(sequence: &Sequence) -> BinaryOp {
    if sequence.increment > 0 {
        BinaryOp::I64GtS
    } else {
        BinaryOp::I64LtS
    }
}

/// `find(key, former, start) -> address`: of a column's pair. What was kept under the `former` key, if that is not 0, is kept
/// under the other from now on; a column that has none gets a new one that says `start`. Traps if there is no room for it.
fn add_find(module: &mut Module, window: Window, rows: Rows, more: GlobalId) -> FunctionId {
    let scratch = window.own;
    let memory = scratch.memory;
    let locate = add_locate(module, window, rows, more);
    function(
        module,
        [I64, I64, I64],
        &[I32],
        |code, [key, former, start], locals| {
            let (pair, other) = (locals.add(I32), locals.add(I32));
            code.local_get(key).call(locate).local_set(pair);
            is_used(code, scratch, pair);
            code.when(|code| {
                code.local_get(pair).return_();
            });
            code.local_get(former)
                .unop(UnaryOp::I64Eqz)
                .is_zero()
                .when(|code| {
                    code.local_get(former).call(locate).local_set(other);
                    is_used(code, scratch, other);
                    code.when(|code| {
                        code.local_get(other).local_get(key).write64(memory, 0);
                        code.local_get(other).return_();
                    });
                });
            code.local_get(pair);
            scratch.at(code, MORE_END);
            code.binop(BinaryOp::I32GeU).trap_if();
            code.local_get(pair);
            scratch.at(code, PAIRS_END);
            code.binop(BinaryOp::I32GeU).when(|code| {
                scratch.at(code, MORE_LEN);
                scratch.get32(code, MORE_LEN);
                code.plus(PAIR_BYTES).write32(memory, 0);
            });
            code.local_get(pair).local_get(key).write64(memory, 0);
            code.local_get(pair).local_get(start).write64(memory, PAIR_NEXT);
            code.local_get(pair);
        },
    )
}

/// Pushes whether a pair is in use, rather than free or beyond the room for pairs.
fn is_used(code: &mut Code<'_>, scratch: Scratch, pair: LocalId) {
    code.local_get(pair);
    scratch.at(code, MORE_END);
    code.less().if_else(
        I32,
        |code| {
            code.local_get(pair).read64(scratch.memory, 0);
            code.unop(UnaryOp::I64Eqz).is_zero();
        },
        |code| {
            code.i32_const(0);
        },
    );
}

/// `locate(key) -> address`: of a column's pair, or else of a free one, or else the end of the room for pairs.
fn add_locate(module: &mut Module, window: Window, rows: Rows, more: GlobalId) -> FunctionId {
    let scratch = window.own;
    let search = add_search(module, scratch);
    function(module, [I64], &[I32], |code, [key], locals| {
        let pair = locals.add(I32);
        scratch.at(code, PAIRS);
        scratch.at(code, PAIRS_END);
        code.local_get(key).call(search).local_tee(pair);
        scratch.at(code, PAIRS_END);
        code.less().when(|code| {
            code.local_get(pair).return_();
        });
        code.global_get(more).is_zero().when(|code| {
            window.borrow(code, MORE_END, |code| {
                rows.fetch(code, SEQUENCE_ROW);
                code.drop();
                window.take_part(code, SEQUENCE_ROW.at, MORE_END);
            });
            code.i32_const(1).global_set(more);
        });
        scratch.at(code, MORE);
        more_end(code, scratch);
        code.local_get(key).call(search).local_set(pair);
        // Behind the last one, a pair is free whatever stood there.
        code.local_get(pair);
        more_end(code, scratch);
        code.binop(BinaryOp::I32Eq);
        code.local_get(pair);
        scratch.at(code, MORE_END);
        code.less().binop(BinaryOp::I32And).when(|code| {
            code.local_get(pair).i64_const(0).write64(scratch.memory, 0);
        });
        code.local_get(pair);
    })
}

/// Pushes the end of the pairs of `rtdb_sequence`.
fn more_end(code: &mut Code<'_>, scratch: Scratch) {
    scratch.at(code, MORE);
    scratch.get32(code, MORE_LEN);
    code.add();
}

/// `search(pair, end, key) -> address`: of the first pair from `pair` on that is `key`'s or free, or `end`.
fn add_search(module: &mut Module, scratch: Scratch) -> FunctionId {
    let params = [I32, I32, I64];
    function(module, params, &[I32], |code, [pair, end, key], locals| {
        let found = locals.add(I64);
        code.repeat(
            |code| {
                code.local_get(pair).local_get(end).binop(BinaryOp::I32LtU);
            },
            |code| {
                code.local_get(pair)
                    .read64(scratch.memory, 0)
                    .local_tee(found)
                    .unop(UnaryOp::I64Eqz);
                code.local_get(found).local_get(key).binop(BinaryOp::I64Eq);
                code.binop(BinaryOp::I32Or).when(|code| {
                    code.local_get(pair).return_();
                });
                code.advance(pair, PAIR_BYTES);
            },
        );
        code.local_get(pair);
    })
}
