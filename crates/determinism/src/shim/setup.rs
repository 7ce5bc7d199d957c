//! The first call in an instance: the shim's memory, and the ids that the server has given to tables and indexes.

use walrus::ir::BinaryOp;
use walrus::{DataKind, FunctionId, LocalId, Module};

use super::emit::{Code, Emit, I32, function};
use super::host::Host;
use super::layout::{IMAGE, Layout, OUT, SLOT_BYTES};
use super::scratch::Scratch;

/// The size of a WASM page in bytes.
pub(super) const PAGE_BYTES: usize = 65_536;

/// `setup()`.
pub(super) fn add(module: &mut Module, host: Host, scratch: Scratch, layout: &Layout) -> FunctionId {
    let memory = scratch.memory;
    let image = module.data.add(DataKind::Passive, layout.image.clone());
    let image_bytes = layout.image.len();
    let pages = (IMAGE as usize + image_bytes).div_ceil(PAGE_BYTES);
    let register = add_register(module, scratch, layout);
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
            code.i32_const(ordinal).call(register);
        }
    })
}

/// `register(id, ordinal)`: into the first free slot from the id's own on.
fn add_register(module: &mut Module, scratch: Scratch, layout: &Layout) -> FunctionId {
    let (slots, mask) = (layout.slots, layout.slots_mask);
    function(module, [I32, I32], &[], |code, [id, ordinal], locals| {
        let at = locals.add(I32);
        code.local_get(id).local_set(at);
        code.repeat(
            |code| {
                slot(code, scratch, at, slots, mask);
                code.read32(scratch.memory, 0);
            },
            |code| {
                code.advance(at, 1);
            },
        );
        slot(code, scratch, at, slots, mask);
        code.local_get(id).write32(scratch.memory, 0);
        slot(code, scratch, at, slots, mask);
        code.local_get(ordinal).write32(scratch.memory, 4);
    })
}

/// `ordinal(table_id) -> ordinal`: traps for a table that the module does not define.
pub(super) fn add_ordinal(module: &mut Module, scratch: Scratch, layout: &Layout) -> FunctionId {
    let (slots, mask) = (layout.slots, layout.slots_mask);
    function(module, [I32], &[I32], |code, [id], locals| {
        let (at, found) = (locals.add(I32), locals.add(I32));
        code.local_get(id).local_set(at);
        code.repeat(
            |code| {
                slot(code, scratch, at, slots, mask);
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
        slot(code, scratch, at, slots, mask);
        code.read32(scratch.memory, 4);
    })
}

/// Pushes the address of the slot at `at`, round and round.
fn slot(code: &mut Code<'_>, scratch: Scratch, at: LocalId, slots: u32, mask: u32) {
    scratch.at(code, slots);
    code.local_get(at).i32_const(mask as i32).binop(BinaryOp::I32And);
    code.i32_const(SLOT_BYTES as i32).binop(BinaryOp::I32Mul).add();
}
