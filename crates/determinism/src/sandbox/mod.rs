//! Running a module in an interpreter, with no more trust than an upload deserves: to hear its definition, and, once it
//! is prepared, to see that the parts which every replica will call do work.

mod host;
mod trial;

use wasmi::{
    CompilationMode, Config, Engine, Error, Instance, Module, Store, StoreLimits, StoreLimitsBuilder,
};

pub(crate) use self::trial::run as trial;

use self::host::Host;
use crate::PrepareError;
use crate::abi;

/// How many instructions a module may take to describe itself, in the interpreter's fuel: seconds' worth of ordinary ones.
/// Those on vectors count like the others and may be ten times as slow. Modules in Rust take less than a million; a runtime
/// like that of C# starts up in there.
const FUEL_MAX: u64 = 500_000_000;
/// How much memory it may take, in bytes.
const MEMORY_BYTES_MAX: usize = 512 * 1024 * 1024;
/// How many elements its tables may have.
const TABLE_ELEMENTS_MAX: usize = 1_000_000;
/// How long its definition may be in bytes.
const DEF_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a module may take.
#[derive(Clone, Copy)]
struct Limits {
    fuel: u64,
    /// Of each memory.
    memory_bytes: usize,
    memories: usize,
}

const UPLOAD: Limits = Limits {
    fuel: FUEL_MAX,
    memory_bytes: MEMORY_BYTES_MAX,
    memories: 1,
};

/// The module's definition as it writes it.
pub(crate) fn describe(wasm: &[u8]) -> Result<Vec<u8>, PrepareError> {
    let sandbox = Sandbox::start(wasm, UPLOAD)?;
    let mut sandbox = sandbox.map_err(|error| PrepareError::Describe(error.to_string()))?;
    Ok(sandbox.store.data_mut().take_sink())
}

/// An instance that has described itself.
struct Sandbox {
    store: Store<Host>,
    instance: Instance,
}

impl Sandbox {
    /// The outer error is that of a file which is no module; the inner one the module's own.
    fn start(wasm: &[u8], limits: Limits) -> Result<Result<Self, Error>, PrepareError> {
        let mut config = Config::default();
        config
            .consume_fuel(true)
            .compilation_mode(CompilationMode::LazyTranslation);
        let engine = Engine::new(&config);
        let module = Module::new(&engine, wasm).map_err(|error| PrepareError::NotWasm(error.to_string()))?;
        let mut store = Store::new(&engine, Host::new(store_limits(limits)));
        store.limiter(Host::limits);
        Ok(begin(&mut store, &module, limits.fuel).map(|instance| Self { store, instance }))
    }
}

fn store_limits(limits: Limits) -> StoreLimits {
    StoreLimitsBuilder::new()
        .memory_size(limits.memory_bytes)
        .table_elements(TABLE_ELEMENTS_MAX)
        .instances(1)
        .tables(abi::TABLES_MAX)
        .memories(limits.memories)
        .trap_on_grow_failure(false)
        .build()
}

/// Starts a module as the server does.
fn begin(store: &mut Store<Host>, module: &Module, fuel: u64) -> Result<Instance, Error> {
    store.set_fuel(fuel)?;
    let instance = host::imports(store, module)?.instantiate_and_start(&mut *store, module)?;
    // What C++ and C# begin with. SpacetimeDB 1.2 does not call it, and runs no such modules.
    if let Ok(initialize) = instance.get_typed_func::<(), ()>(&*store, "_initialize") {
        initialize.call(&mut *store, ())?;
    }
    let mut preinits: Vec<_> = module.exports().map(|export| export.name().to_owned()).collect();
    preinits.retain(|name| name.starts_with("__preinit__"));
    preinits.sort_unstable();
    for preinit in preinits {
        instance
            .get_typed_func::<(), ()>(&*store, &preinit)?
            .call(&mut *store, ())?;
    }
    setup(store, &instance)?;
    store.data_mut().take_sink();
    instance
        .get_typed_func::<u32, ()>(&*store, abi::DESCRIBE_MODULE)?
        .call(&mut *store, host::SINK)?;
    Ok(instance)
}

/// Runs the optional `__setup__`, whose sink takes an error message.
fn setup(store: &mut Store<Host>, instance: &Instance) -> Result<(), Error> {
    let Ok(setup) = instance.get_typed_func::<u32, i32>(&*store, "__setup__") else {
        return Ok(());
    };
    let result = setup.call(&mut *store, host::SINK)?;
    let message = store.data_mut().take_sink();
    match result {
        0 => Ok(()),
        _ => Err(Error::new(format!(
            "__setup__ failed: {}",
            String::from_utf8_lossy(&message)
        ))),
    }
}
