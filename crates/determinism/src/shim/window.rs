//! The window: where host functions, which see only the module's memory, find the shim's data and leave theirs.
//!
//! The shim borrows a stretch at the beginning of the module's memory. Before the module runs, what it takes is put back
//! from the image; while the module runs, from a copy; after it has run, the window is marked, and put back with
//! everything else.

use walrus::MemoryId;

use super::emit::Code;
use super::layout::{HOT_END, NAME, Name, SAVED};
use super::scratch::Scratch;
use crate::reset::Reset;

/// Where it begins. A real server takes the address 0 for no address.
pub(super) const AT: u32 = 1_024;

/// The window, and what it is a window on.
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// The data as the host sees it.
    pub(super) seen: Scratch,
    /// The data in the shim's memory.
    pub(super) own: Scratch,
    reset: Reset,
}

impl Window {
    pub(super) fn new(memory: MemoryId, own: Scratch, reset: Reset) -> Self {
        let seen = Scratch { memory, base: AT };
        Self { seen, own, reset }
    }

    /// Copies what calls need most, the beginning of the data, to the shim's memory.
    pub(super) fn take(self, code: &mut Code<'_>) {
        self.take_part(code, 0, HOT_END);
    }

    /// The same for the data from `from` to `to`.
    pub(super) fn take_part(self, code: &mut Code<'_>, from: u32, to: u32) {
        copy(code, self.seen, from, self.own, from, to - from);
    }

    /// Copies what calls need most from the shim's memory.
    pub(super) fn show(self, code: &mut Code<'_>) {
        self.show_part(code, 0, HOT_END);
    }

    /// The same for the data from `from` to `to`.
    pub(super) fn show_part(self, code: &mut Code<'_>, from: u32, to: u32) {
        copy(code, self.own, from, self.seen, from, to - from);
    }

    /// Copies a name from the shim's memory to the place for names.
    pub(super) fn show_name(self, code: &mut Code<'_>, name: Name) {
        copy(code, self.own, name.at, self.seen, NAME, name.bytes);
    }

    /// Before the module runs: puts the first `bytes` of the window back.
    pub(super) fn restore(self, code: &mut Code<'_>, bytes: u32) {
        self.reset.restore(code, AT, bytes);
    }

    /// After the module has run: the first `bytes` of the window are put back at the end.
    pub(super) fn mark(self, code: &mut Code<'_>, bytes: u32) {
        self.reset.mark(code, AT, bytes);
    }

    /// While the module runs: lends the first `bytes` of the window to `body`.
    pub(super) fn borrow(self, code: &mut Code<'_>, bytes: u32, body: impl FnOnce(&mut Code<'_>)) {
        copy(code, self.seen, 0, self.own, SAVED, bytes);
        body(code);
        copy(code, self.own, SAVED, self.seen, 0, bytes);
    }
}

fn copy(code: &mut Code<'_>, from: Scratch, from_offset: u32, to: Scratch, to_offset: u32, bytes: u32) {
    to.at(code, to_offset);
    from.at(code, from_offset);
    code.i32_const(bytes as i32).memory_copy(from.memory, to.memory);
}
