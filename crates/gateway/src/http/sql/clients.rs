//! `st_client`: the clients of all nodes, in the form in which a server shows its own.

use crate::catalog::Client;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::HashMap;
use thiserror::Error;

/// Bytes of the rows: a query may ask for one column many times.
const ROWS_BYTES_MAX: usize = 16 << 20;

/// Bytes of the largest value, an identity, with its quotes and a comma.
const VALUE_BYTES: usize = 69;

/// Where the rows go.
const NO_ROWS: &str = r#""rows":[]"#;

#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum ClientsError {
    #[error("SpacetimeDB's answer about `st_client` can't be read")]
    Unreadable,
    #[error("more than {} MiB of clients: ask for fewer columns, or with a LIMIT", ROWS_BYTES_MAX >> 20)]
    TooMany,
}

/// A statement's answer, as far as it matters.
#[derive(Deserialize)]
struct Answer {
    schema: Schema,
}

#[derive(Deserialize)]
struct Schema {
    elements: Vec<Element>,
}

#[derive(Deserialize)]
struct Element {
    algebraic_type: HashMap<String, IgnoredAny>,
}

/// A column of the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Identity,
    Connection,
    Count,
}

impl Column {
    /// What they are called is for the query to say; but each has a type of its own.
    fn of(element: &Element) -> Option<Self> {
        let is = |name| element.algebraic_type.contains_key(name);
        match () {
            () if is("U256") => Some(Self::Identity),
            () if is("U128") => Some(Self::Connection),
            () if is("U64") => Some(Self::Count),
            () => None,
        }
    }
}

/// The answer about `clients`, of at most `limit` rows, made of the server's answer that has none.
pub(super) fn answer(empty: &str, clients: &[Client], limit: Option<u64>) -> Result<String, ClientsError> {
    let [Answer { schema }]: [Answer; 1] =
        serde_json::from_str(empty).map_err(|_| ClientsError::Unreadable)?;
    let columns = schema.elements.iter().map(Column::of);
    let columns = columns
        .collect::<Option<Vec<_>>>()
        .ok_or(ClientsError::Unreadable)?;
    let (before, after) = empty.split_once(NO_ROWS).ok_or(ClientsError::Unreadable)?;
    let limit = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    let rows = if columns.contains(&Column::Count) {
        // One row, whoever is there; a limit is one of rows.
        vec![format!("[{}]", clients.len())]
    } else {
        let rows = clients.len().min(limit);
        if rows.saturating_mul(columns.len()) > ROWS_BYTES_MAX / VALUE_BYTES {
            return Err(ClientsError::TooMany);
        }
        clients[..rows]
            .iter()
            .map(|client| row(client, &columns))
            .collect()
    };
    let rows = rows[..rows.len().min(limit)].join(",");
    Ok(format!(r#"{before}"rows":[{rows}]{after}"#))
}

fn row(client: &Client, columns: &[Column]) -> String {
    let values = columns.iter().map(|column| match column {
        Column::Identity => format!("\"0x{}\"", client.identity.to_hex()),
        Column::Connection => client.connection.to_u128().to_string(),
        Column::Count => String::new(),
    });
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spacetimedb_lib::{ConnectionId, Identity};

    fn clients(count: u8) -> Vec<Client> {
        let client = |n| Client {
            identity: Identity::from_byte_array([n; 32]),
            connection: ConnectionId::from_u128(u128::MAX - u128::from(n)),
        };
        (1..=count).map(client).collect()
    }

    fn empty(columns: &[(&str, &str)]) -> String {
        let elements = columns.iter().map(|(name, kind)| {
            let name = serde_json::to_string(name).expect("JSON");
            format!(r#"{{"name":{{"some":{name}}},"algebraic_type":{{"{kind}":[]}}}}"#)
        });
        let elements = elements.collect::<Vec<_>>().join(",");
        format!(r#"[{{"schema":{{"elements":[{elements}]}},"rows":[],"total_duration_micros":7}}]"#)
    }

    fn rows(columns: &[(&str, &str)], count: u8, limit: Option<u64>) -> String {
        let answer = answer(&empty(columns), &clients(count), limit).expect("an answer");
        let (schema, rest) = answer.split_once(r#"]},"rows":"#).expect("rows");
        assert!(empty(columns).starts_with(schema));
        let rows = rest.strip_suffix(r#","total_duration_micros":7}]"#);
        rows.expect("the rest").to_owned()
    }

    #[test]
    fn clients_are_shown_as_a_server_shows_its_own() {
        let [first, second] = ["01", "02"].map(|digits| format!("0x{}", digits.repeat(32)));
        let [one, two] = [1, 2].map(|n| u128::MAX - n);
        let (identity, connection) = (("identity", "U256"), ("connection_id", "U128"));
        for (columns, limit, expected) in [
            (
                &[identity, connection][..],
                None,
                format!(r#"[["{first}",{one}],["{second}",{two}]]"#),
            ),
            (&[connection], Some(1), format!("[[{one}]]")),
            (&[connection], Some(u64::MAX), format!("[[{one}],[{two}]]")),
            (&[(r#""rows":[]"#, "U256")], Some(1), format!(r#"[["{first}"]]"#)),
            (&[("n", "U64")], None, "[[2]]".into()),
            (&[("n", "U64")], Some(1), "[[2]]".into()),
            (&[("n", "U64")], Some(0), "[]".into()),
            (&[identity], Some(0), "[]".into()),
        ] {
            assert_eq!(rows(columns, 2, limit), expected);
        }
        assert_eq!(rows(&[("n", "U64")], 0, None), "[[0]]");
        assert_eq!(rows(&[identity], 0, None), "[]");
    }

    #[test]
    fn what_is_not_understood_or_too_long_is_no_answer() {
        let answer = |empty: &str| answer(empty, &clients(100), None);
        for other in [
            "",
            "[]",
            &empty(&[("x", "String")]),
            &empty(&[("x", "U64")]).replace("[]", "[[1]]"),
        ] {
            assert_eq!(answer(other), Err(ClientsError::Unreadable), "{other}");
        }
        assert_eq!(
            answer(&empty(&[("i", "U256"); 3_000])),
            Err(ClientsError::TooMany)
        );
    }
}
