//! The host functions that the shim calls itself, and the ones that it stands in for.

use walrus::{FunctionId, ImportKind, LocalId, Module, ValType};

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
    pub(super) delete_equal: FunctionId,
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
            delete_equal: import("datastore_delete_all_by_eq_bsatn", 4),
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

impl Imported {
    pub(crate) fn has_other_signature(&self) -> PrepareError {
        PrepareError::WrongAbi(format!("`{}` has another signature", self.name))
    }
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

/// Puts code around a host function: `before` gets its arguments, `after` its results, too. What is returned stands for
/// the same function, and is what others wrap in their turn.
pub(crate) fn surround(
    module: &mut Module,
    import: Imported,
    before: impl FnOnce(&mut Code<'_>, &[LocalId]),
    after: impl FnOnce(&mut Code<'_>, &[LocalId], &[LocalId]),
) -> Result<Imported, PrepareError> {
    let ty = module.types.get(module.funcs.get(import.function).ty());
    let (params, results) = (ty.params().to_vec(), ty.results().to_vec());
    let ty = module.types.add(&params, &results);
    let (function, _) = module.add_import_func(&import.from, &import.name, ty);
    let results: Vec<_> = results.into_iter().map(|ty| module.locals.add(ty)).collect();
    substitute(module, &import, |code, args| {
        before(code, args);
        push(code, args);
        code.call(function);
        results.iter().rev().for_each(|result| {
            code.local_set(*result);
        });
        after(code, args, &results);
        push(code, &results);
    })?;
    Ok(Imported { function, ..import })
}

/// Puts a function in the place of a host function of `params` i32 that returns an errno. `add_wrapper` adds it, and gets
/// the real one, for it to call.
pub(super) fn wrap(
    module: &mut Module,
    import: &Imported,
    params: usize,
    add_wrapper: impl FnOnce(&mut Module, FunctionId) -> FunctionId,
) -> Result<(), PrepareError> {
    let real = add(module, &import.from, &import.name, params);
    let wrapper = add_wrapper(module, real);
    replace(module, import, params, wrapper)
}

/// Puts the function `by` in the place of a host function of `params` i32 that returns an errno.
pub(super) fn replace(
    module: &mut Module,
    import: &Imported,
    params: usize,
    by: FunctionId,
) -> Result<(), PrepareError> {
    stand_in(module, import, params, &[I32], by)
}

/// The same of one that returns `results`.
pub(super) fn stand_in(
    module: &mut Module,
    import: &Imported,
    params: usize,
    results: &[ValType],
    by: FunctionId,
) -> Result<(), PrepareError> {
    let ty = module.types.get(module.funcs.get(import.function).ty());
    if ty.params() != vec![ValType::I32; params] || ty.results() != results {
        return Err(import.has_other_signature());
    }
    substitute(module, import, |code, args| {
        push(code, args);
        code.call(by);
    })
}

/// Puts code before a host function.
pub(super) fn guard(
    module: &mut Module,
    import: &Imported,
    before: impl FnOnce(&mut Code<'_>),
) -> Result<(), PrepareError> {
    let ty = module.funcs.get(import.function).ty();
    let (real, _) = module.add_import_func(&import.from, &import.name, ty);
    substitute(module, import, |code, args| {
        before(code);
        push(code, args);
        code.call(real);
    })
}

/// Puts a trap in the place of a host function.
pub(super) fn forbid(module: &mut Module, import: &Imported) -> Result<(), PrepareError> {
    substitute(module, import, |code, _| {
        code.unreachable();
    })
}

/// Puts `body` in the place of a host function.
fn substitute(
    module: &mut Module,
    import: &Imported,
    body: impl FnOnce(&mut Code<'_>, &[LocalId]),
) -> Result<(), PrepareError> {
    module
        .replace_imported_func(import.function, |(builder, args)| {
            body(&mut builder.func_body(), args);
        })
        .map(drop)
        .map_err(|error| PrepareError::Rewrite(error.to_string()))
}

fn push(code: &mut Code<'_>, locals: &[LocalId]) {
    locals.iter().for_each(|local| {
        code.local_get(*local);
    });
}
