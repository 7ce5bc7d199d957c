//! Rewriting a module's definition: headers before parameters, nothing left that the host would do by itself, and
//! the hidden tables and reducers at the end, so that the module's own numbers stay as they are.

mod depth;
mod names;
mod rules;
mod schedules;
mod types;
mod v10;
mod v9;

use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{
    Lifecycle, RawConstraintDataV9, RawUniqueConstraintDataV9, TableAccess,
};
use spacetimedb_primitives::ColList;
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, Typespace};

use self::types::Sizes;
use crate::PrepareError;
use crate::hidden::HiddenTable;
use crate::plan::Plan;

/// Rewrites a definition, with [`IMMEDIATE`](crate::hidden::IMMEDIATE) or without, or says why its module can't be replicated.
pub(crate) fn rewrite(def: &[u8], immediate: bool) -> Result<Plan, PrepareError> {
    let decoded = decode(def)?;
    depth::check_names(def)?;
    let mut plan = match decoded {
        RawModuleDef::V9(def) => v9::rewrite(def, immediate),
        RawModuleDef::V10(def) => v10::rewrite(def, immediate),
        _ => Err(PrepareError::WrongAbi(
            "a module definition older than version 9".into(),
        )),
    }?;
    plan.check_sequences()?;
    Ok(plan)
}

/// Reads a definition from BSATN.
pub(crate) fn decode(def: &[u8]) -> Result<RawModuleDef, PrepareError> {
    depth::check(def)?;
    spacetimedb_lib::bsatn::from_slice(def).map_err(|error| PrepareError::Definition(error.to_string()))
}

/// A table as far as it is checked here: its name, its row type, the number of its indexes, and whether it is said to be
/// one of the server's own.
type TableHead<'a> = (&'a str, AlgebraicTypeRef, usize, bool);

/// Refuses tables of the server's, and types that are too big; `others` stand elsewhere than in the typespace.
fn check_tables<'a>(
    types: &Typespace,
    tables: impl Iterator<Item = TableHead<'a>> + Clone,
    mut others: impl Iterator<Item = &'a AlgebraicType>,
) -> Result<(), PrepareError> {
    for (name, _, _, is_system) in tables.clone() {
        if is_system || name.starts_with("st_") {
            return Err(PrepareError::SystemTable(name.to_owned()));
        }
    }
    let mut sizes = Sizes::of(types)?;
    sizes.check_rows(tables.map(|(_, row, indexes, _)| (row, indexes)))?;
    others.try_for_each(|ty| sizes.check(ty))
}

/// Refuses rows without end. Comes after what says so in better words.
fn check_rows<'a>(
    types: &Typespace,
    mut tables: impl Iterator<Item = (&'a str, AlgebraicTypeRef)>,
) -> Result<(), PrepareError> {
    let mut sizes = Sizes::of(types)?;
    tables.try_for_each(|(name, row)| sizes.check_row(name, row))
}

/// Checks the lifecycle reducers as the server would if they were not taken from it.
fn check_lifecycle<'a>(
    reducers: impl Iterator<Item = (Lifecycle, &'a str, &'a ProductType)>,
) -> Result<(), PrepareError> {
    let mut seen: Vec<(Lifecycle, &str)> = Vec::new();
    for (lifecycle, name, params) in reducers {
        if !params.elements.is_empty() {
            return Err(PrepareError::LifecycleParams(name.to_owned()));
        }
        if seen.iter().any(|&(it, other)| it == lifecycle || other == name) {
            return Err(PrepareError::Definition(format!(
                "reducer `{name}` is one of two with the same place in the module's life, or has two such places"
            )));
        }
        seen.push((lifecycle, name));
    }
    Ok(())
}

fn row_type(
    types: &Typespace,
    reference: AlgebraicTypeRef,
    table: &str,
) -> Result<ProductType, PrepareError> {
    let product = types.get(reference).and_then(|ty| ty.as_product());
    product
        .cloned()
        .ok_or_else(|| PrepareError::Definition(format!("table `{table}` has no row type")))
}

fn access(table: &HiddenTable) -> TableAccess {
    if table.public {
        TableAccess::Public
    } else {
        TableAccess::Private
    }
}

fn unique_key() -> RawConstraintDataV9 {
    RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 {
        columns: key_columns(),
    })
}

fn key_columns() -> ColList {
    ColList::new(0.into())
}

fn bsatn(def: RawModuleDef) -> Result<Vec<u8>, PrepareError> {
    spacetimedb_lib::bsatn::to_vec(&def).map_err(|error| PrepareError::Definition(error.to_string()))
}

/// The reducer of `id`s that has a place in the module's life.
fn with_lifecycle(mut reducers: impl Iterator<Item = Option<Lifecycle>>, wanted: Lifecycle) -> Option<u32> {
    reducers
        .position(|lifecycle| lifecycle == Some(wanted))
        .and_then(|id| u32::try_from(id).ok())
}
