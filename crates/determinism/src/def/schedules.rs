//! Schedules are taken from the server, and are checked as it would have done (SpacetimeDB 1.2.0 and 2.8.3,
//! `crates/schema/src/def/validate`).

use std::collections::HashSet;

use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, Typespace};

use crate::PrepareError;
use crate::hidden::IMMEDIATE_AT;
use crate::plan::{Called, SchedulePlan};
use crate::shape::Shape;

/// A schedule, as far as it matters here.
pub(super) struct Schedule<'a> {
    /// The table's name.
    pub(super) table: &'a str,
    /// The table, if there is one of that name.
    pub(super) rows: Option<Rows>,
    /// The column that says when.
    pub(super) at: u16,
    /// The name of what is called.
    pub(super) function: &'a str,
    /// What it is, and its parameters, if there is one of that name.
    pub(super) called: Option<(Called, &'a ProductType)>,
}

/// A table with a schedule.
pub(super) struct Rows {
    /// Its place among the tables.
    pub(super) table: usize,
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

/// What the shim must know of schedules that have been [checked](check), and of the table of calls at once, whose place is
/// `immediate`, if there is one. `index_of` finds the index of a table's unique column.
pub(super) fn plan<'a>(
    types: &Typespace,
    schedules: impl Iterator<Item = Schedule<'a>>,
    index_of: impl Fn(usize, u16) -> Result<Option<usize>, PrepareError>,
    immediate: Option<usize>,
) -> Result<Vec<SchedulePlan>, PrepareError> {
    let own = schedules.map(|schedule| schedule.plan(types, &index_of));
    let immediate = immediate.map(|table| SchedulePlan {
        table,
        index: 0,
        called: Called::Named,
        before: Shape::Fixed(IMMEDIATE_AT),
    });
    own.chain(immediate.map(Ok)).collect()
}

impl Schedule<'_> {
    fn plan(
        &self,
        types: &Typespace,
        index_of: &impl Fn(usize, u16) -> Result<Option<usize>, PrepareError>,
    ) -> Result<SchedulePlan, PrepareError> {
        let rows = self.rows.as_ref();
        let key = rows.and_then(|rows| Some((rows, rows.key?, types.get(rows.row)?.as_product()?)));
        let (Some((rows, key, row)), Some((called, _))) = (key, self.called) else {
            return Err(self.bad("is of a table that does not exist"));
        };
        let index = index_of(rows.table, key)?;
        let at = usize::from(self.at);
        let before: ProductType = row.elements.iter().take(at).cloned().collect();
        let before = Shape::of_row(&before, types);
        Ok(SchedulePlan {
            table: rows.table,
            index: index.ok_or_else(|| self.bad("needs a unique index of its table's primary key"))?,
            called,
            before: before.ok_or_else(|| {
                self.bad(
                    "goes by a column that can't be found behind the columns before it: move it to the front",
                )
            })?,
        })
    }

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
        let function = self.function;
        let Some((called, params)) = self.called else {
            return Err(self.bad(&format!("names a function that does not exist, `{function}`")));
        };
        let kind = match called {
            Called::Reducer(_) | Called::Named => "reducer",
            Called::Procedure(_) => "procedure",
        };
        let is_row = |param: &AlgebraicType| *param == AlgebraicType::Ref(rows.row);
        if !matches!(&*params.elements, [param] if is_row(&param.algebraic_type)) {
            return Err(self.bad(&format!(
                "names the {kind} `{function}`, which must have one parameter, a row of that table"
            )));
        }
        Ok(())
    }

    fn bad(&self, what: &str) -> PrepareError {
        PrepareError::Definition(format!("the schedule of table `{}` {what}", self.table))
    }
}
