//! The iterators that the shim hands out: the module sees none of the host's, which are numbered through all calls of an
//! instance, and stay open when a call ends.
//!
//! Natively an iterator's rows are fixed when it is opened. Rows that are to be sorted are fetched from the host's iterator
//! when the first are asked for, so that one which is only opened costs nothing.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, LocalId, MemoryId, Module};

use super::super::emit::{Code, Emit, I32, function, global};
use super::super::host::Host;
use super::arena::{Arena, ITERATOR_BYTES, ITERATORS_MAX, ROWS};

/// How it is sorted, or [`AS_IT_IS`]; 0 for a free place.
pub(super) const SORTING: u32 = 0;
/// The host's iterator.
pub(super) const HANDLE: u32 = 4;
/// The entry of the row that comes next, and the end of the entries: 0 until they are collected.
pub(super) const NEXT: u32 = 8;
pub(super) const LAST: u32 = 12;

/// The host's order is good.
pub(super) const AS_IT_IS: i32 = -1;

/// The open iterators.
#[derive(Clone, Copy)]
pub(super) struct Iterators {
    pub(super) arena: Arena,
    /// The end of the places in use.
    end: GlobalId,
    /// `open(sorting, handle_at)`: puts an iterator of ours in the place of the host's. They are counted from 1.
    pub(super) open: FunctionId,
    /// `find(handle) -> iterator`: -1 if there is none.
    pub(super) find: FunctionId,
    /// `release(iterator)`.
    pub(super) release: FunctionId,
    /// `end()`: closes whatever the call has left open.
    pub(super) close_all: FunctionId,
}

impl Iterators {
    pub(super) fn add(module: &mut Module, host: Host, arena: Arena, memory: MemoryId) -> Self {
        let end = global(module, I32);
        Self {
            arena,
            end,
            open: add_open(module, arena, memory, end),
            find: add_find(module, arena),
            release: add_release(module, arena, end),
            close_all: add_close_all(module, host, arena, end),
        }
    }

    /// A call ends.
    pub(super) fn end(self, code: &mut Code<'_>) {
        code.global_get(self.end).when(|code| {
            code.call(self.close_all);
        });
    }
}

/// Pushes whether the host's iterator is open: it is closed when all its rows have been collected.
pub(super) fn is_host_open(code: &mut Code<'_>, arena: Arena, iterator: LocalId) {
    code.local_get(iterator).read32(arena.memory, LAST).is_zero();
}

fn add_close_all(module: &mut Module, host: Host, arena: Arena, end: GlobalId) -> FunctionId {
    function(module, [], &[], |code, [], locals| {
        let iterator = locals.add(I32);
        code.repeat(
            |code| {
                code.local_get(iterator).global_get(end).less();
            },
            |code| {
                code.local_get(iterator).read32(arena.memory, SORTING);
                code.when(|code| {
                    is_host_open(code, arena, iterator);
                    code.when(|code| {
                        code.local_get(iterator).read32(arena.memory, HANDLE);
                        code.call(host.close).must();
                    });
                    code.local_get(iterator).i32_const(0);
                    code.write32(arena.memory, SORTING);
                });
                code.advance(iterator, ITERATOR_BYTES);
            },
        );
        code.i32_const(0).global_set(end);
    })
}

fn add_open(module: &mut Module, arena: Arena, memory: MemoryId, end: GlobalId) -> FunctionId {
    function(module, [I32, I32], &[], |code, [sorting, handle_at], locals| {
        let (handle, iterator) = (locals.add(I32), locals.add(I32));
        code.local_get(handle_at).read32(memory, 0).local_set(handle);
        code.repeat(
            |code| {
                code.local_get(iterator).read32(arena.memory, SORTING);
            },
            |code| {
                code.advance(iterator, ITERATOR_BYTES);
                code.local_get(iterator).is(ROWS as i32).trap_if();
            },
        );
        for (field, value) in [(SORTING, sorting), (HANDLE, handle)] {
            code.local_get(iterator)
                .local_get(value)
                .write32(arena.memory, field);
        }
        code.local_get(iterator).i32_const(0).write32(arena.memory, LAST);
        code.global_get(end)
            .local_get(iterator)
            .binop(BinaryOp::I32LeU)
            .when(|code| {
                code.local_get(iterator).plus(ITERATOR_BYTES).global_set(end);
            });
        code.local_get(handle_at)
            .local_get(iterator)
            .i32_const(ITERATOR_BYTES.ilog2() as i32)
            .binop(BinaryOp::I32ShrU)
            .plus(1)
            .write32(memory, 0);
    })
}

fn add_find(module: &mut Module, arena: Arena) -> FunctionId {
    function(module, [I32], &[I32], |code, [handle], locals| {
        let iterator = locals.add(I32);
        code.local_get(handle).i32_const(1).sub().local_tee(handle);
        code.i32_const(ITERATORS_MAX as i32)
            .binop(BinaryOp::I32GeU)
            .when(|code| {
                code.i32_const(-1).return_();
            });
        code.local_get(handle)
            .i32_const(ITERATOR_BYTES.ilog2() as i32)
            .binop(BinaryOp::I32Shl)
            .local_tee(iterator)
            .read32(arena.memory, SORTING)
            .is_zero()
            .when(|code| {
                code.i32_const(-1).return_();
            });
        code.local_get(iterator);
    })
}

/// Frees an iterator's place, and the memory of its rows if those of no other one stand behind them.
fn add_release(module: &mut Module, arena: Arena, end: GlobalId) -> FunctionId {
    function(module, [I32], &[], |code, [iterator], locals| {
        let used = locals.add(I32);
        code.local_get(iterator)
            .i32_const(0)
            .write32(arena.memory, SORTING)
            .i32_const(0)
            .local_set(iterator)
            .global_get(arena.floor)
            .global_set(arena.top);
        code.repeat(
            |code| {
                code.local_get(iterator).global_get(end).less();
            },
            |code| {
                code.local_get(iterator).read32(arena.memory, SORTING);
                code.when(|code| {
                    code.local_get(iterator).plus(ITERATOR_BYTES).local_set(used);
                    code.local_get(iterator).read32(arena.memory, LAST);
                    code.global_get(arena.top).binop(BinaryOp::I32GtU);
                    code.when(|code| {
                        code.local_get(iterator)
                            .read32(arena.memory, LAST)
                            .global_set(arena.top);
                    });
                });
                code.advance(iterator, ITERATOR_BYTES);
            },
        );
        code.local_get(used).global_set(end);
    })
}
