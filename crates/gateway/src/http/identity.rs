//! Identities and tokens: the local server makes and checks them, with the key that is the same on every node.

use super::{HttpError, auth};
use crate::node::Node;
use axum::extract::{Request, State};
use axum::response::Response;
use http::Method;
use http::header::CONTENT_TYPE;
use std::sync::Arc;

/// Passes a request to `/v1/identity…`, or for an identity's energy, on.
pub(super) async fn forward(State(node): State<Arc<Node>>, request: Request) -> Result<Response, HttpError> {
    // Without the cluster's key the local server's tokens would be worth nothing on the other nodes.
    node.tokens()?;
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    // Who asks matters to these alone.
    let is_asked =
        path.ends_with("/verify") || path.ends_with("/websocket-token") || parts.method == Method::PUT;
    let caller = match auth::caller(&node, &parts).await {
        Err(error) if is_asked => return Err(error),
        caller => caller.ok().flatten(),
    };
    let token = caller.as_ref().map(|caller| caller.local_token());
    // A token in the query would be taken where there is none in the head.
    let query = parts.uri.query().filter(|_| token.is_some());
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let content_type = parts.headers.get(CONTENT_TYPE).cloned();
    node.client
        .send(
            parts.method.clone(),
            &format!("/v1{path}{query}"),
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
