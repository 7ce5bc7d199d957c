//! Requests to the node's own SpacetimeDB.

use crate::http_error::HttpError;
use crate::limits::{CLIENT_BYTES_MAX, COUNT_BYTES_MAX, LOCAL_ANSWER_MAX};
use crate::local::Local;
use crate::reach::{OpenError, Reach, Unanswered, Visit};
use crate::socket::{self, Counted};
use crate::wire::Wire;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use spacetimedb_lib::{ConnectionId, Identity};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

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

impl Reach for LocalClient {
    fn connect<'a>(&'a self, visit: Visit<'a>) -> BoxFuture<'a, Result<Box<dyn Wire>, OpenError>> {
        async move {
            let address = self.local.address().ok_or(OpenError::Unavailable)?;
            let url = format!(
                "ws://{address}/v1/database/{}/subscribe?connection_id={}&compression=None&confirmed=false&light={}",
                visit.database.to_hex(),
                ConnectionId::from_le_byte_array(rtdb_runtime::random_bytes()).to_hex(),
                visit.light,
            );
            let invalid = |error: &dyn std::fmt::Display| OpenError::Refused(error.to_string());
            let mut request = url.into_client_request().map_err(|error| invalid(&error))?;
            let headers = request.headers_mut();
            headers.insert(
                SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(visit.subprotocol.name()),
            );
            headers.insert(
                AUTHORIZATION,
                format!("Bearer {}", visit.token)
                    .parse()
                    .map_err(|error| invalid(&error))?,
            );

            let stream = TcpStream::connect(&address)
                .await
                .map_err(|_| OpenError::Unavailable)?;
            stream.set_nodelay(true).map_err(|_| OpenError::Unavailable)?;
            let config = socket::config(CLIENT_BYTES_MAX);
            match client_async_with_config(request, Counted::new(stream), Some(config)).await {
                Ok((ws, _)) => Ok(Box::new(ws) as Box<dyn Wire>),
                Err(Error::Http(response)) => Err(OpenError::Refused(response.status().to_string())),
                Err(Error::Io(_) | Error::ConnectionClosed | Error::Protocol(_)) => Err(OpenError::Unavailable),
                Err(error) => Err(OpenError::Refused(error.to_string())),
            }
        }
        .boxed()
    }

    fn query<'a>(
        &'a self,
        database: &'a Identity,
        token: &'a str,
        query: String,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), Unanswered>> {
        async move {
            let path = format!("/v1/database/{}/sql?confirmed=false", database.to_hex());
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            let asked = self.send(Method::POST, &path, Some(token), Some(text), Body::from(query));
            let answer = asked.await.map_err(|error| Unanswered(error.body))?;
            let status = answer.status();
            if !status.is_success() {
                // Why not, nobody wants to know, and it may be long.
                return Ok((status, Bytes::new()));
            }
            let body = axum::body::to_bytes(answer.into_body(), COUNT_BYTES_MAX).await;
            let body = body.map_err(|error| Unanswered(error.to_string()))?;
            Ok((status, body))
        }
        .boxed()
    }
}

/// The number in an answer to a count.
pub(crate) async fn counted(answer: Response) -> Option<u64> {
    let body = axum::body::to_bytes(answer.into_body(), COUNT_BYTES_MAX);
    count_in(&body.await.ok()?)
}

/// The same in its body: `[{ …, "rows": [[n]] }]`.
pub(crate) fn count_in(body: &[u8]) -> Option<u64> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    answer.get(0)?.get("rows")?.get(0)?.get(0)?.as_u64()
}
