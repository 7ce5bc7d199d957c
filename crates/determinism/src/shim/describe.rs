//! The wrapped `__describe_module__`.

use walrus::ir::BinaryOp;
use walrus::{DataId, DataKind, FunctionId, GlobalId, Module};

use super::emit::{Code, Emit, I32, function, global};
use super::host::{self, Host, Imported};
use super::layout::{LEN, NAME, NAME_BYTES_MAX, WINDOW_END};
use super::window::Window;
use crate::PrepareError;
use crate::reset::Reset;

/// Mutes the module's own writes to a sink for as long as the returned global is not 0.
pub(super) fn mute(module: &mut Module, host: Host, imports: &[Imported]) -> Result<GlobalId, PrepareError> {
    let muted = global(module, I32);
    let write = function(module, [I32, I32, I32], &[I32], |code, args, _| {
        code.global_get(muted).when(|code| {
            code.i32_const(0).return_();
        });
        for arg in args {
            code.local_get(arg);
        }
        code.call(host.sink_write);
    });
    for import in imports.iter().filter(|import| import.name == "bytes_sink_write") {
        host::replace(module, import, 3, |code| {
            code.call(write);
        })?;
    }
    Ok(muted)
}

/// What the wrapped `__describe_module__` is made from.
pub(super) struct Describe<'a> {
    pub(super) host: Host,
    pub(super) window: Window,
    pub(super) reset: Reset,
    /// The module's own `__describe_module__`.
    pub(super) original: FunctionId,
    pub(super) muted: GlobalId,
    /// The rewritten definition.
    pub(super) def: &'a [u8],
}

impl Describe<'_> {
    /// `__describe_module__(sink)`: the original runs, because it fills the module's own list of reducers; what reaches
    /// the host is the rewritten definition. That is all of an instance's start-up.
    pub(super) fn add(self, module: &mut Module) -> FunctionId {
        let data = module.data.add(DataKind::Passive, self.def.to_vec());
        let write = self.add_write(module, data);
        function(module, [I32], &[], |code, [sink], _| {
            code.i32_const(1)
                .global_set(self.muted)
                .local_get(sink)
                .call(self.original)
                .i32_const(0)
                .global_set(self.muted);
            self.reset.started(code);
            code.local_get(sink).call(write);
            self.window.restore(code, WINDOW_END);
        })
    }

    /// `write(sink)`: the definition, in as many parts as it takes.
    fn add_write(&self, module: &mut Module, data: DataId) -> FunctionId {
        let (seen, len) = (self.window.seen, self.def.len() as i32);
        function(module, [I32], &[], |code, [sink], locals| {
            let (done, part) = (locals.add(I32), locals.add(I32));
            let left = |code: &mut Code<'_>| {
                code.i32_const(len).local_get(done).binop(BinaryOp::I32Sub);
            };
            code.repeat(left, |code| {
                left(code);
                code.i32_const(NAME_BYTES_MAX as i32);
                left(code);
                code.i32_const(NAME_BYTES_MAX as i32)
                    .binop(BinaryOp::I32LtU)
                    .select(None)
                    .local_set(part);
                seen.at(code, NAME);
                code.local_get(done)
                    .local_get(part)
                    .memory_init(seen.memory, data);
                seen.set32(code, LEN, part);
                code.local_get(sink);
                seen.at(code, NAME);
                seen.at(code, LEN);
                code.call(self.host.sink_write).must();
                code.local_get(done).local_get(part).add().local_set(done);
            });
        })
    }
}
