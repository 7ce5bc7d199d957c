//! `POST …/sql`: queries. What writes would write on one replica alone, and is refused.

mod statements;

use super::{Authenticated, HttpError};
use crate::node::Node;
use crate::views;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use http::{HeaderValue, Method};
use rtdb_replica::ViewError;
use statements::Statements;
use std::sync::Arc;

/// How statements begin that write rows or settings.
const WRITES: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "SET"];

pub(super) async fn sql(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Authenticated>,
    sql: String,
) -> Result<Response, HttpError> {
    let record = node.database(&database)?;
    let active = node.active(&record.identity).await?;
    match statements::classify(&sql) {
        Statements::Reads => {}
        Statements::Hidden(name) => {
            return Err(HttpError::bad_request(format!(
                "no such table: `{name}`. If the table exists, it may be marked private."
            )));
        }
        Statements::Other(verb) if WRITES.iter().any(|write| verb.eq_ignore_ascii_case(write)) => {
            return Err(HttpError::not_served(&format!("writing by SQL (`{verb}`)")));
        }
        // It may be a statement of a newer SpacetimeDB, and one that writes: it is not passed on.
        Statements::Other(verb) => {
            return Err(HttpError::bad_request(format!(
                "a statement begins with `{verb}`, which is no SQL that can be served here: use SELECT"
            )));
        }
    }
    let wanted = views::wanted(
        &active.module,
        std::iter::once(sql.as_str()),
        caller.claims.identity.to_byte_array(),
    );
    // Held until the answer is there.
    let _holds = views::prepare(&node, &record.identity, &caller.token, &wanted)
        .await
        .map_err(|error| match error {
            ViewError::Unavailable(_) => HttpError::unavailable(error.to_string()),
            ViewError::Failed { .. } | ViewError::Stuck { .. } => HttpError::bad_request(error.to_string()),
        })?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/v1/database/{}/sql{query}", record.identity.to_hex());
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    node.client
        .send(
            Method::POST,
            &path,
            Some(&caller.token),
            Some(text),
            Body::from(sql),
        )
        .await
}
