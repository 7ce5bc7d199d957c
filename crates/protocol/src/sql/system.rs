//! The tables in which SpacetimeDB describes a database, without what is the cluster's own in them.
//!
//! Rows are left out by SpacetimeDB itself, by a condition that joins the query's own: so conditions, limits and counts
//! mean what they mean without these rows. Names in the query are qualified, since one more table may be read with it.

use super::render::Rendering;
use crate::hidden::{HIDDEN_PREFIX, HIDDEN_PREFIX_END};
use sqlparser::ast;
use sqlparser::ast::{Expr, Ident, ObjectName, SetExpr, TableFactor, TableWithJoins, Value};

/// What a query reads of one of these tables. Other queries on them are not for clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum System {
    /// The query for the server, which answers without what is hidden.
    Shown(String),
    /// The clients, whom no single server knows.
    Clients {
        /// The query for the server that has its columns, and no rows.
        columns: String,
        /// How many rows it has at most.
        limit: Option<u64>,
    },
}

/// The table of clients.
const CLIENTS: &str = "st_client";

/// What the tables are joined with that name others by their numbers.
const DESCRIBED: &str = "rtdb_described";

/// How it is known of what table or view a row tells.
#[derive(Clone, Copy)]
enum Of {
    /// By that column, which has its name or begins with it.
    Name(&'static str),
    /// By `table_id`.
    Number,
    /// All rows are shown: the cluster has none in this table.
    All,
}

/// What is as natively in these tables, but for what is hidden. Of the others, `st_module` has the prepared module,
/// `st_sequence` and `st_scheduled` lack what the cluster does itself, and the rest is about one server's connections.
const TABLES: [(&str, Of); 13] = [
    ("st_table", Of::Name("table_name")),
    ("st_column", Of::Number),
    ("st_index", Of::Number),
    ("st_constraint", Of::Number),
    ("st_row_level_security", Of::Number),
    ("st_event_table", Of::Number),
    ("st_table_accessor", Of::Name("table_name")),
    ("st_column_accessor", Of::Name("table_name")),
    ("st_index_accessor", Of::Name("index_name")),
    ("st_view", Of::All),
    ("st_view_column", Of::All),
    ("st_view_param", Of::All),
    ("st_var", Of::All),
];

/// What is put into a rendering so that it shows nothing hidden.
pub(super) struct Filter {
    /// What the query calls its table: the names of columns get this before them. In quotes, since an alias may be any word.
    table: Ident,
    of: Of,
}

/// What a query reads of one of these tables, `text` being the query as it was understood; `None` if it is not served, or
/// reads others.
pub(super) fn read(query: &ast::Query, text: &str, mut rendering: Rendering<'_>) -> Option<System> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let [TableWithJoins { relation, joins }] = &select.from[..] else {
        return None;
    };
    let TableFactor::Table {
        name: ObjectName(name),
        alias,
        ..
    } = relation
    else {
        return None;
    };
    let ([name], true) = (&name[..], joins.is_empty()) else {
        return None;
    };
    if name.value == CLIENTS && select.selection.is_none() {
        return clients(query, text);
    }
    let (_, of) = TABLES.iter().find(|(table, _)| *table == name.value)?;
    if matches!(of, Of::Number) && text.contains(DESCRIBED) {
        return None;
    }
    let table = alias.as_ref().map_or(name, |alias| &alias.name);
    rendering.filter = Some(Filter {
        table: Ident::with_quote('"', &table.value),
        of: *of,
    });
    Some(System::Shown(rendering.whole(query).ok()?))
}

fn clients(query: &ast::Query, text: &str) -> Option<System> {
    let (rest, limit) = match &query.limit {
        None => (text, None),
        Some(Expr::Value(Value::Number(number, _))) => (
            text.strip_suffix(number)?.strip_suffix(" LIMIT ")?,
            Some(number.parse().ok()?),
        ),
        Some(_) => return None,
    };
    Some(System::Clients {
        columns: format!("{rest} LIMIT 0"),
        limit,
    })
}

impl Rendering<'_> {
    /// Before the name of a column that stands alone.
    pub(super) fn put_table(&mut self) {
        if let Some(Filter { table, .. }) = &self.filter {
            let table = table.clone();
            self.name(&[table]);
            self.put(".");
        }
    }

    /// Behind the query's table.
    pub(super) fn put_described(&mut self) {
        if let Some(Filter { of: Of::Number, .. }) = &self.filter {
            self.put(&format!(" JOIN st_table AS {DESCRIBED} ON "));
            self.put_table();
            self.put(&format!("table_id = {DESCRIBED}.table_id"));
        }
    }

    /// The rows' own condition, behind that of the query.
    pub(super) fn put_condition(&mut self, has_own: bool) {
        let column = match &self.filter {
            None | Some(Filter { of: Of::All, .. }) => return,
            Some(Filter {
                of: Of::Name(column), ..
            }) => Some(*column),
            Some(Filter { of: Of::Number, .. }) => None,
        };
        self.put(if has_own { " AND " } else { " WHERE " });
        for (before, after) in [
            ("(", format!(" < '{HIDDEN_PREFIX}'")),
            (" OR ", format!(" >= '{HIDDEN_PREFIX_END}')")),
        ] {
            self.put(before);
            match column {
                Some(column) => {
                    self.put_table();
                    self.put(column);
                }
                None => self.put(&format!("{DESCRIBED}.table_name")),
            }
            self.put(&after);
        }
    }
}
