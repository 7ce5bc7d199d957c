//! The wrapped `__describe_module__`.

use walrus::ir::BinaryOp;
use walrus::{DataId, DataKind, FunctionId, GlobalId, LocalId, Module};

use super::emit::{Code, Emit, I32, function, global};
use super::handlers::Handlers;
use super::host::{self, Host, Imported};
use super::layout::{LEN, NAME, NAME_BYTES_MAX, WINDOW_END};
use super::window::Window;
use crate::PrepareError;
use crate::abi;
use crate::reset::Reset;

/// What the module knows its sinks by. The host counts handles through all calls of an instance, and so would tell it
/// which call this is.
pub(super) const SINK: i32 = 1;

/// The module's own writes to sinks.
#[derive(Clone, Copy)]
pub(super) struct Sinks {
    /// Nothing is written for as long as this is not 0.
    muted: GlobalId,
    /// The host's handle of the sink of the call under way. It is 0 during start-up, which is the same in each instance.
    open: GlobalId,
}

impl Sinks {
    /// Stands between the module and its sinks.
    pub(super) fn add(
        module: &mut Module,
        host: Host,
        imports: &[Imported],
        handlers: Option<Handlers>,
    ) -> Result<Self, PrepareError> {
        let [muted, open] = [(); 2].map(|()| global(module, I32));
        let write = function(
            module,
            [I32, I32, I32],
            &[I32],
            |code, [sink, from, len_at], _| {
                code.global_get(muted).when(|code| {
                    code.i32_const(0).return_();
                });
                if let Some(handlers) = handlers {
                    handlers.take_write(code, [sink, from, len_at]);
                }
                code.global_get(open).when(|code| {
                    code.local_get(sink)
                        .i32_const(SINK)
                        .binop(BinaryOp::I32Ne)
                        .when(|code| {
                            code.i32_const(abi::NO_SUCH_BYTES).return_();
                        });
                    code.global_get(open).local_set(sink);
                });
                for arg in [sink, from, len_at] {
                    code.local_get(arg);
                }
                code.call(host.sink_write);
            },
        );
        for import in imports.iter().filter(|import| import.name == "bytes_sink_write") {
            host::replace(module, import, 3, write)?;
        }
        Ok(Self { muted, open })
    }

    /// A call begins: pushes the handle of its sink.
    pub(super) fn begin(self, code: &mut Code<'_>, sink: LocalId) {
        code.local_get(sink).global_set(self.open).i32_const(SINK);
    }

    /// What the module writes is dropped from here on, or no longer.
    pub(super) fn mute(self, code: &mut Code<'_>, muted: bool) {
        code.i32_const(muted.into()).global_set(self.muted);
    }

    /// The call ends.
    pub(super) fn end(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.open);
    }
}

/// What the wrapped `__describe_module__` is made from.
pub(super) struct Describe<'a> {
    pub(super) host: Host,
    pub(super) window: Window,
    pub(super) reset: Reset,
    /// The module's own `__describe_module__`.
    pub(super) original: FunctionId,
    pub(super) sinks: Sinks,
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
            self.reset.meter.begin_start_up(code);
            self.sinks.mute(code, true);
            code.i32_const(SINK).call(self.original);
            self.sinks.mute(code, false);
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
