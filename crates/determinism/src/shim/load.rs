//! `rtdb_load`: rows as they are, into a database that nothing has been applied to. The row of `rtdb_state` comes last.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, Module};

use super::emit::{Emit, I32, function, global};
use super::host::Host;
use super::layout::*;
use super::scratch::Scratch;
use super::setup::PAGE_BYTES;

/// `load(source)`: `table: String, rows: Vec<Vec<u8>>`.
pub(super) fn add(module: &mut Module, host: Host, scratch: Scratch, read: FunctionId) -> FunctionId {
    let room = add_room(module, scratch);
    function(module, [I32], &[], |code, [source], locals| {
        let [rows, row, len] = [locals.add(I32), locals.add(I32), locals.add(I32)];
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
                code.local_tee(len).call(room).local_set(row);
                code.local_get(source)
                    .local_get(row)
                    .local_get(len)
                    .call(read)
                    .local_set(source);
                scratch.set32(code, LEN, len);
                code.local_get(table).local_get(row);
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

/// `room(bytes) -> address`: of the one buffer, which is replaced by a bigger one as needed.
fn add_room(module: &mut Module, scratch: Scratch) -> FunctionId {
    let (buffer, capacity) = (global(module, I32), global(module, I32));
    function(module, [I32], &[I32], |code, [bytes], locals| {
        let page = locals.add(I32);
        code.local_get(bytes)
            .global_get(capacity)
            .binop(BinaryOp::I32GtU)
            .when(|code| {
                code.local_get(bytes)
                    .i32_const(16)
                    .binop(BinaryOp::I32ShrU)
                    .plus(1)
                    .local_tee(page);
                code.i32_const(PAGE_BYTES as i32)
                    .binop(BinaryOp::I32Mul)
                    .global_set(capacity);
                code.local_get(page);
                scratch.grow(code, page);
                code.global_set(buffer);
            });
        code.global_get(buffer);
    })
}
