//! A client's way in, through the log, once its WebSocket is there; and its session.

use super::core::{Caller, Core};
use super::outbox::Outbox;
use super::params::Params;
use super::run::{End, Session};
use crate::budget::{Exceeded, Share};
use crate::catalog::DatabaseRecord;
use crate::close::CloseReason;
use crate::freshness::{Consistency, Freshness};
use crate::http_error::HttpError;
use crate::local::{Authenticated, Claims, LocalDatabase};
use crate::metrics::Present;
use crate::node::Node;
use crate::place::Place;
use crate::presence::{NotLetIn, Presence};
use crate::socket::Socket;
use crate::upstream::UpstreamConfig;
use crate::wire::Wire;
use http::StatusCode;
use rtdb_consensus::{NotProposed, Refusal, Unapplied};
use rtdb_protocol::compress::Compression;
use rtdb_protocol::{Subprotocol, reply};
use spacetimedb_lib::{ConnectionId, Identity};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// A client whose WebSocket came about without HTTP.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The database that it wants.
    pub database: Identity,
    /// How to talk: not newer than the local server.
    pub subprotocol: Subprotocol,
    /// Its connection's id.
    pub connection: ConnectionId,
    /// How it wants payloads compressed.
    pub compression: Compression,
    /// Whether other people's updates are to come without the call that made them (v1).
    pub light: bool,
    /// Who it is: a token of the cluster's.
    pub token: String,
}

/// A client on its way in.
pub(crate) struct Arrival {
    node: Arc<Node>,
    database: Identity,
    local: LocalDatabase,
    subprotocol: Subprotocol,
    params: Params,
    caller: Authenticated,
    claims: String,
    is_owner: bool,
    is_json: bool,
    /// Held to the end of the session.
    _place: Option<Place>,
}

impl Arrival {
    /// A client that wants a database, if this node has that and takes the client.
    pub(super) async fn new(
        node: Arc<Node>,
        record: &DatabaseRecord,
        subprotocol: Subprotocol,
        params: Params,
        caller: Authenticated,
        place: Option<Place>,
    ) -> Result<Self, HttpError> {
        let local = node.active(&record.identity).await?;
        let claims = node.claims(&caller.claims)?;
        Ok(Self {
            node,
            database: record.identity,
            local,
            subprotocol,
            params,
            is_owner: record.is_owned_by(&caller.claims.identity),
            claims,
            caller,
            is_json: false,
            _place: place,
        })
    }

    /// The same of a client that speaks v1 in JSON.
    pub(super) fn in_json(self) -> Self {
        Self {
            is_json: true,
            ..self
        }
    }

    /// The same of a client that did not come over HTTP.
    pub(crate) async fn of_guest(node: Arc<Node>, guest: Guest) -> Result<Self, HttpError> {
        let record = node.database(&guest.database.to_hex())?;
        let claims = node.tokens()?.verify(&guest.token);
        let caller = Authenticated {
            claims: claims.map_err(|error| HttpError::new(StatusCode::UNAUTHORIZED, error.to_string()))?,
            token: guest.token,
            stand_in: None,
        };
        let params = Params {
            connection: guest.connection,
            compression: guest.compression,
            light: guest.light,
            consistency: Consistency::Local,
        };
        Self::new(node, &record, guest.subprotocol, params, caller, None).await
    }

    /// Lets the client in, if the log and the module do, and runs its session to the end.
    pub(crate) async fn enter<W: Wire>(self, wire: W) {
        let mut client = Socket::serving(wire);
        if self.is_json {
            client.speak_text();
        }
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
            freshness: Freshness::of(self.params.consistency),
        };
        let token = self.caller.local_token().to_owned();
        // What is shared is in BSATN.
        let shares = !self.is_json && self.node.feeds.shares(&self.database, &identity);
        let pool = self.node.pool.clone();
        let mut outbox = Outbox::new(self.subprotocol, self.params.compression, pool);
        if self.is_json {
            outbox.speak_json(self.local.module.clone());
        }
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
            is_json: self.is_json,
            upstream_config: UpstreamConfig {
                database: self.database,
                subprotocol: self.subprotocol,
                connection,
                light: self.params.light,
                claims: Claims {
                    payload: String::new(),
                    ..self.caller.claims
                },
                token,
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
async fn until_left<W: Wire>(client: &mut Socket<W>, share: &mut Share) -> Option<Exceeded> {
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
