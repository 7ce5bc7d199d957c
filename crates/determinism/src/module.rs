//! What a module offers, read from its definition.

use std::collections::BTreeSet;

use convert_case::{Case, Casing};
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawModuleDefV9, TableAccess};
use spacetimedb_lib::db::raw_def::v10::{
    CaseConversionPolicy, ExplicitNameEntry, ExplicitNames, FunctionVisibility, RawModuleDefV10,
    RawModuleDefV10Section,
};
use spacetimedb_lib::http::Method;
use spacetimedb_sats::raw_identifier::RawIdentifier;
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, Typespace};

use crate::PrepareError;
use crate::def::decode;
use crate::handlers::{Handler, Routes};
use crate::order::Indexes;
use crate::plan::RawSequence;

/// A module's reducers and tables, as its author wrote them and as clients name them.
#[derive(Debug, Clone)]
pub struct Module {
    typespace: Typespace,
    spelled: Typespace,
    reducers: Vec<Reducer>,
    tables: Vec<Table>,
    schedules: Vec<Schedule>,
    views: Vec<View>,
    procedures: Vec<Procedure>,
    routes: Routes,
    row_rules: bool,
}

/// A procedure.
#[derive(Debug, Clone)]
pub struct Procedure {
    /// Its number in the module.
    pub id: u32,
    /// The name by which clients call it.
    pub name: String,
    /// Its own parameters: no header.
    pub params: ProductType,
    /// What it returns.
    pub returns: AlgebraicType,
    /// Whether clients may not call it.
    pub private: bool,
}

/// A reducer.
#[derive(Debug, Clone)]
pub struct Reducer {
    /// Its number in the module.
    pub id: u32,
    /// The name by which clients call it.
    pub name: String,
    /// Its own parameters: no header.
    pub params: ProductType,
    /// What calls it.
    pub kind: ReducerKind,
    /// Whether clients may not call it. Lifecycle and scheduled reducers are always private here, because the log
    /// calls them.
    pub private: bool,
}

/// What calls a reducer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReducerKind {
    /// A client.
    Normal,
    /// The database's creation.
    Init,
    /// A client's arrival; an error turns the client away.
    ClientConnected,
    /// A client's departure.
    ClientDisconnected,
    /// A row of a schedule table that falls due.
    Scheduled,
}

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    /// The name by which clients and SQL know it.
    pub name: String,
    /// Its row type in the module's typespace.
    pub row: AlgebraicTypeRef,
    /// Whether clients may read it.
    pub public: bool,
    /// The columns that the database numbers, ascending.
    pub auto_inc: Vec<u16>,
    /// Whether its rows are gone with the transaction that inserts them.
    pub event: bool,
    /// Whether a unique index gives its rows their order. If not, they are sorted whenever they are all read.
    pub ordered: bool,
    /// The name in the module's source.
    pub(crate) source_name: String,
    pub(crate) sequences: Vec<RawSequence>,
    /// The columns' names, as clients know them.
    pub(crate) columns: Vec<String>,
}

/// A view.
#[derive(Debug, Clone)]
pub struct View {
    /// The name by which clients know it.
    pub name: String,
    /// Its number among those that know their sender, or among the others.
    pub id: u32,
    /// Whether it is the same for every sender.
    pub anonymous: bool,
    /// Whether clients may read it.
    pub public: bool,
    /// The type of its rows.
    pub row: AlgebraicType,
    /// The name in the module's source.
    source_name: String,
}

/// What a view shows that returns this: an array of rows, at most one, or a query for them.
fn row_of(returned: &AlgebraicType) -> AlgebraicType {
    /// The field that a query is returned in.
    const QUERY: &str = "__query__";
    let rows = match returned {
        AlgebraicType::Array(rows) => &*rows.elem_ty,
        AlgebraicType::Product(product) => match &*product.elements {
            [query] if query.name.as_deref() == Some(QUERY) => &query.algebraic_type,
            _ => returned,
        },
        _ => returned.as_option().unwrap_or(returned),
    };
    rows.clone()
}

impl View {
    /// The names by which SQL knows it.
    pub fn names(&self) -> [&str; 2] {
        [&self.name, &self.source_name]
    }
}

/// A schedule table: each of its rows is a call that falls due.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The table's name.
    pub table: String,
    /// The primary key's column, a `u64`.
    pub id_column: u16,
    /// The column that says when.
    pub at_column: u16,
    /// What is called with the row.
    pub function: String,
    /// What that is.
    pub kind: ScheduleKind,
}

/// What a row that falls due calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScheduleKind {
    /// A reducer.
    Reducer,
    /// A procedure.
    Procedure,
}

