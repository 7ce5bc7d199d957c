//! `rtdb_load`: rows as they are, into a database that nothing has been applied to. The row of `rtdb_state` comes last.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, Module};

use super::emit::{Emit, I32, function};
use super::host::Host;
use super::layout::*;
use super::window::Window;
use crate::reset::Reset;

/// `load(source)`: `table: String, rows: Vec<Vec<u8>>`. The module does not run in this call: all of its memory is free.
pub(super) fn add(
    module: &mut Module,
    host: Host,
    window: Window,
    reset: Reset,
    read: FunctionId,
) -> FunctionId {
    let scratch = window.seen;
    let room = reset.add_room(module);
    function(module, [I32], &[], |code, [source], locals| {
        let (rows, len) = (locals.add(I32), locals.add(I32));
        window.mark(code, WINDOW_END);
        let read_argument = |code: &mut super::emit::Code<'_>| {
            code.local_get(source);
            scratch.at(code, ARGUMENT);
            code.i32_const(4).call(read).local_set(source);
            scratch.get32(code, ARGUMENT);
        };
        read_argument(code);
        code.local_tee(len)
            .i32_const(NAME_BYTES_MAX as i32)
            .binop(BinaryOp::I32GtU)
            .trap_if();
        code.local_get(source);
        scratch.at(code, NAME);
        code.local_get(len).call(read).local_set(source);
        scratch.at(code, NAME);
        code.local_get(len);
        scratch.at(code, ARGUMENT);
        code.call(host.table_id).must();
        let table = locals.add(I32);
        scratch.get32(code, ARGUMENT);
        code.local_set(table);

        read_argument(code);
        code.local_set(rows);
        code.repeat(
            |code| {
                code.local_get(rows);
            },
            |code| {
                read_argument(code);
                code.local_set(len);
                scratch.at(code, WINDOW_END);
                code.local_get(len).call(room);
                code.local_get(source);
                scratch.at(code, WINDOW_END);
                code.local_get(len).call(read).local_set(source);
                scratch.set32(code, LEN, len);
                code.local_get(table);
                scratch.at(code, WINDOW_END);
                scratch.at(code, LEN);
                code.call(host.insert).must();
                code.local_get(rows)
                    .i32_const(1)
                    .binop(BinaryOp::I32Sub)
                    .local_set(rows);
            },
        );
    })
}
