//! Queries as text again: the tables, columns, operators and literals that SpacetimeDB knows, and nothing else.
//!
//! Signs come in the order of the client's text and brackets stay, so that the rendering is read as the text was.

use super::system::{self, Filter};
use super::{Language, Query, SQL_BYTES_MAX, SQL_DEPTH_MAX, SqlError};
use sqlparser::ast;
use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, Ident, JoinConstraint, JoinOperator,
    ObjectName, SelectItem, SetExpr, TableAlias, TableFactor, TableWithJoins, UnaryOperator, Value,
    WildcardAdditionalOptions,
};

/// Bytes of a text of which parts are shown in errors: showing goes as deep as the text.
const SHOWN_BYTES_MAX: usize = 500;

/// The largest exponent of a number. SpacetimeDB writes numbers out, in conditions also those that stand in quotes.
const EXPONENT_MAX: u64 = 1_000_000;

pub(super) fn query(query: &ast::Query, text: &str, language: Language) -> Result<Query, SqlError> {
    let render = |spaced| {
        let mut rendering = Rendering::new(text, language, spaced);
        let text = rendering.whole(query)?;
        Ok::<_, SqlError>((text, rendering.tables))
    };
    let (rendered, tables) = match render(true)? {
        // What was short enough stays so.
        (long, _) if long.len() > SQL_BYTES_MAX => render(false)?,
        rendered => rendered,
    };
    let system = match language {
        Language::Sql => system::read(query, &rendered, Rendering::new(text, language, true)),
        Language::Subscription => None,
    };
    Ok(Query {
        text: rendered,
        tables: Some(tables),
        system,
    })
}

/// The query that gives the rows of a table, all of them or those of which the condition holds.
pub(super) fn rows(table: &[Ident], condition: Option<&Expr>, text: &str) -> Result<Query, SqlError> {
    let render = |spaced| {
        let mut rendering = Rendering::new(text, Language::Sql, spaced);
        rendering.put("SELECT * FROM ");
        rendering.name(table);
        if let Some(condition) = condition {
            rendering.put(" WHERE ");
            rendering.expr(condition)?;
        }
        Ok::<_, SqlError>(rendering.text)
    };
    let rendered = match render(true)? {
        long if long.len() > SQL_BYTES_MAX => render(false)?,
        rendered => rendered,
    };
    let parts: Vec<_> = table.iter().map(|part| &*part.value).collect();
    Ok(Query {
        text: rendered,
        tables: Some(vec![parts.join(".")]),
        system: None,
    })
}

pub(super) fn show(variable: &[Ident]) -> String {
    let mut text = String::from("SHOW ");
    put_name(&mut text, variable);
    text
}

pub(super) struct Rendering<'a> {
    text: String,
    tables: Vec<String>,
    /// With spaces around operators.
    spaced: bool,
    source: &'a str,
    language: Language,
    /// What leaves out the cluster's own rows.
    pub(super) filter: Option<Filter>,
}

