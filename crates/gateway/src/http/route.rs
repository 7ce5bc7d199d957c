//! `/v1/database/:name/route…`: requests that the module itself answers, by HTTP handlers. Nobody needs a token for them, and
//! whatever stands where a token would is the handler's to read. A handler runs as a procedure does.

mod wire;

use super::HttpError;
use crate::catalog::DatabaseRecord;
use crate::limits::ROUTE_BODY_BYTES_MAX;
use crate::node::Node;
use crate::procedures::{self, Finished, ProcedureCall};
use crate::upstream::UpstreamConfig;
use axum::body::Bytes;
use axum::extract::{FromRequest, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{Answer, HANDLE, handle_args};
use rtdb_protocol::server::{ProcedureOutcome, ProcedureResult};
use std::sync::Arc;

/// What is said where the module has no route, in SpacetimeDB's words.
const NO_SUCH_ROUTE: &str = "Database has not registered a handler for this route";

/// What SpacetimeDB says before the error of a procedure, and not before that of a handler.
const FATAL: &str = "The module instance encountered a fatal error: ";

/// What the only call on a connection is known by.
const REQUEST: u32 = 0;

pub(super) async fn root(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    request: Request,
) -> Result<Response, HttpError> {
    answer(&node, &database, "", request).await
}

pub(super) async fn slash(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    request: Request,
) -> Result<Response, HttpError> {
    answer(&node, &database, "/", request).await
}

pub(super) async fn path(
    State(node): State<Arc<Node>>,
    Path((database, path)): Path<(String, String)>,
    request: Request,
) -> Result<Response, HttpError> {
    answer(&node, &database, &format!("/{path}"), request).await
}

/// `path` is what follows `/route`.
async fn answer(
    node: &Arc<Node>,
    database: &str,
    path: &str,
    request: Request,
) -> Result<Response, HttpError> {
    let record = node.database(database)?;
    let module = node.active(&record.identity).await?.module;
    let Some(handler) = module.handler(&wire::method(request.method()), path) else {
        return Ok((StatusCode::NOT_FOUND, NO_SUCH_ROUTE).into_response());
    };
    let (head, method) = (wire::request(&request), request.method().clone());
    let body = Bytes::from_request(request, &())
        .await
        .map_err(|rejected| match rejected.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => {
                let max = ROUTE_BODY_BYTES_MAX >> 20;
                let why = format!("the body of a request to a handler may have {max} MiB at most");
                HttpError::new(status, why)
            }
            status => HttpError::new(status, rejected.body_text()),
        })?;
    node.gate.pass(&record.identity, &procedures::NOBODY).await?;
    let args = handle_args(&handler, &head, &body).map_err(|error| internal(&error))?;
    drop((head, body));
    let returned = run(node, &record, args).await?;
    match Answer::decode(&returned).map_err(|error| internal(&error))? {
        Answer::Given { head, body_at } => {
            let body = returned.slice(body_at..);
            wire::response(&method, head, body).map_err(|error| internal(&error))
        }
        Answer::OtherModule => Err(HttpError::unavailable(
            "the database's module is being updated: nothing was done, try again later",
        )),
    }
}

fn internal(error: &dyn std::fmt::Display) -> HttpError {
    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Runs a handler, and hands back what it has written. As natively it goes on if its caller leaves.
async fn run(node: &Arc<Node>, record: &DatabaseRecord, args: Vec<u8>) -> Result<Bytes, HttpError> {
    let call = ProcedureCall {
        procedure: HANDLE.to_owned(),
        args: args.into(),
        request_id: REQUEST,
        header: CallHeader {
            sender: procedures::NOBODY.to_byte_array(),
            ..CallHeader::default()
        },
        receipts: 0,
    };
    let config = UpstreamConfig::of_owner(node, record);
    let running = rtdb_runtime::spawn(procedures::run_let_through(node.clone(), config, call));
    let Ok(Finished { result, .. }) = running.await else {
        return Err(HttpError::unavailable("the node is stopping"));
    };
    match result {
        Ok(ProcedureResult { outcome, .. }) => match outcome {
            ProcedureOutcome::Returned(value) => Ok(value),
            ProcedureOutcome::Internal(why) => {
                let why = why.strip_prefix(FATAL).unwrap_or(&why);
                Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, why))
            }
            ProcedureOutcome::OutOfEnergy => Err(HttpError::new(
                StatusCode::PAYMENT_REQUIRED,
                "HTTP handler terminated due to insufficient budget",
            )),
        },
        Err(why) => Err(HttpError::unavailable(why)),
    }
}
