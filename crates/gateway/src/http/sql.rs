//! `POST …/sql`: queries. What writes would write on one replica alone, and is refused.

use super::call::let_in;
use super::{Authenticated, HttpError};
use crate::node::Node;
use crate::views;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use http::{HeaderValue, Method};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::sql::{self, Language, SqlError, Statement};
use rtdb_replica::ViewError;
use std::sync::Arc;

pub(super) async fn sql(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Authenticated>,
    text: String,
) -> Result<Response, HttpError> {
    let record = node.database(&database)?;
    let active = node.active(&record.identity).await?;
    let server = node.local.newest_subprotocol();
    let statement = sql::parse(&text, Language::Sql)?;
    let (text, wanted) = match &statement {
        Statement::Query(query) => {
            if let Some(table) = query.hidden() {
                return Err(no_such_table(server, table));
            }
            let identity = caller.claims.identity.to_byte_array();
            (
                query.text(),
                views::wanted(&active.module, std::iter::once(query), identity),
            )
        }
        Statement::Show(text) => (text.as_str(), Vec::new()),
        Statement::Write(verb) => return Err(HttpError::not_served(&format!("writing by SQL (`{verb}`)"))),
    };
    // For SpacetimeDB 2.x each request is a connection of its own, for 1.2.0 it is none.
    let _presence = match server {
        Subprotocol::V1 => None,
        Subprotocol::V2 | Subprotocol::V3 => {
            let mut claims = node.claims(&caller.claims)?;
            let_in(&node, &record, &active.module, &caller, &mut claims)
                .await?
                .1
        }
    };
    // Held until the answer is there.
    let _holds = views::prepare(node.views(), &record.identity, &caller.token, &wanted)
        .await
        .map_err(|error| match error {
            ViewError::Unavailable(_) => HttpError::unavailable(error.to_string()),
            ViewError::Failed { .. } | ViewError::Stuck { .. } => HttpError::bad_request(error.to_string()),
        })?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/v1/database/{}/sql{query}", record.identity.to_hex());
    let content = HeaderValue::from_static("text/plain; charset=utf-8");
    node.client
        .send(
            Method::POST,
            &path,
            Some(&caller.token),
            Some(content),
            Body::from(text.to_owned()),
        )
        .await
}

/// In SpacetimeDB's words, 1.2's and 2.8's.
fn no_such_table(server: Subprotocol, table: &str) -> HttpError {
    HttpError::bad_request(match server {
        Subprotocol::V1 => format!("`{table}` is not a valid table"),
        Subprotocol::V2 | Subprotocol::V3 => {
            format!("no such table: `{table}`. If the table exists, it may be marked private.")
        }
    })
}

impl From<SqlError> for HttpError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Busy => Self::unavailable(error.to_string()),
            error => Self::bad_request(error.to_string()),
        }
    }
}
