//! SQL that writes, read for a module: of which table it is, and what its values are in that table's types. What SpacetimeDB
//! would refuse for that is refused in its words (2.8.3, `crates/expr/src/statement.rs`).

mod value;

use self::value::ValueError;
use rtdb_consensus::command::{Assignment, DeleteRows, InsertRows, UpdateRows, WriteKind};
use rtdb_determinism::{Module, Table};
use rtdb_protocol::sql::{Change, Literal, Query, Write};
use spacetimedb_sats::{AlgebraicType, WithTypespace};
use thiserror::Error;

/// Why a statement that writes is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum WriteError {
    /// The module has no such table, or none that this caller may know of.
    #[error("no such table: `{0}`")]
    NoSuchTable(String),
    #[error("`{0}` is a view; DML on views is not supported")]
    View(String),
    #[error("`{table}` does not have a field `{column}`")]
    NoSuchColumn { table: String, column: String },
    #[error(
        "The number of fields ({named}) in the INSERT does not match the number of columns ({columns}) of the table `{table}`"
    )]
    Columns {
        table: String,
        named: usize,
        columns: usize,
    },
    #[error("Inserting a row with {values} values into `{table}` which has {columns} fields")]
    Values {
        table: String,
        values: usize,
        columns: usize,
    },
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// A statement, read for a module.
#[derive(Debug)]
pub(crate) struct Typed<'a> {
    /// The table's place in the module's definition.
    pub(crate) place: u32,
    pub(crate) kind: WriteKind,
    /// What gives the rows that are there: SpacetimeDB has not said yet whether it is one.
    pub(crate) rows: Option<&'a Query>,
}

/// Reads a statement for a module.
pub(crate) fn read<'a>(
    module: &'a Module,
    write: &'a Write,
    is_owner: bool,
) -> Result<Typed<'a>, WriteError> {
    let name = &write.table;
    let mut views = module.views().iter();
    if let Some(view) = views.find(|view| view.names().contains(&name.as_str())) {
        return Err(WriteError::View(view.name.clone()));
    }
    let found = module.table_named(name);
    let (place, table) = found
        .filter(|(_, table)| table.public || is_owner)
        .ok_or_else(|| WriteError::NoSuchTable(name.clone()))?;
    let columns = Columns::of(module, table);
    let (kind, rows) = match &write.change {
        Change::Insert { columns: named, rows } => (
            WriteKind::Insert(InsertRows {
                rows: columns.rows(*named, rows)?,
            }),
            None,
        ),
        Change::Update { assignments, rows } => {
            let assignments = assignments.iter();
            let assignments = assignments.map(|(column, value)| columns.assignment(column, value));
            let update = UpdateRows {
                query: rows.text().to_owned(),
                assignments: assignments.collect::<Result<_, _>>()?,
            };
            (WriteKind::Update(update), Some(rows))
        }
        Change::Delete { rows } => {
            let query = rows.text().to_owned();
            (WriteKind::Delete(DeleteRows { query }), Some(rows))
        }
    };
    Ok(Typed { place, kind, rows })
}

/// A table's columns.
struct Columns<'a> {
    table: &'a Table,
    module: &'a Module,
    /// Their types, with all references followed. `None` for what can't be written by SQL in any case.
    types: Vec<Option<AlgebraicType>>,
}

impl<'a> Columns<'a> {
    fn of(module: &'a Module, table: &'a Table) -> Self {
        let types = module.typespace();
        let row = types.get(table.row).and_then(AlgebraicType::as_product);
        let columns = row.into_iter().flat_map(|row| row.elements.iter());
        let resolved = |ty: &AlgebraicType| WithTypespace::new(types, ty).resolve_refs().ok();
        Self {
            table,
            module,
            types: columns.map(|column| resolved(&column.algebraic_type)).collect(),
        }
    }

    fn rows(&self, named: usize, rows: &[Vec<Literal>]) -> Result<Vec<bytes::Bytes>, WriteError> {
        let (table, columns) = (|| self.table.name.clone(), self.types.len());
        if named != columns {
            return Err(WriteError::Columns {
                table: table(),
                named,
                columns,
            });
        }
        let row = |values: &Vec<Literal>| {
            if values.len() != columns {
                return Err(WriteError::Values {
                    table: table(),
                    values: values.len(),
                    columns,
                });
            }
            let mut row = Vec::new();
            for (value, ty) in values.iter().zip(&self.types) {
                row.extend(value::encode(value, ty.as_ref())?);
            }
            Ok(row.into())
        };
        rows.iter().map(row).collect()
    }

    fn assignment(&self, name: &str, value: &Literal) -> Result<Assignment, WriteError> {
        let column = self.module.column_named(self.table, name);
        let column = column.ok_or_else(|| WriteError::NoSuchColumn {
            table: self.table.name.clone(),
            column: name.to_owned(),
        })?;
        let ty = self.types.get(column).and_then(Option::as_ref);
        Ok(Assignment {
            column: column as u32,
            value: value::encode(value, ty)?.into(),
        })
    }
}

#[cfg(test)]
mod tests;
