//! The digest: 64 bits over every row that a module writes, the same on replicas that agree.

use walrus::ir::{BinaryOp, UnaryOp};
use walrus::{FunctionId, GlobalId, MemoryId, Module};

use super::emit::{Code, Emit, I32, I64, function};

/// Odd, so that two words that differ always give digests that differ.
const MULTIPLIER: i64 = 0x9e37_79b9_7f4a_7c15_u64 as i64;
const ROTATION: i64 = 29;

/// What was done with a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Insert = 1,
    Update = 2,
    DeleteEqual = 3,
    DeleteRange = 4,
    DeletePoint = 5,
    Clear = 6,
    /// Inserts a row that the module knows nothing of.
    Ask = 8,
}

/// The functions that fold writes into the digest.
#[derive(Clone, Copy)]
pub(super) struct Digest {
    /// The digest of the current call.
    pub(super) value: GlobalId,
    fold_bytes: FunctionId,
}

impl Digest {
    pub(super) fn add(module: &mut Module, memory: MemoryId, value: GlobalId) -> Self {
        let fold_bytes = function(module, [I32, I32], &[], |code, [at, len], locals| {
            let tail = locals.add(I64);
            code.local_get(len).unop(UnaryOp::I64ExtendUI32);
            fold(code, value);
            code.repeat(
                |code| {
                    code.local_get(len).i32_const(8).binop(BinaryOp::I32GeU);
                },
                |code| {
                    code.local_get(at).read64(memory, 0);
                    fold(code, value);
                    code.advance(at, 8)
                        .local_get(len)
                        .i32_const(8)
                        .binop(BinaryOp::I32Sub)
                        .local_set(len);
                },
            );
            code.repeat(
                |code| {
                    code.local_get(len);
                },
                |code| {
                    code.local_get(tail).i64_const(8).binop(BinaryOp::I64Shl);
                    code.local_get(at)
                        .read8(memory)
                        .unop(UnaryOp::I64ExtendUI32)
                        .binop(BinaryOp::I64Or)
                        .local_set(tail);
                    code.advance(at, 1)
                        .local_get(len)
                        .i32_const(1)
                        .binop(BinaryOp::I32Sub)
                        .local_set(len);
                },
            );
            code.local_get(tail);
            fold(code, value);
        });
        Self { value, fold_bytes }
    }

    /// Folds in what is done. Pops the table's ordinal, or whatever else says where.
    pub(super) fn operation(self, code: &mut Code<'_>, operation: Operation) {
        code.unop(UnaryOp::I64ExtendUI32)
            .i64_const((operation as i64) << 32)
            .binop(BinaryOp::I64Or);
        fold(code, self.value);
    }

    /// Pops an address and a length; folds in the bytes there.
    pub(super) fn bytes(self, code: &mut Code<'_>) {
        code.call(self.fold_bytes);
    }
}

/// Pops a word: `digest = rotate(digest ^ word) * MULTIPLIER`.
fn fold(code: &mut Code<'_>, digest: GlobalId) {
    code.global_get(digest)
        .binop(BinaryOp::I64Xor)
        .i64_const(ROTATION)
        .binop(BinaryOp::I64Rotl);
    code.i64_const(MULTIPLIER)
        .binop(BinaryOp::I64Mul)
        .global_set(digest);
}
