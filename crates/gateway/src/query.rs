//! What a request's query string says.

use crate::http_error::HttpError;
use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::de::DeserializeOwned;

/// The parameters of a request. Bad ones are refused in SpacetimeDB's words, which don't say which one it is.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> Query<T> {
    /// # Errors
    /// 400
    pub(crate) fn read(query: &str) -> Result<Self, HttpError> {
        serde_urlencoded::from_str(query)
            .map(Self)
            .map_err(|error| HttpError::bad_request(format!("Failed to deserialize query string: {error}")))
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, HttpError> {
        Self::read(parts.uri.query().unwrap_or_default())
    }
}
