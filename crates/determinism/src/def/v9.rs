//! Definitions of version 9: modules built with SpacetimeDB 1.x.

use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{
    Lifecycle, RawConstraintDefV9, RawIndexAlgorithm, RawIndexDefV9, RawMiscModuleExportV9, RawModuleDefV9,
    RawReducerDefV9, RawScopedTypeNameV9, RawSequenceDefV9, RawTableDefV9, RawTypeDefV9, TableType,
};
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef};

use super::schedules::{Rows, Schedule};
use super::{
    access, bsatn, check_lifecycle, check_rows, check_tables, key_columns, names, row_type, rules, schedules,
    unique_key, with_lifecycle,
};
use crate::PrepareError;
use crate::hidden::{self, HiddenTable};
use crate::order::Indexes;
use crate::plan::{Called, Named, Plan, RawSequence, TablePlan};

pub(super) fn rewrite(mut def: RawModuleDefV9, immediate: bool) -> Result<Plan, PrepareError> {
    check(&def)?;
    let of = |wanted| with_lifecycle(def.reducers.iter().map(|reducer| reducer.lifecycle), wanted);
    let (init, client_disconnected) = (of(Lifecycle::Init), of(Lifecycle::OnDisconnect));
    let names = def
        .reducers
        .iter()
        .map(|reducer| reducer.name.to_string())
        .collect();
    let own_tables = def.tables.len();
    if immediate {
        add_hidden_table(&mut def, &hidden::IMMEDIATE);
        def.tables[own_tables].sequences.push(RawSequenceDefV9 {
            name: None,
            column: 0.into(),
            start: None,
            min_value: None,
            max_value: None,
            increment: 1,
        });
    }
    let tables = def
        .tables
        .iter()
        .map(|table| plan_table(&def, table))
        .collect::<Result<_, _>>()?;
    let rows = def.tables.iter();
    check_rows(
        &def.typespace,
        rows.map(|table| (&*table.name, table.product_type_ref)),
    )?;
    let index_of =
        |table: usize, column| Ok(Indexes::of_v9(&def.tables[table], &def.typespace)?.of_unique(column));
    let schedules = schedules::plan(
        &def.typespace,
        schedules(&def),
        index_of,
        immediate.then_some(own_tables),
    )?;
    let reducers = def.reducers.len() as u32;

    for reducer in &mut def.reducers {
        reducer.params = hidden::with_header(&reducer.params);
        reducer.lifecycle = None;
    }
    for table in &mut def.tables {
        table.schedule = None;
        table.sequences.clear();
    }
    for table in hidden::TABLES {
        add_hidden_table(&mut def, table);
    }
    def.reducers
        .extend(hidden::reducers().map(|(name, params)| RawReducerDefV9 {
            name: name.into(),
            params: hidden::with_header(&params),
            lifecycle: None,
        }));
    Ok(Plan {
        def: bsatn(RawModuleDef::V9(def))?,
        since_2: false,
        reducers,
        init,
        client_disconnected,
        names: [names, Vec::new()],
        immediate,
        tables,
        schedules,
        views: None,
        procedures: 0,
        handlers: None,
    })
}

fn check(def: &RawModuleDefV9) -> Result<(), PrepareError> {
    for export in &def.misc_exports {
        match export {
            RawMiscModuleExportV9::Procedure(it) => {
                return Err(PrepareError::Procedures(it.name.to_string()));
            }
            // Without event tables nothing tells a refresh from a call: see `shim/views.rs`.
            RawMiscModuleExportV9::View(it) => return Err(PrepareError::OldViews(it.name.to_string())),
            _ => {}
        }
    }
    check_names(def)?;
    rules::check(def.row_level_security.iter().map(|rule| &*rule.sql))?;
    check_lifecycle(def.reducers.iter().filter_map(|reducer| {
        let lifecycle = reducer.lifecycle?;
        Some((lifecycle, &*reducer.name, &reducer.params))
    }))?;
    schedules::check(&def.typespace, schedules(def))?;
    let tables = def.tables.iter().map(|table| {
        let is_system = matches!(table.table_type, TableType::System);
        (
            &*table.name,
            table.product_type_ref,
            table.indexes.len(),
            is_system,
        )
    });
    let params = def.reducers.iter().flat_map(|reducer| &*reducer.params.elements);
    let views = def.misc_exports.iter().filter_map(|export| match export {
        RawMiscModuleExportV9::View(view) => Some(view),
        _ => None,
    });
    let params = params.chain(views.clone().flat_map(|view| &*view.params.elements));
    let params = params.map(|param| &param.algebraic_type);
    check_tables(
        &def.typespace,
        tables,
        params.chain(views.map(|view| &view.return_type)),
    )
}

