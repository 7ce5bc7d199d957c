//! What belongs to the cluster and never shows to a client.

/// Tables, reducers and parameters whose names begin so are the cluster's own.
pub const HIDDEN_PREFIX: &str = "rtdb_";

/// The table of receipts: `{ session: u64, index: u64 }`.
pub const RECEIPT_TABLE: &str = "rtdb_session";

/// The query-set id (v1: query id) of the gateway's own subscription to a session's receipt. Clients may not use it.
pub const RECEIPT_QUERY_SET: u32 = u32::MAX;

/// The tables in which SpacetimeDB describes itself. They name the cluster's own tables, and differ from node to node.
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

/// The first name in a query that is not for clients. String literals don't count.
pub fn hidden_name(query: &str) -> Option<&str> {
    names(query).find(|name| is_hidden_table(name))
}

/// The words of a query, quoted names among them, without string literals.
pub fn names(mut rest: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        loop {
            let first = rest
                .bytes()
                .position(|byte| matches!(byte, b'\'' | b'"') || is_name_byte(byte))?;
            rest = rest.get(first..)?;
            // A doubled quote reads as two of what is quoted, which changes nothing here.
            if let Some(literal) = rest.strip_prefix('\'') {
                rest = literal.split_once('\'').map_or("", |(_, after)| after);
                continue;
            }
            if let Some(quoted) = rest.strip_prefix('"') {
                let (name, after) = quoted.split_once('"').unwrap_or((quoted, ""));
                rest = after;
                return Some(name);
            }
            let length = rest
                .bytes()
                .position(|byte| !is_name_byte(byte))
                .unwrap_or(rest.len());
            let (name, after) = rest.split_at_checked(length)?;
            rest = after;
            return Some(name);
        }
    })
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_in_queries_are_found_but_not_in_literals() {
        let names_hidden = |query| hidden_name(query).is_some();
        assert!(names_hidden("SELECT * FROM rtdb_session"));
        assert!(names_hidden(
            "select a.* from a join \"RTDB_state\" s on a.id = s.id"
        ));
        assert!(names_hidden(
            "SELECT * FROM a WHERE name = 'it''s' AND x = rtdb_session.index"
        ));
        assert_eq!(hidden_name("select * from ST_Table t"), Some("ST_Table"));
        assert!(!names_hidden("SELECT * FROM st_tables WHERE name = 'st_table'"));
        assert_eq!(
            hidden_name("SELECT x.* FROM rtdb_session x"),
            Some("rtdb_session")
        );
        assert_eq!(hidden_name("SELECT * FROM rtdb_é"), Some("rtdb_é"));
        assert!(names_hidden("SELECT * FROM \"a'\" JOIN rtdb_session"));
        assert!(names_hidden("SELECT * FROM \"rtdb_session"));
        assert!(!names_hidden("SELECT * FROM a WHERE name = 'rtdb_session'"));
        assert!(!names_hidden("SELECT * FROM a WHERE name = 'it''s rtdb_x'"));
        assert!(!names_hidden("SELECT * FROM my_rtdb_table WHERE x = 'rtdb_"));
    }
}
