//! `rtdb_state` and `rtdb_session`: what has been applied, and who is told; and what ends with a session.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, Module};

use super::emit::{Code, Emit, I32, function};
use super::host::Host;
use super::layout::*;
use super::window::Window;
use crate::abi;
use crate::header;

/// The functions that fetch and put hidden rows.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    window: Window,
    /// `fetch(table_id, row, room) -> bytes`.
    fetch: FunctionId,
    /// `put(bytes, table_id, index_id, row)`.
    put: FunctionId,
}

impl Rows {
    pub(super) fn add(module: &mut Module, host: Host, window: Window) -> Self {
        Self {
            window,
            fetch: add_fetch(module, host, window),
            put: add_put(module, host, window),
        }
    }

    /// Fetches a table's only row into the window, and pushes its length. If there is none, that is 0, and so are all
    /// columns.
    pub(super) fn fetch(self, code: &mut Code<'_>, row: Row) {
        self.window.own.get32(code, row.table_id);
        self.window.seen.at(code, row.at);
        code.i32_const((row.end - row.at) as i32).call(self.fetch);
    }

    /// Pops the length of a row in the window; puts it in the place of the one with its key, or as a new one.
    pub(super) fn put(self, code: &mut Code<'_>, row: Row) {
        self.window.own.get32(code, row.table_id);
        self.window.own.get32(code, row.index_id);
        self.window.seen.at(code, row.at);
        code.call(self.put);
    }

    /// The same, for a row that fills its room.
    fn put_whole(self, code: &mut Code<'_>, row: Row) {
        code.i32_const((row.end - row.at) as i32);
        self.put(code, row);
    }
}

fn add_fetch(module: &mut Module, host: Host, window: Window) -> FunctionId {
    let scratch = window.seen;
    function(module, [I32; 3], &[I32], |code, [table, row, room], _| {
        code.local_get(table);
        scratch.at(code, OUT);
        code.call(host.scan).must();
        scratch.set32(code, LEN, room);
        scratch.get32(code, OUT);
        code.local_get(row);
        scratch.at(code, LEN);
        code.call(host.advance)
            .i32_const(abi::EXHAUSTED)
            .binop(BinaryOp::I32Ne)
            .trap_if();
        scratch.get32(code, LEN);
        code.is_zero().when(|code| {
            code.local_get(row)
                .i32_const(0)
                .local_get(room)
                .memory_fill(scratch.memory);
        });
        scratch.get32(code, LEN);
    })
}

fn add_put(module: &mut Module, host: Host, window: Window) -> FunctionId {
    let scratch = window.seen;
    function(
        module,
        [I32; 4],
        &[],
        |code, [bytes, table, index, row], locals| {
            let errno = locals.add(I32);
            scratch.set32(code, LEN, bytes);
            code.local_get(table).local_get(index).local_get(row);
            scratch.at(code, LEN);
            code.call(host.update)
                .local_tee(errno)
                .is(abi::NO_SUCH_ROW)
                .when(|code| {
                    scratch.set32(code, LEN, bytes);
                    code.local_get(table).local_get(row);
                    scratch.at(code, LEN);
                    code.call(host.insert).local_set(errno);
                });
            code.local_get(errno).must();
        },
    )
}

/// The functions that keep `rtdb_state` and `rtdb_session`.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// `read() -> present`: fetches the row of `rtdb_state` into the window; all zeros if there is none.
    pub(super) read: FunctionId,
    /// `write()`: writes it back from there.
    pub(super) write: FunctionId,
    /// `receipt()`: tells the call's session that the call is applied.
    pub(super) receipt: FunctionId,
    /// `forget()`: deletes the receipt and the claims of the call's session.
    pub(super) forget: FunctionId,
}

impl State {
    pub(super) fn add(module: &mut Module, host: Host, window: Window, rows: Rows) -> Self {
        Self {
            read: function(module, [], &[I32], |code, [], _| rows.fetch(code, STATE_ROW)),
            write: function(module, [], &[], |code, [], _| rows.put_whole(code, STATE_ROW)),
            receipt: add_receipt(module, window, rows),
            forget: add_forget(module, host, window),
        }
    }
}

fn add_receipt(module: &mut Module, window: Window, rows: Rows) -> FunctionId {
    let scratch = window.seen;
    function(module, [], &[], |code, [], _| {
        scratch.set64(code, RECEIPT, |code| {
            scratch.get64(code, HEADER + header::SESSION_AT)
        });
        scratch.set64(code, RECEIPT + 8, |code| {
            scratch.get64(code, HEADER + header::INDEX_AT)
        });
        rows.put_whole(code, SESSION_ROW);
    })
}

fn add_forget(module: &mut Module, host: Host, window: Window) -> FunctionId {
    let scratch = window.seen;
    function(module, [], &[], |code, [], _| {
        scratch.at(code, BOUND);
        code.i32_const(0).write8(scratch.memory);
        scratch.set64(code, BOUND_KEY, |code| {
            scratch.get64(code, HEADER + header::SESSION_AT)
        });
        for row in [SESSION_ROW, CLAIMS_ROW] {
            // No prefix, the same bound twice.
            window.own.get32(code, row.index_id);
            scratch.at(code, BOUND);
            code.i32_const(0).i32_const(0);
            for _ in 0..2 {
                scratch.at(code, BOUND);
                code.i32_const(BOUND_BYTES as i32);
            }
            scratch.at(code, OUT);
            code.call(host.delete_range).must();
        }
    })
}
