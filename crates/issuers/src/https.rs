//! Issuers are asked over HTTPS: at addresses that were looked at, one request a connection, and no redirect is followed.

use crate::address::is_public;
use crate::fetch::{Fetch, FetchError, Held};
use crate::url::{Reach, Url};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How long an issuer may take to say what its keys are: both answers, names and handshakes included.
const FETCH_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 3;

/// The way to issuers. Certificates are checked against those that the system trusts, which are read when they are first
/// needed.
#[derive(Clone, Default)]
pub struct Https {
    tls: Arc<OnceCell<TlsConnector>>,
}

#[derive(Deserialize)]
struct Configuration {
    jwks_uri: String,
}

impl Fetch for Https {
    fn fetch(
        &self,
        issuer: String,
        reach: Reach,
        held: Held,
    ) -> BoxFuture<'static, Result<Bytes, FetchError>> {
        let this = self.clone();
        async move {
            let fetching = this.keys(&issuer, reach, &held);
            let fetched = tokio::time::timeout(FETCH_MAX, fetching).await;
            fetched.unwrap_or(Err(FetchError::Slow(FETCH_MAX.as_secs())))
        }
        .boxed()
    }
}

impl Https {
    async fn keys(&self, issuer: &str, reach: Reach, held: &Held) -> Result<Bytes, FetchError> {
        let url = Url::of_configuration(issuer, reach)?;
        let answer = self.get(&url, reach, held).await?;
        let configuration: Configuration =
            serde_json::from_slice(&answer).map_err(|error| FetchError::Configuration(error.to_string()))?;
        let (url, reach) = url.of_keys(&configuration.jwks_uri, reach)?;
        self.get(&url, reach, held).await
    }

    async fn get(&self, url: &Url, reach: Reach, held: &Held) -> Result<Bytes, FetchError> {
        let stream = connect(&addresses(url, reach, held).await?).await?;
        if !url.is_tls() {
            return request(stream, url).await;
        }
        let name = ServerName::try_from(url.host().to_owned()).map_err(unreachable)?;
        let tls = self.tls.get_or_init(trusting_the_system).await;
        request(tls.connect(name, stream).await.map_err(unreachable)?, url).await
    }
}

fn unreachable(error: impl std::fmt::Display) -> FetchError {
    FetchError::Unreachable(error.to_string())
}

async fn trusting_the_system() -> TlsConnector {
    let read = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let mut roots = RootCertStore::empty();
    if let Ok(read) = read {
        for error in read.errors {
            tracing::warn!(%error, "certificates that this system trusts can't be read");
        }
        let (_, unusable) = roots.add_parsable_certificates(read.certs);
        tracing::debug!(
            trusted = roots.len(),
            unusable,
            "the system's certificates were read"
        );
    }
    if roots.is_empty() {
        tracing::warn!(
            "this system trusts no certificates, so that no issuer can be asked over https: install them (ca-certificates), \
             or name a file with SSL_CERT_FILE"
        );
    }
    connector(roots)
}

fn connector(roots: RootCertStore) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has all of them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Where the server is, as far as it may be asked there. Whoever connects does so to one of these, and looks nothing up again.
async fn addresses(url: &Url, reach: Reach, held: &Held) -> Result<Vec<SocketAddr>, FetchError> {
    let (host, port, held) = (url.host().to_owned(), url.port(), held.clone());
    // It goes on when nobody waits for it any more, and takes a thread for so long.
    let lookup = tokio::task::spawn_blocking(move || {
        let _held = held;
        (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
    });
    let mut found = lookup.await.map_err(unreachable)?.map_err(unreachable)?;
    if reach == Reach::Public {
        found.retain(|address| is_public(address.ip()));
    }
    found.truncate(ADDRESSES_MAX);
    match found.is_empty() {
        true => Err(FetchError::NotPublic(url.host().to_owned())),
        false => Ok(found),
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, FetchError> {
    // Each has its part of the time: the first may be one that never answers.
    let each = FETCH_MAX / (ADDRESSES_MAX as u32 + 1);
    let mut last = FetchError::Slow(each.as_secs());
    for address in addresses {
        match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = unreachable(error),
            Err(_) => {}
        }
    }
    Err(last)
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Url,
) -> Result<Bytes, FetchError> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(url.path())
        .header(HOST, url.authority())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("rafttimedb/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(unreachable)?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(unreachable)?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(unreachable)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|error| match error.is::<LengthLimitError>() {
                true => FetchError::TooLarge(ANSWER_BYTES_MAX),
                false => unreachable(error),
            })
    };
    // The connection ends with the answer: nothing is asked twice on it.
    tokio::select! {
        biased;
        answered = answered => answered,
        Err(error) = connection => Err(unreachable(error)),
    }
}

#[cfg(test)]
mod tests;
