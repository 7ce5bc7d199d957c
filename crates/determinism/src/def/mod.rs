//! Rewriting a module's definition: headers before parameters, nothing left that the host would do by itself, and
//! the hidden tables and reducers at the end, so that the module's own numbers stay as they are.

mod depth;
mod v10;
mod v9;

use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{
    Lifecycle, RawConstraintDataV9, RawUniqueConstraintDataV9, TableAccess,
};
use spacetimedb_primitives::ColList;
use spacetimedb_sats::{AlgebraicTypeRef, ProductType, Typespace};

use crate::PrepareError;
use crate::hidden::HiddenTable;
use crate::plan::Plan;

/// Rewrites a definition, or says why its module can't be replicated.
pub(crate) fn rewrite(def: &[u8]) -> Result<Plan, PrepareError> {
    let mut plan = match decode(def)? {
        RawModuleDef::V9(def) => v9::rewrite(def),
        RawModuleDef::V10(def) => v10::rewrite(def),
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
