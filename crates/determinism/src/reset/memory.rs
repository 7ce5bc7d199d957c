//! The module's memory as the module sees it: its size, and the operations on ranges of it.

use walrus::ir::{BinaryOp, Value};
use walrus::{ConstExpr, FunctionId, GlobalId, MemoryId, Module};

use super::dirty::{DirtyMap, OVERHANG_BYTES};
use super::{PAGE_BYTES, PAGES_MAX};
use crate::emit::{Code, Emit, I32, function};
use crate::meter::Meter;

/// What stands in the place of the module's own operations on its memory.
#[derive(Clone, Copy)]
pub(super) struct VirtualMemory {
    pub(super) own: MemoryId,
    /// How many pages the module believes to have; its memory has at least as many.
    pub(super) pages: GlobalId,
    /// `grow(pages) -> pages`.
    pub(super) grow: FunctionId,
    /// `copy(to, from, bytes)`.
    pub(super) copy: FunctionId,
    /// `fill(to, byte, bytes)`.
    pub(super) fill: FunctionId,
}

impl VirtualMemory {
    pub(super) fn add(module: &mut Module, own: MemoryId, dirty: DirtyMap, meter: Meter) -> Self {
        let memory = module.memories.get_mut(own);
        let initial = ConstExpr::Value(Value::I32(memory.initial as i32));
        let max = memory
            .maximum
            .map_or(PAGES_MAX, |max| max.min(PAGES_MAX.into()) as u32);
        // The module is held to its maximum by `grow`; what the shim shows the host may need more room.
        memory.maximum = None;
        let pages = module.globals.add_local(I32, true, false, initial);
        Self {
            own,
            pages,
            grow: add_grow(module, own, pages, max),
            copy: add_marked(module, dirty, meter, |code| {
                code.memory_copy(own, own);
            }),
            fill: add_marked(module, dirty, meter, |code| {
                code.memory_fill(own);
            }),
        }
    }

    /// `room(at, bytes)`: see [`Reset::add_room`](super::Reset::add_room).
    pub(super) fn add_room(self, module: &mut Module, dirty: DirtyMap) -> FunctionId {
        function(module, [I32, I32], &[], |code, [at, bytes], locals| {
            let (end, pages) = (locals.add(I32), locals.add(I32));
            code.local_get(at)
                .local_get(bytes)
                .add()
                .local_tee(end)
                .local_get(at)
                .binop(BinaryOp::I32LtU)
                .trap_if();
            code.local_get(end)
                .i32_const(PAGE_BYTES.ilog2() as i32)
                .binop(BinaryOp::I32ShrU)
                .plus(1)
                .local_tee(pages);
            // The module's own maximum does not count: it does not run, and the number of pages is put back.
            code.global_get(self.pages).binop(BinaryOp::I32GtU).when(|code| {
                code.local_get(pages)
                    .i32_const(PAGES_MAX as i32)
                    .binop(BinaryOp::I32GtU)
                    .trap_if();
                code.local_get(pages)
                    .memory_size(self.own)
                    .binop(BinaryOp::I32GtU)
                    .when(|code| {
                        code.local_get(pages)
                            .memory_size(self.own)
                            .binop(BinaryOp::I32Sub)
                            .memory_grow(self.own)
                            .is(-1)
                            .trap_if();
                    });
                code.local_get(pages).global_set(self.pages);
            });
            code.local_get(at).local_get(bytes).call(dirty.mark_range);
        })
    }
}

/// `grow(pages) -> pages`: as `memory.grow`, on the size that the module sees. The pages are zeros, whether they are new
/// or an earlier call has had them.
fn add_grow(module: &mut Module, own: MemoryId, pages: GlobalId, max: u32) -> FunctionId {
    function(module, [I32], &[I32], |code, [more], locals| {
        let wanted = locals.add(I32);
        code.global_get(pages).local_get(more).add().local_tee(wanted);
        code.global_get(pages).binop(BinaryOp::I32LtU);
        code.local_get(wanted)
            .i32_const(max as i32)
            .binop(BinaryOp::I32GtU)
            .binop(BinaryOp::I32Or)
            .when(fail);
        code.local_get(wanted)
            .memory_size(own)
            .binop(BinaryOp::I32GtU)
            .when(|code| {
                code.local_get(wanted)
                    .memory_size(own)
                    .binop(BinaryOp::I32Sub)
                    .memory_grow(own)
                    .is(-1)
                    .when(fail);
            });
        code.global_get(pages).local_get(wanted).global_set(pages);
    })
}

fn fail(code: &mut Code<'_>) {
    code.i32_const(-1).return_();
}

/// `operation(to, from, bytes)`, with the range marked.
fn add_marked(
    module: &mut Module,
    dirty: DirtyMap,
    meter: Meter,
    operation: impl FnOnce(&mut Code<'_>),
) -> FunctionId {
    function(module, [I32; 3], &[], |code, [to, from, bytes], _| {
        code.local_get(bytes).call(meter.copied);
        code.local_get(to).local_get(from).local_get(bytes);
        operation(code);
        mark_range(code, dirty, to, bytes);
    })
}

/// Marks a range, in the short way if it is small. An empty one marks a block for nothing.
pub(super) fn mark_range(code: &mut Code<'_>, dirty: DirtyMap, to: walrus::LocalId, bytes: walrus::LocalId) {
    code.local_get(bytes)
        .i32_const(OVERHANG_BYTES as i32)
        .binop(BinaryOp::I32LeU);
    code.if_else(
        None,
        |code| {
            code.local_get(to);
            for instr in dirty.mark() {
                code.instr(instr);
            }
        },
        |code| {
            code.local_get(to).local_get(bytes).call(dirty.mark_range);
        },
    );
}
