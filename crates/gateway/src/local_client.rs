//! Requests to the node's own SpacetimeDB.

use crate::http_error::HttpError;
use crate::limits::{COUNT_BYTES_MAX, LOCAL_ANSWER_MAX};
use crate::local::Local;
use axum::body::Body;
use axum::response::Response;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::sync::Arc;

/// The headers of the local server's answer that are passed on.
const PASSED_ON: [HeaderName; 4] = [
    CONTENT_TYPE,
    header::CACHE_CONTROL,
    HeaderName::from_static("spacetime-energy-used"),
    HeaderName::from_static("spacetime-execution-duration-micros"),
];

/// Marks an answer whose body comes from the local server as fast as the client takes it.
#[derive(Clone, Copy)]
pub(crate) struct Forwarded;

/// Connections that are kept while nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// Requests to the node's own SpacetimeDB, over connections that are used again.
pub(crate) struct LocalClient {
    local: Arc<dyn Local>,
    client: Client<HttpConnector, Body>,
}

impl LocalClient {
    pub(crate) fn new(local: Arc<dyn Local>) -> Self {
        Self {
            local,
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .build_http(),
        }
    }

    /// Sends a request, and passes the answer on as it comes.
    ///
    /// # Errors
    /// 503 if the server does not answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        token: Option<&str>,
        content_type: Option<HeaderValue>,
        body: Body,
    ) -> Result<Response, HttpError> {
        let unavailable = || HttpError::unavailable("SpacetimeDB is not available on this node");
        let address = self.local.address().ok_or_else(unavailable)?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path_and_query}"));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request
            .body(body)
            .map_err(|error| HttpError::bad_request(error.to_string()))?;
        let answer = match rtdb_runtime::timeout(LOCAL_ANSWER_MAX, self.client.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(%error, "SpacetimeDB did not answer");
                return Err(unavailable());
            }
            Err(_) => {
                return Err(HttpError::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "SpacetimeDB did not answer in time",
                ));
            }
        };
        let (parts, body) = answer.into_parts();
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = parts.status;
        response.extensions_mut().insert(Forwarded);
        for name in PASSED_ON {
            if let Some(value) = parts.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        Ok(response)
    }
}

/// The number in an answer to a count: `[{ …, "rows": [[n]] }]`.
pub(crate) async fn counted(answer: Response) -> Option<u64> {
    let body = axum::body::to_bytes(answer.into_body(), COUNT_BYTES_MAX);
    let answer: serde_json::Value = serde_json::from_slice(&body.await.ok()?).ok()?;
    answer.get(0)?.get("rows")?.get(0)?.get(0)?.as_u64()
}