/// What is still to be written of an expression.
enum Part<'a> {
    /// What is so many levels down.
    Expr(&'a Expr, usize),
    Sign(&'static str),
}

impl<'a> Rendering<'a> {
    pub(super) fn new(source: &'a str, language: Language, spaced: bool) -> Self {
        Self {
            text: String::with_capacity(source.len() + 16),
            tables: Vec::new(),
            spaced,
            source,
            language,
            filter: None,
        }
    }

    /// A query's text.
    pub(super) fn whole(&mut self, query: &ast::Query) -> Result<String, SqlError> {
        self.query(query)?;
        self.check_length()?;
        Ok(std::mem::take(&mut self.text))
    }

    /// What comes before each column may make the text any number of times as long. Is asked wherever there may be many.
    fn check_length(&self) -> Result<(), SqlError> {
        if self.filter.is_some() && self.text.len() > SQL_BYTES_MAX {
            return Err(SqlError::too_long(self.source));
        }
        Ok(())
    }

    fn query(&mut self, query: &ast::Query) -> Result<(), SqlError> {
        let ast::Query {
            with: None,
            body,
            order_by,
            limit,
            offset: None,
            fetch: None,
            locks,
        } = query
        else {
            return Err(SqlError::unsupported("", self.source));
        };
        let number = match limit {
            None => None,
            Some(Expr::Value(Value::Number(number, _))) if !is_endless(number) => Some(number),
            Some(_) => return Err(SqlError::unsupported("", self.source)),
        };
        if !order_by.is_empty() || !locks.is_empty() {
            return Err(SqlError::unsupported("", self.source));
        }
        let SetExpr::Select(select) = &**body else {
            return Err(match self.language {
                Language::Sql => SqlError::unsupported("", self.source),
                Language::Subscription => SqlError::unsupported("set operation", self.source),
            });
        };
        self.select(select)?;
        if let Some(number) = number {
            self.put(" LIMIT ");
            self.put(number);
        }
        Ok(())
    }

    fn select(&mut self, select: &ast::Select) -> Result<(), SqlError> {
        let ast::Select {
            distinct: None,
            top: None,
            projection,
            into: None,
            from,
            lateral_views,
            selection,
            group_by: ast::GroupByExpr::Expressions(group_by),
            cluster_by,
            distribute_by,
            sort_by,
            having: None,
            named_window,
            qualify: None,
        } = select
        else {
            return Err(SqlError::unsupported_select(self.source, self.language));
        };
        let has_more = !lateral_views.is_empty()
            || !group_by.is_empty()
            || !cluster_by.is_empty()
            || !distribute_by.is_empty()
            || !sort_by.is_empty()
            || !named_window.is_empty();
        if has_more {
            return Err(SqlError::unsupported_select(self.source, self.language));
        }
        if from.is_empty() && self.language == Language::Subscription {
            return Err(SqlError::Unsupported("A FROM clause is required".into()));
        }
        self.put("SELECT ");
        self.list(projection, Self::item)?;
        if !from.is_empty() {
            self.put(" FROM ");
            self.list(from, Self::from)?;
            self.put_described();
        }
        if let Some(selection) = selection {
            self.put(" WHERE ");
            match self.filter {
                None => self.expr(selection)?,
                Some(_) => {
                    self.put("(");
                    self.expr(selection)?;
                    self.put(")");
                }
            }
        }
        self.put_condition(selection.is_some());
        Ok(())
    }

    fn list<T>(
        &mut self,
        items: &[T],
        put: impl Fn(&mut Self, &T) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.put(if self.spaced { ", " } else { "," });
            }
            put(self, item)?;
            self.check_length()?;
        }
        Ok(())
    }

    fn item(&mut self, item: &SelectItem) -> Result<(), SqlError> {
        const PLAIN: WildcardAdditionalOptions = WildcardAdditionalOptions {
            opt_exclude: None,
            opt_except: None,
            opt_rename: None,
            opt_replace: None,
        };
        match item {
            SelectItem::Wildcard(options) if *options == PLAIN => {
                self.put_table();
                self.put("*");
            }
            SelectItem::QualifiedWildcard(ObjectName(table), options) if *options == PLAIN => {
                self.name(table);
                self.put(".*");
            }
            SelectItem::UnnamedExpr(Expr::Function(function)) if !is_count(function) => {
                return Err(SqlError::Unsupported(
                    "Aggregate expressions must have column aliases".into(),
                ));
            }
            SelectItem::UnnamedExpr(expr) => self.column(expr)?,
            SelectItem::ExprWithAlias { expr, alias } => {
                self.column(expr)?;
                self.put(" AS ");
                self.name(std::slice::from_ref(alias));
            }
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                return Err(self.unsupported("projection", item));
            }
        }
        Ok(())
    }

    fn column(&mut self, expr: &Expr) -> Result<(), SqlError> {
        match expr {
            Expr::Function(function) if is_count(function) => self.put("COUNT(*)"),
            Expr::Function(function) => return Err(self.unsupported("aggregate function", function)),
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => self.expr(expr)?,
            _ => return Err(self.unsupported("projection expression", expr)),
        }
        Ok(())
    }

    fn from(&mut self, from: &TableWithJoins) -> Result<(), SqlError> {
        self.table(&from.relation)?;
        for join in &from.joins {
            let on = match &join.join_operator {
                JoinOperator::CrossJoin => {
                    self.put(" CROSS JOIN ");
                    None
                }
                JoinOperator::Inner(JoinConstraint::None) => {
                    self.put(" JOIN ");
                    None
                }
                JoinOperator::Inner(JoinConstraint::On(on)) => {
                    self.put(" JOIN ");
                    Some(on)
                }
                _ => return Err(SqlError::Unsupported("Non-inner joins are not supported".into())),
            };
            self.table(&join.relation)?;
            if let Some(on) = on {
                self.put(" ON ");
                self.expr(on)?;
            }
        }
        Ok(())
    }

    fn table(&mut self, table: &TableFactor) -> Result<(), SqlError> {
        let TableFactor::Table {
            name: ObjectName(name),
            alias,
            args: None,
            with_hints,
            version: None,
            partitions,
        } = table
        else {
            return Err(self.unsupported("FROM expression", table));
        };
        if !with_hints.is_empty() || !partitions.is_empty() {
            return Err(self.unsupported("FROM expression", table));
        }
        self.name(name);
        let parts: Vec<_> = name.iter().map(|part| &*part.value).collect();
        self.tables.push(parts.join("."));
        match alias {
            None => {}
            Some(TableAlias { name, columns }) if columns.is_empty() => {
                self.put(" AS ");
                self.name(std::slice::from_ref(name));
            }
            Some(_) => return Err(self.unsupported("FROM expression", table)),
        }
        Ok(())
    }

    /// Not by recursion: a text may be tens of thousands of operators deep.
    fn expr(&mut self, expr: &Expr) -> Result<(), SqlError> {
        let mut parts = vec![Part::Expr(expr, 0)];
        while let Some(part) = parts.pop() {
            self.check_length()?;
            let (expr, depth) = match part {
                Part::Expr(_, SQL_DEPTH_MAX..) => return Err(SqlError::TooDeep),
                Part::Expr(expr, depth) => (expr, depth),
                Part::Sign(sign) => {
                    self.put(sign);
                    continue;
                }
            };
            match expr {
                Expr::Nested(inner) => {
                    self.put("(");
                    parts.extend([Part::Sign(")"), Part::Expr(inner, depth + 1)]);
                }
                Expr::BinaryOp { left, op, right } => {
                    let (left, right) = (Part::Expr(left, depth + 1), Part::Expr(right, depth + 1));
                    parts.extend([right, Part::Sign(self.operator(op)?), left]);
                }
                Expr::Identifier(column) => {
                    self.put_table();
                    self.name(std::slice::from_ref(column));
                }
                Expr::CompoundIdentifier(column) => self.name(column),
                Expr::Value(value) => self.value(value)?,
                Expr::UnaryOp { op, expr: number } => {
                    let sign = match op {
                        UnaryOperator::Plus => "+",
                        UnaryOperator::Minus => "-",
                        _ => return Err(self.unsupported("expression", expr)),
                    };
                    let Expr::Value(number @ Value::Number(..)) = &**number else {
                        return Err(self.unsupported("expression", expr));
                    };
                    self.put(sign);
                    self.value(number)?;
                }
                _ => return Err(self.unsupported("expression", expr)),
            }
        }
        Ok(())
    }

    fn operator(&self, op: &BinaryOperator) -> Result<&'static str, SqlError> {
        let (spaced, tight) = match op {
            BinaryOperator::And => (" AND ", " AND "),
            BinaryOperator::Or => (" OR ", " OR "),
            BinaryOperator::Eq => (" = ", "="),
            BinaryOperator::NotEq => (" <> ", "<>"),
            BinaryOperator::Lt => (" < ", "<"),
            BinaryOperator::LtEq => (" <= ", "<="),
            BinaryOperator::Gt => (" > ", ">"),
            BinaryOperator::GtEq => (" >= ", ">="),
            _ => return Err(self.unsupported("binary operator", op)),
        };
        Ok(if self.spaced { spaced } else { tight })
    }

    fn value(&mut self, value: &Value) -> Result<(), SqlError> {
        match value {
            Value::Number(literal, _)
            | Value::SingleQuotedString(literal)
            | Value::HexStringLiteral(literal)
                if is_endless(literal) =>
            {
                return Err(self.unsupported("literal expression", value));
            }
            Value::Boolean(true) => self.put("true"),
            Value::Boolean(false) => self.put("false"),
            Value::Number(number, _) => self.put(number),
            Value::SingleQuotedString(string) => put_quoted(&mut self.text, string, '\''),
            Value::HexStringLiteral(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                self.put("0x");
                self.put(digits);
            }
            Value::HexStringLiteral(string) => {
                self.put("X");
                put_quoted(&mut self.text, string, '\'');
            }
            Value::Placeholder(name) if name == ":sender" => self.put(":sender"),
            _ => return Err(self.unsupported("literal expression", value)),
        }
        Ok(())
    }

    pub(super) fn name(&mut self, parts: &[Ident]) {
        put_name(&mut self.text, parts);
    }

    pub(super) fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub(super) fn unsupported(&self, what: &str, part: &impl ToString) -> SqlError {
        if self.source.len() <= SHOWN_BYTES_MAX {
            SqlError::unsupported(what, &part.to_string())
        } else {
            SqlError::unsupported(what, &self.source.chars().take(120).collect::<String>())
        }
    }
}