impl ScheduleKind {
    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Reducer => "reducer",
            Self::Procedure => "procedure",
        }
    }
}

impl Module {
    /// Reads a `RawModuleDef` in BSATN, as [`Prepared::original_def`](crate::Prepared::original_def) holds it.
    pub fn from_def(def: &[u8]) -> Result<Self, PrepareError> {
        match decode(def)? {
            RawModuleDef::V9(def) => Self::from_v9(&def),
            RawModuleDef::V10(def) => Self::from_v10(&def),
            _ => Err(PrepareError::WrongAbi(
                "a module definition older than version 9".into(),
            )),
        }
    }

    /// The reducers, by id.
    pub fn reducers(&self) -> &[Reducer] {
        &self.reducers
    }

    /// The reducer that clients call `name`.
    pub fn reducer(&self, name: &str) -> Option<&Reducer> {
        self.reducers.iter().find(|reducer| reducer.name == name)
    }

    /// The reducer that fills a new database.
    pub fn init(&self) -> Option<&Reducer> {
        self.of_kind(ReducerKind::Init)
    }

    /// The reducer that a client's arrival calls.
    pub fn client_connected(&self) -> Option<&Reducer> {
        self.of_kind(ReducerKind::ClientConnected)
    }

    /// The reducer that a client's departure calls.
    pub fn client_disconnected(&self) -> Option<&Reducer> {
        self.of_kind(ReducerKind::ClientDisconnected)
    }

    /// The types that reducers and tables refer to.
    pub fn typespace(&self) -> &Typespace {
        &self.typespace
    }

    /// The same types, with fields and variants as the server calls them in JSON.
    pub fn spelled(&self) -> &Typespace {
        &self.spelled
    }

    /// The tables, in the definition's order.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The table that clients or the module's source call so, and its place in the definition.
    pub fn table_named(&self, name: &str) -> Option<(u32, &Table)> {
        let find = |of: fn(&Table) -> &str| (0..).zip(&self.tables).find(|(_, table)| of(table) == name);
        find(|table| &table.name).or_else(|| find(|table| &table.source_name))
    }

    /// The place of a table's column that clients or the module's source call so.
    pub fn column_named(&self, table: &Table, name: &str) -> Option<usize> {
        let row = self.typespace.get(table.row).and_then(AlgebraicType::as_product);
        let mut sources = row.into_iter().flat_map(|row| row.elements.iter());
        let place = table.columns.iter().position(|column| column == name);
        place.or_else(|| sources.position(|column| column.name.as_deref() == Some(name)))
    }

    /// The schedule tables.
    pub fn schedules(&self) -> &[Schedule] {
        &self.schedules
    }

    /// The views.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// The procedures, by id.
    pub fn procedures(&self) -> &[Procedure] {
        &self.procedures
    }

    /// The procedure that clients call `name`.
    pub fn procedure(&self, name: &str) -> Option<&Procedure> {
        self.procedures.iter().find(|procedure| procedure.name == name)
    }

    /// The HTTP handler of a request, whose path is what follows `/route`.
    pub fn handler(&self, method: &Method, path: &str) -> Option<Handler> {
        self.routes.find(method, path)
    }

    /// Whether there are rules of row-level security: then what a table shows depends on who looks.
    pub fn has_row_rules(&self) -> bool {
        self.row_rules
    }

    fn of_kind(&self, kind: ReducerKind) -> Option<&Reducer> {
        self.reducers.iter().find(|reducer| reducer.kind == kind)
    }

    fn from_v9(def: &RawModuleDefV9) -> Result<Self, PrepareError> {
        let schedules = def.tables.iter().filter_map(|table| {
            let schedule = table.schedule.as_ref()?;
            Some(Schedule {
                table: table.name.to_string(),
                id_column: table.primary_key.head()?.0,
                at_column: schedule.scheduled_at_column.0,
                function: schedule.reducer_name.to_string(),
                kind: ScheduleKind::Reducer,
            })
        });
        let reducers = def.reducers.iter().zip(0..).map(|(reducer, id)| Reducer {
            id,
            name: reducer.name.to_string(),
            params: reducer.params.clone(),
            kind: kind_of(reducer.lifecycle),
            private: false,
        });
        let tables = def.tables.iter().map(|table| {
            Ok(Table {
                name: table.name.to_string(),
                row: table.product_type_ref,
                public: matches!(table.table_access, TableAccess::Public),
                auto_inc: ascending(table.sequences.iter().map(|sequence| sequence.column.0)),
                ordered: Indexes::of_v9(table, &def.typespace)?.first().is_some(),
                source_name: table.name.to_string(),
                sequences: table.sequences.iter().map(RawSequence::of_v9).collect(),
                event: false,
                columns: columns(&def.typespace, table.product_type_ref, str::to_owned),
            })
        });
        let module = Self {
            typespace: def.typespace.clone(),
            spelled: def.typespace.clone(),
            reducers: reducers.collect(),
            tables: tables.collect::<Result<_, PrepareError>>()?,
            schedules: schedules.collect(),
            views: Vec::new(),
            procedures: Vec::new(),
            routes: Routes::default(),
            row_rules: !def.row_level_security.is_empty(),
        };
        Ok(module.with_privacy())
    }

