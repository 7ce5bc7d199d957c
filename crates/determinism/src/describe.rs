//! Running a module's `__describe_module__`, with no more trust than an upload deserves.

use wasmi::{
    Caller, CompilationMode, Config, Engine, Error, ExternType, Instance, Linker, Module, Store, StoreLimits,
    StoreLimitsBuilder,
};

use crate::PrepareError;
use crate::abi;

/// How many instructions a module may take to describe itself, in the interpreter's fuel: seconds' worth.
const FUEL_MAX: u64 = 1_000_000_000;
/// How much memory it may take.
const MEMORY_BYTES_MAX: usize = 512 * 1024 * 1024;
/// How many elements its tables may have.
const TABLE_ELEMENTS_MAX: usize = 1_000_000;
/// How long its definition may be in bytes.
const DEF_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The handle of the sink that collects the definition.
const SINK: u32 = 1;

struct Host {
    limits: StoreLimits,
    def: Vec<u8>,
}

/// The module's definition as it writes it.
pub(crate) fn describe(wasm: &[u8]) -> Result<Vec<u8>, PrepareError> {
    let mut config = Config::default();
    config
        .consume_fuel(true)
        .compilation_mode(CompilationMode::LazyTranslation);
    let engine = Engine::new(&config);
    let module = Module::new(&engine, wasm).map_err(|error| PrepareError::NotWasm(error.to_string()))?;
    let limits = StoreLimitsBuilder::new()
        .memory_size(MEMORY_BYTES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .instances(1)
        .tables(abi::TABLES_MAX)
        .memories(1)
        .trap_on_grow_failure(false)
        .build();
    let mut store = Store::new(
        &engine,
        Host {
            limits,
            def: Vec::new(),
        },
    );
    store.limiter(|host| &mut host.limits);
    run(&mut store, &module).map_err(|error| PrepareError::Describe(error.to_string()))?;
    Ok(std::mem::take(&mut store.data_mut().def))
}

fn run(store: &mut Store<Host>, module: &Module) -> Result<(), Error> {
    store.set_fuel(FUEL_MAX)?;
    let instance = imports(store, module)?.instantiate_and_start(&mut *store, module)?;
    let mut preinits: Vec<_> = module.exports().map(|export| export.name().to_owned()).collect();
    preinits.retain(|name| name.starts_with("__preinit__"));
    preinits.sort_unstable();
    for preinit in preinits {
        instance
            .get_typed_func::<(), ()>(&*store, &preinit)?
            .call(&mut *store, ())?;
    }
    setup(store, &instance)?;
    instance
        .get_typed_func::<u32, ()>(&*store, "__describe_module__")?
        .call(&mut *store, SINK)
}

/// Runs the optional `__setup__`, whose sink takes an error message.
fn setup(store: &mut Store<Host>, instance: &Instance) -> Result<(), Error> {
    let Ok(setup) = instance.get_typed_func::<u32, i32>(&*store, "__setup__") else {
        return Ok(());
    };
    match setup.call(&mut *store, SINK)? {
        0 => {
            store.data_mut().def.clear();
            Ok(())
        }
        _ => Err(Error::new(format!(
            "__setup__ failed: {}",
            String::from_utf8_lossy(&store.data().def)
        ))),
    }
}

/// A module that describes itself has no business with the host, but for writing the result and logging.
fn imports(store: &mut Store<Host>, module: &Module) -> Result<Linker<Host>, Error> {
    let mut linker = Linker::new(store.engine());
    for import in module.imports() {
        let (from, name) = (import.module(), import.name().to_owned());
        let ExternType::Func(ty) = import.ty() else {
            return Err(Error::new(format!(
                "it imports `{name}`, which is not a function"
            )));
        };
        if linker.get(&*store, from, &name).is_some() {
            continue;
        }
        match name.as_str() {
            "bytes_sink_write" => linker.func_wrap(from, "bytes_sink_write", write)?,
            _ if ty.results().is_empty() => {
                linker.func_new(from, &name.clone(), ty.clone(), |_, _, _| Ok(()))?
            }
            _ => linker.func_new(from, &name.clone(), ty.clone(), move |_, _, _| {
                Err(Error::new(format!(
                    "`{name}` can't be called while the module describes itself"
                )))
            })?,
        };
    }
    Ok(linker)
}

fn write(mut caller: Caller<'_, Host>, _sink: u32, from: u32, len_at: u32) -> Result<u32, Error> {
    let memory = caller.get_export("memory").and_then(|it| it.into_memory());
    let memory = memory.ok_or_else(|| Error::new("it exports no memory"))?;
    let (bytes, host) = memory.data_and_store_mut(&mut caller);
    let len = slice(bytes, len_at, 4)
        .and_then(|len| len.try_into().ok())
        .map(u32::from_le_bytes);
    let written = len
        .and_then(|len| slice(bytes, from, len))
        .ok_or_else(|| Error::new("it writes out of bounds"))?;
    if host.def.len() + written.len() > DEF_BYTES_MAX {
        return Err(Error::new(format!(
            "its definition is longer than {DEF_BYTES_MAX} bytes"
        )));
    }
    host.def.extend_from_slice(written);
    Ok(0)
}

fn slice(bytes: &[u8], from: u32, len: u32) -> Option<&[u8]> {
    bytes.get(from as usize..)?.get(..len as usize)
}
