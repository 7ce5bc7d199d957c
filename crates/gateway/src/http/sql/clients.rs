//! `st_client`: the clients of all nodes, in the form in which a server shows its own.

use crate::budget::{Exceeded, Share};
use crate::catalog::Client;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use thiserror::Error;

/// Bytes of the rows: a query may ask for one column many times.
const ROWS_BYTES_MAX: usize = 16 << 20;

/// Bytes of the largest value, an identity, with its quotes and a comma.
const VALUE_BYTES: usize = 69;

/// Bytes of rows that are written at once.
const PIECE_BYTES: usize = 32 << 10;

/// Where the rows go.
const NO_ROWS: &str = r#""rows":[]"#;

#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum ClientsError {
    #[error("SpacetimeDB's answer about `st_client` can't be read")]
    Unreadable,
    #[error("more than {} MiB of clients: ask for fewer columns, or with a LIMIT", ROWS_BYTES_MAX >> 20)]
    TooMany,
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
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
    algebraic_type: BTreeMap<String, IgnoredAny>,
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

/// An answer about clients, in pieces: it is written as it is read, however slowly that is.
pub(super) struct Pieces {
    before: String,
    rows: Rows,
    /// Of what is still to come.
    next: usize,
    after: String,
    is_over: bool,
    /// What all this takes of the memory.
    _share: Share,
}

enum Rows {
    /// The one row of a count.
    Count(usize),
    Clients(Vec<Client>, Vec<Column>),
}

/// The answer about `clients`, of at most `limit` rows, made of the server's answer that has none.
pub(super) fn answer(
    empty: &str,
    mut clients: Vec<Client>,
    limit: Option<u64>,
    mut share: Share,
) -> Result<Pieces, ClientsError> {
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
    let rows = match columns.contains(&Column::Count) {
        // One row, whoever is there; a limit is one of rows.
        true if limit > 0 => Rows::Count(clients.len()),
        true => Rows::Clients(Vec::new(), columns),
        false => {
            clients.truncate(limit);
            clients.shrink_to_fit();
            if clients.len().saturating_mul(columns.len()) > ROWS_BYTES_MAX / VALUE_BYTES {
                return Err(ClientsError::TooMany);
            }
            Rows::Clients(clients, columns)
        }
    };
    share.set(empty.len() + PIECE_BYTES + rows.bytes())?;
    Ok(Pieces {
        before: format!(r#"{before}"rows":["#),
        rows,
        next: 0,
        after: format!("]{after}"),
        is_over: false,
        _share: share,
    })
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Self::Count(_) => 1,
            Self::Clients(clients, _) => clients.len(),
        }
    }

    /// What they take of the memory.
    fn bytes(&self) -> usize {
        match self {
            Self::Count(_) => 0,
            Self::Clients(clients, columns) => size_of_val(&clients[..]) + size_of_val(&columns[..]),
        }
    }

    fn row(&self, at: usize) -> String {
        match self {
            Self::Count(count) => format!("[{count}]"),
            Self::Clients(clients, columns) => row(&clients[at], columns),
        }
    }
}

impl Iterator for Pieces {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        let mut piece = std::mem::take(&mut self.before);
        while self.next < self.rows.len() && piece.len() < PIECE_BYTES {
            if self.next > 0 {
                piece.push(',');
            }
            piece.push_str(&self.rows.row(self.next));
            self.next += 1;
        }
        if self.next == self.rows.len() {
            piece.push_str(&std::mem::take(&mut self.after));
            self.is_over = true;
        }
        Some(piece)
    }
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
    use crate::budget::Budget;
    use prometheus::IntGauge;
    use spacetimedb_lib::{ConnectionId, Identity};

    /// Bytes for all answers together.
    const BUDGET_BYTES: usize = 1 << 20;

    fn budget() -> (Budget, IntGauge) {
        let total = IntGauge::new("bytes", "bytes").expect("a gauge");
        (Budget::new(BUDGET_BYTES, total.clone()), total)
    }

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
        let share = Share::new(&budget().0);
        let answer = answer(&empty(columns), clients(count), limit, share).expect("an answer");
        let answer = answer.collect::<String>();
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
        let answer = |empty: &str| answer(empty, clients(100), None, Share::new(&budget().0)).map(drop);
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

    #[test]
    fn who_does_not_read_an_answer_takes_no_more_than_the_clients_do() {
        let (budget, total) = budget();
        let names: Vec<_> = (0..2_000).map(|n| n.to_string()).collect();
        let columns: Vec<_> = names.iter().map(|name| (name.as_str(), "U256")).collect();
        let empty = empty(&columns);
        let mut pieces = answer(&empty, clients(100), None, Share::new(&budget)).expect("an answer");
        let held = usize::try_from(total.get()).expect("bytes");
        assert!((empty.len()..2 * empty.len()).contains(&held), "{held}");
        let first = pieces.next().expect("a piece");
        let row = columns.len() * VALUE_BYTES + 2;
        assert!(first.len() <= empty.len() + PIECE_BYTES + row);
        let whole = [first, pieces.collect()].concat();
        assert!(whole.len() > 100 * columns.len() * (VALUE_BYTES - 1));
        let read: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
        assert_eq!(read[0]["rows"].as_array().map(Vec::len), Some(100));
        assert_eq!(total.get(), 0, "it is given back");
        let many = || answer(&empty, clients(100), None, Share::new(&budget));
        let held: Vec<_> = (0..100).map_while(|_| many().ok()).collect();
        assert!(held.len() < 100, "there is an end of it");
    }
}
