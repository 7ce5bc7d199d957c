//! The entries of collected rows: a walk over each finds its end and its key.

use walrus::ir::{BinaryOp, LoadKind, MemArg};
use walrus::{FunctionId, LocalId, Module, ModuleLocals};

use super::super::emit::{Code, Emit, I32, I64, function};
use super::super::walk::skip;
use super::arena::{Arena, END, ENTRY_BYTES, ENTRY_LEN, ENTRY_ROW};
use super::sort;
use crate::meter::Meter;
use crate::order::{Part, Sorting};
use crate::plan::Plan;

/// What the lists of all sortings share.
#[derive(Clone, Copy)]
struct Lister {
    arena: Arena,
    hash: FunctionId,
    same: FunctionId,
    sort: FunctionId,
}

/// `list(sorting, at, end, to) -> to`: the sorted entries of the rows from `at` to `end`, and the end of the entries.
pub(super) fn add(module: &mut Module, arena: Arena, plan: &Plan, meter: Meter) -> FunctionId {
    let lister = Lister {
        arena,
        hash: sort::add_hash(module, arena),
        same: sort::add_same(module, arena),
        sort: sort::add_sort(module, arena, meter),
    };
    let lists: Vec<_> = plan
        .sortings()
        .map(|sorting| lister.add(module, sorting))
        .collect();
    function(module, [I32; 4], &[I32], |code, [sorting, at, end, to], _| {
        for (list, number) in lists.into_iter().zip(1..) {
            code.local_get(sorting).is(number).when(|code| {
                code.local_get(at)
                    .local_get(end)
                    .local_get(to)
                    .call(list)
                    .return_();
            });
        }
        code.unreachable();
    })
}

/// A part of the key, in the current row and in the one before.
struct Key {
    at: LocalId,
    len: LocalId,
    before: LocalId,
    before_len: LocalId,
}

impl Lister {
    /// `list(at, end, to) -> to`. Rows of one key stand together as the host gives them, and are sorted at its end.
    fn add(self, module: &mut Module, sorting: &Sorting) -> FunctionId {
        let memory = self.arena.memory;
        let keyed = sorting.0.iter().any(|part| !matches!(part, Part::Other(_)));
        function(module, [I32; 3], &[I32], |code, [at, end, to], locals| {
            let (row, first, hash) = (locals.add(I32), locals.add(I32), locals.add(I64));
            let differs = locals.add(I32);
            code.local_get(to).local_set(first);
            code.repeat(
                |code| {
                    code.local_get(at).local_get(end).less();
                },
                |code| {
                    code.local_get(to).i32_const((END - ENTRY_BYTES) as i32);
                    code.binop(BinaryOp::I32GtU).trap_if();
                    code.local_get(to).plus(ENTRY_BYTES).call(self.arena.reserve);
                    code.local_get(at).local_set(row);
                    code.i32_const(0).local_set(differs);
                    for part in &sorting.0 {
                        self.walk(code, part, at, differs, locals);
                    }
                    if keyed {
                        code.local_get(differs).when(|code| {
                            code.local_get(first).local_get(to).call(self.sort);
                            code.local_get(to).local_set(first);
                        });
                    }
                    let len = |code: &mut Code<'_>| {
                        code.local_get(at).local_get(row).sub();
                    };
                    code.local_get(row);
                    len(code);
                    code.call(self.hash).local_set(hash);
                    code.local_get(to).local_get(hash).write64(memory, 0);
                    code.local_get(to).local_get(row).write32(memory, ENTRY_ROW);
                    code.local_get(to);
                    len(code);
                    code.write32(memory, ENTRY_LEN);
                    code.advance(to, ENTRY_BYTES);
                },
            );
            code.local_get(at).local_get(end).binop(BinaryOp::I32Ne).trap_if();
            code.local_get(first).local_get(to).call(self.sort);
            code.local_get(to);
        })
    }

    /// Moves `at` behind a part of a row, and sets `differs` if it is of the key and differs from the row before.
    fn walk(
        self,
        code: &mut Code<'_>,
        part: &Part,
        at: LocalId,
        differs: LocalId,
        locals: &mut ModuleLocals,
    ) {
        let memory = self.arena.memory;
        let (shape, float) = match part {
            Part::Other(shape) => return skip(code, memory, at, shape, locals),
            Part::Key(shape) => (shape.clone(), false),
            Part::Float(bytes) => (crate::shape::Shape::Fixed(*bytes), true),
        };
        let key = Key {
            at: locals.add(I32),
            len: locals.add(I32),
            before: locals.add(I32),
            before_len: locals.add(I32),
        };
        code.local_get(at).local_set(key.at);
        skip(code, memory, at, &shape, locals);
        code.local_get(at).local_get(key.at).sub().local_set(key.len);
        // A length of 0 is no row before: then nothing is listed yet, and nothing is sorted.
        code.local_get(key.len)
            .local_get(key.before_len)
            .binop(BinaryOp::I32Eq);
        code.if_else(
            I32,
            |code| match float {
                true => same_float(code, self.arena, &key, &shape),
                false => {
                    code.local_get(key.at)
                        .local_get(key.before)
                        .local_get(key.len)
                        .call(self.same);
                }
            },
            |code| {
                code.i32_const(0);
            },
        );
        code.is_zero()
            .local_get(differs)
            .binop(BinaryOp::I32Or)
            .local_set(differs);
        code.local_get(key.at).local_set(key.before);
        code.local_get(key.len).local_set(key.before_len);
    }
}

/// Pushes whether a key's float is that of the row before: equal, or neither of them a number.
fn same_float(code: &mut Code<'_>, arena: Arena, key: &Key, shape: &crate::shape::Shape) {
    let (kind, equal) = match shape.fixed() {
        Some(4) => (LoadKind::F32, BinaryOp::F32Eq),
        _ => (LoadKind::F64, BinaryOp::F64Eq),
    };
    let get = |code: &mut Code<'_>, at: LocalId| {
        let place = MemArg { align: 1, offset: 0 };
        code.local_get(at).load(arena.memory, kind, place);
    };
    let compare = |code: &mut Code<'_>, a: LocalId, b: LocalId| {
        get(code, a);
        get(code, b);
        code.binop(equal);
    };
    compare(code, key.at, key.before);
    compare(code, key.at, key.at);
    compare(code, key.before, key.before);
    code.binop(BinaryOp::I32Or).is_zero();
    code.binop(BinaryOp::I32Or);
}
