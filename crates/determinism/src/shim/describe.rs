//! The wrapped `__describe_module__`.

use walrus::{DataKind, FunctionId, GlobalId, Module};

use super::emit::{Emit, I32, function, global};
use super::host::{self, Host, Imported};
use super::scratch::Scratch;
use super::setup::PAGE_BYTES;
use crate::PrepareError;

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

/// `__describe_module__(sink)`: the original runs, because it fills the module's own list of reducers; what reaches
/// the host is the rewritten definition.
pub(super) fn add(
    module: &mut Module,
    host: Host,
    scratch: Scratch,
    original: FunctionId,
    muted: GlobalId,
    def: &[u8],
) -> FunctionId {
    let memory = scratch.memory;
    let data = module.data.add(DataKind::Passive, def.to_vec());
    let len = def.len() as i32;
    function(module, [I32], &[], |code, [sink], locals| {
        let (page, at) = (locals.add(I32), locals.add(I32));
        code.i32_const(1)
            .global_set(muted)
            .local_get(sink)
            .call(original)
            .i32_const(0)
            .global_set(muted);
        // The length, then the definition.
        code.i32_const((def.len() + 4).div_ceil(PAGE_BYTES) as i32);
        scratch.grow(code, page);
        code.local_set(at);
        code.local_get(at)
            .plus(4)
            .i32_const(0)
            .i32_const(len)
            .memory_init(memory, data);
        code.local_get(at).i32_const(len).write32(memory, 0);
        code.local_get(sink)
            .local_get(at)
            .plus(4)
            .local_get(at)
            .call(host.sink_write)
            .must();
    })
}
