//! `GET …/subscribe`: the WebSocket handshake.

use super::arrival::Arrival;
use super::params::Params;
use crate::http_error::HttpError;
use crate::local::Authenticated;
use crate::node::Node;
use crate::place::Place;
use crate::socket::{self, Counted};
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper_util::rt::TokioIo;
use rtdb_protocol::{MESSAGE_BYTES_MAX, Subprotocol};
use std::sync::Arc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// v1 in JSON: what is chosen if nothing else is offered.
const JSON: &str = "v1.json.spacetimedb";

/// Answers the handshake; the session goes on in a task of its own.
pub(crate) async fn subscribe(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Extension<Authenticated>,
    mut request: Request,
) -> Result<Response, HttpError> {
    node.identity(&database)?;
    let params = Params::from_query(request.uri().query().unwrap_or_default())?;
    if request.method() == Method::HEAD {
        return Err(HttpError::new(StatusCode::METHOD_NOT_ALLOWED, ""));
    }
    let accept = accept_key(request.headers())?;
    let record = node.database(&database)?;
    let (subprotocol, is_json) = negotiate(request.headers(), node.local.newest_subprotocol())?;
    let upgrade = hyper::upgrade::on(&mut request);
    let place = request.extensions().get::<Place>().cloned();
    let arrival = Arrival::new(node, &record, subprotocol, params, caller, place).await?;
    let arrival = if is_json { arrival.in_json() } else { arrival };
    rtdb_runtime::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let io = Counted::new(TokioIo::new(upgraded));
                let config = socket::config(MESSAGE_BYTES_MAX);
                let ws = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                arrival.enter(ws).await;
            }
            Err(error) => tracing::debug!(%error, "a client went away in its handshake"),
        }
    });
    let headers = [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
        (
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(if is_json { JSON } else { subprotocol.name() }),
        ),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Chooses the subprotocol: the newest that the client offers and the local server speaks; and whether in JSON.
fn negotiate(headers: &HeaderMap, newest: Subprotocol) -> Result<(Subprotocol, bool), HttpError> {
    let offered = || {
        headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
    };
    if let Some(subprotocol) = Subprotocol::negotiate(offered(), newest) {
        return Ok((subprotocol, false));
    }
    if offered()
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == JSON)
    {
        return Ok((Subprotocol::V1, true));
    }
    Err(HttpError::bad_request("no valid protocol selected"))
}

/// Checks that the request asks for a WebSocket, and computes the answer to its key.
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, HttpError> {
    let has = |name: HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    if !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") {
        return Err(HttpError::upgrade_required());
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err(HttpError::bad_request(
            "`Sec-WebSocket-Version` header did not include '13'",
        ));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or_else(|| HttpError::bad_request("`Sec-WebSocket-Key` header missing"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| HttpError::bad_request("`Sec-WebSocket-Key` header invalid"))
}
