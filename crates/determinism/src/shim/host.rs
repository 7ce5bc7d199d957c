//! The host functions that the shim calls itself, and the ones that it stands in for.

use walrus::{FunctionId, ImportKind, Module, ValType};

use super::emit::{Code, I32};
use crate::PrepareError;
use crate::abi;

/// The host functions that the shim calls. Each is an import of its own, so that wrapping the module's import of the
/// same function leaves it alone.
#[derive(Clone, Copy)]
pub(super) struct Host {
    pub(super) source_read: FunctionId,
    pub(super) sink_write: FunctionId,
    pub(super) table_id: FunctionId,
    pub(super) index_id: FunctionId,
    pub(super) scan: FunctionId,
    pub(super) scan_range: FunctionId,
    pub(super) advance: FunctionId,
    pub(super) close: FunctionId,
    pub(super) insert: FunctionId,
    pub(super) update: FunctionId,
    pub(super) delete_range: FunctionId,
}

impl Host {
    pub(super) fn import(module: &mut Module) -> Self {
        let mut import = |name, params| add(module, abi::BASE, name, params);
        Self {
            source_read: import("bytes_source_read", 3),
            sink_write: import("bytes_sink_write", 3),
            table_id: import("table_id_from_name", 3),
            index_id: import("index_id_from_name", 3),
            scan: import("datastore_table_scan_bsatn", 2),
            scan_range: import("datastore_index_scan_range_bsatn", 9),
            advance: import("row_iter_bsatn_advance", 3),
            close: import("row_iter_bsatn_close", 1),
            insert: import("datastore_insert_bsatn", 3),
            update: import("datastore_update_bsatn", 4),
            delete_range: import("datastore_delete_by_index_scan_range_bsatn", 9),
        }
    }
}

/// Imports a host function of `params` i32 that returns an errno.
pub(super) fn add(module: &mut Module, from: &str, name: &str, params: usize) -> FunctionId {
    let ty = module.types.add(&vec![I32; params], &[I32]);
    module.add_import_func(from, name, ty).0
}

/// A host function as the module imports it.
pub(crate) struct Imported {
    pub(crate) from: String,
    pub(crate) name: String,
    pub(crate) function: FunctionId,
}

/// What the module imports. Anything that we don't know could make replicas differ, and is refused.
pub(super) fn imports(module: &Module) -> Result<Vec<Imported>, PrepareError> {
    let mut imports = Vec::new();
    for import in module.imports.iter() {
        let ImportKind::Function(function) = import.kind else {
            return Err(PrepareError::WrongAbi(format!(
                "it imports `{}`, which is not a function",
                import.name
            )));
        };
        if !abi::IMPORT_MODULES.contains(&import.module.as_str()) {
            return Err(PrepareError::WrongAbi(format!(
                "it imports `{}` from `{}`",
                import.name, import.module
            )));
        }
        imports.push(Imported {
            from: import.module.clone(),
            name: import.name.clone(),
            function,
        });
    }
    Ok(imports)
}

/// Puts `code` in the place of a host function. It finds the function's arguments on the stack.
pub(super) fn replace(
    module: &mut Module,
    import: &Imported,
    params: usize,
    code: impl FnOnce(&mut Code<'_>),
) -> Result<(), PrepareError> {
    let ty = module.types.get(module.funcs.get(import.function).ty());
    if ty.params() != vec![ValType::I32; params] || ty.results() != [ValType::I32] {
        return Err(PrepareError::WrongAbi(format!(
            "`{}` has another signature",
            import.name
        )));
    }
    let replaced = module.replace_imported_func(import.function, |(builder, args)| {
        let mut body = builder.func_body();
        for arg in args.iter() {
            body.local_get(*arg);
        }
        code(&mut body);
    });
    replaced
        .map(drop)
        .map_err(|error| PrepareError::Rewrite(error.to_string()))
}
