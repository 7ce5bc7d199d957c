//! The shim: code that is put around a module, so that whatever it reads and writes is the same on every replica.
//!
//! The pieces, in the order of a call: `call` wraps `__call_reducer__`, which `setup` prepares at its first use in an
//! instance and `source` feeds; `state` tells whether the call is new; the module runs, its reads pass through `scan`,
//! and its writes through `write`, where `walk` and `sequence` fill in generated columns and `digest` keeps account;
//! `successes` counts the call, and `sequence` and `state` write back. A hidden row that can't be read or written traps, which makes the host
//! roll everything back.

mod call;
mod describe;
mod digest;
mod emit;
mod host;
mod layout;
mod load;
mod scan;
mod scratch;
mod sequence;
mod setup;
mod source;
mod state;
mod successes;
mod walk;
mod write;

use std::panic::catch_unwind;

use walrus::ir::BinaryOp;
use walrus::{ExportItem, FunctionId, MemoryId, Module, ModuleConfig};

use self::call::Call;
use self::digest::Digest;
use self::emit::{Emit, I32, I64, function, global};
use self::host::Host;
use self::layout::Layout;
use self::scan::{Scans, Shared};
use self::scratch::Scratch;
use self::sequence::Sequences;
use self::state::{Rows, State};
use self::walk::Generated;
use self::write::Writes;
use crate::PrepareError;
use crate::abi;
use crate::plan::Plan;

/// A parsed module, known to have what the shim builds on.
pub(crate) struct Target {
    module: Module,
    memory: MemoryId,
}

impl Target {
    /// Parses a module and checks its imports and exports.
    pub(crate) fn parse(wasm: &[u8]) -> Result<Self, PrepareError> {
        // walrus panics on some valid modules, of proposals that it does not know.
        let parsed = catch_unwind(|| {
            let mut config = ModuleConfig::new();
            config.generate_producers_section(false).parse(wasm)
        })
        .map_err(|_| PrepareError::Rewrite("it uses WebAssembly features that are not supported".into()))?;
        let module = parsed.map_err(|error| PrepareError::NotWasm(format!("{error:#}")))?;
        let memory = module.exports.iter().find_map(|export| match export.item {
            ExportItem::Memory(memory) if export.name == abi::MEMORY => Some(memory),
            _ => None,
        });
        let memory = memory.ok_or_else(|| PrepareError::NoModule("it exports no memory".into()))?;
        let kind = module.memories.get(memory);
        if kind.memory64 || kind.shared || module.memories.iter().count() != 1 {
            return Err(PrepareError::WrongAbi(
                "its memory is not one plain 32-bit memory".into(),
            ));
        }
        let target = Self { module, memory };
        target.exported(
            abi::CALL_REDUCER,
            &[I32, I64, I64, I64, I64, I64, I64, I64, I32, I32],
            &[I32],
        )?;
        target.exported(abi::DESCRIBE_MODULE, &[I32], &[])?;
        host::imports(&target.module)?;
        Ok(target)
    }

    fn exported(
        &self,
        name: &str,
        params: &[walrus::ValType],
        results: &[walrus::ValType],
    ) -> Result<FunctionId, PrepareError> {
        let function = self.module.exports.iter().find_map(|export| match export.item {
            ExportItem::Function(function) if export.name == name => Some(function),
            _ => None,
        });
        let function = function.ok_or_else(|| PrepareError::NoModule(format!("it exports no `{name}`")))?;
        let ty = self.module.types.get(self.module.funcs.get(function).ty());
        if ty.params() != params || ty.results() != results {
            return Err(PrepareError::WrongAbi(format!("`{name}` has another signature")));
        }
        Ok(function)
    }

    /// Puts the shim around the module, and encodes it.
    pub(crate) fn shim(mut self, plan: &Plan) -> Result<Vec<u8>, PrepareError> {
        let original_call = self.exported(
            abi::CALL_REDUCER,
            &[I32, I64, I64, I64, I64, I64, I64, I64, I32, I32],
            &[I32],
        )?;
        let original_describe = self.exported(abi::DESCRIBE_MODULE, &[I32], &[])?;
        let module = &mut self.module;
        let imports = host::imports(module)?;
        let host = Host::import(module);
        let scratch = Scratch {
            memory: self.memory,
            base: global(module, I32),
        };
        let layout = Layout::new(plan);

        let digest = global(module, I64);
        let in_call = global(module, I32);
        let setup = setup::add(module, host, scratch, &layout);
        let rows = Rows::add(module, host, scratch);
        let sequences = Sequences::add(module, scratch, rows);
        let count = global(module, I32);
        let generated = Generated::new(scratch, &layout, count);
        let ordinal = setup::add_find(module, scratch, layout.ordinals);
        let shared = Shared {
            host,
            scratch,
            memory: self.memory,
            layout: &layout,
            setup,
            ordinal,
        };
        let scans = Scans::add(module, plan, &shared);
        let writes = Writes {
            scratch,
            digest: Digest::add(module, scratch, digest),
            generated,
            in_call,
            ordinal,
            fill: add_fill(module, plan, generated, sequences),
            write_back: generated.add_write_back(module),
        };
        let muted = describe::mute(module, host, &imports)?;
        for import in &imports {
            if !scans.wrap(module, import)? {
                writes.wrap(module, import)?;
            }
        }

        let describe = describe::add(module, host, scratch, original_describe, muted, &plan.def);
        let state = State::add(module, host, scratch, rows);
        let call = Call {
            host,
            scratch,
            digest,
            in_call,
            state,
            sequences,
            scans,
            setup,
            original: original_call,
        };
        let call = call.add(module, plan);
        export(module, abi::DESCRIBE_MODULE, describe)?;
        export(module, abi::CALL_REDUCER, call)?;
        Ok(self.module.emit_wasm())
    }
}

/// `fill(ordinal, row)`: by the way of the table in question, if it has generated columns at all.
fn add_fill(module: &mut Module, plan: &Plan, generated: Generated, sequences: Sequences) -> FunctionId {
    let takes: Vec<_> = plan
        .sequences()
        .map(|it| sequences.add_take(module, it))
        .collect();
    let mut takes = takes.into_iter();
    let fills: Vec<_> = plan
        .tables
        .iter()
        .zip(0..)
        .filter(|(table, _)| !table.steps.is_empty())
        .map(|(table, ordinal)| (ordinal, walk::add_fill(module, generated, table, &mut takes)))
        .collect();
    function(module, [I32, I32], &[], |code, [ordinal, row], _| {
        for (table, fill) in fills {
            code.local_get(ordinal)
                .i32_const(table)
                .binop(BinaryOp::I32Eq)
                .when(|code| {
                    code.local_get(row).call(fill).return_();
                });
        }
    })
}

fn export(module: &mut Module, name: &str, function: FunctionId) -> Result<(), PrepareError> {
    module
        .exports
        .remove(name)
        .map_err(|error| PrepareError::Rewrite(error.to_string()))?;
    module.exports.add(name, function);
    Ok(())
}
