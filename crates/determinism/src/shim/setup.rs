//! The first call in an instance: the ids that the server has given to tables and indexes.

use walrus::ir::{BinaryOp, Value};
use walrus::{ConstExpr, DataKind, FunctionId, LocalId, Module};

use super::emit::{Code, Emit, I32, function};
use super::host::Host;
use super::layout::{Layout, Map, NAME, Name, OUT, SLOT_BYTES, VARIABLE, WINDOW_END};
use super::scratch::Scratch;
use super::window::Window;
use crate::reset::Reset;

/// `setup()`.
pub(super) fn add(
    module: &mut Module,
    host: Host,
    window: Window,
    reset: Reset,
    layout: &Layout,
) -> FunctionId {
    let scratch = window.own;
    let offset = ConstExpr::Value(Value::I32((scratch.base + VARIABLE) as i32));
    let place = DataKind::Active {
        memory: scratch.memory,
        offset,
    };
    module.data.add(place, layout.initial.clone());
    let ordinals = add_register(module, scratch, layout.ordinals);
    let sortings = add_register(module, scratch, layout.sortings);
    function(module, [], &[], |code, [], locals| {
        let id = locals.add(I32);
        reset.require_image(code);
        let lookups = [
            (host.table_id, &layout.hidden_tables),
            (host.index_id, &layout.hidden_indexes),
        ];
        for (lookup, names) in lookups {
            for &(name, id_at) in names {
                look_up(code, window, lookup, name);
                code.local_set(id);
                scratch.set32(code, id_at, id);
            }
        }
        for (name, ordinal) in layout.tables.iter().zip(0..) {
            look_up(code, window, host.table_id, *name);
            code.i32_const(ordinal).call(ordinals);
        }
        for index in &layout.indexes {
            look_up(code, window, host.index_id, index.name);
            code.local_set(id);
            for place in &index.places {
                scratch.set32(code, *place, id);
            }
            code.local_get(id).i32_const(index.sorting as i32).call(sortings);
        }
        window.restore(code, WINDOW_END);
    })
}

/// Pushes the id that goes by a name.
fn look_up(code: &mut Code<'_>, window: Window, lookup: FunctionId, name: Name) {
    window.show_name(code, name);
    window.seen.at(code, NAME);
    code.i32_const(name.bytes as i32);
    window.seen.at(code, OUT);
    code.call(lookup).must();
    window.seen.get32(code, OUT);
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
