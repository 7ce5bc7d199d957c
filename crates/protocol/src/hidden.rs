//! What belongs to the cluster and never shows to a client.

/// Tables, reducers and parameters whose names begin so are the cluster's own.
pub const HIDDEN_PREFIX: &str = "rtdb_";

/// The table of receipts: `{ session: u64, index: u64 }`.
pub const RECEIPT_TABLE: &str = "rtdb_session";

/// The query-set id (v1: query id) of the gateway's own subscription to a session's receipt. Clients may not use it.
pub const RECEIPT_QUERY_SET: u32 = u32::MAX;

/// Whether a name is the cluster's own.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(HIDDEN_PREFIX.as_bytes())
}

/// Whether a query names something of the cluster's own. String literals don't count.
pub fn names_hidden(query: &str) -> bool {
    hidden_name(query).is_some()
}

/// The first name of the cluster's own in a query. String literals don't count.
pub fn hidden_name(text: &str) -> Option<&str> {
    let query = text.as_bytes();
    let mut quote = None;
    for (at, &byte) in query.iter().enumerate() {
        match quote {
            Some(open) if byte == open => quote = None,
            None if byte == b'\'' || byte == b'"' => quote = Some(byte),
            _ => {}
        }
        let begins_name = at == 0 || !is_name_byte(query[at - 1]);
        let prefix = query.get(at..at + HIDDEN_PREFIX.len());
        let is_prefix = prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(HIDDEN_PREFIX.as_bytes()));
        if quote != Some(b'\'') && begins_name && is_prefix {
            let rest = &query[at..];
            let length = rest
                .iter()
                .position(|byte| !is_name_byte(*byte))
                .unwrap_or(rest.len());
            return text.get(at..at + length);
        }
    }
    None
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_in_queries_are_found_but_not_in_literals() {
        assert!(names_hidden("SELECT * FROM rtdb_session"));
        assert!(names_hidden(
            "select a.* from a join \"RTDB_state\" s on a.id = s.id"
        ));
        assert!(names_hidden(
            "SELECT * FROM a WHERE name = 'it''s' AND x = rtdb_session.index"
        ));
        assert_eq!(
            hidden_name("SELECT x.* FROM rtdb_session x"),
            Some("rtdb_session")
        );
        assert_eq!(hidden_name("SELECT * FROM rtdb_é"), Some("rtdb_é"));
        assert!(!names_hidden("SELECT * FROM a WHERE name = 'rtdb_session'"));
        assert!(!names_hidden("SELECT * FROM a WHERE name = 'it''s rtdb_x'"));
        assert!(!names_hidden("SELECT * FROM my_rtdb_table WHERE x = 'rtdb_"));
    }
}
