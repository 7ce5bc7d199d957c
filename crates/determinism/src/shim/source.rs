//! Reading a call's arguments.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, Module};

use super::emit::{Emit, I32, function};
use super::host::Host;
use super::layout::LEN;
use super::window::Window;
use crate::abi;

/// `read(source, to, len) -> source`: into the module's memory, exactly `len` bytes, however many pieces they come in. Traps if there are fewer.
/// What it returns is 0 once the source is exhausted, because the host has closed it: 0 is the empty source.
pub(super) fn add(module: &mut Module, host: Host, window: Window) -> FunctionId {
    let scratch = window.seen;
    function(
        module,
        [I32, I32, I32],
        &[I32],
        |code, [source, to, len], locals| {
            let result = locals.add(I32);
            code.repeat(
                |code| {
                    code.local_get(len);
                },
                |code| {
                    scratch.set32(code, LEN, len);
                    code.local_get(source).local_get(to);
                    scratch.at(code, LEN);
                    code.call(host.source_read).local_tee(result).when(|code| {
                        code.local_get(result)
                            .i32_const(abi::EXHAUSTED)
                            .binop(BinaryOp::I32Ne)
                            .trap_if();
                        code.i32_const(0).local_set(source);
                    });
                    scratch.get32(code, LEN);
                    code.local_get(to).add().local_set(to);
                    code.local_get(len);
                    scratch.get32(code, LEN);
                    code.binop(BinaryOp::I32Sub).local_set(len);
                },
            );
            code.local_get(source);
        },
    )
}
