//! Variants of a module: the same code with another definition, as an update may bring it.

use anyhow::{Context, Result, bail};
use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawRowLevelSecurityDefV9};
use spacetimedb_lib::db::raw_def::v10::{
    RawColumnDefaultValueV10, RawModuleDefV10, RawModuleDefV10Section as Section, RawTableDefV10,
    RawViewPrimaryKeyDefV10,
};
use spacetimedb_lib::{AlgebraicType, ProductTypeElement, RawModuleDef, bsatn};
use walrus::ir::{BinaryOp, Call, Value, VisitorMut, dfs_pre_order_mut};
use walrus::{
    ConstExpr, DataKind, Export, ExportItem, FunctionBuilder, FunctionId, GlobalId, ImportKind, Module,
    ValType,
};

/// Bytes of a page of WASM memory.
const PAGE: usize = 65_536;
/// Bytes of the length that goes before the definition.
const LENGTH: usize = 4;

const NO_TABLE: &str = "the module has no such table";
const UNKNOWN: &str = "the definition is of no version that is known here";

/// A module with one table more: a copy of its table `of`. No client is broken by it.
pub fn with_table(wasm: &[u8], of: &str, name: &str) -> Result<Vec<u8>> {
    // The modules' code asks for indexes by name: so each has one. All other names follow from the table's.
    let renamed = |index: Option<&str>| index.map(|index| index.replace(of, name).into());
    edited(wasm, |def| {
        match def {
            RawModuleDef::V9(def) => {
                let table = def.tables.iter().find(|table| &*table.name == of);
                let mut table = table.context(NO_TABLE)?.clone();
                table.name = name.to_owned().into();
                for index in &mut table.indexes {
                    index.name = renamed(index.name.as_deref());
                }
                table.constraints.iter_mut().for_each(|it| it.name = None);
                table.sequences.iter_mut().for_each(|it| it.name = None);
                def.tables.push(table);
            }
            RawModuleDef::V10(def) => {
                let tables = tables(def)?;
                let table = tables.iter().find(|table| &*table.source_name == of);
                let mut table = table.context(NO_TABLE)?.clone();
                table.source_name = name.to_owned().into();
                for index in &mut table.indexes {
                    index.source_name = renamed(index.source_name.as_deref());
                }
                table.constraints.iter_mut().for_each(|it| it.source_name = None);
                table.sequences.iter_mut().for_each(|it| it.source_name = None);
                tables.push(table);
            }
            _ => bail!(UNKNOWN),
        }
        Ok(())
    })
}

/// A module whose table `of` has no auto-increment columns any more.
pub fn without_numbers(wasm: &[u8], of: &str) -> Result<Vec<u8>> {
    edited(wasm, |def| {
        match def {
            RawModuleDef::V9(def) => {
                let mut tables = def.tables.iter_mut();
                let table = tables.find(|table| &*table.name == of);
                table.context(NO_TABLE)?.sequences.clear();
            }
            RawModuleDef::V10(def) => {
                let mut tables = tables(def)?.iter_mut();
                let table = tables.find(|table| &*table.source_name == of);
                table.context(NO_TABLE)?.sequences.clear();
            }
            _ => bail!(UNKNOWN),
        }
        Ok(())
    })
}

/// A module with one rule of row-level security more: SpacetimeDB since 1.4 disconnects all clients over it.
pub fn with_rule(wasm: &[u8], sql: &str) -> Result<Vec<u8>> {
    let rule = RawRowLevelSecurityDefV9 { sql: sql.into() };
    edited(wasm, |def| {
        match def {
            RawModuleDef::V9(def) => def.row_level_security.push(rule),
            RawModuleDef::V10(def) => def.sections.push(Section::RowLevelSecurity(vec![rule])),
            _ => bail!(UNKNOWN),
        }
        Ok(())
    })
}

