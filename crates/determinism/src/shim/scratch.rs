//! Access to the shim's own memory.

use walrus::ir::BinaryOp;
use walrus::{GlobalId, LocalId, MemoryId};

use super::emit::{Code, Emit};

/// Where the shim's memory is.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    pub(super) memory: MemoryId,
    /// The global that holds its address; 0 before an instance's first call.
    pub(super) base: GlobalId,
}

impl Scratch {
    /// Pushes the address of `offset`.
    pub(super) fn at(self, code: &mut Code<'_>, offset: u32) {
        code.global_get(self.base).plus(offset);
    }

    /// Pushes the i32 at `offset`.
    pub(super) fn get32(self, code: &mut Code<'_>, offset: u32) {
        code.global_get(self.base).read32(self.memory, offset);
    }

    /// Pushes the i64 at `offset`.
    pub(super) fn get64(self, code: &mut Code<'_>, offset: u32) {
        code.global_get(self.base).read64(self.memory, offset);
    }

    /// Sets the i32 at `offset` to a local.
    pub(super) fn set32(self, code: &mut Code<'_>, offset: u32, value: LocalId) {
        code.global_get(self.base)
            .local_get(value)
            .write32(self.memory, offset);
    }

    /// Sets the i64 at `offset` to what `value` pushes.
    pub(super) fn set64(self, code: &mut Code<'_>, offset: u32, value: impl FnOnce(&mut Code<'_>)) {
        code.global_get(self.base);
        value(code);
        code.write64(self.memory, offset);
    }

    /// Grows memory by as many pages as the stack says, and pushes the address of the first.
    pub(super) fn grow(self, code: &mut Code<'_>, page: LocalId) {
        code.memory_grow(self.memory).local_tee(page).is(-1).trap_if();
        code.local_get(page).i32_const(16).binop(BinaryOp::I32Shl);
    }
}
