//! The Model Context Protocol, by which language models use a database: what there is to be used, the local server says. Using
//! it is not served yet.

use super::{Authenticated, HttpError};
use crate::node::Node;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use std::sync::Arc;

/// JSON-RPC's code for a method that is not there.
const METHOD_NOT_FOUND: i32 = -32601;

/// What reaches the databases.
const CALL: &str = "tools/call";

type Caller = Extension<Authenticated>;

/// `POST /v1/mcp`.
pub(super) async fn of_host(
    State(node): State<Arc<Node>>,
    Extension(caller): Caller,
    Json(request): Json<Value>,
) -> Result<Response, HttpError> {
    answer(&node, "/v1/mcp", &caller, request).await
}

/// `POST /v1/database/:name/mcp`.
pub(super) async fn of_database(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
    Json(request): Json<Value>,
) -> Result<Response, HttpError> {
    node.identity(&database)?;
    let path = format!("/v1/database/{database}/mcp");
    answer(&node, &path, &caller, request).await
}

async fn answer(
    node: &Node,
    path: &str,
    caller: &Authenticated,
    request: Value,
) -> Result<Response, HttpError> {
    // A notification, which has no id, calls nothing.
    if let Some(id) = request.get("id")
        && request.get("method").and_then(Value::as_str) == Some(CALL)
    {
        let message = format!("`{CALL}` is not served by RaftTimeDB yet");
        let error = json!({ "code": METHOD_NOT_FOUND, "message": message });
        let refused = json!({ "jsonrpc": "2.0", "id": id, "error": error });
        return Ok(Json(refused).into_response());
    }
    let json = HeaderValue::from_static("application/json");
    let body = Body::from(request.to_string());
    node.client
        .send(Method::POST, path, Some(&caller.token), Some(json), body)
        .await
}
