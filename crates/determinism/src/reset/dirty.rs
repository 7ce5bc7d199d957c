//! Which blocks of the module's memory have been written to.

use walrus::ir::{BinaryOp, Binop, Const, Instr, MemArg, Store, StoreKind, Value};
use walrus::{FunctionId, MemoryId, Module};

use crate::emit::{Code, Emit, I32, function};

/// The size of a block in bytes, as a power of two.
pub(super) const BLOCK_SHIFT: u32 = 10;
pub(super) const BLOCK_BYTES: u32 = 1 << BLOCK_SHIFT;
/// A block is put back together with so many bytes behind it. So one mark covers a write that straddles two blocks, and
/// all writes through one pointer at small offsets.
pub(super) const OVERHANG_BYTES: u32 = 256;
/// A byte for each block of all the addresses there are.
pub(super) const MAP_BYTES: u32 = 1 << (32 - BLOCK_SHIFT);
/// The block at the end of the address space. No memory has it, but offsets are relative to addresses in it, and wrap:
/// its mark stands for the first block.
pub(super) const LAST_BLOCK: u32 = MAP_BYTES - 1;

/// The map: a byte for each block, 1 if it has been written to. It stands at the beginning of the shim's memory, at an
/// address that is a constant of the code, and takes no more of it than is touched.
#[derive(Clone, Copy)]
pub(super) struct DirtyMap {
    pub(super) memory: MemoryId,
    /// `mark(address, bytes)`.
    pub(super) mark_range: FunctionId,
}

impl DirtyMap {
    pub(super) fn add(module: &mut Module, memory: MemoryId) -> Self {
        Self {
            memory,
            mark_range: add_mark_range(module, memory),
        }
    }

    /// Pops an address; marks its block, which covers [`OVERHANG_BYTES`] from there on.
    pub(super) fn mark(self) -> [Instr; 4] {
        [
            i32_const(BLOCK_SHIFT),
            Binop {
                op: BinaryOp::I32ShrU,
            }
            .into(),
            i32_const(1),
            self.set(),
        ]
    }

    /// Marks a block.
    pub(super) fn mark_block(self, block: u32) -> [Instr; 3] {
        [i32_const(block), i32_const(1), self.set()]
    }

    /// Marks the blocks of a constant range.
    pub(super) fn mark_constant(self, code: &mut Code<'_>, at: u32, bytes: u32) {
        for block in at >> BLOCK_SHIFT..(at + bytes).div_ceil(BLOCK_BYTES) {
            for instr in self.mark_block(block) {
                code.instr(instr);
            }
        }
    }

    /// Pops a byte and a block.
    fn set(self) -> Instr {
        Store {
            memory: self.memory,
            kind: StoreKind::I32_8 { atomic: false },
            arg: MemArg { align: 1, offset: 0 },
        }
        .into()
    }
}

fn add_mark_range(module: &mut Module, memory: MemoryId) -> FunctionId {
    function(module, [I32, I32], &[], |code, [address, bytes], locals| {
        let (first, last) = (locals.add(I32), locals.add(I32));
        code.local_get(bytes).is_zero().when(|code| {
            code.return_();
        });
        code.local_get(address)
            .i32_const(BLOCK_SHIFT as i32)
            .binop(BinaryOp::I32ShrU)
            .local_set(first);
        code.local_get(address)
            .local_get(bytes)
            .add()
            .i32_const(1)
            .binop(BinaryOp::I32Sub)
            .i32_const(BLOCK_SHIFT as i32)
            .binop(BinaryOp::I32ShrU)
            .local_tee(last);
        // A frame below 0: when the stack has run over, addresses wrap around.
        code.local_get(first).binop(BinaryOp::I32LtU).when(|code| {
            code.i32_const(0).i32_const(1).local_get(last).plus(1);
            code.memory_fill(memory);
            code.i32_const(LAST_BLOCK as i32).local_set(last);
        });
        code.local_get(first)
            .i32_const(1)
            .local_get(last)
            .local_get(first)
            .binop(BinaryOp::I32Sub)
            .plus(1)
            .memory_fill(memory);
    })
}

fn i32_const(value: u32) -> Instr {
    Const {
        value: Value::I32(value as i32),
    }
    .into()
}
