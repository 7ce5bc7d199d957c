//! Generated numbers, from the row of `rtdb_state` instead of the host's sequences. `state` reads the row before the
//! module runs, and writes it back after: here it only changes in memory.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, Module};

use super::emit::{Emit, I32, I64, function};
use super::layout::*;
use super::scratch::Scratch;
use crate::plan::Sequence;

/// `find(key, start) -> address`: of a column's pair; of a new one that says `start` if the column has none. Traps if
/// there is no room for it.
pub(super) fn add_find(module: &mut Module, scratch: Scratch) -> FunctionId {
    let memory = scratch.memory;
    function(module, [I64, I64], &[I32], |code, [key, start], locals| {
        let (pair, end) = (locals.add(I32), locals.add(I32));
        scratch.at(code, PAIRS);
        code.local_tee(pair);
        scratch.get32(code, PAIRS_LEN);
        code.add().local_set(end);
        code.repeat(
            |code| {
                code.local_get(pair).local_get(end).binop(BinaryOp::I32LtU);
            },
            |code| {
                code.local_get(pair)
                    .read64(memory, 0)
                    .local_get(key)
                    .binop(BinaryOp::I64Eq)
                    .when(|code| {
                        code.local_get(pair).return_();
                    });
                code.advance(pair, PAIR_BYTES);
            },
        );
        code.local_get(pair);
        scratch.at(code, PAIRS_END);
        code.binop(BinaryOp::I32GeU).trap_if();
        code.local_get(pair).local_get(key).write64(memory, 0);
        code.local_get(pair).local_get(start).write64(memory, PAIR_NEXT);
        scratch.at(code, PAIRS_LEN);
        scratch.get32(code, PAIRS_LEN);
        code.plus(PAIR_BYTES).write32(memory, 0).local_get(pair);
    })
}

/// `take() -> i64`: the next number of `sequence`.
pub(super) fn add_take(
    module: &mut Module,
    scratch: Scratch,
    find: FunctionId,
    sequence: &Sequence,
) -> FunctionId {
    let memory = scratch.memory;
    let beyond = if sequence.increment > 0 {
        BinaryOp::I64GtS
    } else {
        BinaryOp::I64LtS
    };
    function(module, [], &[I64], |code, [], locals| {
        let (pair, value) = (locals.add(I32), locals.add(I64));
        code.i64_const(sequence.key.cast_signed())
            .i64_const(sequence.start)
            .call(find)
            .local_tee(pair)
            .local_get(pair)
            .read64(memory, PAIR_NEXT)
            .local_tee(value);
        code.local_get(value).i64_const(sequence.last).binop(beyond);
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