/// A module whose `init` is another of its reducers. Nothing else of its life is told to it.
pub fn beginning_with(wasm: &[u8], reducer: &str) -> Result<Vec<u8>> {
    edited(wasm, |def| {
        match def {
            RawModuleDef::V9(def) => {
                for known in &mut def.reducers {
                    known.lifecycle = (&*known.name == reducer).then_some(Lifecycle::Init);
                }
            }
            RawModuleDef::V10(def) => {
                let mut sections = def.sections.iter_mut();
                let life = sections.find_map(|section| match section {
                    Section::LifeCycleReducers(life) => Some(life),
                    _ => None,
                });
                let life = life.context("the module is told nothing of its life")?;
                life.retain(|told| told.lifecycle_spec == Lifecycle::Init);
                life.iter_mut()
                    .for_each(|told| told.function_name = reducer.to_owned().into());
            }
            _ => bail!(UNKNOWN),
        }
        Ok(())
    })
}

/// A module whose table `of` has one column more, at its end, of numbers that are `default` in rows of before. For SpacetimeDB
/// 2.x alone.
pub fn with_column(wasm: &[u8], of: &str, column: &str, default: u32) -> Result<Vec<u8>> {
    edited(wasm, |def| {
        let RawModuleDef::V10(def) = def else {
            bail!(UNKNOWN)
        };
        let mut tables = tables(def)?.iter_mut();
        let table = tables.find(|table| &*table.source_name == of).context(NO_TABLE)?;
        let row = table.product_type_ref;
        let types = def.sections.iter_mut().find_map(|section| match section {
            Section::Typespace(types) => Some(types),
            _ => None,
        });
        let row = types.and_then(|types| types.types.get_mut(row.idx()));
        let row = row.and_then(|row| row.as_product_mut()).context(NO_TABLE)?;
        let mut elements = std::mem::take(&mut row.elements).into_vec();
        let place = elements.len();
        elements.push(ProductTypeElement::new(
            AlgebraicType::U32,
            Some(column.to_owned().into()),
        ));
        row.elements = elements.into();
        let default = RawColumnDefaultValueV10 {
            col_id: place.into(),
            value: bsatn::to_vec(&default)?.into(),
        };
        let table = self::tables(def)?
            .iter_mut()
            .find(|table| &*table.source_name == of);
        table.context(NO_TABLE)?.default_values.push(default);
        Ok(())
    })
}

/// A module whose view `of` has a primary key. For SpacetimeDB 2.x alone.
pub fn with_view_key(wasm: &[u8], of: &str, column: &str) -> Result<Vec<u8>> {
    edited(wasm, |def| {
        let RawModuleDef::V10(def) = def else {
            bail!(UNKNOWN)
        };
        def.sections
            .push(Section::ViewPrimaryKeys(vec![RawViewPrimaryKeyDefV10 {
                view_source_name: of.to_owned().into(),
                columns: vec![column.to_owned().into()],
            }]));
        Ok(())
    })
}

fn tables(def: &mut RawModuleDefV10) -> Result<&mut Vec<RawTableDefV10>> {
    let tables = def.sections.iter_mut().find_map(|section| match section {
        Section::Tables(tables) => Some(tables),
        _ => None,
    });
    tables.context("the module has no tables")
}

fn edited(wasm: &[u8], edit: impl FnOnce(&mut RawModuleDef) -> Result<()>) -> Result<Vec<u8>> {
    let def = rtdb_determinism::prepare(wasm)?.original_def;
    let mut def: RawModuleDef = bsatn::from_slice(&def).context("the definition can't be read")?;
    edit(&mut def)?;
    describing(wasm, &bsatn::to_vec(&def)?)
}