/// Whether a number, written out, would keep a server busy for long.
fn is_endless(literal: &str) -> bool {
    let Some((digits, exponent)) = literal.split_once(['e', 'E']) else {
        return false;
    };
    let is_number = |byte: u8| byte.is_ascii_digit() || b"+-._".contains(&byte);
    // What is beyond 64 bits is refused by the server, at once.
    let exponent = exponent.parse::<i64>().map_or(0, i64::unsigned_abs);
    digits.bytes().all(is_number) && exponent > EXPONENT_MAX
}

/// `COUNT(*)`: the one function there is.
fn is_count(function: &Function) -> bool {
    let Function {
        name: ObjectName(name),
        args,
        over: None,
        distinct: false,
        special: false,
        order_by,
    } = function
    else {
        return false;
    };
    matches!(&name[..], [name] if name.value.eq_ignore_ascii_case("count"))
        && matches!(&args[..], [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)])
        && order_by.is_empty()
}

/// Names as they were: quoted if they were in any quotes. (An alias may stand in those of strings.)
fn put_name(text: &mut String, parts: &[Ident]) {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        match part.quote_style {
            None => text.push_str(&part.value),
            Some(_) => put_quoted(text, &part.value, '"'),
        }
    }
}

fn put_quoted(text: &mut String, inside: &str, quote: char) {
    text.push(quote);
    for c in inside.chars() {
        if c == quote {
            text.push(c);
        }
        text.push(c);
    }
    text.push(quote);
}
