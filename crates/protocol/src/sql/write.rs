//! Statements that write, taken apart: what they say of values is not of any type yet, and which rows they are about is a
//! query.

use super::render::{Rendering, rows};
use super::{Language, Query, SqlError};
use sqlparser::ast;
use sqlparser::ast::{Expr, Ident, ObjectName, SetExpr, TableFactor, TableWithJoins, UnaryOperator, Value};

/// A statement that changes the rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The table, as the statement names it.
    pub table: String,
    /// What is done.
    pub change: Change,
}

/// What is done with rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `INSERT`.
    Insert {
        /// How many columns are named. As SpacetimeDB has it, only their number counts.
        columns: usize,
        /// The rows.
        rows: Vec<Vec<Literal>>,
    },
    /// `UPDATE`.
    Update {
        /// Columns and their new values.
        assignments: Vec<(String, Literal)>,
        /// The rows.
        rows: Query,
    },
    /// `DELETE`.
    Delete {
        /// The rows.
        rows: Query,
    },
}

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// `true` or `false`.
    Bool(bool),
    /// What stands in quotes.
    Text(String),
    /// A number: its sign, digits, point and exponent.
    Number(String),
    /// The digits of a hexadecimal number.
    Hex(String),
}

pub(super) fn insert(statement: &ast::Statement, text: &str) -> Result<Write, SqlError> {
    let ast::Statement::Insert {
        or: None,
        into: _,
        table_name: ObjectName(table),
        columns,
        overwrite: false,
        source,
        partitioned: None,
        after_columns,
        table: false,
        on: None,
        returning: None,
    } = statement
    else {
        return Err(Reading(text).unsupported("", statement));
    };
    if !after_columns.is_empty() {
        return Err(Reading(text).unsupported("", statement));
    }
    let reading = Reading(text);
    let rows = reading.values(source)?.iter();
    let rows = rows.map(|row| {
        row.iter()
            .map(|value| reading.literal(value, "INSERT value"))
            .collect()
    });
    Ok(Write {
        table: name(table),
        change: Change::Insert {
            columns: columns.len(),
            rows: rows.collect::<Result<_, _>>()?,
        },
    })
}

pub(super) fn update(statement: &ast::Statement, text: &str) -> Result<Write, SqlError> {
    let unsupported = || Reading(text).unsupported("", statement);
    let ast::Statement::Update {
        table,
        assignments,
        from: None,
        selection,
        returning: None,
    } = statement
    else {
        return Err(unsupported());
    };
    let table = plain(table).ok_or_else(unsupported)?;
    let reading = Reading(text);
    let assignments = assignments.iter().map(|ast::Assignment { id, value }| {
        let value = reading.literal(value, "column/variable assignment expression")?;
        Ok((name(id), value))
    });
    Ok(Write {
        table: name(table),
        change: Change::Update {
            assignments: assignments.collect::<Result<_, SqlError>>()?,
            rows: rows(table, selection.as_ref(), text)?,
        },
    })
}

pub(super) fn delete(statement: &ast::Statement, text: &str) -> Result<Write, SqlError> {
    let ast::Statement::Delete {
        tables,
        from,
        using: None,
        selection,
        returning: None,
    } = statement
    else {
        return Err(Reading(text).unsupported("", statement));
    };
    let [from] = &from[..] else {
        return Err(SqlError::MultiTableDelete);
    };
    if !tables.is_empty() {
        return Err(Reading(text).unsupported("", statement));
    }
    let table = plain(from).ok_or_else(|| Reading(text).unsupported("table expression in DELETE", from))?;
    Ok(Write {
        table: name(table),
        change: Change::Delete {
            rows: rows(table, selection.as_ref(), text)?,
        },
    })
}

/// The name of a table that is nothing but named.
fn plain(table: &TableWithJoins) -> Option<&[Ident]> {
    match &table.relation {
        TableFactor::Table {
            name: ObjectName(name),
            alias: None,
            args: None,
            with_hints,
            version: None,
            partitions,
        } if with_hints.is_empty() && partitions.is_empty() && table.joins.is_empty() => Some(name),
        _ => None,
    }
}

fn name(parts: &[Ident]) -> String {
    let parts: Vec<_> = parts.iter().map(|part| &*part.value).collect();
    parts.join(".")
}

/// What reads values of a statement, whose text this is.
struct Reading<'a>(&'a str);

impl Reading<'_> {
    fn values<'a>(&self, source: &'a ast::Query) -> Result<&'a [Vec<Expr>], SqlError> {
        let ast::Query {
            with: None,
            body,
            order_by,
            limit: None,
            offset: None,
            fetch: None,
            locks,
        } = source
        else {
            return Err(self.unsupported("INSERT expression", source));
        };
        match &**body {
            SetExpr::Values(values) if !values.explicit_row && order_by.is_empty() && locks.is_empty() => {
                Ok(&values.rows)
            }
            _ => Err(self.unsupported("INSERT expression", source)),
        }
    }

    fn literal(&self, expr: &Expr, what: &str) -> Result<Literal, SqlError> {
        match expr {
            Expr::Value(Value::Boolean(value)) => Ok(Literal::Bool(*value)),
            Expr::Value(Value::SingleQuotedString(text)) => Ok(Literal::Text(text.clone())),
            Expr::Value(Value::Number(number, _)) => Ok(Literal::Number(number.clone())),
            Expr::Value(Value::HexStringLiteral(digits)) => Ok(Literal::Hex(digits.clone())),
            Expr::Value(value) => Err(self.unsupported("literal expression", value)),
            Expr::UnaryOp { op, expr: inner } => match (op, &**inner) {
                (UnaryOperator::Plus, Expr::Value(Value::Number(number, _))) => {
                    Ok(Literal::Number(format!("+{number}")))
                }
                (UnaryOperator::Minus, Expr::Value(Value::Number(number, _))) => {
                    Ok(Literal::Number(format!("-{number}")))
                }
                _ => Err(self.unsupported(what, expr)),
            },
            _ => Err(self.unsupported(what, expr)),
        }
    }

    fn unsupported(&self, what: &str, part: &impl ToString) -> SqlError {
        Rendering::new(self.0, Language::Sql, true).unsupported(what, part)
    }
}
