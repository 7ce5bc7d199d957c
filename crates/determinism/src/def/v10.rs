//! Definitions of version 10: modules built with SpacetimeDB 2.x.

use std::collections::BTreeSet;

use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawIndexAlgorithm, TableType};
use spacetimedb_lib::db::raw_def::v10::{
    FunctionVisibility, RawConstraintDefV10, RawIndexDefV10, RawModuleDefV10,
    RawModuleDefV10Section as Section, RawProcedureDefV10, RawReducerDefV10, RawScopedTypeNameV10,
    RawSequenceDefV10, RawTableDefV10, RawTypeDefV10, reducer_default_err_return_type,
    reducer_default_ok_return_type,
};
use spacetimedb_lib::db::view::extract_view_return_product_type_ref;
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, Typespace};

use super::schedules::{Rows, Schedule};
use super::{
    access, bsatn, check_lifecycle, check_rows, check_tables, key_columns, names, row_type, rules, schedules,
    unique_key, with_lifecycle,
};
use crate::PrepareError;
use crate::handlers;
use crate::hidden::{self, HiddenTable};
use crate::module::Names;
use crate::order::Indexes;
use crate::plan::{Called, Named, Plan, RawSequence, TablePlan, ViewPlan};
use crate::shape::Shape;

/// The contents of a section, which is added if the definition lacks it.
macro_rules! section {
    ($def:expr, $section:ident, $empty:expr) => {{
        if !$def
            .sections
            .iter()
            .any(|section| matches!(section, Section::$section(_)))
        {
            $def.sections.push(Section::$section($empty));
        }
        let found = $def.sections.iter_mut().find_map(|section| match section {
            Section::$section(contents) => Some(contents),
            _ => None,
        });
        found.ok_or_else(|| PrepareError::Definition("a section is missing".into()))?
    }};
}

