//! Who asks.

use super::HttpError;
use crate::local::{Claims, TokenError};
use crate::node::Node;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use std::sync::Arc;

/// A caller whose token is good, or who got a new one.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated {
    pub(crate) claims: Claims,
    pub(crate) token: String,
    /// The caller came without a token, and this one is new.
    pub(crate) anonymous: bool,
}

#[derive(Deserialize)]
struct TokenParam {
    token: String,
}

/// Reads and checks the credentials of a request; without any, a new identity is made. A token that another key has
/// signed is for the local server to judge, which asks the issuer.
async fn authenticate(node: &Node, parts: &Parts) -> Result<Authenticated, HttpError> {
    let tokens = node.tokens()?;
    let Some(token) = token_of(parts)? else {
        let (claims, token) = tokens.fresh().ok_or_else(unsigned)?;
        return Ok(Authenticated {
            claims,
            token,
            anonymous: true,
        });
    };
    let claims = match tokens.verify(&token) {
        Ok(claims) => claims,
        Err(TokenError::Foreign(claims)) => {
            let path = format!("/v1/identity/{}/verify", claims.identity.to_hex());
            let answer = node
                .client
                .send(Method::GET, &path, Some(&token), None, Body::empty())
                .await?;
            if !answer.status().is_success() {
                return Err(HttpError::new(
                    StatusCode::UNAUTHORIZED,
                    TokenError::Foreign(claims).to_string(),
                ));
            }
            claims
        }
        Err(error) => return Err(HttpError::new(StatusCode::UNAUTHORIZED, error.to_string())),
    };
    Ok(Authenticated {
        claims,
        token,
        anonymous: false,
    })
}

fn unsigned() -> HttpError {
    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "no token can be signed")
}

/// The bearer token, or else the query parameter `token`, with which browsers open a WebSocket.
fn token_of(parts: &Parts) -> Result<Option<String>, HttpError> {
    if let Some(header) = parts.headers.get(AUTHORIZATION) {
        let bearer = header.to_str().ok().and_then(|value| value.split_once(' '));
        return match bearer {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Ok(Some(token.trim().to_owned()))
            }
            _ => Err(HttpError::bad_request(
                "Authorization is invalid: malformed token",
            )),
        };
    }
    Ok(Query::<TokenParam>::try_from_uri(&parts.uri)
        .ok()
        .map(|Query(TokenParam { token })| token))
}

/// Authenticates a request to `/database`, and tells the caller who it is in the answer's headers.
pub(super) async fn identify(
    State(node): State<Arc<Node>>,
    request: Request,
    next: Next,
) -> Result<Response, HttpError> {
    let (mut parts, body) = request.into_parts();
    let caller = authenticate(&node, &parts).await?;
    let identity = HeaderValue::from_str(caller.claims.identity.to_hex().as_str());
    let token = HeaderValue::from_str(&caller.token);
    parts.extensions.insert(caller);
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if let (Ok(identity), Ok(token)) = (identity, token) {
        response.headers_mut().insert("spacetime-identity", identity);
        response.headers_mut().insert("spacetime-identity-token", token);
    }
    Ok(response)
}
