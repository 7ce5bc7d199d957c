//! `rtdb_apply`: rows are deleted and inserted as the call says, by the way of the module's own writes.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, Module};

use super::emit::{Code, Emit, I32, function};
use super::host::Host;
use super::layout::*;
use super::window::Window;
use super::write::Writes;
use crate::abi;
use crate::reset::Reset;

/// `apply(source) -> errno`: what [`encode_changes`](crate::encode_changes) wrote, behind its length. Not 0 if a row has a
/// unique value that is taken; whatever else does not go as it should traps. The module does not run in this call: all of
/// its memory is free.
pub(super) fn add(
    module: &mut Module,
    host: Host,
    window: Window,
    reset: Reset,
    writes: Writes,
    read: FunctionId,
) -> FunctionId {
    let scratch = window.seen;
    let delete = writes.add_delete_equal(module, host.delete_equal);
    let insert = writes.add_insert(module, host.insert);
    let room = reset.add_room(module);
    function(module, [I32], &[I32], |code, [source], locals| {
        let [operations, rows, table, len, errno] = [(); 5].map(|()| locals.add(I32));
        let read_number = |code: &mut Code<'_>, to: LocalId| {
            code.local_get(source);
            scratch.at(code, ARGUMENT);
            code.i32_const(4).call(read).local_set(source);
            scratch.get32(code, ARGUMENT);
            code.local_set(to);
        };
        // Sets `len`, and leaves the bytes behind the window.
        let read_bytes = |code: &mut Code<'_>| {
            read_number(code, len);
            scratch.at(code, WINDOW_END);
            code.local_get(len).call(room);
            code.local_get(source);
            scratch.at(code, WINDOW_END);
            code.local_get(len).call(read).local_set(source);
        };
        window.mark(code, WINDOW_END);
        read_number(code, len);
        read_number(code, operations);
        code.repeat(
            |code| {
                code.local_get(operations);
            },
            |code| {
                read_number(code, table);
                read_bytes(code);
                code.local_get(len).when(|code| {
                    code.local_get(table);
                    scratch.at(code, WINDOW_END);
                    code.local_get(len);
                    scratch.at(code, OUT);
                    code.call(delete).must();
                    // All rows that were meant were there: they are counted before they follow.
                    scratch.get32(code, OUT);
                    scratch.get32(code, WINDOW_END);
                    code.binop(BinaryOp::I32Ne).trap_if();
                });
                read_number(code, rows);
                code.repeat(
                    |code| {
                        code.local_get(rows);
                    },
                    |code| {
                        read_bytes(code);
                        scratch.set32(code, LEN, len);
                        code.local_get(table);
                        scratch.at(code, WINDOW_END);
                        scratch.at(code, LEN);
                        code.call(insert).local_tee(errno).when(|code| {
                            code.local_get(errno)
                                .i32_const(abi::UNIQUE_ALREADY_EXISTS)
                                .binop(BinaryOp::I32Ne)
                                .trap_if();
                            code.local_get(errno).return_();
                        });
                        code.local_get(rows).i32_const(1).sub().local_set(rows);
                    },
                );
                code.local_get(operations)
                    .i32_const(1)
                    .sub()
                    .local_set(operations);
            },
        );
        code.i32_const(0);
    })
}