    fn from_v10(def: &RawModuleDefV10) -> Result<Self, PrepareError> {
        let names = Names::of(def)?;
        let lifecycle_of = |reducer: &str| {
            let mut assigned = def.lifecycle_reducers().into_iter().flatten();
            assigned
                .find(|it| &*it.function_name == reducer)
                .map(|it| it.lifecycle_spec)
        };
        let reducers = def
            .reducers()
            .into_iter()
            .flatten()
            .zip(0..)
            .map(|(reducer, id)| Reducer {
                id,
                name: names.function(&reducer.source_name),
                params: reducer.params.clone(),
                kind: kind_of(lifecycle_of(&reducer.source_name)),
                private: matches!(reducer.visibility, FunctionVisibility::Private),
            });
        let typespace = def.typespace().cloned().unwrap_or_default();
        let tables = def.tables().into_iter().flatten().map(|table| {
            Ok(Table {
                name: names.table(&table.source_name),
                row: table.product_type_ref,
                public: matches!(table.table_access, TableAccess::Public),
                auto_inc: ascending(table.sequences.iter().map(|sequence| sequence.column.0)),
                ordered: Indexes::of_v10(table, &typespace)?.first().is_some(),
                source_name: table.source_name.to_string(),
                sequences: table.sequences.iter().map(RawSequence::of_v10).collect(),
                event: table.is_event,
                columns: columns(&typespace, table.product_type_ref, |name| names.column(name)),
            })
        });
        let schedules = def.schedules().into_iter().flatten().filter_map(|schedule| {
            let mut tables = def.tables().into_iter().flatten();
            let table = tables.find(|table| table.source_name == schedule.table_name)?;
            let mut reducers = def.reducers().into_iter().flatten();
            let is_reducer = reducers.any(|reducer| reducer.source_name == schedule.function_name);
            Some(Schedule {
                table: names.table(&schedule.table_name),
                id_column: table.primary_key.head()?.0,
                at_column: schedule.schedule_at_col.0,
                function: names.function(&schedule.function_name),
                kind: match is_reducer {
                    true => ScheduleKind::Reducer,
                    false => ScheduleKind::Procedure,
                },
            })
        });
        let views = def.views().into_iter().flatten().map(|view| View {
            name: names.function(&view.source_name),
            id: view.index,
            anonymous: view.is_anonymous,
            public: view.is_public,
            row: row_of(&view.return_type),
            source_name: view.source_name.to_string(),
        });
        let procedures = def.procedures().into_iter().flatten().zip(0..);
        let procedures = procedures.map(|(procedure, id)| Procedure {
            id,
            name: names.function(&procedure.source_name),
            params: procedure.params.clone(),
            returns: procedure.return_type.clone(),
            private: matches!(procedure.visibility, FunctionVisibility::Private),
        });
        let module = Self {
            spelled: names.spelled(typespace.clone()),
            typespace: typespace.clone(),
            reducers: reducers.collect(),
            tables: tables.collect::<Result<_, PrepareError>>()?,
            schedules: schedules.collect(),
            views: views.collect(),
            procedures: procedures.collect(),
            routes: Routes::of(def, &names),
            row_rules: def.sections.iter().any(|section| {
                matches!(section, RawModuleDefV10Section::RowLevelSecurity(rules) if !rules.is_empty())
            }),
        };
        Ok(module.with_privacy().with_one_meaning())
    }

    /// A name is first what clients know by it: views lose names in the source that are such names of others.
    fn with_one_meaning(mut self) -> Self {
        let tables = self.tables.iter().map(|table| table.name.clone());
        let views = self.views.iter().map(|view| view.name.clone());
        let names: BTreeSet<_> = tables.chain(views).collect();
        for view in &mut self.views {
            if names.contains(&view.source_name) {
                view.source_name.clone_from(&view.name);
            }
        }
        self
    }

