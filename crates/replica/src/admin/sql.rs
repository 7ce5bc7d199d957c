//! Answers to SQL, in the server's JSON: `[{"schema": {"elements": [{"name": {"some": "id"}, …}]}, "rows": [[…]]}]`.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

/// The rows that a statement gave.
#[derive(Clone, Debug)]
pub struct SqlTable {
    /// The columns' names; empty for one without.
    pub columns: Vec<String>,
    /// The rows, each a value per column, unparsed: not every number fits a [`Value`].
    pub rows: Vec<Vec<Box<RawValue>>>,
}

/// Why an answer can't be used.
#[derive(Debug, Error)]
pub enum SqlError {
    /// It is not what SpacetimeDB answers to SQL.
    #[error("SpacetimeDB's answer to SQL is not understood: {0}")]
    Format(#[from] serde_json::Error),
    /// It has no table.
    #[error("SpacetimeDB's answer to SQL holds no table")]
    NoTable,
    /// A column is not there, or not a number.
    #[error("SpacetimeDB's answer to SQL has no number in column `{0}`")]
    NoNumber(&'static str),
}

#[derive(Deserialize)]
struct Statement {
    schema: Schema,
    rows: Vec<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Schema {
    elements: Vec<Element>,
}

#[derive(Deserialize)]
struct Element {
    name: Value,
}

impl SqlTable {
    pub(crate) fn number<T: DeserializeOwned>(
        &self,
        row: usize,
        column: &'static str,
    ) -> Result<T, SqlError> {
        let place = self.columns.iter().position(|name| name == column);
        let value = place.and_then(|place| self.rows.get(row)?.get(place));
        value
            .and_then(|value| serde_json::from_str(value.get()).ok())
            .ok_or(SqlError::NoNumber(column))
    }
}

pub(super) fn parse(json: &[u8]) -> Result<Vec<SqlTable>, SqlError> {
    let statements: Vec<Statement> = serde_json::from_slice(json)?;
    let name = |element: Element| {
        element
            .name
            .get("some")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Ok(statements
        .into_iter()
        .map(|statement| SqlTable {
            columns: statement.schema.elements.into_iter().map(name).collect(),
            rows: statement.rows,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_columns_names() {
        let json = br#"[{"schema":{"elements":[
            {"name":{"some":"index"},"algebraic_type":{"U64":[]}},
            {"name":{"none":[]},"algebraic_type":{"U64":[]}}]},
            "rows":[[340282366920938463463374607431768211455,1],["x",2]],"total_duration_micros":7}]"#;
        let tables = parse(json).unwrap();
        assert_eq!(tables[0].columns, ["index", ""]);
        assert_eq!(tables[0].number::<u128>(0, "index").unwrap(), u128::MAX);
        assert!(matches!(
            tables[0].number::<u64>(1, "index"),
            Err(SqlError::NoNumber("index"))
        ));
        assert!(matches!(
            tables[0].number::<u64>(2, "index"),
            Err(SqlError::NoNumber(_))
        ));
        assert!(matches!(
            tables[0].number::<u64>(0, "digest"),
            Err(SqlError::NoNumber("digest"))
        ));
        assert!(matches!(parse(b"{}"), Err(SqlError::Format(_))));
    }
}
