//! `POST …/sql`: queries go to the local server. What writes goes through the log: it would write on one replica alone.

mod clients;
mod write;

use super::call::{leave, let_in};
use super::{Authenticated, HttpError, idempotency};
use crate::budget::Share;
use crate::catalog::{Client, DatabaseRecord};
use crate::freshness::Freshness;
use crate::limits::SCHEMA_BYTES_MAX;
use crate::local::LocalDatabase;
use crate::node::Node;
use crate::views;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use clients::ClientsError;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use rtdb_consensus::command::CallKey;
use rtdb_protocol::sql::{self, Language, Query, SqlError, Statement, System};
use rtdb_protocol::{Subprotocol, hidden};
use rtdb_replica::ViewError;
use spacetimedb_lib::Identity;
use std::convert::Infallible;
use std::sync::Arc;

pub(super) async fn sql(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    uri: Uri,
    Extension(caller): Extension<Authenticated>,
    headers: HeaderMap,
    text: String,
) -> Result<Response, HttpError> {
    let freshness = Freshness::from_uri(&uri)?;
    let record = node.database(&database)?;
    let parts = || [Bytes::from("sql"), Bytes::from(text.clone())];
    let asked = Asked {
        query: uri.query(),
        text: &text,
        key: idempotency::key_of(&node, &headers, &caller, parts).await?,
    };
    freshness.wait(&node, &record.identity).await?;
    let active = node.active(&record.identity).await?;
    let server = node.local.newest_subprotocol();
    // For SpacetimeDB 2.x each request is a connection of its own, whatever it asks for, for 1.2.0 it is none.
    let presence = match server {
        Subprotocol::V1 => None,
        Subprotocol::V2 | Subprotocol::V3 => {
            let mut claims = node.claims(&caller.claims)?;
            Some(let_in(&node, &record, &active.module, &caller, &mut claims, false).await?)
        }
    };
    // A connection that the log is spared is one all the same.
    let own = match &presence {
        Some((connection, None)) => Some(Client {
            identity: caller.claims.identity,
            connection: *connection,
        }),
        None | Some((_, Some(_))) => None,
    };
    let answer = answer(&node, &record, &active, &caller, own, asked).await;
    if let Some((_, presence)) = presence {
        leave(presence).await;
    }
    answer
}

/// What a request asks for.
struct Asked<'a> {
    query: Option<&'a str>,
    text: &'a str,
    /// By which a write is known, if it comes again. A read changes nothing, however often it comes.
    key: Option<CallKey>,
}

async fn answer(
    node: &Arc<Node>,
    record: &DatabaseRecord,
    active: &LocalDatabase,
    caller: &Authenticated,
    own: Option<Client>,
    Asked { query, text, key }: Asked<'_>,
) -> Result<Response, HttpError> {
    let server = node.local.newest_subprotocol();
    let statement = sql::parse(text, Language::Sql)?;
    let (text, of_clients, wanted) = match &statement {
        Statement::Query(query) => {
            let (text, of_clients) = for_server(query, server)?;
            let identity = caller.claims.identity.to_byte_array();
            let wanted = views::wanted(&active.module, std::iter::once(query), identity);
            (text, of_clients, wanted)
        }
        Statement::Show(text) => (text.as_str(), None, Vec::new()),
        Statement::Write(statement) => {
            return write::write(node, record, active, caller, statement, key.as_ref()).await;
        }
        Statement::Set => return Err(HttpError::not_served("writing by SQL (`SET`)")),
    };
    // Held until the answer is there.
    let _holds = views::prepare(node.views(), &record.identity, caller.local_token(), &wanted)
        .await
        .map_err(|error| match error {
            ViewError::Unavailable(_) => HttpError::unavailable(error.to_string()),
            ViewError::Failed { .. } | ViewError::Stuck { .. } => HttpError::bad_request(error.to_string()),
        })?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let answer = ask(node, &record.identity, caller, &query, text.to_owned()).await?;
    let Some(OfClients { limit }) = of_clients.filter(|_| answer.status().is_success()) else {
        return Ok(answer);
    };
    with_clients(node, answer, record.identity, own, limit).await
}

/// Asks the local server in the caller's name.
async fn ask(
    node: &Node,
    database: &Identity,
    caller: &Authenticated,
    query: &str,
    text: String,
) -> Result<Response, HttpError> {
    let path = format!("/v1/database/{}/sql{query}", database.to_hex());
    let content = HeaderValue::from_static("text/plain; charset=utf-8");
    let (token, text) = (Some(caller.local_token()), Body::from(text));
    node.client
        .send(Method::POST, &path, token, Some(content), text)
        .await
}

/// The server's answer has no rows, and is to get those of the clients.
struct OfClients {
    limit: Option<u64>,
}

/// What is sent to the server, so that it shows nothing hidden.
fn for_server(query: &Query, server: Subprotocol) -> Result<(&str, Option<OfClients>), HttpError> {
    match (query.system(), query.hidden()) {
        (Some(System::Shown(text)), _) => Ok((text, None)),
        (Some(System::Clients { columns, limit }), _) => Ok((columns, Some(OfClients { limit: *limit }))),
        (None, None) => Ok((query.text(), None)),
        (None, Some(table)) if hidden::is_public_system_table(table) => {
            Err(HttpError::not_served(&format!("this query on `{table}`")))
        }
        (None, Some(table)) => Err(no_such_table(server, table)),
    }
}

async fn with_clients(
    node: &Node,
    empty: Response,
    database: Identity,
    own: Option<Client>,
    limit: Option<u64>,
) -> Result<Response, HttpError> {
    let (parts, body) = empty.into_parts();
    let body = axum::body::to_bytes(body, SCHEMA_BYTES_MAX).await;
    let body = body.map_err(|_| ClientsError::Unreadable)?;
    let catalog = node.catalog.clone();
    let share = Share::new(&node.budget);
    let answer = move || {
        let empty = str::from_utf8(&body).map_err(|_| ClientsError::Unreadable)?;
        let mut clients = catalog.clients(&database);
        clients.extend(own);
        clients::answer(empty, clients, limit, share)
    };
    // There may be any number of clients.
    let pieces = node.requests.run(usize::MAX, answer).await?;
    let pieces = futures::stream::iter(pieces.map(Ok::<_, Infallible>));
    Ok(Response::from_parts(parts, Body::from_stream(pieces)))
}

impl From<ClientsError> for HttpError {
    fn from(error: ClientsError) -> Self {
        match error {
            ClientsError::Unreadable => Self::new(StatusCode::BAD_GATEWAY, error.to_string()),
            ClientsError::TooMany => Self::bad_request(error.to_string()),
            ClientsError::Exceeded(_) => Self::unavailable(error.to_string()),
        }
    }
}

/// In SpacetimeDB's words, 1.2's and 2.8's.
fn no_such_table(server: Subprotocol, table: &str) -> HttpError {
    HttpError::bad_request(match server {
        Subprotocol::V1 => format!("`{table}` is not a valid table"),
        Subprotocol::V2 | Subprotocol::V3 => {
            format!("no such table: `{table}`. If the table exists, it may be marked private.")
        }
    })
}

impl From<SqlError> for HttpError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Busy => Self::unavailable(error.to_string()),
            error => Self::bad_request(error.to_string()),
        }
    }
}