pub(super) fn rewrite(mut def: RawModuleDefV10, immediate: bool) -> Result<Plan, PrepareError> {
    let names = Names::of(&def)?;
    check(&def)?;
    check_names(&def, &names)?;
    let of = |wanted| {
        with_lifecycle(
            reducers(&def).iter().map(|reducer| lifecycle_of(&def, reducer)),
            wanted,
        )
    };
    let (init, client_disconnected) = (of(Lifecycle::Init), of(Lifecycle::OnDisconnect));
    let callable = [
        reducers(&def)
            .iter()
            .map(|it| names.function(&it.source_name))
            .collect(),
        procedures(&def)
            .map(|it| names.function(&it.source_name))
            .collect(),
    ];
    let own_tables = def.tables().map_or(0, Vec::len);
    if immediate {
        add_hidden_tables(&mut def, [&hidden::IMMEDIATE])?;
        let ours = &mut section!(def, Tables, Vec::new())[own_tables];
        ours.sequences.push(RawSequenceDefV10 {
            source_name: None,
            column: 0.into(),
            start: None,
            min_value: None,
            max_value: None,
            increment: 1,
        });
    }
    let types = def.typespace().cloned().unwrap_or_default();
    let tables = def.tables().into_iter().flatten();
    let tables = tables
        .map(|table| plan_table(&types, &names, table))
        .collect::<Result<_, _>>()?;
    let rows = def.tables().into_iter().flatten();
    check_rows(
        &types,
        rows.map(|table| (&*table.source_name, table.product_type_ref)),
    )?;
    let index_of = |table: usize, column| {
        let table = def.tables().and_then(|tables| tables.get(table));
        let indexes = table.map(|table| Indexes::of_v10(table, &types)).transpose()?;
        Ok(indexes.and_then(|indexes| indexes.of_unique(column)))
    };
    let schedules = schedules::plan(&types, schedules(&def), index_of, immediate.then_some(own_tables))?;
    let count = reducers(&def).len() as u32;
    let views = plan_views(&types, &def)?;
    let called_by_log: Vec<_> = reducers(&def)
        .iter()
        .map(|reducer| called_by_log(&def, reducer))
        .collect();

    let tables_mut = section!(def, Tables, Vec::new());
    tables_mut.iter_mut().for_each(|table| table.sequences.clear());
    let hidden_tables = hidden::TABLES.into_iter().chain(hidden::TABLES_SINCE_10);
    add_hidden_tables(&mut def, hidden_tables)?;
    let reducers_mut = section!(def, Reducers, Vec::new());
    for (reducer, called_by_log) in reducers_mut.iter_mut().zip(called_by_log) {
        reducer.params = hidden::with_header(&reducer.params);
        if called_by_log {
            reducer.visibility = FunctionVisibility::Private;
        }
    }
    let hidden_reducers = hidden::reducers().into_iter().chain(hidden::reducers_since_10());
    reducers_mut.extend(hidden_reducers.map(|(name, params)| RawReducerDefV10 {
        source_name: name.into(),
        params: hidden::with_header(&params),
        visibility: FunctionVisibility::Private,
        ok_return_type: reducer_default_ok_return_type(),
        err_return_type: reducer_default_err_return_type(),
    }));
    let procedures = procedures(&def).count() as u32;
    let mut handlers = handlers::handlers(&def, &names).peekable();
    let handlers = handlers.peek().is_some().then(|| handlers::key(handlers));
    let scheduled = def.schedules().into_iter().flatten();
    let scheduled: BTreeSet<_> = scheduled.map(|schedule| schedule.function_name.clone()).collect();
    for section in &mut def.sections {
        if let Section::Procedures(all) = section {
            for procedure in all {
                procedure.params = hidden::with_header(&procedure.params);
                if scheduled.contains(&procedure.source_name) {
                    procedure.visibility = FunctionVisibility::Private;
                }
            }
        }
    }
    if procedures > 0 || handlers.is_some() {
        let hidden_procedures = hidden::procedures().into_iter();
        section!(def, Procedures, Vec::new()).extend(hidden_procedures.map(|(name, params, returns)| {
            RawProcedureDefV10 {
                source_name: name.into(),
                params: hidden::with_header(&params),
                return_type: returns,
                visibility: FunctionVisibility::Private,
            }
        }));
    }
    def.sections
        .retain(|section| !matches!(section, Section::Schedules(_) | Section::LifeCycleReducers(_)));
    Ok(Plan {
        def: bsatn(RawModuleDef::V10(def))?,
        since_2: true,
        reducers: count,
        init,
        client_disconnected,
        names: callable,
        immediate,
        tables,
        schedules,
        views: Some(views),
        procedures,
        handlers,
    })
}

fn check(def: &RawModuleDefV10) -> Result<(), PrepareError> {
    if let Some(submodule) = def.submodules().and_then(|submodules| submodules.first()) {
        return Err(PrepareError::Submodules(submodule.namespace.clone()));
    }
    rules::check(
        def.row_level_security()
            .into_iter()
            .flatten()
            .map(|rule| &*rule.sql),
    )?;
    let types = def.typespace().cloned().unwrap_or_default();
    let lifecycle = def.lifecycle_reducers().into_iter().flatten();
    let lifecycle = lifecycle.map(|assigned| {
        let name = &assigned.function_name;
        let reducer = reducers(def).iter().find(|reducer| reducer.source_name == *name);
        let reducer = reducer.ok_or_else(|| {
            PrepareError::Definition(format!("the lifecycle reducer `{name}` does not exist"))
        })?;
        Ok((assigned.lifecycle_spec, &**name, &reducer.params))
    });
    check_lifecycle(lifecycle.collect::<Result<Vec<_>, PrepareError>>()?.into_iter())?;
    let tables = || def.tables().into_iter().flatten();
    schedules::check(&types, schedules(def))?;
    let heads = tables().map(|table| {
        let is_system = matches!(table.table_type, TableType::System);
        (
            &*table.source_name,
            table.product_type_ref,
            table.indexes.len(),
            is_system,
        )
    });
    let views = || def.views().into_iter().flatten();
    let params = reducers(def).iter().flat_map(|reducer| &*reducer.params.elements);
    let params = params.chain(views().flat_map(|view| &*view.params.elements));
    let params = params.chain(procedures(def).flat_map(|procedure| &*procedure.params.elements));
    let params = params.map(|param| &param.algebraic_type);
    let returned = views().map(|view| &view.return_type);
    let returned = returned.chain(procedures(def).map(|procedure| &procedure.return_type));
    check_tables(&types, heads, params.chain(returned))
}

