//! Fetching all rows of the host's iterator, which sorts them.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, MemoryId, Module};

use super::super::emit::{Code, Emit, I32, function};
use super::arena::{Arena, END, ENTRY_BYTES};
use super::iterators::{HANDLE, LAST, NEXT, SORTING};
use crate::abi;
use crate::meter;
use crate::reset::{PAGE_BYTES, Reset};

/// Where the host puts a length and rows, if rows don't fit in the module's buffer: what stands there is put back.
pub(super) const BORROWED_LEN: i32 = 8;
pub(super) const BORROWED_ROWS: u32 = 16;

/// What it takes to fetch rows.
#[derive(Clone, Copy)]
pub(super) struct Collect {
    pub(super) arena: Arena,
    /// The module's memory.
    pub(super) memory: MemoryId,
    pub(super) reset: Reset,
    /// The host's `row_iter_bsatn_advance`.
    pub(super) advance: FunctionId,
    /// `list(sorting, at, end, to) -> to`.
    pub(super) list: FunctionId,
}

impl Collect {
    /// `collect(iterator, buffer, len_at) -> errno`. The host fills the module's buffer again and again.
    pub(super) fn add(self, module: &mut Module, borrow: FunctionId) -> FunctionId {
        let Self {
            arena, memory, reset, ..
        } = self;
        function(
            module,
            [I32; 3],
            &[I32],
            |code, [iterator, buffer, len_at], locals| {
                let [room, result, rows, end, len] = [(); 5].map(|()| locals.add(I32));
                code.local_get(len_at).read32(memory, 0).local_set(room);
                reset.mark_range(code, buffer, room);
                code.global_get(arena.top).local_tee(rows).local_set(end);
                code.loop_(None, |code| {
                    let more = code.id();
                    code.local_get(iterator)
                        .read32(arena.memory, HANDLE)
                        .local_get(buffer)
                        .local_get(len_at)
                        .call(self.advance)
                        .local_tee(result);
                    code.is(abi::BUFFER_TOO_SMALL).if_else(
                        None,
                        |code| {
                            code.local_get(iterator)
                                .read32(arena.memory, HANDLE)
                                .local_get(end)
                                .local_get(len_at)
                                .call(borrow)
                                .local_set(result);
                        },
                        |code| {
                            code.local_get(result).i32_const(0).binop(BinaryOp::I32GtS);
                            code.when(|code| {
                                code.local_get(result).return_();
                            });
                            code.local_get(end)
                                .local_get(len_at)
                                .read32(memory, 0)
                                .local_tee(len)
                                .add()
                                .call(arena.reserve)
                                .local_get(end)
                                .local_get(buffer)
                                .local_get(len)
                                .memory_copy(memory, arena.memory);
                        },
                    );
                    code.local_get(end)
                        .local_get(len_at)
                        .read32(memory, 0)
                        .add()
                        .local_tee(end);
                    Arena::check(code);
                    code.local_get(len_at).local_get(room).write32(memory, 0);
                    code.local_get(result).is_zero().br_if(more);
                });
                // What the host has left in the buffer is not for the module to see.
                code.local_get(buffer)
                    .i32_const(0)
                    .local_get(room)
                    .memory_fill(memory);
                code.local_get(len_at).local_get(room).write32(memory, 0);
                // How often the host was asked depends on how rows stand; how many bytes there are does not.
                code.local_get(end).local_get(rows).sub().local_set(len);
                reset.meter.charge_each(code, meter::SORTED_BYTE, len);
                code.local_get(iterator)
                    .local_get(iterator)
                    .read32(arena.memory, SORTING)
                    .local_get(rows)
                    .local_get(end)
                    .local_get(end)
                    .plus(7)
                    .i32_const(-8)
                    .binop(BinaryOp::I32And)
                    .local_tee(rows)
                    .call(self.list)
                    .local_tee(end)
                    .write32(arena.memory, LAST);
                code.local_get(end)
                    .local_get(rows)
                    .sub()
                    .i32_const(ENTRY_BYTES.ilog2() as i32)
                    .binop(BinaryOp::I32ShrU)
                    .local_set(len);
                reset.meter.charge_each(code, meter::SORTED_ROW, len);
                code.local_get(iterator)
                    .local_get(rows)
                    .write32(arena.memory, NEXT);
                code.local_get(end).global_set(arena.top).i32_const(0);
            },
        )
    }

    /// `borrow(handle, to, len_at) -> result`: fetches rows that don't fit in the module's buffer, and puts them where
    /// they belong; says how many bytes there are.
    ///
    /// How many rows the host wants to hand out at once depends on their order, and so the module must not be asked for
    /// a bigger buffer. The beginning of its memory serves as one for a moment.
    pub(super) fn add_borrow(self, module: &mut Module) -> FunctionId {
        let Self { arena, memory, .. } = self;
        function(module, [I32; 3], &[I32], |code, [handle, to, len_at], locals| {
            let [bytes, window, saved, result, len] = [(); 5].map(|()| locals.add(I32));
            code.local_get(len_at).read32(memory, 0).local_tee(bytes);
            Arena::check(code);
            code.local_get(bytes).plus(BORROWED_ROWS).local_set(window);
            // The module would have to grow, too, to get such rows.
            let pages = |code: &mut Code<'_>| {
                code.local_get(window)
                    .plus(PAGE_BYTES - 1)
                    .i32_const(16)
                    .binop(BinaryOp::I32ShrU);
            };
            code.memory_size(memory);
            pages(code);
            code.less().when(|code| {
                pages(code);
                code.memory_size(memory)
                    .sub()
                    .memory_grow(memory)
                    .is(-1)
                    .trap_if();
            });

            code.local_get(to).local_get(bytes).add().local_tee(saved);
            code.local_get(window).add().call(arena.reserve);
            code.local_get(saved)
                .i32_const(0)
                .local_get(window)
                .memory_copy(memory, arena.memory);
            code.i32_const(BORROWED_LEN).local_get(bytes).write32(memory, 0);
            code.local_get(handle)
                .i32_const(BORROWED_ROWS as i32)
                .i32_const(BORROWED_LEN)
                .call(self.advance)
                .local_tee(result)
                .i32_const(0)
                .binop(BinaryOp::I32GtS)
                .trap_if();
            code.i32_const(BORROWED_LEN).read32(memory, 0).local_set(len);
            code.local_get(to)
                .i32_const(BORROWED_ROWS as i32)
                .local_get(len)
                .memory_copy(memory, arena.memory);
            code.i32_const(0)
                .local_get(saved)
                .local_get(window)
                .memory_copy(arena.memory, memory);
            code.local_get(len_at)
                .local_get(len)
                .write32(memory, 0)
                .local_get(result);
        })
    }
}

const _: () = assert!(END < i32::MAX as u32);
