//! The tools, in SpacetimeDB's words.

use super::super::call::{self, REDUCER_FAILED};
use super::super::{Authenticated, HttpError, database, sql};
use crate::budget::Share;
use crate::limits::TOOL_BYTES_MAX;
use crate::node::Node;
use crate::{database_name, reducers};
use axum::body::Bytes;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};
use spacetimedb_lib::Identity;
use std::sync::Arc;

/// Uses a tool: what came of it, or what is wrong with the parameters. `database` is the only one that there is to use, if any
/// is.
pub(super) async fn call(
    node: &Arc<Node>,
    database: Option<&str>,
    caller: &Authenticated,
    params: Option<&Value>,
) -> Result<Value, String> {
    let params = params.ok_or("missing params")?;
    let name = params.get("name").and_then(Value::as_str);
    let name = name.ok_or("missing tool name")?;
    let argument = |of: &str| params.get("arguments")?.get(of);
    let text = |of: &str| argument(of).and_then(Value::as_str);
    let target = || match database {
        Some(database) => Ok(database.to_owned()),
        None => of_argument(text("database")),
    };
    let used = match name {
        "ping" => Ok(match text("message") {
            Some(message) => format!("pong: {message}"),
            None => "pong".to_owned(),
        }),
        "list_databases" if database.is_none() => Ok(list(node, &caller.claims.identity)),
        "get_schema" => schema(node, target()?, caller).await,
        "sql" => {
            let target = target()?;
            let statement = text("sql").ok_or("sql argument must be a string")?;
            let confirmed = argument("confirmed").and_then(Value::as_bool);
            query(node, target, caller, statement.to_owned(), confirmed).await
        }
        "call" => {
            let target = target()?;
            let reducer = text("reducer").ok_or("reducer argument must be a string")?;
            let args = match argument("args") {
                None | Some(Value::Null) => "[]".to_owned(),
                Some(args @ Value::Array(_)) => args.to_string(),
                Some(_) => return Err("args must be a JSON array".to_owned()),
            };
            reduce(node, target, caller, reducer.to_owned(), args).await
        }
        other => return Err(format!("unknown tool: {other}")),
    };
    let (text, is_error) = match used {
        Ok(text) => (text, false),
        Err(error) if error.body.trim().is_empty() => {
            (format!("request failed with HTTP {}", error.status), true)
        }
        Err(error) => (error.body.trim().to_owned(), true),
    };
    Ok(json!({ "content": [{ "type": "text", "text": text }], "isError": is_error }))
}

/// The database that an argument names.
fn of_argument(database: Option<&str>) -> Result<String, String> {
    let database = database.ok_or("database argument must be a string")?;
    if Identity::from_hex(database).is_err() {
        database_name::check(database).map_err(|error| format!("invalid database '{database}': {error}"))?;
    }
    Ok(database.to_owned())
}

/// The caller's own databases.
fn list(node: &Node, caller: &Identity) -> String {
    let owned = node.catalog.owned_by(caller).into_iter();
    let owned = owned
        .map(|record| json!({ "identity": record.identity.to_hex().to_string(), "names": record.names }));
    json!({ "databases": owned.collect::<Vec<_>>() }).to_string()
}

async fn schema(node: &Arc<Node>, target: String, caller: &Authenticated) -> Result<String, HttpError> {
    let version = RawQuery(Some("version=9".to_owned()));
    let caller = Extension(caller.clone());
    let answer = database::schema(State(node.clone()), Path(target), caller, version).await?;
    read(node, answer).await
}

async fn query(
    node: &Arc<Node>,
    target: String,
    caller: &Authenticated,
    statement: String,
    confirmed: Option<bool>,
) -> Result<String, HttpError> {
    let uri = Uri::from_static(match confirmed {
        None => "/",
        Some(true) => "/?confirmed=true",
        Some(false) => "/?confirmed=false",
    });
    let caller = Extension(caller.clone());
    let answer = sql::sql(
        State(node.clone()),
        Path(target),
        uri,
        caller,
        HeaderMap::new(),
        statement,
    )
    .await?;
    read(node, answer).await
}

/// Calls a reducer. Procedures are no tools.
async fn reduce(
    node: &Arc<Node>,
    target: String,
    caller: &Authenticated,
    reducer: String,
    args: String,
) -> Result<String, HttpError> {
    let record = node.database(&target)?;
    let module = node.active(&record.identity).await?.module;
    let is_owner = record.is_owned_by(&caller.claims.identity);
    reducers::knows(&module, &reducer, is_owner)
        .map_err(|why| HttpError::new(StatusCode::NOT_FOUND, why.to_string()))?;
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let called = call::call(
        State(node.clone()),
        Path((target, reducer.clone())),
        Extension(caller.clone()),
        HeaderMap::from_iter(json),
        Bytes::from(args),
    );
    match called.await {
        Ok(_) => Ok(format!("reducer '{reducer}' committed")),
        Err(error) if error.status.as_u16() == REDUCER_FAILED => Err(HttpError::new(
            error.status,
            format!("reducer '{reducer}' failed: {}", error.body),
        )),
        Err(error) => Err(error),
    }
}

/// What was answered, counted as it comes.
async fn read(node: &Node, answer: Response) -> Result<String, HttpError> {
    let status = answer.status();
    let mut share = Share::new(&node.budget);
    let mut pieces = answer.into_body().into_data_stream();
    let mut read = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| HttpError::unavailable(error.to_string()))?;
        if read.len() + piece.len() > TOOL_BYTES_MAX {
            let max = TOOL_BYTES_MAX >> 20;
            return Err(HttpError::bad_request(format!(
                "there is more to answer than {max} MiB"
            )));
        }
        share
            .add(piece.len())
            .map_err(|exceeded| HttpError::unavailable(exceeded.to_string()))?;
        read.extend_from_slice(&piece);
    }
    let text = String::from_utf8_lossy(&read).into_owned();
    match status.is_success() {
        true => Ok(text),
        false => Err(HttpError::new(status, text)),
    }
}