fn procedures(def: &RawModuleDefV10) -> impl Iterator<Item = &RawProcedureDefV10> {
    def.procedures().into_iter().flatten()
}

fn schedules(def: &RawModuleDefV10) -> impl Iterator<Item = Schedule<'_>> {
    def.schedules().into_iter().flatten().map(|schedule| {
        let mut tables = def.tables().into_iter().flatten().enumerate();
        let rows = tables.find(|(_, table)| table.source_name == schedule.table_name);
        let name = &schedule.function_name;
        let reducer = || {
            let mut all = reducers(def).iter().zip(0..);
            let (reducer, id) = all.find(|(reducer, _)| reducer.source_name == *name)?;
            Some((Called::Reducer(id), &reducer.params))
        };
        let procedure = || {
            let mut all = procedures(def).zip(0..);
            let (procedure, id) = all.find(|(procedure, _)| procedure.source_name == *name)?;
            Some((Called::Procedure(id), &procedure.params))
        };
        Schedule {
            table: &schedule.table_name,
            rows: rows.map(|(place, table)| Rows {
                table: place,
                row: table.product_type_ref,
                key: table.primary_key.head().map(|column| column.0),
            }),
            at: schedule.schedule_at_col.0,
            function: name,
            called: reducer().or_else(procedure),
        }
    })
}

/// Checks names as the server spells them.
fn check_names(def: &RawModuleDefV10, spelled: &Names) -> Result<(), PrepareError> {
    for table in def.tables().into_iter().flatten() {
        names::check([spelled.table(&table.source_name)].into_iter())?;
        let types = def.typespace();
        let row = types.and_then(|types| types.get(table.product_type_ref)?.as_product());
        let columns = row.into_iter().flat_map(names::of_elements);
        names::check(columns.map(|column| spelled.column(column)))?;
    }
    // The server does not even quote these.
    let keys = def.view_primary_keys().into_iter().flatten();
    names::check(keys.map(|key| &*key.view_source_name))?;
    let params = reducers(def).iter().map(|reducer| &reducer.params);
    let params = params.chain(def.views().into_iter().flatten().map(|view| &view.params));
    let params = params.chain(procedures(def).map(|procedure| &procedure.params));
    names::check(
        params
            .flat_map(names::of_elements)
            .map(|param| spelled.column(param)),
    )?;
    let functions = reducers(def).iter().map(|reducer| &reducer.source_name);
    let functions = functions.chain(def.views().into_iter().flatten().map(|view| &view.source_name));
    let functions = functions.chain(procedures(def).map(|procedure| &procedure.source_name));
    let functions: Vec<_> = functions.map(|name| spelled.function(name)).collect();
    names::check(functions.iter())?;
    names::check_functions(functions.into_iter())?;
    // These are apart: a reducer may be called the same.
    names::check(handlers::handlers(def, spelled))?;
    handlers::check(def, spelled)
}

fn reducers(def: &RawModuleDefV10) -> &[RawReducerDefV10] {
    def.reducers().map_or(&[], Vec::as_slice)
}

