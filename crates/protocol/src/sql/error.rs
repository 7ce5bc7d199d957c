use super::Language;
use sqlparser::parser::ParserError;
use sqlparser::tokenizer::TokenizerError;
use thiserror::Error;

/// Why a text is not sent on. Where SpacetimeDB would refuse it, these are its words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SqlError {
    /// It is no SQL.
    #[error(transparent)]
    Parser(#[from] ParserError),
    /// It is SQL that SpacetimeDB has not.
    #[error("{0}")]
    Unsupported(String),
    /// Only one statement at a time is taken.
    #[error("Multiple SQL statements are not supported")]
    MultiStatement,
    /// It deletes from several tables.
    #[error("Multi-table DELETE is not supported")]
    MultiTableDelete,
    /// There is no statement.
    #[error("Empty SQL query")]
    Empty,
    /// Subscriptions only read.
    #[error("Unsupported: Non-SELECT queries")]
    NotSelect,
    /// It is longer than [`super::SQL_BYTES_MAX`]; how it begins.
    #[error("SQL query exceeds maximum allowed length: \"{0}...\"")]
    TooLong(String),
    /// It has an expression deeper than [`super::SQL_DEPTH_MAX`].
    #[error("Recursion limit exceeded, `sql-parser::parse_expr`")]
    TooDeep,
    /// The machine has no more threads.
    #[error("the node is too busy to read so long an SQL statement: try again")]
    Busy,
}

impl SqlError {
    pub(super) fn too_long(text: &str) -> Self {
        Self::TooLong(text.chars().take(120).collect())
    }

    pub(super) fn unsupported(what: &str, part: &str) -> Self {
        let space = if what.is_empty() { "" } else { " " };
        Self::Unsupported(format!("Unsupported{space}{what}: {}", part.trim()))
    }

    pub(super) fn unsupported_select(text: &str, language: Language) -> Self {
        match language {
            Language::Sql => Self::unsupported("", text),
            Language::Subscription => Self::unsupported("SELECT", text),
        }
    }
}

impl From<TokenizerError> for SqlError {
    fn from(error: TokenizerError) -> Self {
        Self::Parser(error.into())
    }
}
