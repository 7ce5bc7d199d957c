//! The shim: code that is put around a module, so that whatever it reads and writes is the same on every replica.
//!
//! The pieces, in the order of a call: `call` wraps `__call_reducer__`, which `setup` prepares at its first use in an
//! instance and `source` feeds; `state` tells whether the call is new; the module runs, its reads pass through `scan`,
//! and its writes through `write`, where `walk`, `sequence` and `taken` fill in generated columns and `digest` keeps account;
//! tables, indexes, iterators and timers have numbers of its own for it (`ids`, `names`, `timers`); `successes` counts the
//! call, and `sequence` and `state` write back. `immediate` keeps what the module wants called right after; `schedules` calls reducers with rows that are due, and procedures by way of `procedure`. Where others than the
//! module say what is written, `apply` does it in its place. `procedure` runs procedures: `journal` notes what they write, for
//! `replay` to do it once more; `handlers` runs HTTP handlers in the same way. A hidden row that can't be read or written traps, which makes
//! the host roll everything back.

mod apply;
mod call;
mod describe;
mod digest;
mod given;
mod handlers;
mod hash;
mod host;
mod ids;
mod immediate;
mod journal;
mod jwt;
mod layout;
mod load;
mod names;
mod passed;
mod procedure;
mod replay;
mod scan;
mod schedules;
mod scratch;
mod sequence;
mod setup;
mod source;
mod state;
mod successes;
mod taken;
mod timers;
mod views;
mod walk;
mod window;
mod write;

use std::panic::catch_unwind;

use walrus::ir::BinaryOp;
use walrus::{ExportItem, FunctionId, MemoryId, Module, ModuleConfig};

use self::call::Call;
use self::describe::{Describe, Sinks};
use self::digest::{Digest, Operation};
use self::emit::{Emit, I32, I64, function, global};
use self::given::Given;
use self::handlers::Handlers;
use self::host::Host;
pub(crate) use self::host::{Imported, surround};
use self::ids::Ids;
use self::immediate::Immediate;
use self::journal::Journal;
use self::jwt::Jwt;
use self::layout::{Layout, Name};
use self::names::Known;
use self::passed::Passed;
use self::procedure::{Entries, Procedures};
use self::scan::{Scans, Shared};
use self::schedules::Schedules;
use self::scratch::Scratch;
use self::sequence::Sequences;
use self::state::{Rows, State};
use self::taken::Taken;
use self::timers::Timers;
use self::views::Views;
use self::walk::Generated;
use self::window::Window;
use self::write::Writes;
use crate::abi;
use crate::claims::{self, Claims};
use crate::emit;
use crate::meter;
use crate::plan::{Plan, ViewPlan};
use crate::reset::{self, Reset};
use crate::{Options, PrepareError};
use crate::{procedures, rows, section};

/// A parsed module, known to have what the shim builds on.
pub(crate) struct Target {
    module: Module,
    memory: MemoryId,
    imports: Vec<Imported>,
    reset: Reset,
}