fn schedules(def: &RawModuleDefV9) -> impl Iterator<Item = Schedule<'_>> {
    def.tables.iter().enumerate().filter_map(|(place, table)| {
        let schedule = table.schedule.as_ref()?;
        let mut reducers = def.reducers.iter();
        let called = reducers.position(|reducer| reducer.name == schedule.reducer_name);
        Some(Schedule {
            table: &table.name,
            rows: Some(Rows {
                table: place,
                row: table.product_type_ref,
                key: table.primary_key.head().map(|column| column.0),
            }),
            at: schedule.scheduled_at_column.0,
            function: &schedule.reducer_name,
            called: called.map(|at| (Called::Reducer(at as u32), &def.reducers[at].params)),
        })
    })
}

fn check_names(def: &RawModuleDefV9) -> Result<(), PrepareError> {
    names::check(def.tables.iter().map(|table| &*table.name))?;
    for table in &def.tables {
        let row = def
            .typespace
            .get(table.product_type_ref)
            .and_then(|ty| ty.as_product());
        names::check(row.into_iter().flat_map(names::of_elements))?;
    }
    for reducer in &def.reducers {
        names::check(
            [&*reducer.name]
                .into_iter()
                .chain(names::of_elements(&reducer.params)),
        )?;
    }
    for ty in &def.types {
        names::check(ty.name.scope.iter().chain([&ty.name.name]).map(|name| &**name))?;
    }
    names::check_functions(def.reducers.iter().map(|reducer| &*reducer.name))
}

fn plan_table(def: &RawModuleDefV9, table: &RawTableDefV9) -> Result<TablePlan, PrepareError> {
    let row = row_type(&def.typespace, table.product_type_ref, &table.name)?;
    let sequences: Vec<_> = table.sequences.iter().map(RawSequence::of_v9).collect();
    let indexes = Indexes::of_v9(table, &def.typespace)?;
    let name = Named::plain(&table.name);
    TablePlan::new(&name, Named::plain, &row, &def.typespace, &sequences, &indexes)
}

fn add_hidden_table(def: &mut RawModuleDefV9, table: &HiddenTable) {
    let row = def.typespace.add(AlgebraicType::Product((table.row)()));
    def.tables.push(hidden_table(table, row));
    def.types.push(hidden_type(table, row));
}

fn hidden_table(table: &HiddenTable, row: AlgebraicTypeRef) -> RawTableDefV9 {
    RawTableDefV9 {
        name: table.name.into(),
        product_type_ref: row,
        primary_key: key_columns(),
        indexes: vec![RawIndexDefV9 {
            name: Some(table.index.into()),
            accessor_name: None,
            algorithm: RawIndexAlgorithm::BTree {
                columns: key_columns(),
            },
        }],
        constraints: vec![RawConstraintDefV9 {
            name: None,
            data: unique_key(),
        }],
        sequences: Vec::new(),
        schedule: None,
        table_type: TableType::User,
        table_access: access(table),
    }
}

fn hidden_type(table: &HiddenTable, ty: AlgebraicTypeRef) -> RawTypeDefV9 {
    let name = RawScopedTypeNameV9 {
        scope: Box::new([]),
        name: table.type_name.into(),
    };
    RawTypeDefV9 {
        name,
        ty,
        custom_ordering: true,
    }
}
