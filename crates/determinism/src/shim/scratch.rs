//! Access to the shim's data.

use walrus::{LocalId, MemoryId};

use super::emit::{Code, Emit};

/// Where the shim's data is. It is laid out alike in two places: in the shim's own memory, and in the
/// [window](super::window), where host functions see it.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    pub(super) memory: MemoryId,
    /// Its address.
    pub(super) base: u32,
}

impl Scratch {
    /// Pushes the address of `offset`.
    pub(super) fn at(self, code: &mut Code<'_>, offset: u32) {
        code.i32_const((self.base + offset) as i32);
    }

    /// Pushes the i32 at `offset`.
    pub(super) fn get32(self, code: &mut Code<'_>, offset: u32) {
        code.i32_const(0).read32(self.memory, self.base + offset);
    }

    /// Pushes the i64 at `offset`.
    pub(super) fn get64(self, code: &mut Code<'_>, offset: u32) {
        code.i32_const(0).read64(self.memory, self.base + offset);
    }

    /// Sets the i32 at `offset` to a local.
    pub(super) fn set32(self, code: &mut Code<'_>, offset: u32, value: LocalId) {
        code.i32_const(0)
            .local_get(value)
            .write32(self.memory, self.base + offset);
    }

    /// Sets the i64 at `offset` to what `value` pushes.
    pub(super) fn set64(self, code: &mut Code<'_>, offset: u32, value: impl FnOnce(&mut Code<'_>)) {
        code.i32_const(0);
        value(code);
        code.write64(self.memory, self.base + offset);
    }
}
