//! The sums of the calls that have succeeded, in the row of `rtdb_state`: see [`crate::successes`].

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, Module};

use super::emit::{Code, Emit, I32, I64, function};
use super::layout::*;
use super::scratch::Scratch;
use crate::header;
use crate::successes::{FACTORS, PRIME, PRIME_BITS, SHIFT};

/// `count()`: adds the powers of this call's element to the sums.
pub(super) fn add_count(module: &mut Module, scratch: Scratch) -> FunctionId {
    let memory = scratch.memory;
    function(module, [], &[], |code, [], locals| {
        let [element, power, value] = [0; 3].map(|_| locals.add(I64));
        let (sum, end) = (locals.add(I32), locals.add(I32));
        let [first, second] = FACTORS.map(u64::cast_signed);
        scratch.get64(code, HEADER + header::INDEX_AT);
        code.i64_const(first)
            .binop(BinaryOp::I64Mul)
            .local_tee(value)
            .local_get(value)
            .i64_const(SHIFT.into())
            .binop(BinaryOp::I64ShrU)
            .binop(BinaryOp::I64Xor)
            .i64_const(second)
            .binop(BinaryOp::I64Mul)
            .i64_const((u64::BITS - PRIME_BITS).into())
            .binop(BinaryOp::I64ShrU);
        reduce(code, value);
        code.local_set(element).i64_const(1).local_set(power);
        scratch.at(code, STATE_SUCCESSES);
        code.local_set(sum);
        scratch.at(code, PAIRS);
        code.local_set(end);
        code.repeat(
            |code| {
                code.local_get(sum).local_get(end).binop(BinaryOp::I32LtU);
            },
            |code| {
                code.local_get(sum)
                    .local_get(sum)
                    .read32(memory, 0)
                    .unop(walrus::ir::UnaryOp::I64ExtendUI32)
                    .local_get(power)
                    .binop(BinaryOp::I64Add);
                reduce(code, value);
                code.unop(walrus::ir::UnaryOp::I32WrapI64).write32(memory, 0);
                code.local_get(power).local_get(element).binop(BinaryOp::I64Mul);
                reduce(code, value);
                code.local_set(power).advance(sum, 4);
            },
        );
    })
}

/// Pops a sum of two elements or a product, pushes its remainder.
fn reduce(code: &mut Code<'_>, value: LocalId) {
    let prime = PRIME.cast_signed();
    code.local_tee(value)
        .i64_const(prime)
        .binop(BinaryOp::I64And)
        .local_get(value)
        .i64_const(PRIME_BITS.into())
        .binop(BinaryOp::I64ShrU)
        .binop(BinaryOp::I64Add)
        .local_tee(value)
        .i64_const(prime)
        .binop(BinaryOp::I64Sub)
        .local_get(value)
        .local_get(value)
        .i64_const(prime)
        .binop(BinaryOp::I64GeU)
        .select(None);
}
