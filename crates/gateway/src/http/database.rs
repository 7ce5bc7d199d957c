//! A database: what it is, its schema, its logs, its end.

use super::{Authenticated, HttpError};
use crate::limits::SCHEMA_BYTES_MAX;
use crate::node::Node;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use rtdb_consensus::command::{Body as Command, Delete, SetNames};
use std::sync::Arc;

type Caller = Extension<Authenticated>;

/// Passes a request on to the local server, by the database's identity.
async fn forward(
    node: &Node,
    database: &str,
    caller: &Authenticated,
    rest: &str,
    query: Option<String>,
) -> Result<Response, HttpError> {
    let record = node.database(database)?;
    node.active(&record.identity).await?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/v1/database/{}{rest}{query}", record.identity.to_hex());
    node.client
        .send(Method::GET, &path, Some(&caller.token), None, Body::empty())
        .await
}

pub(super) async fn info(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
) -> Result<Response, HttpError> {
    forward(&node, &database, &caller, "", None).await
}

/// The local server judges whether the caller may read them: it knows the owner.
pub(super) async fn logs(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    forward(&node, &database, &caller, "/logs", query).await
}

pub(super) async fn timestamp(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
) -> Result<Response, HttpError> {
    forward(&node, &database, &caller, "/unstable/timestamp", None).await
}

pub(super) async fn identity(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
) -> Result<String, HttpError> {
    Ok(node.database(&database)?.identity.to_hex().to_string())
}

/// The schema as the module's author wrote it, without what the preparation added.
pub(super) async fn schema(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let answer = forward(&node, &database, &caller, "/schema", query).await?;
    if answer.status() != StatusCode::OK {
        return Ok(answer);
    }
    let invalid = |error: &dyn std::fmt::Display| {
        HttpError::new(
            StatusCode::BAD_GATEWAY,
            format!("SpacetimeDB's schema can't be read: {error}"),
        )
    };
    let body = axum::body::to_bytes(answer.into_body(), SCHEMA_BYTES_MAX)
        .await
        .map_err(|error| invalid(&error))?;
    let bytes = body.len();
    let record = node.database(&database)?;
    let module = node.active(&record.identity).await?.module;
    let rewrite = move || {
        let schema = serde_json::from_slice(&body)?;
        Ok::<_, serde_json::Error>(rtdb_determinism::original_schema(schema, &module).to_string())
    };
    let schema = node
        .pool
        .run(bytes, rewrite)
        .await
        .map_err(|error| invalid(&error))?;
    Ok(([(CONTENT_TYPE, "application/json")], schema).into_response())
}

/// Deletes a database; the owner may.
pub(super) async fn delete(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
) -> Result<(), HttpError> {
    let record = node.database(&database)?;
    super::publish::authorize(&record, &caller, "delete database")?;
    let identity = record.identity.to_byte_array().to_vec();
    node.propose(
        &node.shard,
        Command::Delete(Delete {
            database: identity.clone().into(),
        }),
    )
    .await??;
    // Its names are free again.
    let free = SetNames {
        database: identity.into(),
        names: Vec::new(),
    };
    node.propose(&node.meta, Command::SetNames(free)).await??;
    Ok(())
}
