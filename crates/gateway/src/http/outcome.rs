//! `GET …/outcome`: what became of a reducer's call that a client has made on a connection, for who has lost that connection
//! before it heard. Ours: SpacetimeDB has no such thing.

use super::{Authenticated, HttpError};
use crate::freshness::{Consistency, Freshness};
use crate::node::Node;
use crate::query::Query;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use rtdb_consensus::Position;
use rtdb_consensus::command::Ended;
use rtdb_replica::Became;
use serde::Deserialize;
use serde_json::{Value, json};
use spacetimedb_lib::ConnectionId;
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    connection_id: String,
    request_id: u32,
}

pub(super) async fn outcome(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Query(asked): Query<Asked>,
    Extension(caller): Extension<Authenticated>,
) -> Result<Response, HttpError> {
    let connection = ConnectionId::from_hex(&asked.connection_id);
    let connection = connection.map_err(|_| HttpError::bad_request("`connection_id` is no connection id"))?;
    let record = node.database(&database)?;
    // What the client has sent may be in the log, and not be applied here yet.
    let freshness = Freshness::of(Consistency::Linearizable);
    freshness.wait(&node, &record.identity).await?;
    let became = node.local.became(
        &record.identity,
        &caller.claims.identity,
        connection,
        asked.request_id,
    );
    let headers = [(CONTENT_TYPE, "application/json")];
    Ok((headers, answer(became).to_string()).into_response())
}

fn answer(became: Became) -> Value {
    let ended = |outcome: &str, Position(position)| json!({ "outcome": outcome, "position": position });
    match became {
        Became::Ended(position, known) => match known.ended {
            Some(Ended::Succeeded(_)) => ended("committed", position),
            Some(Ended::Failed(error) | Ended::Trapped(error)) => {
                json!({ "outcome": "failed", "position": position.0, "error": error })
            }
            None => json!({ "outcome": "none" }),
        },
        Became::Open(position) => ended("unknown", position),
        Became::Nothing => json!({ "outcome": "none" }),
        Became::NotYet => json!({ "outcome": "open" }),
        Became::Forgotten => json!({ "outcome": "unknown" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::command::{Known, Succeeded};

    #[test]
    fn what_became_of_a_call_is_said_in_a_word() {
        let known = |ended| {
            let position = 7;
            Became::Ended(Position(7), Known { position, ended })
        };
        for (became, expected) in [
            (
                known(Some(Ended::Succeeded(Succeeded::default()))),
                json!({ "outcome": "committed", "position": 7 }),
            ),
            (
                known(Some(Ended::Failed("no".to_owned()))),
                json!({ "outcome": "failed", "position": 7, "error": "no" }),
            ),
            (known(None), json!({ "outcome": "none" })),
            (
                Became::Open(Position(7)),
                json!({ "outcome": "unknown", "position": 7 }),
            ),
            (Became::Nothing, json!({ "outcome": "none" })),
            (Became::NotYet, json!({ "outcome": "open" })),
            (Became::Forgotten, json!({ "outcome": "unknown" })),
        ] {
            assert_eq!(answer(became), expected);
        }
    }
}
