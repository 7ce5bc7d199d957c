//! Where rows are sorted: a memory of the shim's own, which a module can't reach, and which it shares with nobody.
//!
//! It begins with the iterators. Behind them stand the row that the call was given, if it was, and the rows of each iterator
//! that has been collected, then an entry of [`ENTRY_BYTES`] for each of the rows, then those of the next iterator. An instance
//! keeps the memory that its largest scan took.

use walrus::ir::{BinaryOp, Value};
use walrus::{ConstExpr, FunctionId, GlobalId, LocalId, MemoryId, Module};

use super::super::emit::{Code, Emit, I32, function};
use crate::reset::PAGE_BYTES;

/// The most iterators that a call may have open at the same time.
pub(super) const ITERATORS_MAX: u32 = 4_096;
/// An iterator: see `iterators`.
pub(super) const ITERATOR_BYTES: u32 = 16;
/// The end of the room for iterators, where rows begin.
pub(super) const ROWS: u32 = ITERATORS_MAX * ITERATOR_BYTES;
/// The most bytes of sorted rows that the open iterators of a call may have, with [`ENTRY_BYTES`] for each row.
const SORTED_BYTES_MAX: u32 = 512 * 1024 * 1024;
/// Rows and entries end before here.
pub(super) const END: u32 = ROWS + SORTED_BYTES_MAX;

/// A row: `hash: u64, address: u32, length: u32`.
pub(super) const ENTRY_BYTES: u32 = 16;
pub(super) const ENTRY_ROW: u32 = 8;
pub(super) const ENTRY_LEN: u32 = 12;

/// The memory in which rows are sorted.
#[derive(Clone, Copy)]
pub(super) struct Arena {
    pub(super) memory: MemoryId,
    /// The end of what the open iterators have.
    pub(super) top: GlobalId,
    /// Where the rows of iterators begin: behind the row that the call was given, if it was.
    pub(super) floor: GlobalId,
    /// `reserve(end)`: makes sure that there is memory up to there.
    pub(super) reserve: FunctionId,
}

impl Arena {
    pub(super) fn add(module: &mut Module) -> Self {
        let pages = u64::from(ROWS / PAGE_BYTES);
        let memory = module.memories.add_local(false, false, pages, None, None);
        let mut rows = || {
            let rows = ConstExpr::Value(Value::I32(ROWS as i32));
            module.globals.add_local(I32, true, false, rows)
        };
        let (top, floor) = (rows(), rows());
        Self {
            memory,
            top,
            floor,
            reserve: add_reserve(module, memory),
        }
    }

    /// Keeps so many bytes behind [`ROWS`] until the call ends. No iterator is open.
    pub(super) fn keep(self, code: &mut Code<'_>, bytes: LocalId) {
        code.local_get(bytes).plus(ROWS + 7).i32_const(-8);
        code.binop(BinaryOp::I32And).global_set(self.floor);
        code.global_get(self.floor).global_set(self.top);
    }

    /// A call ends, and its iterators have.
    pub(super) fn end(self, code: &mut Code<'_>) {
        for end in [self.floor, self.top] {
            code.i32_const(ROWS as i32).global_set(end);
        }
    }

    /// Pops the end of what an iterator has; traps if that is beyond the limit.
    pub(super) fn check(code: &mut Code<'_>) {
        code.i32_const(END as i32).binop(BinaryOp::I32GtU).trap_if();
    }
}

/// `reserve(end)`: makes sure that a memory reaches up to there.
pub(in crate::shim) fn add_reserve(module: &mut Module, memory: MemoryId) -> FunctionId {
    function(module, [I32], &[], |code, [end], locals| {
        let pages = locals.add(I32);
        code.local_get(end).i32_const(16).binop(BinaryOp::I32ShrU);
        code.plus(1).local_set(pages);
        code.memory_size(memory).local_get(pages).less().when(|code| {
            // Half as much again, so that a long list does not grow page by page.
            code.local_get(pages)
                .local_get(pages)
                .i32_const(1)
                .binop(BinaryOp::I32ShrU)
                .add()
                .memory_size(memory)
                .sub()
                .memory_grow(memory)
                .is(-1)
                .trap_if();
        });
    })
}
