//! The call of a procedure.

use super::super::{Authenticated, HttpError};
use super::{leave, let_in, refuse};
use crate::catalog::DatabaseRecord;
use crate::freshness::POSITION;
use crate::local::LocalDatabase;
use crate::node::Node;
use crate::presence::Presence;
use crate::procedures::{self, Finished, ProcedureCall};
use crate::reducers;
use crate::upstream::UpstreamConfig;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use rtdb_determinism::Module;
use rtdb_determinism::header::{CallHeader, NO_RECEIPT};
use rtdb_protocol::server::{ProcedureOutcome, ProcedureResult};
use spacetimedb_sats::de::DeserializeSeed;
use spacetimedb_sats::serde::SerdeWrapper;
use spacetimedb_sats::{AlgebraicType, AlgebraicValue, WithTypespace, bsatn};
use std::sync::Arc;

/// What the only call on a connection is known by.
const REQUEST: u32 = 0;

/// Calls a procedure by its name. As natively it goes on if its caller leaves.
pub(super) async fn call(
    node: &Arc<Node>,
    record: &DatabaseRecord,
    active: &LocalDatabase,
    caller: &Authenticated,
    name: &str,
    body: Bytes,
) -> Result<Response, HttpError> {
    let is_owner = record.is_owned_by(&caller.claims.identity);
    let (module, bytes) = (active.module.clone(), body.len());
    let (read, wanted) = (module.clone(), name.to_owned());
    let read = move || {
        let (procedure, args) = reducers::procedure_args_from_json(&read, &wanted, &body, is_owner)?;
        Ok((procedure.name.clone(), procedure.returns.clone(), args))
    };
    let (procedure, returns, args) = node
        .requests
        .run(bytes, read)
        .await
        .map_err(|why| refuse(&why, node.local.newest_subprotocol()))?;
    node.gate.pass(&record.identity, &caller.claims.identity).await?;
    let mut claims = node.claims(&caller.claims)?;
    let reads = active.reads_claims && !claims.is_empty();
    let (connection, presence) = let_in(node, record, &module, caller, &mut claims, reads).await?;
    let session = presence.as_ref().map_or(0, Presence::session);
    let call = ProcedureCall {
        procedure,
        args: args.into(),
        request_id: REQUEST,
        header: CallHeader {
            sender: caller.claims.identity.to_byte_array(),
            connection: connection.as_le_byte_array(),
            timestamp_us: 0,
            index: 0,
            session: if session == 0 { 0 } else { session | NO_RECEIPT },
        },
        receipts: 0,
    };
    let config = UpstreamConfig {
        database: record.identity,
        subprotocol: node.local.newest_subprotocol(),
        connection,
        light: false,
        claims: caller.claims.clone(),
        token: caller.local_token().to_owned(),
        counted: node.metrics.upstreams.clone(),
    };
    let node = node.clone();
    let running = rtdb_runtime::spawn(async move {
        let finished = procedures::run_let_through(node, config, call).await;
        leave(presence).await;
        finished
    });
    let Ok(Finished { result, last, .. }) = running.await else {
        return Err(HttpError::unavailable("the node is stopping"));
    };
    match result {
        Ok(ProcedureResult {
            outcome: ProcedureOutcome::Returned(value),
            duration_us,
            ..
        }) => {
            let json = to_json(&module, &returns, &value)?;
            let headers = [
                (CONTENT_TYPE.as_str(), "application/json".to_owned()),
                ("spacetime-execution-duration-micros", duration_us.to_string()),
                (POSITION, last.to_string()),
            ];
            Ok((headers, json).into_response())
        }
        Ok(ProcedureResult { outcome, .. }) => Err(stopped(outcome)),
        Err(why) => Err(HttpError::unavailable(why)),
    }
}

fn stopped(outcome: ProcedureOutcome) -> HttpError {
    match outcome {
        ProcedureOutcome::OutOfEnergy => HttpError::new(
            StatusCode::PAYMENT_REQUIRED,
            "Procedure terminated due to insufficient budget",
        ),
        ProcedureOutcome::Internal(why) => HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, &*why),
        ProcedureOutcome::Returned(_) => HttpError::new(StatusCode::OK, ""),
    }
}

/// The value that a procedure has returned, as SpacetimeDB shows it.
fn to_json(module: &Module, ty: &AlgebraicType, value: &[u8]) -> Result<String, HttpError> {
    let unreadable =
        |error: &dyn std::fmt::Display| HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    reducers::check_value(value, ty, module.spelled()).map_err(|error| unreadable(&error))?;
    let mut rest = value;
    let value: AlgebraicValue = WithTypespace::new(module.spelled(), ty)
        .deserialize(bsatn::Deserializer::new(&mut rest))
        .map_err(|error| unreadable(&error))?;
    serde_json::to_string(&SerdeWrapper(value)).map_err(|error| unreadable(&error))
}
