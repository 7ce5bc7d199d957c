//! What belongs to the cluster and never shows to a client.

/// Tables, reducers and parameters whose names begin so are the cluster's own.
pub const HIDDEN_PREFIX: &str = "rtdb_";

/// What comes right behind all these names.
pub const HIDDEN_PREFIX_END: &str = "rtdb`";

/// The table of receipts: `{ session: u64, index: u64 }`.
pub const RECEIPT_TABLE: &str = "rtdb_session";

/// The event table of refreshes: `{ key: u64 }`. A row says that the transaction has brought what views show up to date.
pub const REFRESH_TABLE: &str = "rtdb_now";

/// The key in [`REFRESH_TABLE`] of a refresh of all views.
const REFRESH_ALL: u64 = 0;

/// Which views a refresh has brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// All.
    All,
    /// Some of them.
    Some,
}

impl Refreshed {
    pub(crate) fn of(key: u64) -> Self {
        match key {
            REFRESH_ALL => Self::All,
            _ => Self::Some,
        }
    }
}

/// The query-set id (v1: query id) of the gateway's own subscription to a session's receipt. Clients may not use it.
pub const RECEIPT_QUERY_SET: u32 = u32::MAX;

/// The tables in which SpacetimeDB describes a database. They name the cluster's own tables, and differ from node to node.
const SYSTEM_TABLES: [&str; 20] = [
    "st_client",
    "st_column",
    "st_column_accessor",
    "st_connection_credentials",
    "st_constraint",
    "st_event_table",
    "st_index",
    "st_index_accessor",
    "st_module",
    "st_row_level_security",
    "st_scheduled",
    "st_sequence",
    "st_table",
    "st_table_accessor",
    "st_var",
    "st_view",
    "st_view_arg",
    "st_view_column",
    "st_view_param",
    "st_view_sub",
];

/// Whether a name is the cluster's own.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(HIDDEN_PREFIX.as_bytes())
}

/// Whether a table, as a query names it, is not for clients.
pub fn is_hidden_table(name: &str) -> bool {
    let prefix = name.as_bytes().get(..HIDDEN_PREFIX.len());
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(HIDDEN_PREFIX.as_bytes()))
        || SYSTEM_TABLES.iter().any(|table| name.eq_ignore_ascii_case(table))
}

/// Whether SpacetimeDB has such a table for everybody who may query the database: all of its own but one.
pub fn is_public_system_table(name: &str) -> bool {
    SYSTEM_TABLES.contains(&name) && name != "st_connection_credentials"
}