/// A module that describes itself with `def`, which stands behind all that the module has in its memory.
fn describing(wasm: &[u8], def: &[u8]) -> Result<Vec<u8>> {
    let mut module = Module::from_buffer(wasm)?;
    let write = sink_write(&module).context("the module writes to no sink")?;
    let memory_id = module.get_memory_id()?;
    let pages = (LENGTH + def.len()).div_ceil(PAGE) as u64;
    let memory = module.memories.get_mut(memory_id);
    let place = i32::try_from(memory.initial * PAGE as u64)?;
    memory.initial += pages;
    if let Some(maximum) = &mut memory.maximum {
        *maximum += pages;
    }
    let contents = [&(def.len() as u32).to_le_bytes()[..], def].concat();
    let kind = DataKind::Active {
        memory: memory_id,
        offset: ConstExpr::Value(Value::I32(place)),
    };
    let segment = module.data.add(kind, contents);
    module.memories.get_mut(memory_id).data_segments.insert(segment);

    let describing = module
        .globals
        .add_local(ValType::I32, true, false, ConstExpr::Value(Value::I32(NOT)));
    redirect(&mut module, write, describing, place);
    let ExportItem::Function(own) = exported(&module)?.item else {
        bail!("`{DESCRIBE}` is no function");
    };
    let sink = module.locals.add(ValType::I32);
    let mut describe = FunctionBuilder::new(&mut module.types, &[ValType::I32], &[]);
    describe
        .func_body()
        .i32_const(NOW)
        .global_set(describing)
        .local_get(sink)
        .call(own)
        .i32_const(NOT)
        .global_set(describing);
    let describe = describe.finish(vec![sink], &mut module.funcs);
    module.exports.remove(DESCRIBE)?;
    module.exports.add(DESCRIBE, describe);
    Ok(module.emit_wasm())
}

/// Whether the module describes itself: the first that it writes then is the definition in its memory.
const NOT: i32 = 0;
const NOW: i32 = 1;
const DONE: i32 = 2;

/// Has the module write what is at `place` in the place of its own description, which it makes all the same: it keeps what
/// it needs of it.
fn redirect(module: &mut Module, write: FunctionId, describing: GlobalId, place: i32) {
    let params = [ValType::I32; 3];
    let [sink, from, length] = params.map(|param| module.locals.add(param));
    let mut redirected = FunctionBuilder::new(&mut module.types, &params, &[ValType::I32]);
    redirected.func_body().global_get(describing).if_else(
        ValType::I32,
        |then| {
            then.global_get(describing)
                .i32_const(NOW)
                .binop(BinaryOp::I32Eq)
                .if_else(
                    None,
                    |then| {
                        then.i32_const(DONE)
                            .global_set(describing)
                            .local_get(sink)
                            .i32_const(place + LENGTH as i32)
                            .i32_const(place)
                            .call(write)
                            .drop();
                    },
                    |_| {},
                )
                .i32_const(0);
        },
        |otherwise| {
            otherwise
                .local_get(sink)
                .local_get(from)
                .local_get(length)
                .call(write);
        },
    );
    let redirected = redirected.finish(vec![sink, from, length], &mut module.funcs);
    for (id, function) in module.funcs.iter_local_mut() {
        if id != redirected {
            let start = function.entry_block();
            dfs_pre_order_mut(&mut Calls { write, redirected }, function, start);
        }
    }
}

/// Calls another function wherever `write` is called.
struct Calls {
    write: FunctionId,
    redirected: FunctionId,
}

impl VisitorMut for Calls {
    fn visit_call_mut(&mut self, call: &mut Call) {
        if call.func == self.write {
            call.func = self.redirected;
        }
    }
}

fn exported(module: &Module) -> Result<&Export> {
    let mut exports = module.exports.iter();
    exports
        .find(|export| export.name == DESCRIBE)
        .with_context(|| format!("no `{DESCRIBE}`"))
}

const DESCRIBE: &str = "__describe_module__";

fn sink_write(module: &Module) -> Option<FunctionId> {
    let mut imports = module.imports.iter();
    let import = imports.find(|import| import.name == "bytes_sink_write")?;
    match import.kind {
        ImportKind::Function(function) => Some(function),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo_module::wasm_named;
    use rtdb_determinism::Module;

    #[test]
    fn variants_can_be_prepared() {
        for name in ["counter-1x", "counter-2x"] {
            let wasm = wasm_named(name).unwrap();
            let more = with_table(&wasm, "dice", "die").unwrap();
            let def = rtdb_determinism::prepare(&more).unwrap().original_def;
            let tables = |def: &[u8]| Module::from_def(def).unwrap().tables().len();
            let before = rtdb_determinism::prepare(&wasm).unwrap().original_def;
            assert_eq!(tables(&def), tables(&before) + 1);
            let ruled = with_rule(&more, "SELECT * FROM dice").unwrap();
            rtdb_determinism::prepare(&ruled).unwrap();
        }
    }
}
