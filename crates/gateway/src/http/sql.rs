//! `POST …/sql`: queries. What writes would write on one replica alone, and is refused.

mod statements;

use super::{Authenticated, HttpError};
use crate::node::Node;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use http::{HeaderValue, Method};
use statements::Statements;
use std::sync::Arc;

pub(super) async fn sql(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Authenticated>,
    sql: String,
) -> Result<Response, HttpError> {
    let record = node.database(&database)?;
    node.active(&record.identity).await?;
    match statements::classify(&sql) {
        Statements::Reads => {}
        Statements::Hidden(name) => {
            return Err(HttpError::bad_request(format!(
                "no such table: `{name}`. If the table exists, it may be marked private."
            )));
        }
        Statements::Other(verb) => {
            return Err(HttpError::not_served(&format!(
                "SQL that is not a query (`{verb}`)"
            )));
        }
    }
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
