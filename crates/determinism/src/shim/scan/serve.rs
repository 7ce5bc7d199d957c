//! Handing sorted rows to the module, as the host would.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, MemoryId, Module};

use super::super::emit::{Code, Emit, I32, function};
use super::arena::{Arena, ENTRY_BYTES, ENTRY_LEN, ENTRY_ROW};
use super::iterators::{Iterators, LAST, NEXT};
use crate::abi;

/// Up to this length rows are copied word by word: the engine's own copying takes longer to begin.
const WORDWISE_MAX: i32 = 256;

/// `serve(iterator, buffer, len_at) -> result`: as many of the next rows as fit.
pub(super) fn add(module: &mut Module, arena: Arena, memory: MemoryId, iterators: Iterators) -> FunctionId {
    let copy = add_copy(module, arena, memory);
    function(
        module,
        [I32; 3],
        &[I32],
        |code, [iterator, buffer, len_at], locals| {
            let [room, to, entry, last, len] = [(); 5].map(|()| locals.add(I32));
            code.local_get(len_at).read32(memory, 0).local_set(room);
            code.local_get(buffer).local_set(to);
            code.local_get(iterator)
                .read32(arena.memory, NEXT)
                .local_set(entry);
            code.local_get(iterator)
                .read32(arena.memory, LAST)
                .local_set(last);
            code.block(None, |code| {
                let full = code.id();
                code.repeat(
                    |code| {
                        code.local_get(entry).local_get(last).less();
                    },
                    |code| {
                        code.local_get(room)
                            .local_get(entry)
                            .read32(arena.memory, ENTRY_LEN)
                            .local_tee(len)
                            .less()
                            .br_if(full);
                        code.local_get(entry)
                            .read32(arena.memory, ENTRY_ROW)
                            .local_get(to)
                            .local_get(len)
                            .call(copy);
                        code.local_get(to).local_get(len).add().local_set(to);
                        code.local_get(room).local_get(len).sub().local_set(room);
                        code.advance(entry, ENTRY_BYTES);
                    },
                );
                let written = |code: &mut Code<'_>| write_len(code, memory, len_at, to, buffer);
                written(code);
                code.local_get(iterator).call(iterators.release);
                code.i32_const(abi::EXHAUSTED).return_();
            });
            code.local_get(to)
                .local_get(buffer)
                .binop(BinaryOp::I32Eq)
                .when(|code| {
                    code.local_get(len_at).local_get(len).write32(memory, 0);
                    code.i32_const(abi::BUFFER_TOO_SMALL).return_();
                });
            code.local_get(iterator)
                .local_get(entry)
                .write32(arena.memory, NEXT);
            write_len(code, memory, len_at, to, buffer);
            code.i32_const(0);
        },
    )
}

fn write_len(code: &mut Code<'_>, memory: MemoryId, len_at: LocalId, to: LocalId, from: LocalId) {
    code.local_get(len_at).local_get(to).local_get(from).sub();
    code.write32(memory, 0);
}

/// `copy(row, to, len)`: from the arena to the module.
fn add_copy(module: &mut Module, arena: Arena, memory: MemoryId) -> FunctionId {
    function(module, [I32; 3], &[], |code, [row, to, len], locals| {
        let [last, shift] = [(); 2].map(|()| locals.add(I32));
        code.local_get(len)
            .i32_const(8)
            .sub()
            .i32_const(WORDWISE_MAX - 8)
            .binop(BinaryOp::I32GtU)
            .when(|code| {
                code.local_get(to).local_get(row).local_get(len);
                code.memory_copy(arena.memory, memory).return_();
            });
        // The last word may overlap the one before it.
        code.local_get(row)
            .local_get(len)
            .add()
            .i32_const(8)
            .sub()
            .local_set(last);
        code.local_get(to).local_get(row).sub().local_set(shift);
        let word = |code: &mut Code<'_>, at: LocalId| {
            code.local_get(at).local_get(shift).add();
            code.local_get(at).read64(arena.memory, 0).write64(memory, 0);
        };
        code.repeat(
            |code| {
                code.local_get(row).local_get(last).less();
            },
            |code| {
                word(code, row);
                code.advance(row, 8);
            },
        );
        word(code, last);
    })
}