impl Target {
    /// Parses a module, checks its imports and exports, and has its instances put back after each call.
    pub(crate) fn parse(wasm: &[u8], options: &Options) -> Result<Self, PrepareError> {
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
        let plain = !kind.memory64 && !kind.shared && kind.page_size_log2.is_none();
        if !plain || module.memories.iter().count() != 1 {
            return Err(PrepareError::WrongAbi(
                "its memory is not one plain 32-bit memory".into(),
            ));
        }
        let imports = host::imports(&module)?;
        let mut module = module;
        let reset = Reset::install(&mut module, memory, options)?;
        let imports = meter::wrap_host(&mut module, memory, reset.meter, imports)?;
        let imports = reset::wrap_host(&mut module, reset, imports)?;
        let target = Self {
            module,
            memory,
            imports,
            reset,
        };
        target.exported(abi::CALL_REDUCER, &call::PARAMS, &[I32])?;
        target.exported(abi::DESCRIBE_MODULE, &[I32], &[])?;
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
        let original_call = self.exported(abi::CALL_REDUCER, &call::PARAMS, &[I32])?;
        let original_describe = self.exported(abi::DESCRIBE_MODULE, &[I32], &[])?;
        let (module, reset) = (&mut self.module, self.reset);
        let host = Host::import(module);
        let scratch = Scratch {
            memory: reset.memory,
            base: reset::FREE,
        };
        let window = Window::new(self.memory, scratch, reset);
        let layout = Layout::new(plan)?;
        reset.reserve(module, layout.end);

        let digest = global(module, I64);
        let in_call = global(module, I32);
        let ids = Ids::add(module, scratch, &layout);
        let setup = setup::add(module, host, window, reset, &layout, ids);
        let rows = Rows::add(module, host, window);
        let sequences = Sequences::add(module, window, rows);
        let count = global(module, I32);
        let generated = Generated::new(self.memory, scratch, &layout, count);
        let timers = Timers::add(module, scratch, layout.timers);
        let passed = Passed::add(module, scratch, self.memory, reset.meter, ids, &layout);
        let shared = Shared {
            host,
            passed,
            scratch,
            memory: self.memory,
            reset,
            layout: &layout,
            ids,
        };
        let scans = Scans::add(module, plan, &shared);
        let begin = add_begin(module, setup, timers, passed);
        let takes: Vec<_> = plan
            .sequences()
            .map(|it| sequences.add_take(module, it))
            .collect();
        let taken = Taken {
            host,
            window,
            meter: reset.meter,
            generated,
            sequences,
            layout: &layout,
            takes: &takes,
        };
        let row = Given::add(module, scans.memory().0);
        let handlers = plan.handlers.map(|key| Handlers::add(module, host, window, key));
        let jwt = Jwt::add(module, host, window, rows, &layout, in_call, row);
        let jwt = jwt.with_request(handlers.map(Handlers::sources));
        let journal = plan.runs_procedures().then(|| Journal::add(module, window));
        let kept = Digest::add(module, self.memory, digest);
        let immediate = Immediate::new(plan, host, window, &layout);
        let parts = schedules::Parts {
            host,
            window,
            scans,
            digest: kept,
            row,
            layout: &layout,
            named: immediate
                .as_ref()
                .map(|it| it.add_named(module, row, scans.memory().0)),
        };
        let schedules = Schedules::add(module, plan, &parts);
        let writes = Writes {
            memory: self.memory,
            digest: kept,
            generated,
            in_call,
            ids,
            passed,
            fill: add_fill(module, plan, generated, &takes),
            again: taken.add_again(module, plan),
            write_back: generated.add_write_back(module),
            journal,
        };
        let state = State::add(module, host, window, rows);
        let sinks = Sinks::add(module, host, &self.imports, handlers)?;
        let tables = Known {
            id: ids.known_table,
            none: abi::NO_SUCH_TABLE,
        };
        let indexes = Known {
            id: ids.known_index,
            none: abi::NO_SUCH_INDEX,
        };
        let read = source::add(module, host, window);
        let procedures = journal.map(|journal| {
            let parts = procedure::Parts {
                host,
                window,
                reset,
                in_call,
                state,
                sequences,
                passed,
                jwt,
                scans,
                sinks,
                journal,
                handlers,
                schedules,
                read,
            };
            Procedures::add(module, parts)
        });
        let mut replayed: Vec<replay::Write> = Vec::new();
        let asks = self
            .imports
            .iter()
            .any(|import| import.name == abi::SCHEDULE_IMMEDIATE);
        let asking = immediate.as_ref().filter(|_| asks).map(|immediate| {
            let ids = ids.with_ours(module, &layout);
            immediate.add(module, Writes { ids, ..writes }, journal)
        });
        let [known_tables, known_indexes] = layout.known_names;
        for import in &self.imports {
            match import.name.as_str() {
                "table_id_from_name" => {
                    names::wrap(module, import, self.memory, scratch, known_tables, tables)?;
                }
                "index_id_from_name" => {
                    names::wrap(module, import, self.memory, scratch, known_indexes, indexes)?;
                }
                _ if scans.wrap(module, import)? || timers.wrap(module, import)? => {}
                _ if jwt.wrap(module, import)? => {}
                _ if procedures.map_or(Ok(false), |it| it.wrap(module, import))? => {}
                _ => {
                    // A function of the host's may have two names.
                    let write = match asking {
                        Some(asking) if import.name == abi::SCHEDULE_IMMEDIATE => {
                            asking.wrap(module, import)?;
                            Some((Operation::Ask, asking.insert))
                        }
                        _ => writes.wrap(module, import)?,
                    };
                    let is_new = |it: &replay::Write| replayed.iter().all(|(known, _)| *known != it.0);
                    replayed.extend(write.filter(is_new));
                }
            }
        }

        let describe = Describe {
            host,
            window,
            reset,
            original: original_describe,
            sinks,
            def: &plan.def,
        };
        let describe = describe.add(module);
        let apply = apply::add(module, host, window, reset, writes, read);
        let replay = journal.map(|_| replay::add(module, window, reset, &replayed, schedules, read));
        let settle = plan
            .views
            .is_some()
            .then(|| procedure::add_settle(module, host, window, read));
        let views = Views::add(module, host, window, reset, begin, scans, sinks);
        let call = Call {
            host,
            window,
            reset,
            digest,
            in_call,
            state,
            sequences,
            views: plan.views.is_some().then_some(views),
            jwt,
            schedules,
            read,
            skipped: layout.skipped,
            taken: layout.taken,
            not_due: layout.not_due,
            conflict: layout.conflict,
            apply,
            replay,
            settle,
            forget: immediate.filter(|_| !asks).map(|it| it.add_forget(module, kept)),
            begin,
            scans,
            sinks,
            original: original_call,
        };
        let call = call.add(module, plan);
        export(module, abi::DESCRIBE_MODULE, describe)?;
        export(module, abi::CALL_REDUCER, call)?;
        match &plan.views {
            Some(plans) => self.wrap_views(views, plans, &layout.views)?,
            None => self.drop_exports(&abi::CALL_VIEWS),
        }
        let entry = |exists: bool, name, params| {
            let entry = exists.then(|| self.exported(name, params, &[I32]));
            entry.transpose()
        };
        let entries = Entries {
            procedures: entry(plan.procedures > 0, abi::CALL_PROCEDURE, &call::PARAMS)?,
            handlers: entry(plan.handlers.is_some(), abi::CALL_HANDLER, &handlers::PARAMS)?,
            hidden: plan.procedures,
        };
        self.drop_exports(&[abi::CALL_PROCEDURE, abi::CALL_HANDLER]);
        if let Some(procedures) = procedures {
            let call = procedures.add_call(&mut self.module, entries, begin);
            self.module.exports.add(abi::CALL_PROCEDURE, call);
        }
        self.say_claims(plan);
        let runs = plan.runs_procedures().then_some(&[procedures::RUNS][..]);
        section::put(&mut self.module, procedures::SECTION, runs);
        section::put(
            &mut self.module,
            crate::timers::SECTION,
            Some(&[crate::timers::BY_TIME]),
        );
        let asks = (asks && plan.immediate).then_some(&[crate::timers::MAY_ASK][..]);
        section::put(&mut self.module, crate::timers::IMMEDIATE_SECTION, asks);
        section::put(&mut self.module, rows::SECTION, Some(&[rows::TAKES]));
        let brief = plan.views.is_some().then_some(&[crate::views::BRIEF][..]);
        section::put(&mut self.module, crate::views::SECTION, brief);
        Ok(self.module.emit_wasm())
    }

