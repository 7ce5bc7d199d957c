//! `GET …/subscribe`: the WebSocket handshake, and the client's way in through the log.

use super::core::{Caller, Core};
use super::outbox::Outbox;
use super::params::Params;
use super::run::{End, Session};
use crate::budget::{Exceeded, Share};
use crate::close::CloseReason;
use crate::http_error::HttpError;
use crate::local::{Authenticated, Claims, LocalDatabase};
use crate::metrics::Present;
use crate::node::Node;
use crate::place::Place;
use crate::presence::{NotLetIn, Presence};
use crate::socket::{Counted, Socket};
use crate::upstream::UpstreamConfig;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rtdb_consensus::{NotProposed, Refusal, Unapplied};
use rtdb_protocol::{MESSAGE_BYTES_MAX, Subprotocol, reply};
use spacetimedb_lib::Identity;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The one subprotocol of SpacetimeDB that the cluster does not speak.
const JSON: &str = "v1.json.spacetimedb";

type Client = Socket<TokioIo<Upgraded>>;

/// A client on its way in.
struct Arrival {
    node: Arc<Node>,
    database: Identity,
    local: LocalDatabase,
    subprotocol: Subprotocol,
    params: Params,
    caller: Authenticated,
    claims: String,
    is_owner: bool,
    /// Held to the end of the session.
    _place: Option<Place>,
}

/// Answers the handshake; the session goes on in a task of its own.
pub(crate) async fn subscribe(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Extension<Authenticated>,
    mut request: Request,
) -> Result<Response, HttpError> {
    node.identity(&database)?;
    let params = Params::from_query(request.uri().query().unwrap_or_default())?;
    let accept = accept_key(request.headers())?;
    let record = node.database(&database)?;
    let subprotocol = negotiate(request.headers(), node.local.newest_subprotocol())?;
    let local = node.active(&record.identity).await?;
    let claims = node.claims(&caller.claims)?;

    let upgrade = hyper::upgrade::on(&mut request);
    let _place = request.extensions().get::<Place>().cloned();
    let arrival = Arrival {
        node,
        database: record.identity,
        local,
        subprotocol,
        params,
        is_owner: record.is_owned_by(&caller.claims.identity),
        claims,
        caller,
        _place,
    };
    rtdb_runtime::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => arrival.enter(upgraded).await,
            Err(error) => tracing::debug!(%error, "a client went away in its handshake"),
        }
    });
    let headers = [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
        (
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(subprotocol.name()),
        ),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

impl Arrival {
    async fn enter(self, upgraded: Upgraded) {
        let io = Counted::new(TokioIo::new(upgraded));
        let config = Client::config(MESSAGE_BYTES_MAX);
        let mut client =
            Socket::serving(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await);
        // Before the client is let in, so that no order to close is missed.
        let closing = self.node.closed(&self.database);
        let identity = self.caller.claims.identity;
        let connection = self.params.connection;
        let (node, database, claims) = (&self.node, &self.database, self.claims);
        let connecting = async {
            let entering = node.entrance.enter(database).await;
            let (group, unique) = (node.shard.clone(), node.catalog.ends());
            Presence::connect(group, database, &identity, connection, claims, unique, entering).await
        };
        let mut share = Share::new(&self.node.budget);
        let connected = rtdb_runtime::select! {
            connected = connecting => connected,
            // Its session ends as soon as it has begun.
            end = until_left(&mut client, &mut share) => {
                let Some(exceeded) = end else {
                    return tracing::debug!(%identity, "a client left before it was let in");
                };
                tracing::info!(%identity, "closing a client before it is let in: {exceeded}");
                share.give_back();
                let reason = CloseReason::new(CloseReason::AGAIN, exceeded.to_string());
                return super::run::close(&mut client, &reason).await;
            }
        };
        let presence = match connected {
            Ok(presence) => presence,
            Err(error) => {
                tracing::debug!(%identity, %error, "a client was turned away");
                let Some(reason) = turned_away(&error) else {
                    return;
                };
                return super::run::close(&mut client, &reason).await;
            }
        };
        let _present = Present::new(&self.node.metrics.sessions);
        let caller = Caller {
            session: presence.session(),
            database: self.database.to_byte_array().to_vec().into(),
            identity: identity.to_byte_array(),
            connection: connection.as_le_byte_array(),
            is_owner: self.is_owner,
            server: self.node.local.newest_subprotocol(),
        };
        let shares = self.node.feeds.shares(&self.database, &identity);
        let pool = self.node.pool.clone();
        let mut outbox = Outbox::new(self.subprotocol, self.params.compression, pool);
        outbox.push(reply::hello(
            self.subprotocol,
            &caller.identity,
            &self.caller.token,
            &caller.connection,
        ));
        let broken = self.node.local.until_broken(&self.database, presence.session());
        let mut session = Session {
            session: presence.session(),
            core: Core::new(
                self.subprotocol,
                caller,
                self.node.metrics.row_bytes.clone(),
                shares,
            ),
            module: self.local.module,
            upstream_config: UpstreamConfig {
                database: self.database,
                subprotocol: self.subprotocol,
                connection,
                light: self.params.light,
                claims: Claims {
                    payload: String::new(),
                    ..self.caller.claims
                },
                token: self.caller.token,
                counted: self.node.metrics.upstreams.clone(),
            },
            share,
            node: self.node,
            client,
            outbox,
            broken,
            closing,
        };
        let end = session.run().await;
        // The log hears of it first: the close handshake is up to the client.
        drop(presence);
        match end {
            End::Close(reason) => session.finish(&reason).await,
            End::CutOff(reason) => session.cut_off(&reason).await,
            End::Answer => session.answer_close().await,
            End::Gone => {}
        }
    }
}

/// Resolves when a client leaves that is not let in yet, or takes more memory than it may.
async fn until_left(client: &mut Client, share: &mut Share) -> Option<Exceeded> {
    poll_fn(|cx| {
        let left = client.poll_left(cx);
        match share.set(client.bytes()) {
            Ok(()) => left.map(|()| None),
            Err(exceeded) => Poll::Ready(Some(exceeded)),
        }
    })
    .await
}

/// What a client is told that is not let in. For what the database itself says of it, it hears nothing, as natively: it would
/// take a close frame for an end that is as it should be.
fn turned_away(error: &NotLetIn) -> Option<CloseReason> {
    let code = match error {
        NotLetIn::Unapplied(Unapplied::Reducer { .. } | Unapplied::Refused(Refusal::ConnectionTaken)) => {
            return None;
        }
        NotLetIn::Unapplied(Unapplied::Refused(_)) => return Some(CloseReason::module_exited()),
        NotLetIn::NotProposed(NotProposed::Overloaded { .. }) => CloseReason::AGAIN,
        NotLetIn::NotProposed(_) | NotLetIn::Unapplied(_) => CloseReason::RESTART,
    };
    Some(CloseReason::new(code, error.to_string()))
}

/// Chooses the subprotocol: the newest that the client offers and the local server speaks.
fn negotiate(headers: &HeaderMap, newest: Subprotocol) -> Result<Subprotocol, HttpError> {
    let offered = || {
        headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
    };
    if let Some(subprotocol) = Subprotocol::negotiate(offered(), newest) {
        return Ok(subprotocol);
    }
    if offered()
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == JSON)
    {
        return Err(HttpError::not_served(&format!("the subprotocol `{JSON}`")));
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
