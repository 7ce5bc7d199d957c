//! The ids that the module sees. Those that a server gives to tables and indexes depend on what else it has given ids to,
//! and on how often it was started: the module gets numbers that depend on its definition alone, and host functions the
//! server's ids in their place.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, Module};

use super::emit::{Code, Emit, I32, function};
use super::layout::{INDEX_BYTES, INDEX_SORTING, Layout, Map, SLOT_BYTES, TABLE_BYTES};
use super::scratch::Scratch;

/// The translation, both ways. The module counts its tables and its indexes from 1.
#[derive(Clone, Copy)]
pub(super) struct Ids {
    scratch: Scratch,
    tables: u32,
    indexes: u32,
    /// `ordinal(table) -> ordinal`: traps for what the module does not define, as do the others.
    ordinal: FunctionId,
    /// `place(index) -> address`: where the index is described.
    place: FunctionId,
    /// `known_table(id) -> table`: of a server's id; 0 if it is none of the module's tables.
    pub(super) known_table: FunctionId,
    /// `known_index(id) -> index`: the same.
    pub(super) known_index: FunctionId,
}

impl Ids {
    pub(super) fn add(module: &mut Module, scratch: Scratch, layout: &Layout) -> Self {
        let (tables, indexes) = (layout.table_ids, layout.index_ids);
        let ours = u32::from(layout.has_ours);
        Self {
            scratch,
            tables,
            indexes,
            ordinal: add_ordinal(module, layout.tables.len() as u32 - ours),
            place: add_place(module, scratch, indexes, layout.indexes.len() as u32 - ours),
            known_table: add_find(module, scratch, layout.known_tables),
            known_index: add_find(module, scratch, layout.known_indexes),
        }
    }

    /// Knows the last table, too, which is none of the module's.
    pub(super) fn with_ours(self, module: &mut Module, layout: &Layout) -> Self {
        Self {
            ordinal: add_ordinal(module, layout.tables.len() as u32),
            ..self
        }
    }

    /// Pops a table, pushes its ordinal.
    pub(super) fn ordinal(self, code: &mut Code<'_>) {
        code.call(self.ordinal);
    }

    /// Puts the server's id in the place of a table, and sets `ordinal`.
    pub(super) fn table(self, code: &mut Code<'_>, table: LocalId, ordinal: LocalId) {
        code.local_get(table);
        self.ordinal(code);
        code.local_tee(ordinal)
            .i32_const(TABLE_BYTES as i32)
            .binop(BinaryOp::I32Mul)
            .read32(self.scratch.memory, self.scratch.base + self.tables)
            .local_set(table);
    }

    /// Pushes the address where an index is described.
    pub(super) fn describe(self, code: &mut Code<'_>, index: LocalId) {
        code.local_get(index).call(self.place);
    }

    /// Puts the server's id in the place of an index.
    pub(super) fn index(self, code: &mut Code<'_>, index: LocalId) {
        code.local_get(index)
            .call(self.place)
            .read32(self.scratch.memory, 0)
            .local_set(index);
    }

    /// The same, and sets `sorting`.
    pub(super) fn index_and_sorting(self, code: &mut Code<'_>, index: LocalId, sorting: LocalId) {
        let memory = self.scratch.memory;
        code.local_get(index).call(self.place).local_tee(sorting);
        code.read32(memory, 0).local_set(index);
        code.local_get(sorting)
            .read32(memory, INDEX_SORTING)
            .local_set(sorting);
    }

    /// Stores a server's id, which a local holds, as that of the table of this ordinal.
    pub(super) fn set_table(self, code: &mut Code<'_>, ordinal: u32, id: LocalId) {
        self.scratch.set32(code, self.tables + ordinal * TABLE_BYTES, id);
    }

    /// The same for the index at this place.
    pub(super) fn set_index(self, code: &mut Code<'_>, place: u32, id: LocalId) {
        self.scratch.set32(code, self.indexes + place * INDEX_BYTES, id);
    }
}

fn add_ordinal(module: &mut Module, tables: u32) -> FunctionId {
    function(module, [I32], &[I32], |code, [table], _| {
        from_zero(code, table, tables);
        code.local_get(table);
    })
}

fn add_place(module: &mut Module, scratch: Scratch, indexes: u32, count: u32) -> FunctionId {
    function(module, [I32], &[I32], |code, [index], _| {
        from_zero(code, index, count);
        code.local_get(index)
            .i32_const(INDEX_BYTES as i32)
            .binop(BinaryOp::I32Mul)
            .plus(scratch.base + indexes);
    })
}

/// Counts from 0 what the module counts from 1. Traps if there are not so many.
fn from_zero(code: &mut Code<'_>, id: LocalId, count: u32) {
    code.local_get(id).i32_const(1).sub().local_tee(id);
    code.i32_const(count as i32).binop(BinaryOp::I32GeU).trap_if();
}

/// `register(id, value)`: into the first free slot from the id's own on. Traps if the id is there already.
pub(super) fn add_register(module: &mut Module, scratch: Scratch, map: Map) -> FunctionId {
    function(module, [I32, I32], &[], |code, [id, value], locals| {
        let (at, found) = (locals.add(I32), locals.add(I32));
        code.local_get(id).local_set(at);
        code.repeat(
            |code| {
                slot(code, scratch, at, map);
                code.read32(scratch.memory, 0).local_tee(found);
            },
            |code| {
                code.local_get(found)
                    .local_get(id)
                    .binop(BinaryOp::I32Eq)
                    .trap_if();
                code.advance(at, 1);
            },
        );
        slot(code, scratch, at, map);
        code.local_get(id).write32(scratch.memory, 0);
        slot(code, scratch, at, map);
        code.local_get(value).write32(scratch.memory, 4);
    })
}

/// `find(id) -> value`: 0 if it is not there.
fn add_find(module: &mut Module, scratch: Scratch, map: Map) -> FunctionId {
    function(module, [I32], &[I32], |code, [id], locals| {
        let (at, found) = (locals.add(I32), locals.add(I32));
        code.local_get(id).local_set(at);
        code.repeat(
            |code| {
                slot(code, scratch, at, map);
                code.read32(scratch.memory, 0)
                    .local_tee(found)
                    .is_zero()
                    .when(|code| {
                        code.i32_const(0).return_();
                    });
                code.local_get(found).local_get(id).binop(BinaryOp::I32Ne);
            },
            |code| {
                code.advance(at, 1);
            },
        );
        slot(code, scratch, at, map);
        code.read32(scratch.memory, 4);
    })
}

/// Pushes the address of the slot at `at`, round and round.
fn slot(code: &mut Code<'_>, scratch: Scratch, at: LocalId, map: Map) {
    scratch.at(code, map.slots);
    code.local_get(at)
        .i32_const(map.mask as i32)
        .binop(BinaryOp::I32And);
    code.i32_const(SLOT_BYTES as i32).binop(BinaryOp::I32Mul).add();
}
