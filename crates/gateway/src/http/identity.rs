//! Identities and tokens: the local server makes and checks them, with the key that is the same on every node.

use super::{HttpError, auth};
use crate::node::Node;
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use spacetimedb_lib::Identity;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Passes a request to `/v1/identity…`, or for an identity's energy, on.
pub(super) async fn forward(State(node): State<Arc<Node>>, request: Request) -> Result<Response, HttpError> {
    // Without the cluster's key the local server's tokens would be worth nothing on the other nodes.
    node.tokens()?;
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    // Who asks matters to these alone.
    let of_identity = path.ends_with("/verify") || parts.method == Method::PUT;
    let named = path.split('/').nth(2).unwrap_or_default();
    let is_asked = match of_identity {
        // Who names nobody hears so first.
        true => Identity::from_hex(named).is_ok(),
        false => path.ends_with("/websocket-token") || is_energy_added(&parts),
    };
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

/// Natively that changes nothing but a number, which each server keeps for itself.
fn is_energy_added(parts: &Parts) -> bool {
    parts.method == Method::POST && parts.uri.path().starts_with("/energy/")
}

#[derive(Serialize, Deserialize)]
struct Databases {
    identities: Vec<Identity>,
}

/// The databases that the local server has of an owner: without those that it has for a moment to try modules in.
pub(super) async fn databases(
    State(node): State<Arc<Node>>,
    Path(owner): Path<String>,
    request: Request,
) -> Result<Response, HttpError> {
    let is_read = request.method() == Method::GET;
    let answer = forward(State(node.clone()), request).await?;
    let (Ok(owner), StatusCode::OK, true) = (Identity::from_hex(owner), answer.status(), is_read) else {
        return Ok(answer);
    };
    let Databases { identities } = super::body::json(answer).await?;
    let here: BTreeSet<_> = identities.into_iter().collect();
    let owned = node
        .catalog
        .owned_by(&owner)
        .into_iter()
        .map(|record| record.identity);
    let identities = owned.filter(|identity| here.contains(identity)).collect();
    Ok(Json(Databases { identities }).into_response())
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
