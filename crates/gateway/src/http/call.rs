//! `POST …/call/:reducer`: one call of a reducer or a procedure without a connection.

mod procedure;

use super::{Authenticated, HttpError, idempotency};
use crate::catalog::DatabaseRecord;
use crate::freshness::POSITION;
use crate::limits::ENTERING_WAIT_MAX;
use crate::node::Node;
use crate::presence::{NotLetIn, Presence};
use crate::reducers::{self, CallRefused};
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use rtdb_consensus::command::{Body, Call};
use rtdb_consensus::{Applied, Outcome, Reply, Unapplied};
use rtdb_determinism::Module;
use rtdb_determinism::header::CallHeader;
use rtdb_protocol::Subprotocol;
use rtdb_runtime::Instant;
use spacetimedb_lib::ConnectionId;
use std::sync::Arc;

/// What a reducer's error is answered with: the status that Cloudflare uses for an error of the origin.
pub(super) const REDUCER_FAILED: u16 = 530;

pub(super) async fn call(
    State(node): State<Arc<Node>>,
    Path((database, reducer)): Path<(String, String)>,
    Extension(caller): Extension<Authenticated>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, HttpError> {
    require_json(&headers)?;
    let record = node.database(&database)?;
    if std::str::from_utf8(&body).is_err() {
        return Err(HttpError::bad_request("Request body didn't contain valid UTF-8"));
    }
    let parts = || [Bytes::from("call"), Bytes::from(reducer.clone()), body.clone()];
    let key = idempotency::key_of(&node, &headers, &caller, parts).await?;
    // Whatever the module is by now.
    if let Some(key) = &key
        && let Some(outcome) = idempotency::first(&node, &record.identity, key).await?
    {
        return answer(outcome);
    }
    let active = node.active(&record.identity).await?;
    let module = active.module.clone();
    if module.reducer(&reducer).is_none() && module.procedure(&reducer).is_some() {
        idempotency::none(
            &headers,
            "a procedure, whose transactions are each committed by themselves,",
        )?;
        return procedure::call(&node, &record, &active, &caller, &reducer, body).await;
    }
    let is_owner = record.is_owned_by(&caller.claims.identity);
    let (read, bytes) = (module.clone(), body.len());
    let read = move || {
        let (reducer, args) = reducers::args_from_json(&read, &reducer, &body, is_owner)?;
        Ok((reducer.name.clone(), args))
    };
    let (reducer, own_args) = node
        .requests
        .run(bytes, read)
        .await
        .map_err(|why| refuse(&why, node.local.newest_subprotocol()))?;

    node.gate.pass(&record.identity, &caller.claims.identity).await?;

    let mut claims = node.claims(&caller.claims)?;
    let (connection, presence) = let_in(&node, &record, &module, &caller, &mut claims, false).await?;
    let header = CallHeader {
        sender: caller.claims.identity.to_byte_array(),
        connection: connection.as_le_byte_array(),
        ..CallHeader::default()
    };
    let call = Call {
        database: record.identity.to_byte_array().to_vec().into(),
        session: presence.as_ref().map_or(0, Presence::session),
        reducer,
        args: [header.encode().as_slice(), &own_args].concat().into(),
        request_id: 0,
        claims,
        key: key.clone(),
    };
    let since = Instant::now();
    node.metrics.calls.inc();
    let outcome = idempotency::propose(&node, &record.identity, Body::Call(call), key.as_ref()).await?;
    node.metrics.call_done(since.elapsed(), &outcome);
    leave(presence).await;
    answer(outcome)
}

fn answer(outcome: Outcome) -> Result<Response, HttpError> {
    match outcome {
        Ok(Applied {
            reply: Reply::Call {
                execution_us, energy, ..
            },
            position,
            ..
        }) => {
            let headers = [
                ("spacetime-energy-used", energy.to_string()),
                ("spacetime-execution-duration-micros", execution_us.to_string()),
                (POSITION, position.0.to_string()),
            ];
            Ok((headers, "").into_response())
        }
        Ok(_) => Ok(().into_response()),
        Err(Unapplied::Reducer { message, .. }) => {
            let status = StatusCode::from_u16(REDUCER_FAILED).unwrap_or(StatusCode::BAD_GATEWAY);
            Err(HttpError::new(status, message))
        }
        Err(error) => Err(error.into()),
    }
}

/// Each request is a connection of its own, as it is for SpacetimeDB; where nobody can tell, the log is spared it, unless the
/// session is needed `anyway`. What the caller's token says goes with the first command.
pub(super) async fn let_in(
    node: &Node,
    record: &DatabaseRecord,
    module: &Module,
    caller: &Authenticated,
    claims: &mut String,
    anyway: bool,
) -> Result<(ConnectionId, Option<Presence>), HttpError> {
    let connection = ConnectionId::from_le_byte_array(rtdb_runtime::random_bytes());
    let is_noticed = module
        .client_connected()
        .or(module.client_disconnected())
        .is_some();
    if !is_noticed && !anyway {
        return Ok((connection, None));
    }
    let entering = rtdb_runtime::timeout(ENTERING_WAIT_MAX, node.entrance.enter(&record.identity));
    let entering = entering.await.map_err(|_| {
        HttpError::unavailable("the database lets in other clients before this one: try again later")
    })?;
    let presence = Presence::connect(
        node.shard.clone(),
        &record.identity,
        &caller.claims.identity,
        connection,
        std::mem::take(claims),
        node.catalog.ends(),
        entering,
    );
    Ok((connection, Some(presence.await?)))
}

/// As natively: who is answered has been disconnected.
pub(super) async fn leave(presence: Option<Presence>) {
    if let Some(presence) = presence {
        presence.leave().await;
    }
}

/// As natively: with nothing behind the type, not even the character set.
fn require_json(headers: &HeaderMap) -> Result<(), HttpError> {
    match headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
        Some(kind) if kind.trim_ascii().eq_ignore_ascii_case(b"application/json") => Ok(()),
        Some(_) => Err(HttpError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Expected request with `Content-Type: application/json`",
        )),
        None => Err(HttpError::bad_request(
            "Header of type `content-type` was missing",
        )),
    }
}

/// Refuses a call as SpacetimeDB does; `newest` is the newest subprotocol that the local server speaks.
fn refuse(why: &CallRefused, newest: Subprotocol) -> HttpError {
    match why {
        // 2.x has gone on to look for a procedure of that name.
        CallRefused::NoSuchReducer if newest > Subprotocol::V1 => {
            HttpError::new(StatusCode::NOT_FOUND, "No such procedure")
        }
        CallRefused::NoSuchReducer | CallRefused::NoSuchProcedure => {
            HttpError::new(StatusCode::NOT_FOUND, why.to_string())
        }
        CallRefused::Lifecycle(_) | CallRefused::Args { .. } => HttpError::bad_request(why.with_cause()),
    }
}

impl From<NotLetIn> for HttpError {
    fn from(not_let_in: NotLetIn) -> Self {
        match not_let_in {
            NotLetIn::Unapplied(Unapplied::Reducer { message, .. }) => {
                Self::new(StatusCode::FORBIDDEN, message)
            }
            NotLetIn::Unapplied(error) => error.into(),
            NotLetIn::NotProposed(error) => Self::unavailable(error.to_string()),
        }
    }
}
