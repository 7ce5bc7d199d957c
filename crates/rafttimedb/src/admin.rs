//! The admin API, on the raft address: `/cluster/*` for operators and `rtdb`, `/metrics` for Prometheus.

use crate::node::Node;
use crate::snapshots::Target;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use rtdb_consensus::wire::{AddMember, MemberChange, RemoveMember};
use rtdb_consensus::{GroupId, Position};
use rtdb_replica::Source;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is said of contents that are not there.
const NOT_READ: &str = "this node has not read the database at that position, or no longer has what it read";

/// The header with the token for the server that a database is imported from.
const SOURCE_TOKEN: &str = "rafttimedb-source-token";

/// The largest module, in bytes.
const MODULE_BYTES_MAX: usize = 64 << 20;

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 << 10;

/// The admin API's routes.
pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/cluster/status", get(status))
        .route("/cluster/health", get(health))
        .route("/cluster/ready", get(ready))
        .route("/cluster/leader", get(leader))
        .route("/cluster/init", post(init))
        .route("/cluster/drain", post(drain).delete(undo_drain))
        .route("/cluster/members", get(members).post(add_member))
        .route("/cluster/members/{node}", delete(remove_member))
        .route("/cluster/members/{node}/promote", post(promote))
        .route("/cluster/members/{node}/demote", post(demote))
        .route("/cluster/members/{node}/lead", post(lead))
        .route("/cluster/resolve", post(resolve))
        .route("/cluster/verify", post(verify))
        .route("/cluster/contents/{identity}/{position}", get(contents))
        .route("/cluster/contents/{identity}/{position}/{table}", get(rows))
        .route("/cluster/skip", post(skip))
        .route("/cluster/databases/{database}/snapshot", get(snapshot))
        .route(
            "/cluster/import",
            post(import).layer(DefaultBodyLimit::max(MODULE_BYTES_MAX)),
        )
        .route(
            "/cluster/restore",
            post(restore).layer(DefaultBodyLimit::disable()),
        )
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(node)
}

async fn status(State(node): State<Arc<Node>>) -> Response {
    Json(node.status()).into_response()
}

/// 200 while a leader is known, so that writes can be served.
async fn health(State(node): State<Arc<Node>>) -> Response {
    match node.leader() {
        Some(leader) => {
            Json(json!({ "healthy": true, "leader": leader, "troubles": node.manager.status().troubles }))
                .into_response()
        }
        None => error(StatusCode::SERVICE_UNAVAILABLE, node.why_no_leader()),
    }
}

/// The query string of `GET /cluster/ready`.
#[derive(Deserialize)]
struct Wanted {
    /// How far this node may be behind the log, in milliseconds.
    max_lag_ms: Option<u64>,
}