fn lifecycle_of(def: &RawModuleDefV10, reducer: &RawReducerDefV10) -> Option<Lifecycle> {
    let mut assigned = def.lifecycle_reducers().into_iter().flatten();
    assigned
        .find(|it| it.function_name == reducer.source_name)
        .map(|it| it.lifecycle_spec)
}

fn called_by_log(def: &RawModuleDefV10, reducer: &RawReducerDefV10) -> bool {
    let mut schedules = def.schedules().into_iter().flatten();
    lifecycle_of(def, reducer).is_some()
        || schedules.any(|schedule| schedule.function_name == reducer.source_name)
}

fn plan_table(types: &Typespace, names: &Names, table: &RawTableDefV10) -> Result<TablePlan, PrepareError> {
    let row = row_type(types, table.product_type_ref, &table.source_name)?;
    let sequences: Vec<_> = table.sequences.iter().map(RawSequence::of_v10).collect();
    let indexes = Indexes::of_v10(table, types)?;
    let named = |source: &str, canonical| Named {
        source: source.to_owned(),
        canonical,
    };
    let name = named(&table.source_name, names.table(&table.source_name));
    let column = |source: &str| named(source, names.column(source));
    TablePlan::new(&name, column, &row, types, &sequences, &indexes)
}

fn plan_views(types: &Typespace, def: &RawModuleDefV10) -> Result<Vec<ViewPlan>, PrepareError> {
    let names = Names::of(def)?;
    let views = def.views().into_iter().flatten();
    let mut numbers: Vec<_> = views
        .clone()
        .map(|view| (view.is_anonymous, view.index))
        .collect();
    numbers.sort_unstable();
    if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(PrepareError::Definition("two views share a number".into()));
    }
    views
        .map(|view| {
            let name = names.function(&view.source_name);
            let row = extract_view_return_product_type_ref(&view.return_type);
            let row = row.and_then(|(reference, _)| types.get(reference)?.as_product());
            let row =
                row.ok_or_else(|| PrepareError::Definition(format!("view `{name}` has no row type")))?;
            let row = Shape::of_row(row, types).ok_or_else(|| PrepareError::UnwalkableView(name.clone()))?;
            Ok(ViewPlan {
                anonymous: view.is_anonymous,
                id: view.index,
                index: format!("{name}_arg_hash_idx_btree"),
                row,
            })
        })
        .collect()
}

fn add_hidden_tables(
    def: &mut RawModuleDefV10,
    tables: impl IntoIterator<Item = &'static HiddenTable>,
) -> Result<(), PrepareError> {
    for table in tables {
        let typespace = section!(def, Typespace, Typespace::default());
        let row = typespace.add(AlgebraicType::Product((table.row)()));
        section!(def, Types, Vec::new()).push(hidden_type(table, row));
        section!(def, Tables, Vec::new()).push(hidden_table(table, row));
    }
    Ok(())
}

fn hidden_table(table: &HiddenTable, row: AlgebraicTypeRef) -> RawTableDefV10 {
    RawTableDefV10 {
        source_name: table.name.into(),
        product_type_ref: row,
        primary_key: key_columns(),
        indexes: vec![RawIndexDefV10 {
            source_name: Some(table.index.into()),
            accessor_name: None,
            algorithm: RawIndexAlgorithm::BTree {
                columns: key_columns(),
            },
        }],
        constraints: vec![RawConstraintDefV10 {
            source_name: None,
            data: unique_key(),
        }],
        sequences: Vec::new(),
        table_type: TableType::User,
        table_access: access(table),
        default_values: Vec::new(),
        is_event: table.name == hidden::NOW.name,
    }
}

fn hidden_type(table: &HiddenTable, ty: AlgebraicTypeRef) -> RawTypeDefV10 {
    let source_name = RawScopedTypeNameV10 {
        scope: Box::new([]),
        source_name: table.type_name.into(),
    };
    RawTypeDefV10 {
        source_name,
        ty,
        custom_ordering: true,
    }
}