    /// Marks the scheduled reducers, and hides from clients whatever the cluster calls by itself.
    fn with_privacy(mut self) -> Self {
        let schedules = &self.schedules;
        let is_scheduled =
            |kind, name: &str| schedules.iter().any(|it| it.kind == kind && it.function == name);
        for reducer in &mut self.reducers {
            if is_scheduled(ScheduleKind::Reducer, &reducer.name) && reducer.kind == ReducerKind::Normal {
                reducer.kind = ReducerKind::Scheduled;
            }
            reducer.private |= reducer.kind != ReducerKind::Normal;
        }
        for procedure in &mut self.procedures {
            procedure.private |= is_scheduled(ScheduleKind::Procedure, &procedure.name);
        }
        self
    }
}

/// How a version 10 definition's source names become the names that clients use. The server does the same
/// (SpacetimeDB 2.8.3, `crates/schema/src/def/validate/v10.rs`).
pub(crate) struct Names {
    snake_case: bool,
    tables: Vec<(String, String)>,
    functions: Vec<(String, String)>,
}

impl Names {
    pub(crate) fn of(def: &RawModuleDefV10) -> Result<Self, PrepareError> {
        let snake_case = match def.case_conversion_policy() {
            CaseConversionPolicy::None => false,
            CaseConversionPolicy::SnakeCase => true,
            other => return Err(PrepareError::WrongAbi(format!("the case conversion {other:?}"))),
        };
        let mut names = Self {
            snake_case,
            tables: Vec::new(),
            functions: Vec::new(),
        };
        for entry in def
            .explicit_names()
            .cloned()
            .map(ExplicitNames::into_entries)
            .unwrap_or_default()
        {
            match entry {
                ExplicitNameEntry::Table(it) => names.tables.push(pair(&it.source_name, &it.canonical_name)),
                ExplicitNameEntry::Function(it) => {
                    names.functions.push(pair(&it.source_name, &it.canonical_name))
                }
                _ => {}
            }
        }
        Ok(names)
    }

    pub(crate) fn table(&self, source: &str) -> String {
        self.resolve(source, &self.tables)
    }

    pub(crate) fn column(&self, source: &str) -> String {
        self.resolve(source, &[])
    }

    pub(crate) fn function(&self, source: &str) -> String {
        self.resolve(source, &self.functions)
    }

    /// Types with their fields and variants as the server calls them in JSON.
    fn spelled(&self, mut types: Typespace) -> Typespace {
        if self.snake_case {
            types.types.iter_mut().for_each(spell);
        }
        types
    }

    fn resolve(&self, source: &str, explicit: &[(String, String)]) -> String {
        match explicit.iter().rfind(|(name, _)| name == source) {
            Some((_, canonical)) => canonical.clone(),
            None if self.snake_case => source.to_case(Case::Snake),
            None => source.to_owned(),
        }
    }
}

fn spell(ty: &mut AlgebraicType) {
    if ty.is_special() {
        return;
    }
    let spelled = |name: &RawIdentifier, case| RawIdentifier::from(name.to_string().to_case(case));
    match ty {
        AlgebraicType::Product(product) => {
            for field in product.elements.iter_mut() {
                field.name = field.name.as_ref().map(|name| spelled(name, Case::Snake));
                spell(&mut field.algebraic_type);
            }
        }
        AlgebraicType::Sum(sum) => {
            for variant in sum.variants.iter_mut() {
                variant.name = variant.name.as_ref().map(|name| spelled(name, Case::Camel));
                spell(&mut variant.algebraic_type);
            }
        }
        AlgebraicType::Array(array) => spell(&mut array.elem_ty),
        _ => {}
    }
}

fn pair(source: &str, canonical: &str) -> (String, String) {
    (source.to_owned(), canonical.to_owned())
}

fn kind_of(lifecycle: Option<Lifecycle>) -> ReducerKind {
    match lifecycle {
        Some(Lifecycle::Init) => ReducerKind::Init,
        Some(Lifecycle::OnConnect) => ReducerKind::ClientConnected,
        Some(Lifecycle::OnDisconnect) => ReducerKind::ClientDisconnected,
        _ => ReducerKind::Normal,
    }
}

/// The names of a row type's columns.
fn columns(types: &Typespace, row: AlgebraicTypeRef, name: impl Fn(&str) -> String) -> Vec<String> {
    let row = types.get(row).and_then(AlgebraicType::as_product);
    let elements = row.into_iter().flat_map(|row| row.elements.iter());
    elements
        .map(|column| name(column.name.as_deref().unwrap_or_default()))
        .collect()
}

fn ascending(columns: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut columns: Vec<_> = columns.collect();
    columns.sort_unstable();
    columns
}
