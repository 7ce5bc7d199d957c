//! SQL, read by the parser that SpacetimeDB itself uses, and written anew from what it read.
//!
//! No text of a client's goes to SpacetimeDB: comments, quotes and letters mean there what they mean to this parser, but
//! what a statement does is known only of what was parsed. So a statement is taken apart into the little of SQL that
//! SpacetimeDB knows, and its rendering is sent on. It means the same, and what is not understood is not sent.

mod bounds;
mod error;
mod render;
mod system;
mod write;

pub use error::SqlError;
pub use system::System;
pub use write::{Change, Literal, Write};

use crate::hidden;
use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Tokenizer;

/// Bytes of one statement: SpacetimeDB's own limit.
pub const SQL_BYTES_MAX: usize = 50_000;

/// Levels of an expression: `a OR b OR c` has two. SpacetimeDB 2.8.3 takes 1,600; 1.2.0 ends at some 1,100, with all its
/// databases.
pub const SQL_DEPTH_MAX: usize = 500;

/// Bytes of a statement that is parsed on the caller's stack. The parser limits how deep it goes, but not how deep a tree
/// it makes: each sign of a longer text may be a level, and dropping it goes through all of them.
const SHORT_BYTES_MAX: usize = 1_000;

/// Bytes of the stack that longer statements are parsed on.
const LONG_STACK_BYTES: usize = 16 << 20;

/// What a text is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// SQL, as `POST …/sql` takes it.
    Sql,
    /// Subscriptions and one-off queries: `SELECT` alone, and `SELECT * FROM *`.
    Subscription,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// It reads tables.
    Query(Query),
    /// `SHOW`: the statement anew. It names no table.
    Show(String),
    /// It changes rows.
    Write(Write),
    /// `SET`: it changes a setting of the server.
    Set,
}

/// A statement that reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Query {
    text: String,
    /// The tables that it names; none: all there are.
    tables: Option<Vec<String>>,
    system: Option<System>,
}

impl Query {
    /// The query, rendered from what was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it reads this table or view.
    pub fn reads(&self, table: &str) -> bool {
        let is = |name: &String| name.eq_ignore_ascii_case(table);
        self.tables.as_ref().is_none_or(|tables| tables.iter().any(is))
    }

    /// The tables and views that it names; none: it reads all there are.
    pub fn tables(&self) -> Option<&[String]> {
        self.tables.as_deref()
    }

    /// Whether it is `SELECT * FROM *`.
    pub fn reads_all(&self) -> bool {
        self.tables.is_none()
    }

    /// Whether its rows depend on who asks. A text that says so is taken for it.
    pub fn names_sender(&self) -> bool {
        self.text.contains(":sender")
    }

    /// What asks how many rows it has; `None` if it is not certain how.
    pub fn count(&self) -> Option<String> {
        let (columns, rest) = self.text.strip_prefix("SELECT ")?.split_once(" FROM ")?;
        let is_whole = columns == "*" || columns.ends_with(".*") && !columns.contains(['"', ' ', ',']);
        (is_whole && !self.reads_all()).then(|| format!("SELECT COUNT(*) AS n FROM {rest}"))
    }

    /// What it reads of the tables in which SpacetimeDB describes the database: for SQL over HTTP, and if it reads one of
    /// these and nothing else.
    pub fn system(&self) -> Option<&System> {
        self.system.as_ref()
    }

    /// The first table that it names though that is not for clients. `SELECT * FROM *` names none.
    pub fn hidden(&self) -> Option<&str> {
        let mut tables = self.tables.iter().flatten().map(String::as_str);
        tables.find(|table| table.split('.').any(hidden::is_hidden_table))
    }
}

/// Reads a text of one statement, as SpacetimeDB would.
///
/// # Errors
/// In SpacetimeDB's words, if it would not take the text; in our own, if the text is made to keep a parser busy.
pub fn parse(text: &str, language: Language) -> Result<Statement, SqlError> {
    if text.len() > SQL_BYTES_MAX {
        return Err(SqlError::too_long(text));
    }
    if text.len() <= SHORT_BYTES_MAX {
        return parse_here(text, language);
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("sql".into())
            .stack_size(LONG_STACK_BYTES)
            .spawn_scoped(scope, || parse_here(text, language))
            .ok()
            .and_then(|thread| thread.join().ok())
            .unwrap_or(Err(SqlError::Busy))
    })
}

/// Reads a query of a subscription, or a one-off query, as SpacetimeDB would.
///
/// # Errors
/// As [`parse`].
pub fn parse_query(text: &str) -> Result<Query, SqlError> {
    match parse(text, Language::Subscription)? {
        Statement::Query(query) => Ok(query),
        Statement::Show(_) | Statement::Write(_) | Statement::Set => Err(SqlError::NotSelect),
    }
}

fn parse_here(text: &str, language: Language) -> Result<Statement, SqlError> {
    if language == Language::Subscription && is_all_tables(text) {
        return Ok(Statement::Query(Query {
            text: "SELECT * FROM *".into(),
            tables: None,
            system: None,
        }));
    }
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location()?;
    bounds::check(&tokens, text, language)?;
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements()?.into_iter();
    match (statements.next(), statements.next()) {
        (Some(statement), None) => understand(&statement, text, language),
        (Some(_), Some(_)) => Err(SqlError::MultiStatement),
        (None, _) => Err(SqlError::Empty),
    }
}

/// Whether it is `SELECT * FROM *`, which is no SQL, and means all tables to subscriptions.
fn is_all_tables(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let all = ["select", "*", "from", "*"];
    all.iter()
        .all(|word| words.next().is_some_and(|next| next.eq_ignore_ascii_case(word)))
        && words.next().is_none()
}

fn understand(statement: &ast::Statement, text: &str, language: Language) -> Result<Statement, SqlError> {
    use ast::Statement::{Delete, Insert, Query as Select, SetVariable, ShowVariable, Update};
    match statement {
        Select(query) => render::query(query, text, language).map(Statement::Query),
        _ if language == Language::Subscription => Err(SqlError::NotSelect),
        ShowVariable { variable } => Ok(Statement::Show(render::show(variable))),
        Insert { .. } => write::insert(statement, text).map(Statement::Write),
        Update { .. } => write::update(statement, text).map(Statement::Write),
        Delete { .. } => write::delete(statement, text).map(Statement::Write),
        SetVariable { .. } => Ok(Statement::Set),
        _ => Err(SqlError::unsupported("", text)),
    }
}

#[cfg(test)]
mod tests;
