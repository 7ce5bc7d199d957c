//! HTTP to the local server, over connections that are used again.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header, uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long a connection to the local server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many idle connections are kept.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// How long a small question may take.
const GET_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer to a question of our own, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What a request's body may fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A client for the local server. Cheap to clone; all clones share the connections and the server's address.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Body>,
    authority: Arc<RwLock<String>>,
}

/// Why there is no (good) answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// No answer came: the server may or may not have done what it was asked.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server refused, in its own words.
    #[error("status {status}: {text}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The body.
        text: String,
    },
    /// The answer is larger than any that we expect.
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    /// The request can't be built.
    #[error("bad request: {0}")]
    Request(String),
}

impl Http {
    /// Talks to the server at `authority` (`host:port`).
    pub(crate) fn new(authority: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Self {
            client,
            authority: Arc::new(RwLock::new(authority)),
        }
    }

    /// The server's address, `host:port`.
    pub fn authority(&self) -> String {
        self.authority.read().clone()
    }

    /// Turns to the server at another address.
    pub(crate) fn set_authority(&self, authority: String) {
        *self.authority.write() = authority;
    }

    /// Passes a request on to the server: its path, query, headers and body as they are. The answer streams; the
    /// caller sets the time and size limits that it wants.
    ///
    /// # Errors
    /// [`HttpError::NoAnswer`], [`HttpError::Request`].
    pub async fn forward<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, HttpError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(uri::Scheme::HTTP);
        parts.authority = Some(
            self.authority()
                .parse()
                .map_err(|e| HttpError::Request(format!("server address: {e}")))?,
        );
        parts.path_and_query = Some(
            request
                .uri()
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| uri::PathAndQuery::from_static("/")),
        );
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| HttpError::Request(e.to_string()))?;
        request.headers_mut().remove(header::HOST);
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        self.client
            .request(request)
            .await
            .map_err(|e| HttpError::NoAnswer(causes(&e)))
    }

    /// Asks something small.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn get_text(&self, path: &str) -> Result<String, HttpError> {
        let request = Request::get(path)
            .body(Empty::<Bytes>::new())
            .map_err(|e| HttpError::Request(e.to_string()))?;
        let body = self.ask(request, GET_TIMEOUT).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends a request as the bearer of `token` and waits for the whole answer.
    ///
    /// # Errors
    /// [`HttpError`]; an answer that is no success is [`HttpError::Status`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, HttpError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::new(body))
            .map_err(|e| HttpError::Request(e.to_string()))?;
        self.ask(request, timeout).await
    }

    /// Whether the server answers at all.
    pub(crate) async fn ping(&self, timeout: Duration) -> Result<(), HttpError> {
        let request = Request::get("/v1/ping")
            .body(Empty::<Bytes>::new())
            .map_err(|e| HttpError::Request(e.to_string()))?;
        self.ask(request, timeout).await.map(drop)
    }

    async fn ask<B>(&self, request: Request<B>, timeout: Duration) -> Result<Bytes, HttpError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let answer = async {
            let response = self.forward(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let body = body.collect().await.map_err(|e| {
                if e.is::<LengthLimitError>() {
                    HttpError::TooLarge
                } else {
                    HttpError::NoAnswer(e.to_string())
                }
            })?;
            let body = body.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            Err(HttpError::Status {
                status,
                text: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        rtdb_runtime::timeout(timeout, answer)
            .await
            .unwrap_or(Err(HttpError::Timeout(timeout)))
    }
}

/// An error with all that caused it: hyper's own text leaves that out.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
