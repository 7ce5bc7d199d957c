//! What the module reads from the shim, as if the host gave it: the rest of a source of bytes.

use walrus::{GlobalId, LocalId, MemoryId, Module};

use super::emit::{Code, Emit, I32, global};
use crate::abi;

/// The bytes that a source of ours still has to give.
#[derive(Clone, Copy)]
pub(super) struct Given {
    memory: MemoryId,
    at: GlobalId,
    left: GlobalId,
}

impl Given {
    /// A source of what stands in `memory`.
    pub(super) fn add(module: &mut Module, memory: MemoryId) -> Self {
        Self {
            memory,
            at: global(module, I32),
            left: global(module, I32),
        }
    }

    /// Has it give what is at the address that `at` pushes, as many bytes as `bytes` pushes.
    pub(super) fn set(
        self,
        code: &mut Code<'_>,
        at: impl FnOnce(&mut Code<'_>),
        bytes: impl FnOnce(&mut Code<'_>),
    ) {
        at(code);
        code.global_set(self.at);
        bytes(code);
        code.global_set(self.left);
    }

    /// A call begins: nothing is left.
    pub(super) fn begin(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.left);
    }

    /// Pushes where the next byte stands.
    pub(super) fn at(self, code: &mut Code<'_>) {
        code.global_get(self.at);
    }

    /// Pushes how many bytes are left.
    pub(super) fn left(self, code: &mut Code<'_>) {
        code.global_get(self.left);
    }

    /// Gives the module, whose memory is `to`, as much as there is room for at `buffer`; pushes the host function's result.
    pub(super) fn read(self, code: &mut Code<'_>, to: MemoryId, [buffer, len_at, len]: [LocalId; 3]) {
        code.local_get(len_at).read32(to, 0).local_tee(len);
        code.global_get(self.left);
        code.local_get(len).global_get(self.left).less();
        code.select(Some(I32)).local_set(len);
        code.local_get(buffer).global_get(self.at).local_get(len);
        code.memory_copy(self.memory, to);
        code.local_get(len_at).local_get(len).write32(to, 0);
        code.global_get(self.at).local_get(len).add().global_set(self.at);
        code.global_get(self.left)
            .local_get(len)
            .sub()
            .global_set(self.left);
        code.i32_const(0)
            .i32_const(abi::EXHAUSTED)
            .global_get(self.left)
            .select(Some(I32));
    }

    /// Leaves at `out` how many bytes are left.
    pub(super) fn tell_left(self, code: &mut Code<'_>, to: MemoryId, out: LocalId) {
        code.local_get(out).global_get(self.left).write32(to, 0);
    }
}
