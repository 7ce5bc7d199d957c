//! Tables as SQL over HTTP shows them, to compare servers and to check histories.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::Api;

/// A query's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// One column's values, in row order.
    pub fn column(&self, name: &str) -> Result<Vec<&Value>> {
        let at = self.columns.iter().position(|column| column == name);
        let at = at.with_context(|| format!("no column {name} in {:?}", self.columns))?;
        Ok(self.rows.iter().filter_map(|row| row.get(at)).collect())
    }

    /// Every row as text, sorted: SQL promises no order.
    pub fn sorted(&self) -> Vec<String> {
        let mut rows: Vec<String> = self
            .rows
            .iter()
            .map(|row| Value::from(row.clone()).to_string())
            .collect();
        rows.sort_unstable();
        rows
    }
}

/// Runs one SELECT.
pub async fn select(api: &Api, database: &str, query: &str) -> Result<Rows> {
    let body = api
        .expect(
            Method::POST,
            &format!("/v1/database/{database}/sql"),
            query.to_string(),
        )
        .await?;
    parse(&body).with_context(|| {
        format!(
            "{query}: {}",
            String::from_utf8_lossy(&body[..body.len().min(500)])
        )
    })
}

fn parse(body: &Bytes) -> Result<Rows> {
    let mut statements: Vec<Value> = serde_json::from_slice(body)?;
    ensure!(
        statements.len() == 1,
        "{} results for one query",
        statements.len()
    );
    let mut statement = statements.remove(0);
    let elements = statement["schema"]["elements"].as_array().context("no schema")?;
    let columns = elements
        .iter()
        .map(|element| element["name"]["some"].as_str().unwrap_or_default().to_string());
    let columns = columns.collect();
    Ok(Rows {
        columns,
        rows: serde_json::from_value(statement["rows"].take())?,
    })
}

/// The names of all tables that the database's server knows, those that only the owner sees included.
pub async fn tables(api: &Api, database: &str) -> Result<Vec<String>> {
    let schema: Value = api
        .get(&format!("/v1/database/{database}/schema?version=9"))
        .await?;
    let tables = schema["tables"].as_array().context("no tables in the schema")?;
    let mut names: Vec<String> = tables
        .iter()
        .filter_map(|table| Some(table["name"].as_str()?.to_string()))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// What procedures on the node are told: its own.
const NODES_OWN: [&str; 2] = ["rtdb_outbox", "rtdb_verdict"];

/// Every table of `database` on one server, each with its sorted rows; none that are each node's own.
pub async fn dump(api: &Api, database: &str) -> Result<Vec<(String, Vec<String>)>> {
    let mut dump = Vec::new();
    for table in tables(api, database).await? {
        if NODES_OWN.contains(&table.as_str()) {
            continue;
        }
        let rows = select(api, database, &format!("SELECT * FROM {table}"))
            .await?
            .sorted();
        dump.push((table, rows));
    }
    Ok(dump)
}
