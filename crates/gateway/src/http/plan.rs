//! What an update would do, before it is published.

use super::publish::{authorize, prepare};
use super::{Authenticated, HttpError};
use crate::limits::PLAN_BYTES_MAX;
use crate::node::Node;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use rtdb_determinism::{Module, original_plan};
use rtdb_replica::migration_token;
use serde::{Deserialize, Serialize};
use spacetimedb_lib::Hash;
use std::sync::Arc;

/// The answer, field for field as SpacetimeDB writes it.
#[derive(Serialize, Deserialize)]
enum Plan {
    /// The server can do it.
    AutoMigrate {
        /// For people.
        migrate_plan: String,
        break_clients: bool,
        token: Hash,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        major_version_upgrade: Option<bool>,
    },
    /// It can't.
    ManualMigrate {
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        major_version_upgrade: Option<bool>,
    },
}

/// `POST …/pre_publish`: what publishing a module would change. The local server knows, given the prepared module; the
/// token is for the originals, which are the same on every node.
pub(super) async fn plan(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Authenticated>,
    module: Bytes,
) -> Result<Response, HttpError> {
    let record = node.database(&database)?;
    // Looked at first: if another module has come when the plan is made, nobody takes the token.
    let running = node.active(&record.identity).await?;
    authorize(&record, &caller, "update database")?;
    let (_turn, prepared, program) = prepare(&node, module).await?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/v1/database/{}/pre_publish{query}", record.identity.to_hex());
    let body = Body::from(prepared.wasm);
    let sent = node
        .client
        .send(Method::POST, &path, Some(caller.local_token()), None, body);
    let answer = sent.await?;
    if answer.status() != StatusCode::OK {
        return Ok(answer);
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        HttpError::new(
            StatusCode::BAD_GATEWAY,
            format!("SpacetimeDB's plan can't be read: {error}"),
        )
    };
    let body = axum::body::to_bytes(answer.into_body(), PLAN_BYTES_MAX).await;
    let body = body.map_err(|error| unreadable(&error))?;
    let mut plan: Plan = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    if let Plan::AutoMigrate {
        migrate_plan, token, ..
    } = &mut plan
    {
        let module = Module::from_def(&prepared.original_def).map_err(|error| unreadable(&error))?;
        *migrate_plan = original_plan(migrate_plan, &running.module, &module);
        *token = migration_token(&record.identity.to_byte_array(), running.program, program);
    }
    Ok(Json(plan).into_response())
}
