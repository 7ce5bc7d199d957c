//! The first call in an instance: the ids that the server has given to tables and indexes.

use walrus::ir::Value;
use walrus::{ConstExpr, DataKind, FunctionId, Module};

use super::emit::{Code, Emit, I32, function};
use super::host::Host;
use super::ids::{Ids, add_register};
use super::layout::{Layout, NAME, Name, OUT, VARIABLE, WINDOW_END};
use super::window::Window;
use crate::reset::Reset;

/// `setup()`.
pub(super) fn add(
    module: &mut Module,
    host: Host,
    window: Window,
    reset: Reset,
    layout: &Layout,
    ids: Ids,
) -> FunctionId {
    let scratch = window.own;
    let offset = ConstExpr::Value(Value::I32((scratch.base + VARIABLE) as i32));
    let place = DataKind::Active {
        memory: scratch.memory,
        offset,
    };
    module.data.add(place, layout.initial.clone());
    let ours = usize::from(layout.has_ours);
    let know_table = add_register(module, scratch, layout.known_tables);
    let know_index = add_register(module, scratch, layout.known_indexes);
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
            code.local_set(id);
            ids.set_table(code, ordinal, id);
            if (ordinal as usize) < layout.tables.len() - ours {
                code.local_get(id).i32_const(ordinal as i32 + 1).call(know_table);
            }
        }
        for (index, place) in layout.indexes.iter().zip(0..) {
            look_up(code, window, host.index_id, index.name);
            code.local_set(id);
            ids.set_index(code, place, id);
            for place in &index.places {
                scratch.set32(code, *place, id);
            }
            if (place as usize) < layout.indexes.len() - ours {
                code.local_get(id).i32_const(place as i32 + 1).call(know_index);
            }
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
