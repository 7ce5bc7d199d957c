//! `INSERT`, `UPDATE` and `DELETE`: through the log.

use super::super::{Authenticated, HttpError, idempotency};
use super::{ask, no_such_table};
use crate::catalog::DatabaseRecord;
use crate::freshness::POSITION;
use crate::local::LocalDatabase;
use crate::local_client::counted;
use crate::node::Node;
use crate::writes::{self, Typed, WriteError};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use rtdb_consensus::command::{self, CallKey, Write};
use rtdb_consensus::{Applied, Outcome, Position, Reply, Unapplied};
use rtdb_determinism::TAKEN;
use rtdb_protocol::sql;
use rtdb_protocol::{Subprotocol, hidden};
use rtdb_replica::{WRITE_ROWS_MAX, write_too_large};
use rtdb_runtime::Instant;
use spacetimedb_lib::Identity;

/// What is said while a condition may mean something else on another node.
const MIXED: &str = "the nodes run different versions of SpacetimeDB, and not all may understand the condition alike: try again \
                     when all are updated";

pub(super) async fn write(
    node: &Node,
    record: &DatabaseRecord,
    active: &LocalDatabase,
    caller: &Authenticated,
    statement: &sql::Write,
    key: Option<&CallKey>,
) -> Result<Response, HttpError> {
    let since = Instant::now();
    let table = active.module.table_named(&statement.table);
    let table = table.map_or(statement.table.as_str(), |(_, table)| &table.name);
    if let Some(key) = key
        && let Some(outcome) = idempotency::first(node, &record.identity, key).await?
    {
        return told(outcome, table, since);
    }
    let server = node.local.newest_subprotocol();
    let sender = caller.claims.identity;
    let is_owner = record.is_owned_by(&sender);
    let typed = writes::read(&active.module, statement, is_owner).map_err(|why| refuse(why, server))?;
    if let Some(rows) = typed.rows {
        if is_owner && node.catalog.has_mixed_servers() {
            return Err(HttpError::unavailable(MIXED));
        }
        // What is wrong with it others hear, too.
        let count = rows.count().filter(|_| is_owner);
        let query = count.unwrap_or_else(|| format!("{} LIMIT 0", rows.text()));
        // The local server alone understands the condition.
        let answer = ask(node, &record.identity, caller, "?confirmed=false", query).await?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        // Too many rows are nothing to be asked for by all nodes.
        if is_owner
            && counted(answer)
                .await
                .is_some_and(|count| count > WRITE_ROWS_MAX as u64)
        {
            return Err(HttpError::bad_request(write_too_large()));
        }
    }
    if !is_owner {
        return Err(not_owner(server, &sender));
    }
    if !node.catalog.writes() {
        return Err(HttpError::not_served(
            "writing by SQL, before all nodes of the cluster are updated,",
        ));
    }
    node.gate.pass(&record.identity, &sender).await?;
    let Typed { place, kind, .. } = typed;
    let write = Write {
        database: record.identity.to_byte_array().to_vec().into(),
        program: active.program.data.to_vec().into(),
        sender: sender.to_byte_array().to_vec().into(),
        table: place,
        kind: Some(kind),
        key: key.cloned(),
    };
    node.metrics.calls.inc();
    let outcome = idempotency::propose(node, &record.identity, command::Body::Write(write), key).await?;
    node.metrics.call_done(since.elapsed(), &outcome);
    told(outcome, table, since)
}

/// What is heard of rows of a table that were to be written.
fn told(outcome: Outcome, table: &str, since: Instant) -> Result<Response, HttpError> {
    match outcome {
        Ok(Applied { reply, position, .. }) => Ok(answer(&reply, position, since)),
        Err(Unapplied::Reducer { message, .. }) if message == TAKEN => Err(HttpError::bad_request(format!(
            "Unique constraint violation in table '{table}': another row has a unique value of a row that is to be written"
        ))),
        Err(error) => Err(error.into()),
    }
}

/// As SpacetimeDB answers what changes rows.
fn answer(reply: &Reply, position: Position, since: Instant) -> Response {
    let (inserted, deleted, updated) = match reply {
        Reply::Rows {
            inserted,
            deleted,
            updated,
        } => (*inserted, *deleted, *updated),
        _ => (0, 0, 0),
    };
    let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
    let stats =
        format!(r#"{{"rows_inserted":{inserted},"rows_deleted":{deleted},"rows_updated":{updated}}}"#);
    let answer = format!(
        r#"[{{"schema":{{"elements":[]}},"rows":[],"total_duration_micros":{micros},"stats":{stats}}}]"#
    );
    let headers = [
        (CONTENT_TYPE.as_str(), "application/json".to_owned()),
        ("spacetime-execution-duration-micros", micros.to_string()),
        (POSITION, position.0.to_string()),
    ];
    (headers, answer).into_response()
}

fn refuse(why: WriteError, server: Subprotocol) -> HttpError {
    match why {
        WriteError::NoSuchTable(table) if hidden::is_public_system_table(&table) => {
            HttpError::not_served(&format!("writing to `{table}`"))
        }
        WriteError::NoSuchTable(table) => no_such_table(server, &table),
        why => HttpError::bad_request(why.to_string()),
    }
}

/// In SpacetimeDB's words, 1.2's and 2.8's.
fn not_owner(server: Subprotocol, caller: &Identity) -> HttpError {
    HttpError::bad_request(match server {
        Subprotocol::V1 => "Only owners are authorized to run SQL DML statements".to_owned(),
        Subprotocol::V2 | Subprotocol::V3 => {
            format!(
                "Caller {} is not authorized to run SQL DML statements",
                caller.to_hex()
            )
        }
    })
}
