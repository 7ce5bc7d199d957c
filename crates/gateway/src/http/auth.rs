//! Who asks.

use super::HttpError;
use crate::local::{Authenticated, Claims, TokenError, Tokens};
use crate::node::Node;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use spacetimedb_lib::Identity;
use std::sync::Arc;

/// Bytes of what the local server says against a token.
const WORDS_BYTES_MAX: usize = 4 << 10;

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
        return Ok(Authenticated { claims, token });
    };
    let claims = verify(node, tokens.as_ref(), &token).await?;
    Ok(Authenticated { claims, token })
}

/// Whom a token stands for. What is wrong with it, the local server says in its own words.
async fn verify(node: &Node, tokens: &dyn Tokens, token: &str) -> Result<Claims, HttpError> {
    let error = match tokens.verify(token) {
        Ok(claims) => return Ok(claims),
        Err(error) => error,
    };
    let identity = match &error {
        TokenError::Foreign(claims) => claims.identity,
        TokenError::Malformed | TokenError::Expired => Identity::ZERO,
    };
    let refused = HttpError::new(StatusCode::UNAUTHORIZED, error.to_string());
    let path = format!("/v1/identity/{}/verify", identity.to_hex());
    let asked = node
        .client
        .send(Method::GET, &path, Some(token), None, Body::empty());
    match (asked.await, error) {
        (Ok(answer), TokenError::Foreign(claims)) if answer.status().is_success() => Ok(claims),
        (Ok(answer), _) if answer.status() == StatusCode::UNAUTHORIZED => {
            let words = axum::body::to_bytes(answer.into_body(), WORDS_BYTES_MAX).await;
            let words = words.ok().and_then(|words| String::from_utf8(words.into()).ok());
            Err(words.map_or(refused, |words| HttpError::new(StatusCode::UNAUTHORIZED, words)))
        }
        (Err(unavailable), TokenError::Foreign(_)) => Err(unavailable),
        _ => Err(refused),
    }
}

/// For clients that ask whether the server is there: a token, if there is one, must be good.
pub(super) async fn ping(State(node): State<Arc<Node>>, request: Request) -> Result<(), HttpError> {
    let (parts, _) = request.into_parts();
    if let Some(token) = token_of(&parts)?
        && let Ok(tokens) = node.tokens()
    {
        verify(&node, tokens.as_ref(), &token).await?;
    }
    Ok(())
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
