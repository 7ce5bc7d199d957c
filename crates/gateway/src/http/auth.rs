//! Who asks.

use super::HttpError;
use crate::issuers::NotVerified;
use crate::local::{Authenticated, Claims, TokenError, Tokens};
use crate::node::Node;
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
struct TokenParam {
    token: String,
}

/// Reads and checks the credentials of a request; without any, a new identity is made.
async fn authenticate(node: &Node, parts: &Parts) -> Result<Authenticated, HttpError> {
    let tokens = node.tokens()?;
    let Some(token) = token_of(parts)? else {
        let (claims, token) = tokens.fresh().ok_or_else(unsigned)?;
        return Ok(Authenticated {
            claims,
            token,
            stand_in: None,
        });
    };
    verify(node, tokens.as_ref(), token).await
}

/// Whom a token stands for. The local server sees none that another key than the cluster's has signed: it would ask
/// whomever the token names.
async fn verify(node: &Node, tokens: &dyn Tokens, token: String) -> Result<Authenticated, HttpError> {
    let refused = |why: String| HttpError::new(StatusCode::UNAUTHORIZED, why);
    let claims = match tokens.verify(&token) {
        Ok(claims) => {
            return Ok(Authenticated {
                claims,
                token,
                stand_in: None,
            });
        }
        Err(TokenError::Foreign(claims)) => claims,
        Err(error) => return Err(refused(error.to_string())),
    };
    let issuers = node.issuers.get();
    let issuers = issuers.ok_or_else(|| refused(TokenError::Foreign(claims.clone()).to_string()))?;
    issuers
        .verify(&token, &claims.issuer)
        .await
        .map_err(|error| match error {
            NotVerified::Refused(why) => refused(why),
            NotVerified::Busy(why) => HttpError::unavailable(why),
        })?;
    Ok(Authenticated {
        stand_in: Some(tokens.mint(&claims).ok_or_else(unsigned)?),
        // Whatever the token's end: the local server is always shown another one.
        claims: Claims {
            expires: true,
            ..claims
        },
        token,
    })
}

/// Who asks, if it says so.
pub(super) async fn caller(node: &Node, parts: &Parts) -> Result<Option<Authenticated>, HttpError> {
    let tokens = node.tokens()?;
    match token_of(parts)? {
        Some(token) => verify(node, tokens.as_ref(), token).await.map(Some),
        None => Ok(None),
    }
}

/// For clients that ask whether the server is there: a token, if there is one, must be good.
pub(super) async fn ping(State(node): State<Arc<Node>>, request: Request) -> Result<(), HttpError> {
    let (parts, _) = request.into_parts();
    if let Some(token) = token_of(&parts)?
        && let Ok(tokens) = node.tokens()
    {
        verify(&node, tokens.as_ref(), token).await?;
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
