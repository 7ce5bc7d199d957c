//! The first call in an instance: the shim's memory, and the ids that the server has given to tables and indexes.

use walrus::ir::BinaryOp;
use walrus::{DataKind, FunctionId, LocalId, Module};

use super::emit::{Code, Emit, I32, function};
use super::host::Host;
use super::layout::{IMAGE, Layout, Map, OUT, SLOT_BYTES};
use super::scratch::Scratch;

/// The size of a WASM page in bytes.
pub(super) const PAGE_BYTES: usize = 65_536;

/// `setup()`.
pub(super) fn add(module: &mut Module, host: Host, scratch: Scratch, layout: &Layout) -> FunctionId {
    let memory = scratch.memory;
    let image = module.data.add(DataKind::Passive, layout.image.clone());
    let image_bytes = layout.image.len();
    let pages = (IMAGE as usize + image_bytes).div_ceil(PAGE_BYTES);
    let ordinals = add_register(module, scratch, layout.ordinals);
    let sortings = add_register(module, scratch, layout.sortings);
    function(module, [], &[], |code, [], locals| {
        let page = locals.add(I32);
        code.i32_const(pages as i32);
        scratch.grow(code, page);
        code.global_set(scratch.base);
        scratch.at(code, IMAGE);
        code.i32_const(0)
            .i32_const(image_bytes as i32)
            .memory_init(memory, image);
        let lookups = [
            (host.table_id, layout.hidden_tables),
            (host.index_id, layout.hidden_indexes),
        ];
        for (lookup, names) in lookups {
            for (name, id_at) in names {
                scratch.at(code, name.at);
                code.i32_const(name.bytes as i32);
                scratch.at(code, id_at);
                code.call(lookup).must();
            }
        }
        for (name, ordinal) in layout.tables.iter().zip(0..) {
            scratch.at(code, name.at);
            code.i32_const(name.bytes as i32);
            scratch.at(code, OUT);
            code.call(host.table_id).must();
            scratch.get32(code, OUT);
            code.i32_const(ordinal).call(ordinals);
        }
        for index in &layout.indexes {
            scratch.at(code, index.name.at);
            code.i32_const(index.name.bytes as i32);
            scratch.at(code, OUT);
            code.call(host.index_id).must();
            if let Some(order) = index.order {
                scratch.at(code, order);
                scratch.get32(code, OUT);
                code.write32(memory, 0);
            }
            scratch.get32(code, OUT);
            code.i32_const(index.sorting as i32).call(sortings);
        }
    })
}

/// `register(id, value)`: into the first free slot from the id's own on. Traps if the id is there already.
fn add_register(module: &mut Module, scratch: Scratch, map: Map) -> FunctionId {
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

/// `find(id) -> value`: traps for what the module does not define.
pub(super) fn add_find(module: &mut Module, scratch: Scratch, map: Map) -> FunctionId {
    function(module, [I32], &[I32], |code, [id], locals| {
        let (at, found) = (locals.add(I32), locals.add(I32));
        code.local_get(id).local_set(at);
        code.repeat(
            |code| {
                slot(code, scratch, at, map);
                code.read32(scratch.memory, 0)
                    .local_tee(found)
                    .is_zero()
                    .trap_if();
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
