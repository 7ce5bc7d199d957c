//! Identities and tokens: the local server makes and checks them, with the key that is the same on every node.

use super::HttpError;
use crate::node::Node;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use std::sync::Arc;

/// Passes a request to `/v1/identity…`, or for an identity's energy, on.
pub(super) async fn forward(State(node): State<Arc<Node>>, request: Request) -> Result<Response, HttpError> {
    // Without the cluster's key the local server's tokens would be worth nothing on the other nodes.
    node.tokens()?;
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let token = parts
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .map(|(_, token)| token.trim());
    let content_type = parts.headers.get(CONTENT_TYPE).cloned();
    node.client
        .send(
            parts.method.clone(),
            &format!("/v1{path}"),
            token,
            content_type,
            body,
        )
        .await
}

/// The local server's health and version.
pub(super) async fn health(State(node): State<Arc<Node>>) -> Result<Response, HttpError> {
    node.client
        .send(
            http::Method::GET,
            "/v1/health",
            None,
            None,
            axum::body::Body::empty(),
        )
        .await
}
