//! The instance's state after start-up, and how it is put back.

use walrus::ir::{BinaryOp, LoadKind, MemArg, UnaryOp, Value};
use walrus::{ConstExpr, FunctionId, GlobalId, GlobalKind, LocalId, MemoryId, Module, ValType};

use super::PAGE_BYTES;
use super::dirty::{BLOCK_BYTES, BLOCK_SHIFT, LAST_BLOCK, OVERHANG_BYTES};
use crate::emit::{Code, Emit, I32, I64, function, global};

/// How many blocks are looked at together: as many as a page has.
const STEP_BLOCKS: u32 = PAGE_BYTES / BLOCK_BYTES;
const V128_BYTES: u32 = 16;
const I64_BYTES: u32 = 8;

/// The image: a copy of memory in the shim's, with a page of zeros behind it, and a copy of each global.
#[derive(Clone, Copy)]
pub(super) struct Image {
    own: MemoryId,
    memory: MemoryId,
    /// Where it stands; 0 before it is taken.
    at: GlobalId,
    /// `started()`.
    pub(super) started: FunctionId,
    /// `reset()`.
    pub(super) reset: FunctionId,
}

/// A global of the module, and the one that holds its copy.
type Copied = (GlobalId, GlobalId);

/// The globals that are part of an instance's state.
pub(super) fn mutable_globals(module: &Module) -> Vec<(GlobalId, ValType)> {
    module
        .globals
        .iter()
        .filter(|global| global.mutable && matches!(global.kind, GlobalKind::Local(_)))
        .map(|global| (global.id(), global.ty))
        .collect()
}

impl Image {
    pub(super) fn add(
        module: &mut Module,
        own: MemoryId,
        memory: MemoryId,
        virtual_pages: GlobalId,
        globals: Vec<(GlobalId, ValType)>,
    ) -> Self {
        let parts = Parts {
            own,
            memory,
            virtual_pages,
            at: global(module, I32),
            pages: global(module, I32),
            globals: globals
                .into_iter()
                .map(|(own, ty)| (own, add_copy(module, ty)))
                .collect(),
        };
        let take = parts.add_take(module);
        let reset = parts.add_reset(module);
        let at = parts.at;
        let started = function(module, [], &[], |code, [], _| {
            code.global_get(at);
            code.if_else(
                None,
                |code| {
                    code.call(reset);
                },
                |code| {
                    code.call(take);
                },
            );
        });
        Self {
            own,
            memory,
            at,
            started,
            reset,
        }
    }

    /// See [`Reset::require_image`](super::Reset::require_image).
    pub(super) fn require(self, code: &mut Code<'_>) {
        code.global_get(self.at).is_zero().trap_if();
    }

    /// See [`Reset::restore`](super::Reset::restore).
    pub(super) fn restore(self, code: &mut Code<'_>, at: u32, bytes: u32) {
        code.i32_const(at as i32)
            .global_get(self.at)
            .plus(at)
            .i32_const(bytes as i32)
            .memory_copy(self.memory, self.own);
    }
}

/// What the functions are made from.
struct Parts {
    own: MemoryId,
    memory: MemoryId,
    virtual_pages: GlobalId,
    at: GlobalId,
    /// How many pages of the module's memory the image holds.
    pages: GlobalId,
    globals: Vec<Copied>,
}

impl Parts {
    /// `take()`.
    fn add_take(&self, module: &mut Module) -> FunctionId {
        let &Self {
            own,
            memory,
            virtual_pages,
            at,
            pages,
            ..
        } = self;
        function(module, [], &[], |code, [], locals| {
            let page = locals.add(I32);
            code.global_get(virtual_pages).global_set(pages);
            // What start-up has marked is part of the image.
            code.i32_const(0).i32_const(0);
            code.global_get(pages)
                .i32_const(STEP_BLOCKS as i32)
                .binop(BinaryOp::I32Mul)
                .memory_fill(memory);
            clear_last(code, memory);
            code.global_get(pages)
                .plus(1)
                .memory_grow(memory)
                .local_tee(page)
                .is(-1)
                .trap_if();
            code.local_get(page);
            pages_to_bytes(code);
            code.global_set(at);
            code.global_get(at).i32_const(0).global_get(pages);
            pages_to_bytes(code);
            code.memory_copy(own, memory);
            for (own, copy) in &self.globals {
                code.global_get(*own).global_set(*copy);
            }
        })
    }

    /// `reset()`.
    fn add_reset(&self, module: &mut Module) -> FunctionId {
        let memory = self.memory;
        let restore = self.add_restore_block(module);
        let restore_marked = add_restore_marked(module, memory, restore);
        function(module, [], &[], |code, [], locals| {
            let (block, end) = (locals.add(I32), locals.add(I32));
            code.i32_const(LAST_BLOCK as i32).read8(memory).when(|code| {
                clear_last(code, memory);
                code.i32_const(0).call(restore);
            });
            // Also behind the module's end, as far as an earlier call had grown: writes there do not trap.
            code.memory_size(self.own)
                .i32_const(STEP_BLOCKS as i32)
                .binop(BinaryOp::I32Mul)
                .local_set(end);
            code.repeat(
                |code| {
                    code.local_get(block).local_get(end).binop(BinaryOp::I32LtU);
                },
                |code| {
                    any_marked(code, memory, block);
                    code.when(|code| {
                        code.local_get(block).call(restore_marked);
                    });
                    code.advance(block, STEP_BLOCKS);
                },
            );
            code.global_get(self.pages).global_set(self.virtual_pages);
            for (own, copy) in &self.globals {
                code.global_get(*copy).global_set(*own);
            }
        })
    }

