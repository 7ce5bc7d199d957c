//! Schedules are taken from the server, and are checked as it would have done (SpacetimeDB 1.2.0 and 2.8.3,
//! `crates/schema/src/def/validate`).

use std::collections::HashSet;

use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, Typespace};

use crate::PrepareError;

/// A schedule, as far as it is checked here.
pub(super) struct Schedule<'a> {
    /// The table's name.
    pub(super) table: &'a str,
    /// The table, if there is one of that name.
    pub(super) rows: Option<Rows>,
    /// The column that says when.
    pub(super) at: u16,
    /// The reducer's name.
    pub(super) reducer: &'a str,
    /// Its parameters, if there is one of that name.
    pub(super) params: Option<&'a ProductType>,
}

/// A table with a schedule.
pub(super) struct Rows {
    pub(super) row: AlgebraicTypeRef,
    /// The first column of the primary key.
    pub(super) key: Option<u16>,
}

/// Refuses schedules that nothing can be called by.
pub(super) fn check<'a>(
    types: &Typespace,
    schedules: impl Iterator<Item = Schedule<'a>>,
) -> Result<(), PrepareError> {
    let mut seen = HashSet::new();
    for schedule in schedules {
        schedule.check(types)?;
        if !seen.insert(schedule.table) {
            return Err(schedule.bad("is one of two"));
        }
    }
    Ok(())
}

impl Schedule<'_> {
    fn check(&self, types: &Typespace) -> Result<(), PrepareError> {
        let row_of = |rows: &Rows| types.get(rows.row)?.as_product();
        let rows = self.rows.as_ref();
        let Some((rows, row)) = rows.and_then(|rows| Some((rows, row_of(rows)?))) else {
            return Err(self.bad("is of a table that does not exist"));
        };
        let column = |at: u16| row.elements.get(usize::from(at)).map(|it| &it.algebraic_type);
        if !column(self.at).is_some_and(AlgebraicType::is_schedule_at) {
            return Err(self.bad(&format!("goes by column {}, which is no `ScheduleAt`", self.at)));
        }
        if rows.key.and_then(column) != Some(&AlgebraicType::U64) {
            return Err(self.bad("needs a primary key of type `u64` in that table"));
        }
        let reducer = self.reducer;
        let Some(params) = self.params else {
            return Err(self.bad(&format!("names a reducer that does not exist, `{reducer}`")));
        };
        let is_row = |param: &AlgebraicType| *param == AlgebraicType::Ref(rows.row);
        if !matches!(&*params.elements, [param] if is_row(&param.algebraic_type)) {
            return Err(self.bad(&format!(
                "names the reducer `{reducer}`, which must have one parameter, a row of that table"
            )));
        }
        Ok(())
    }

    fn bad(&self, what: &str) -> PrepareError {
        PrepareError::Definition(format!("the schedule of table `{}` {what}", self.table))
    }
}
