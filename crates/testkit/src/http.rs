//! HTTP to a node or a SpacetimeDB server.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// How long one request may take; a publish compiles a module.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// The HTTP API at one address.
#[derive(Clone, Debug)]
pub struct Api {
    addr: String,
    token: Option<String>,
    key: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: StatusCode,
    /// The head.
    pub headers: HeaderMap,
    /// The body, as a whole.
    pub body: Bytes,
}

impl Response {
    /// The body as text, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Api {
    /// `addr` is `host:port`.
    pub fn new(addr: impl Into<String>) -> Self {
        Self {
            addr: addr.into(),
            token: None,
            key: None,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// The same, with `token` in every request.
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self {
            token: Some(token.into()),
            ..self.clone()
        }
    }

    /// The same, with an `Idempotency-Key` in every request.
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        Self {
            key: Some(key.into()),
            ..self.clone()
        }
    }

    /// One request. An error is no answer at all; a status like 500 is an answer.
    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Response> {
        self.exchange(method, path, body.into(), None).await
    }

    /// POST of a JSON document.
    pub async fn post_json(&self, path: &str, body: &serde_json::Value) -> Result<Response> {
        let body = body.to_string().into();
        self.exchange(Method::POST, path, body, Some("application/json"))
            .await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        content_type: Option<&str>,
    ) -> Result<Response> {
        let mut request = Request::builder()
            .method(&method)
            .uri(format!("http://{}{path}", self.addr));
        if let Some(token) = &self.token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(key) = &self.key {
            request = request.header("idempotency-key", format!("\"{key}\""));
        }
        if let Some(content_type) = content_type {
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(body))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            anyhow::Ok(Response {
                status,
                headers,
                body: response.into_body().collect().await?.to_bytes(),
            })
        };
        let context = || format!("{method} http://{}{path}", self.addr);
        timeout(REQUEST_MAX, exchange)
            .await
            .with_context(context)?
            .with_context(context)
    }

    /// The body of a successful answer.
    pub async fn expect(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        let response = self.send(method.clone(), path, body).await?;
        if !response.status.is_success() {
            bail!(
                "{method} http://{}{path}: {} {}",
                self.addr,
                response.status,
                response.text()
            );
        }
        Ok(response.body)
    }

    /// A successful GET's JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let body = self.expect(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body).with_context(|| format!("http://{}{path}: {body:?}", self.addr))
    }

    /// A new identity's token.
    pub async fn new_token(&self) -> Result<String> {
        let body = self.expect(Method::POST, "/v1/identity", Bytes::new()).await?;
        let answer: serde_json::Value = serde_json::from_slice(&body)?;
        let token = answer["token"]
            .as_str()
            .context("no token in the answer to POST /v1/identity")?;
        Ok(token.to_string())
    }

    /// Publishes `wasm` under `name`, as the owner of this API's token.
    pub async fn publish(&self, name: &str, wasm: impl Into<Bytes>) -> Result<()> {
        self.expect(Method::PUT, &format!("/v1/database/{name}"), wasm)
            .await
            .map(drop)
    }
}