    /// Says what is done with claims. Whatever the module itself says of it, it knows nothing of that.
    fn say_claims(&mut self, plan: &Plan) {
        let reads = self.imports.iter().any(|import| import.name == "get_jwt");
        let claims = match (reads, plan.since_2) {
            (true, _) => Claims::Read,
            (false, true) => Claims::Kept,
            (false, false) => Claims::Ignored,
        };
        section::put(&mut self.module, claims::SECTION, claims.contents());
    }

    /// Wraps the entry points of views, if the module has them.
    fn wrap_views(&mut self, views: Views, plans: &[ViewPlan], names: &[Name]) -> Result<(), PrepareError> {
        let has = |target: &Self, name: &str| target.module.exports.iter().any(|export| export.name == name);
        let [call, call_anonymous] = abi::CALL_VIEWS;
        // What keeps a view's rows must not depend on how much memory the module may have.
        self.module.memories.get_mut(self.memory).maximum = None;
        if has(self, call) {
            let original = self.exported(call, &views::PARAMS, &[I32])?;
            let wrapper = views.wrap(&mut self.module, plans, names, original);
            export(&mut self.module, call, wrapper)?;
        }
        if has(self, call_anonymous) {
            let original = self.exported(call_anonymous, &views::ANONYMOUS_PARAMS, &[I32])?;
            let wrapper = views.wrap_anonymous(&mut self.module, plans, names, original);
            export(&mut self.module, call_anonymous, wrapper)?;
        }
        Ok(())
    }

    /// Takes away entry points that the module has nothing behind. A server ends itself if one is not what it expects.
    fn drop_exports(&mut self, names: &[&str]) {
        let exports = self.module.exports.iter();
        let dropped: Vec<_> = exports
            .filter(|it| names.contains(&it.name.as_str()))
            .map(|it| it.id())
            .collect();
        for export in dropped {
            self.module.exports.delete(export);
        }
    }
}

/// `begin()`: what comes before each call that reads rows. The first one sets the instance up.
fn add_begin(module: &mut Module, setup: FunctionId, timers: Timers, passed: Passed) -> FunctionId {
    let is_ready = global(module, I32);
    function(module, [], &[], |code, [], _| {
        code.global_get(is_ready).is_zero().when(|code| {
            code.call(setup).i32_const(1).global_set(is_ready);
        });
        timers.begin(code);
        passed.begin(code);
    })
}

/// `fill(ordinal, row)`: by the way of the table in question, if it has generated columns at all.
fn add_fill(module: &mut Module, plan: &Plan, generated: Generated, takes: &[FunctionId]) -> FunctionId {
    let mut takes = takes.iter().copied().zip(0..);
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