    /// `restore(block)`: and what hangs over it, as far as memory reaches.
    fn add_restore_block(&self, module: &mut Module) -> FunctionId {
        let &Self {
            own,
            memory,
            at,
            pages,
            ..
        } = self;
        function(module, [I32], &[], |code, [block], locals| {
            let (to, bytes, rest) = (locals.add(I32), locals.add(I32), locals.add(I32));
            code.local_get(block)
                .i32_const(BLOCK_SHIFT as i32)
                .binop(BinaryOp::I32Shl)
                .local_set(to);
            code.memory_size(own);
            pages_to_bytes(code);
            code.local_get(to).binop(BinaryOp::I32Sub).local_set(rest);
            code.i32_const((BLOCK_BYTES + OVERHANG_BYTES) as i32)
                .local_get(rest)
                .local_get(rest)
                .i32_const((BLOCK_BYTES + OVERHANG_BYTES) as i32)
                .binop(BinaryOp::I32GtU)
                .select(None)
                .local_set(bytes);
            code.local_get(to).global_get(pages);
            pages_to_bytes(code);
            code.binop(BinaryOp::I32LtU);
            code.if_else(
                None,
                |code| {
                    code.local_get(to)
                        .local_get(to)
                        .global_get(at)
                        .add()
                        .local_get(bytes)
                        .memory_copy(memory, own);
                },
                |code| {
                    code.local_get(to).i32_const(0).local_get(bytes).memory_fill(own);
                },
            );
        })
    }
}

/// `restore(block)`: those of the [`STEP_BLOCKS`] from `block` on that are marked, whose marks go.
fn add_restore_marked(module: &mut Module, memory: MemoryId, restore: FunctionId) -> FunctionId {
    function(module, [I32], &[], |code, [block], locals| {
        let (marks, end) = (locals.add(I64), locals.add(I32));
        code.local_get(block).plus(STEP_BLOCKS).local_set(end);
        code.repeat(
            |code| {
                code.local_get(block).local_get(end).binop(BinaryOp::I32LtU);
            },
            |code| {
                code.local_get(block).read64(memory, 0).local_set(marks);
                code.local_get(block).i64_const(0).write64(memory, 0);
                code.repeat(
                    |code| {
                        code.local_get(marks).i64_const(0).binop(BinaryOp::I64Ne);
                    },
                    |code| {
                        // The lowest mark, and then what is left without it.
                        code.local_get(marks)
                            .unop(UnaryOp::I64Ctz)
                            .unop(UnaryOp::I32WrapI64)
                            .i32_const(u8::BITS.ilog2() as i32)
                            .binop(BinaryOp::I32ShrU)
                            .local_get(block)
                            .add()
                            .call(restore);
                        code.local_get(marks)
                            .local_get(marks)
                            .i64_const(1)
                            .binop(BinaryOp::I64Sub)
                            .binop(BinaryOp::I64And)
                            .local_set(marks);
                    },
                );
                code.advance(block, I64_BYTES);
            },
        );
    })
}

/// Pushes whether any of the [`STEP_BLOCKS`] from `block` on is marked.
fn any_marked(code: &mut Code<'_>, memory: MemoryId, block: LocalId) {
    for offset in (0..STEP_BLOCKS).step_by(V128_BYTES as usize) {
        code.local_get(block)
            .load(memory, LoadKind::V128, MemArg { align: 1, offset });
        if offset > 0 {
            code.binop(BinaryOp::V128Or);
        }
    }
    code.unop(UnaryOp::V128AnyTrue);
}

fn clear_last(code: &mut Code<'_>, memory: MemoryId) {
    code.i32_const(LAST_BLOCK as i32).i32_const(0).write8(memory);
}

fn pages_to_bytes(code: &mut Code<'_>) {
    code.i32_const(PAGE_BYTES.ilog2() as i32).binop(BinaryOp::I32Shl);
}

/// Adds a global for the copy of one of this type.
fn add_copy(module: &mut Module, ty: ValType) -> GlobalId {
    let zero = match ty {
        ValType::I64 => Value::I64(0),
        ValType::F32 => Value::F32(0.0),
        ValType::F64 => Value::F64(0.0),
        ValType::V128 => Value::V128(0),
        // Those of reference type are refused.
        ValType::I32 | ValType::Ref(_) => Value::I32(0),
    };
    module.globals.add_local(ty, true, false, ConstExpr::Value(zero))
}
