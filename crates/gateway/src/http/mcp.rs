//! The Model Context Protocol, by which language models use databases. What tools there are, the local server says; they are
//! used by the way of the HTTP API.

mod tools;

use super::{Authenticated, HttpError};
use crate::node::Node;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// JSON-RPC's code for bad parameters.
const INVALID_PARAMS: i32 = -32602;

/// What reaches the databases.
const CALL: &str = "tools/call";

type Caller = Extension<Authenticated>;

/// `POST /v1/mcp`.
pub(super) async fn of_host(
    State(node): State<Arc<Node>>,
    Extension(caller): Caller,
    Json(request): Json<Value>,
) -> Result<Response, HttpError> {
    answer(&node, None, "/v1/mcp", &caller, request).await
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
    answer(&node, Some(&database), &path, &caller, request).await
}

async fn answer(
    node: &Arc<Node>,
    database: Option<&str>,
    path: &str,
    caller: &Authenticated,
    request: Value,
) -> Result<Response, HttpError> {
    // A notification, which has no id, calls nothing; and of several at once the local server must not do what is in them.
    let Some(id) = request.get("id") else {
        return Ok(StatusCode::ACCEPTED.into_response());
    };
    if request.get("method").and_then(Value::as_str) == Some(CALL) {
        let used = tools::call(node, database, caller, request.get("params")).await;
        let answer = match used {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(message) => {
                let error = json!({ "code": INVALID_PARAMS, "message": message });
                json!({ "jsonrpc": "2.0", "id": id, "error": error })
            }
        };
        return Ok(Json(answer).into_response());
    }
    let json = HeaderValue::from_static("application/json");
    let body = Body::from(request.to_string());
    node.client
        .send(Method::POST, path, Some(caller.local_token()), Some(json), body)
        .await
}
