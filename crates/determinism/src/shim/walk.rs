//! Walking over a row to its generated columns, and filling in those that are 0.

use walrus::ir::{BinaryOp, ExtendedLoad, LoadKind, MemArg, StoreKind, UnaryOp};
use walrus::{FunctionId, GlobalId, LocalId, MemoryId, Module, ModuleLocals};

use super::emit::{Code, Emit, I32, I64, function};
use super::layout::{GENERATED_BYTES, GENERATED_SEQUENCE, Layout};
use super::scratch::Scratch;
use crate::plan::{Sequence, Step, TablePlan};
use crate::shape::Shape;

/// The columns that the current write has filled in, for the module to learn of.
#[derive(Clone, Copy)]
pub(super) struct Generated {
    /// The module's memory.
    pub(super) rows: MemoryId,
    scratch: Scratch,
    /// The list's place.
    at: u32,
    /// How many there are.
    pub(super) count: GlobalId,
}

impl Generated {
    pub(super) fn new(rows: MemoryId, scratch: Scratch, layout: &Layout, count: GlobalId) -> Self {
        Self {
            rows,
            scratch,
            at: layout.generated,
            count,
        }
    }

    /// Remembers the column of `bytes` at `address`, of the sequence of this number.
    fn push(self, code: &mut Code<'_>, address: LocalId, bytes: u32, sequence: u32) {
        for (offset, value) in [(0, None), (4, Some(bytes)), (GENERATED_SEQUENCE, Some(sequence))] {
            self.scratch.at(code, self.at + offset);
            code.global_get(self.count)
                .i32_const(GENERATED_BYTES as i32)
                .binop(BinaryOp::I32Mul)
                .add();
            match value {
                Some(value) => code.i32_const(value as i32),
                None => code.local_get(address),
            };
            code.write32(self.scratch.memory, 0);
        }
        code.global_get(self.count).plus(1).global_set(self.count);
    }

    /// `write_back(row, len_at)`: leaves at `row` the generated columns alone, one behind the other, and their length
    /// at `len_at`, as the host does.
    pub(super) fn add_write_back(self, module: &mut Module) -> FunctionId {
        let (rows, memory) = (self.rows, self.scratch.memory);
        function(module, [I32, I32], &[], |code, [row, len_at], locals| {
            let (entry, to) = (locals.add(I32), locals.add(I32));
            code.local_get(row).local_set(to);
            self.scratch.at(code, self.at);
            code.local_set(entry);
            code.repeat(
                |code| {
                    code.global_get(self.count);
                },
                |code| {
                    code.local_get(to)
                        .local_get(entry)
                        .read32(memory, 0)
                        .local_get(entry)
                        .read32(memory, 4);
                    code.memory_copy(rows, rows);
                    code.local_get(to)
                        .local_get(entry)
                        .read32(memory, 4)
                        .add()
                        .local_set(to);
                    code.advance(entry, GENERATED_BYTES);
                    code.global_get(self.count)
                        .i32_const(1)
                        .binop(BinaryOp::I32Sub)
                        .global_set(self.count);
                },
            );
            code.local_get(len_at)
                .local_get(to)
                .local_get(row)
                .binop(BinaryOp::I32Sub)
                .write32(rows, 0);
        })
    }
}

/// `fill(row)`: gives a table's generated columns their numbers. `takes` holds the functions that hand those out, in
/// the order of the columns, each with the number of its sequence.
pub(super) fn add_fill(
    module: &mut Module,
    generated: Generated,
    table: &TablePlan,
    mut takes: impl Iterator<Item = (FunctionId, u32)>,
) -> FunctionId {
    let memory = generated.rows;
    function(module, [I32], &[], |code, [at], locals| {
        for step in &table.steps {
            match step {
                Step::Skip(shape) => skip(code, memory, at, shape, locals),
                Step::Generate(sequence) => {
                    let Some((take, number)) = takes.next() else {
                        continue;
                    };
                    is_zero(code, memory, at, sequence.bytes);
                    let value = locals.add(I64);
                    code.when(|code| {
                        code.call(take).local_set(value);
                        set(code, memory, at, value, sequence);
                        generated.push(code, at, sequence.bytes, number);
                    });
                    code.advance(at, sequence.bytes);
                }
            }
        }
    })
}

/// Moves `at` behind a value.
pub(super) fn skip(
    code: &mut Code<'_>,
    memory: MemoryId,
    at: LocalId,
    shape: &Shape,
    locals: &mut ModuleLocals,
) {
    match shape {
        Shape::Fixed(bytes) => {
            code.advance(at, *bytes);
        }
        Shape::Counted(bytes) => {
            code.local_get(at)
                .read32(memory, 0)
                .i32_const(*bytes as i32)
                .binop(BinaryOp::I32Mul);
            code.plus(4).local_get(at).add().local_set(at);
        }
        Shape::Array(element) => {
            let left = locals.add(I32);
            code.local_get(at)
                .read32(memory, 0)
                .local_set(left)
                .advance(at, 4);
            code.repeat(
                |code| {
                    code.local_get(left);
                },
                |code| {
                    skip(code, memory, at, element, locals);
                    code.local_get(left)
                        .i32_const(1)
                        .binop(BinaryOp::I32Sub)
                        .local_set(left);
                },
            );
        }
        Shape::Product(parts) => {
            for part in parts {
                skip(code, memory, at, part, locals);
            }
        }
        Shape::Sum(variants) => {
            let tag = locals.add(I32);
            code.local_get(at).read8(memory).local_set(tag).advance(at, 1);
            for (variant, number) in variants.iter().zip(0..) {
                if *variant != Shape::Fixed(0) {
                    code.local_get(tag)
                        .is(number)
                        .when(|code| skip(code, memory, at, variant, locals));
                }
            }
        }
    }
}

/// Pushes whether the integer of `bytes` at `at` is 0.
fn is_zero(code: &mut Code<'_>, memory: MemoryId, at: LocalId, bytes: u32) {
    get(code, memory, at, bytes);
    for word in 1..bytes / 8 {
        code.local_get(at).read64(memory, word * 8).binop(BinaryOp::I64Or);
    }
    code.unop(UnaryOp::I64Eqz);
}

/// Pushes the lowest 64 bits of the integer of `bytes` at `at`.
pub(super) fn get(code: &mut Code<'_>, memory: MemoryId, at: LocalId, bytes: u32) {
    let kind = ExtendedLoad::ZeroExtend;
    let narrow = match bytes {
        1 => LoadKind::I64_8 { kind },
        2 => LoadKind::I64_16 { kind },
        4 => LoadKind::I64_32 { kind },
        _ => LoadKind::I64 { atomic: false },
    };
    code.local_get(at)
        .load(memory, narrow, MemArg { align: 1, offset: 0 });
}

/// Writes a number as the column's type: cut off, or with its sign carried on, as the host does.
pub(super) fn set(code: &mut Code<'_>, memory: MemoryId, at: LocalId, value: LocalId, sequence: &Sequence) {
    let narrow = match sequence.bytes {
        1 => StoreKind::I64_8 { atomic: false },
        2 => StoreKind::I64_16 { atomic: false },
        4 => StoreKind::I64_32 { atomic: false },
        _ => StoreKind::I64 { atomic: false },
    };
    code.local_get(at)
        .local_get(value)
        .store(memory, narrow, MemArg { align: 1, offset: 0 });
    for word in 1..sequence.bytes / 8 {
        code.local_get(at)
            .local_get(value)
            .i64_const(63)
            .binop(BinaryOp::I64ShrS)
            .write64(memory, word * 8);
    }
}