/// 200 while clients are served well: a leader is known, SpacetimeDB answers, and what is written is soon applied here.
async fn ready(State(node): State<Arc<Node>>, Query(wanted): Query<Wanted>) -> Response {
    match node.unready(wanted.max_lag_ms) {
        None => Json(json!({ "ready": true })).into_response(),
        Some(why) => error(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

async fn leader(State(node): State<Arc<Node>>) -> Response {
    match node.leader() {
        Some(leader) => Json(leader).into_response(),
        None => error(StatusCode::SERVICE_UNAVAILABLE, node.why_no_leader()),
    }
}

/// The body of `POST /cluster/init`.
#[derive(Deserialize)]
struct Init {
    /// The nodes' raft addresses by id.
    nodes: BTreeMap<u64, String>,
}

async fn init(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let init: Init = match serde_json::from_slice(&body) {
        Ok(init) => init,
        Err(wrong) => {
            let expected = r#"{"nodes": {"1": "host:port", ...}}"#;
            return error(StatusCode::BAD_REQUEST, format!("expected {expected}: {wrong}"));
        }
    };
    match node.init(init.nodes).await {
        Ok(initialised) => Json(initialised).into_response(),
        Err(refused) => error(refused.status, refused.reason),
    }
}

/// Clients and leaderships go to other nodes.
async fn drain(State(node): State<Arc<Node>>) -> Response {
    node.drain(true).await;
    drained(&node, true)
}

async fn undo_drain(State(node): State<Arc<Node>>) -> Response {
    node.drain(false).await;
    drained(&node, false)
}

fn drained(node: &Node, drained: bool) -> Response {
    Json(json!({ "drained": drained, "members": node.members() })).into_response()
}

async fn members(State(node): State<Arc<Node>>) -> Response {
    Json(json!({ "members": node.members() })).into_response()
}

/// The body of `POST /cluster/members`.
#[derive(Deserialize)]
struct Added {
    /// The node's id.
    node: u64,
    /// Its raft address, as the others reach it.
    addr: String,
    /// It never votes.
    #[serde(default)]
    learner: bool,
}

/// A node that runs, and is in no cluster, becomes a member; a member has another address from now on.
async fn add_member(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let added: Added = match serde_json::from_slice(&body) {
        Ok(added) => added,
        Err(wrong) => {
            let expected = r#"{"node": 4, "addr": "host:port", "learner": false}"#;
            return error(StatusCode::BAD_REQUEST, format!("expected {expected}: {wrong}"));
        }
    };
    let add = AddMember {
        node: added.node,
        addr: added.addr,
        never_votes: added.learner,
    };
    change(&node, MemberChange::Add(add), None).await
}

/// The query string of requests that make one voter fewer.
#[derive(Deserialize)]
struct Forced {
    /// Also if too few of the others answer.
    #[serde(default)]
    force: bool,
}

async fn remove_member(
    State(node): State<Arc<Node>>,
    Path(id): Path<u64>,
    Query(Forced { force }): Query<Forced>,
) -> Response {
    let removed = RemoveMember { node: id, force };
    change(&node, MemberChange::Remove(removed), None).await
}

async fn promote(State(node): State<Arc<Node>>, Path(id): Path<u64>) -> Response {
    change(&node, MemberChange::Promote(id), None).await
}

async fn demote(
    State(node): State<Arc<Node>>,
    Path(id): Path<u64>,
    Query(Forced { force }): Query<Forced>,
) -> Response {
    let removed = RemoveMember { node: id, force };
    change(&node, MemberChange::Demote(removed), None).await
}

/// The query string of `POST /cluster/members/{node}/lead`.
#[derive(Deserialize)]
struct Of {
    /// The group, as it is shown; all, if none is named.
    group: Option<String>,
}

async fn lead(State(node): State<Arc<Node>>, Path(id): Path<u64>, Query(of): Query<Of>) -> Response {
    let group = match of.group.as_deref().map(str::parse::<GroupId>).transpose() {
        Ok(group) => group,
        Err(wrong) => return error(StatusCode::BAD_REQUEST, wrong.to_string()),
    };
    change(&node, MemberChange::Lead(id), group).await
}

async fn change(node: &Node, change: MemberChange, group: Option<GroupId>) -> Response {
    match node.change_members(change, group).await {
        Ok(()) => Json(json!({ "members": node.members() })).into_response(),
        Err(refused) => error(refused.status, refused.reason),
    }
}

/// The body of `POST /cluster/resolve`.
#[derive(Deserialize)]
struct Resolve {
    /// The database's name or identity.
    database: String,
    /// The node whose replica is right.
    node: u64,
}

async fn resolve(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let resolve: Resolve = match serde_json::from_slice(&body) {
        Ok(resolve) => resolve,
        Err(wrong) => {
            let expected = r#"{"database": "name", "node": 1}"#;
            return error(StatusCode::BAD_REQUEST, format!("expected {expected}: {wrong}"));
        }
    };
    match node.resolve(&resolve.database, resolve.node).await {
        Ok(()) => Json(json!({ "resolved": true })).into_response(),
        Err(refused) => error(refused.status, refused.reason),
    }
}

/// The body of `POST /cluster/skip`.
#[derive(Deserialize)]
struct Skip {
    /// The database's name or identity.
    database: String,
    /// The command's position, as it is shown.
    position: String,
}

async fn skip(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let skip: Skip = match serde_json::from_slice(&body) {
        Ok(skip) => skip,
        Err(wrong) => {
            let expected = r#"{"database": "name or identity", "position": "entry.command"}"#;
            return error(StatusCode::BAD_REQUEST, format!("expected {expected}: {wrong}"));
        }
    };
    match node.skip(&skip.database, &skip.position).await {
        Ok(()) => Json(json!({ "skipped": skip.position })).into_response(),
        Err(refused) => error(refused.status, refused.reason),
    }
}

/// A database as bytes: `rtdb_snapshot` says which.
async fn snapshot(State(node): State<Arc<Node>>, Path(database): Path<String>) -> Response {
    match node.snapshot(&database).await {
        Ok(body) => ([(CONTENT_TYPE, "application/octet-stream")], body).into_response(),
        Err(refused) => error(refused.status, refused.reason),
    }
}

/// The query string of `POST /cluster/restore`.
#[derive(Deserialize)]
struct Restore {
    /// The name of a database of its own; what it was, if there is none.
    #[serde(rename = "as")]
    name: Option<String>,
    /// In the place of what is there.
    #[serde(default)]
    replace: bool,
}

/// A database from such bytes.
async fn restore(State(node): State<Arc<Node>>, Query(restore): Query<Restore>, body: Body) -> Response {
    let target = Target {
        name: restore.name,
        replace: restore.replace,
    };
    match node.restore(target, body).await {
        Ok(restored) => Json(restored).into_response(),
        Err(refused) => error(refused.status, refused.reason),
    }
}

/// The query string of `POST /cluster/import`.
#[derive(Deserialize)]
struct Import {
    /// The other server's `host:port`.
    from: String,
    /// The database's name or identity there.
    database: String,
    /// The name of a database of its own; what it is there, if there is none.
    #[serde(rename = "as")]
    name: Option<String>,
    /// In the place of what is there.
    #[serde(default)]
    replace: bool,
}

/// A database of a plain SpacetimeDB, whose module is the body. The token of its owner there is in a header of its own.
async fn import(
    State(node): State<Arc<Node>>,
    Query(import): Query<Import>,
    headers: HeaderMap,
    module: Bytes,
) -> Response {
    let token = headers.get(SOURCE_TOKEN).and_then(|token| token.to_str().ok());
    let Some(token) = token else {
        return error(
            StatusCode::BAD_REQUEST,
            format!("expected a header {SOURCE_TOKEN}"),
        );
    };
    let source = Source {
        authority: import.from,
        token: token.to_owned(),
        database: import.database,
    };
    let target = Target {
        name: import.name,
        replace: import.replace,
    };
    match node.import(source, target, module).await {
        Ok(imported) => Json(imported).into_response(),
        Err(refused) => error(refused.status, refused.reason),
    }
}

/// The body of `POST /cluster/verify`.
#[derive(Deserialize)]
struct Verify {
    /// The database's name or identity.
    database: String,
}

async fn verify(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let verify: Verify = match serde_json::from_slice(&body) {
        Ok(verify) => verify,
        Err(wrong) => {
            let expected = r#"{"database": "name"}"#;
            return error(StatusCode::BAD_REQUEST, format!("expected {expected}: {wrong}"));
        }
    };
    match node.verify(&verify.database).await {
        Ok((position, identity)) => Json(json!({
            "identity": identity,
            "position": position.to_string(),
            "index": position.0,
            "nodes": node.status().nodes,
        }))
        .into_response(),
        Err(refused) => error(refused.status, refused.reason),
    }
}

/// What the tables of this node's replica held where `POST /cluster/verify` has let it be read: rows and their hash.
async fn contents(
    State(node): State<Arc<Node>>,
    Path((identity, position)): Path<(String, u64)>,
) -> Response {
    let Some(contents) = node.contents(&identity, Position(position)) else {
        return match node.set_aside(&identity) {
            Some(why) => error(
                StatusCode::CONFLICT,
                format!("the database is set aside here: {why}"),
            ),
            None => error(StatusCode::NOT_FOUND, NOT_READ),
        };
    };
    if let Some(why) = contents.unread {
        return error(StatusCode::CONFLICT, why);
    }
    let tables: BTreeMap<&String, serde_json::Value> = contents
        .tables
        .iter()
        .map(|(name, table)| match table {
            Ok(table) => (
                name,
                json!({ "rows": table.rows.len(), "hash": table.hash().to_hex().as_str() }),
            ),
            Err(reason) => (name, json!({ "error": reason })),
        })
        .collect();
    Json(json!({ "tables": tables })).into_response()
}

async fn rows(
    State(node): State<Arc<Node>>,
    Path((identity, position, table)): Path<(String, u64, String)>,
) -> Response {
    let contents = node.contents(&identity, Position(position));
    match contents.as_ref().and_then(|contents| contents.tables.get(&table)) {
        Some(Ok(table)) => Json(json!({ "rows": table.rows })).into_response(),
        Some(Err(reason)) => error(StatusCode::CONFLICT, reason.clone()),
        None => error(StatusCode::NOT_FOUND, NOT_READ),
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    match node.metrics() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, failed.to_string()),
    }
}

fn error(status: StatusCode, reason: impl Into<String>) -> Response {
    (status, Json(json!({ "error": reason.into() }))).into_response()
}
