//! A database: what it is, its schema, its end.

use super::{Authenticated, HttpError};
use crate::catalog::DatabaseRecord;
use crate::limits::{DATABASE_WAIT_MAX, SCHEMA_BYTES_MAX};
use crate::node::Node;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use rtdb_consensus::command::{Body as Command, Delete, EndDatabase, SetLock, SetNames};
use rtdb_consensus::{Refusal, Unapplied};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use spacetimedb_lib::Hash;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) type Caller = Extension<Authenticated>;

/// Passes a request on to the local server, by the database's identity.
pub(super) async fn forward(
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
        .send(
            Method::GET,
            &path,
            Some(caller.local_token()),
            None,
            Body::empty(),
        )
        .await
}

/// Goes on if there is such a database.
pub(super) async fn exists(
    State(node): State<Arc<Node>>,
    Path(params): Path<BTreeMap<String, String>>,
    request: Request,
    next: Next,
) -> Result<Response, HttpError> {
    if let Some(database) = params.get("database") {
        node.database(database)?;
    }
    Ok(next.run(request).await)
}

pub(super) async fn info(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
) -> Result<Response, HttpError> {
    let answer = forward(&node, &database, &caller, "", None).await?;
    if answer.status() != StatusCode::OK {
        return Ok(answer);
    }
    let mut info: Info = super::body::json(answer).await?;
    let identity = node.database(&database)?.identity;
    if let Some(original) = node.local.original(&identity, info.initial_program) {
        info.initial_program = original;
    }
    Ok(Json(info).into_response())
}

/// What the local server says of a database.
#[derive(Serialize, Deserialize)]
struct Info {
    database_identity: Box<RawValue>,
    owner_identity: Box<RawValue>,
    host_type: Box<RawValue>,
    /// The hash of the module that the database has begun with.
    initial_program: Hash,
}

pub(super) async fn timestamp(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
) -> Result<Response, HttpError> {
    forward(&node, &database, &caller, "/unstable/timestamp", None).await
}

/// What a name stands for, or an identity for itself: whether there is a database is not asked.
pub(super) async fn identity(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
) -> Result<String, HttpError> {
    let identity = node.identity(&database)?;
    let identity = identity.ok_or_else(|| HttpError::no_such_name(&database))?;
    Ok(identity.to_hex().to_string())
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
        .requests
        .run(bytes, rewrite)
        .await
        .map_err(|error| invalid(&error))?;
    Ok(([(CONTENT_TYPE, "application/json")], schema).into_response())
}

/// Deletes a database; the owner may. That there is none is as good.
pub(super) async fn delete(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
) -> Result<(), HttpError> {
    let identity = node.identity(&database)?;
    let identity = identity.ok_or_else(|| HttpError::no_such_name(&database))?;
    let Some(record) = node.catalog.by_identity(&identity) else {
        return Ok(());
    };
    super::publish::authorize(&record, &caller, "delete database")?;
    if record.locked {
        return Err(Unapplied::Refused(Refusal::Locked).into());
    }
    if !node.catalog.ends() {
        return free(&node, &record).await;
    }
    let database = identity.to_byte_array().to_vec();
    let end = EndDatabase {
        database: database.clone().into(),
        born: record.born,
    };
    match node.propose(&node.meta, Command::EndDatabase(end)).await? {
        Ok(_) | Err(Unapplied::Refused(Refusal::NoSuchDatabase)) => {}
        Err(error) => return Err(error.into()),
    }
    // From here on it is decided. If this goes wrong, or this node ends now, the shard's leader does it.
    let delete = Delete {
        database: database.into(),
        before: record.born.saturating_add(1),
    };
    let deleted = node.propose(&node.shard, Command::Delete(delete));
    let _ = rtdb_runtime::timeout(DATABASE_WAIT_MAX, deleted).await;
    Ok(())
}

/// Deletes a database of a cluster with nodes that don't know yet how databases end: its record stays, without names.
async fn free(node: &Node, record: &DatabaseRecord) -> Result<(), HttpError> {
    let identity = record.identity.to_byte_array().to_vec();
    let delete = Delete {
        database: identity.clone().into(),
        before: 0,
    };
    node.propose(&node.shard, Command::Delete(delete)).await??;
    let free = SetNames {
        database: identity.into(),
        names: Vec::new(),
        replaced: None,
    };
    node.propose(&node.meta, Command::SetNames(free)).await??;
    Ok(())
}

/// `POST …/lock`: the database can't be deleted or cleared until it is unlocked.
pub(super) async fn lock(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
) -> Result<(), HttpError> {
    set_lock(&node, &database, &caller, true).await
}

/// `POST …/unlock`.
pub(super) async fn unlock(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
) -> Result<(), HttpError> {
    set_lock(&node, &database, &caller, false).await
}

async fn set_lock(
    node: &Node,
    database: &str,
    caller: &Authenticated,
    locked: bool,
) -> Result<(), HttpError> {
    let record = node.database(database)?;
    super::publish::authorize(&record, caller, "delete database")?;
    if !node.catalog.migrates() {
        return Err(HttpError::unavailable(
            "databases can be locked once RaftTimeDB is updated on every node of the cluster",
        ));
    }
    let lock = Command::SetLock(SetLock {
        database: record.identity.to_byte_array().to_vec().into(),
        locked,
        born: record.born,
    });
    node.propose(&node.meta, lock).await??;
    Ok(())
}
