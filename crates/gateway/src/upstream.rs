//! A connection to the local SpacetimeDB, as its client.

use crate::catalog::DatabaseRecord;
use crate::limits::{CLIENT_BYTES_MAX, UPSTREAM_OPEN_MAX};
use crate::local::{Claims, Local};
use crate::metrics::Present;
use crate::node::Node;
use crate::socket::{Counted, Socket};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use prometheus::IntGauge;
use rtdb_protocol::Subprotocol;
use spacetimedb_lib::{ConnectionId, Identity};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// How long to wait before the local server is tried again; where it may be away for long, each time twice as long, up to the
/// second.
pub(crate) const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The connection.
pub(crate) struct Upstream {
    pub(crate) socket: Socket<TcpStream>,
    /// Resolves at the next publication of the database: the server may have kept the connection to what was there before.
    published: Option<BoxFuture<'static, ()>>,
    _present: Present,
}

impl Upstream {
    /// Ready when the database's module was replaced, or nearly, since the connection was opened.
    pub(crate) fn poll_published(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.published {
            Some(published) => published.poll_unpin(cx),
            None => Poll::Pending,
        }
    }
}

/// Why it could not be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The server does not answer.
    #[error("SpacetimeDB is not available on this node")]
    Unavailable,
    /// The server refuses.
    #[error("SpacetimeDB refused the connection: {0}")]
    Refused(String),
}

/// What is needed to open it, and to open it again.
#[derive(Clone)]
pub(crate) struct UpstreamConfig {
    pub(crate) database: Identity,
    pub(crate) subprotocol: Subprotocol,
    /// The client's connection id, for what is logged. The server gets others, since it may not take one twice, and
    /// clients choose theirs as they like.
    pub(crate) connection: ConnectionId,
    pub(crate) light: bool,
    pub(crate) claims: Claims,
    /// The client's own token.
    pub(crate) token: String,
    /// Where connections are counted that are open.
    pub(crate) counted: IntGauge,
}

/// Opens the connection; while the server does not answer it is tried again and again, for a while.
pub(crate) async fn open(local: Arc<dyn Local>, config: UpstreamConfig) -> Result<Upstream, OpenError> {
    let attempts = async {
        loop {
            match attempt(local.as_ref(), &config).await {
                Err(OpenError::Unavailable) => rtdb_runtime::sleep(RETRY).await,
                settled => return settled,
            }
        }
    };
    rtdb_runtime::timeout(UPSTREAM_OPEN_MAX, attempts)
        .await
        .unwrap_or(Err(OpenError::Unavailable))
}

/// Opens the connection again for somebody who has seen something already: whatever the server says is taken to be of its
/// recovery, and nothing is asked of it before it has again what it may have shown. To be given up after
/// [`UPSTREAM_AWAY_MAX`](crate::limits::UPSTREAM_AWAY_MAX).
pub(crate) async fn reopen(local: &dyn Local, config: &UpstreamConfig) -> Upstream {
    let mut pause = RETRY;
    let opened = loop {
        match attempt(local, config).await {
            Ok(opened) => break opened,
            Err(error) => tracing::debug!(%error, "SpacetimeDB is not back yet"),
        }
        rtdb_runtime::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    };
    // Asked on the new connection's server: had it died in between, the connection would be dead too.
    local.caught_up(&config.database).await;
    opened
}

impl UpstreamConfig {
    /// For what the node itself calls: in the name of the owner, who alone may call what is hidden.
    pub(crate) fn of_owner(node: &Node, record: &DatabaseRecord) -> Self {
        let owner = &record.owner;
        let identity = <[u8; 32]>::try_from(owner.identity.as_ref()).unwrap_or_default();
        Self {
            database: record.identity,
            subprotocol: node.local.newest_subprotocol(),
            connection: ConnectionId::from_le_byte_array([0; 16]),
            light: false,
            claims: Claims {
                identity: Identity::from_byte_array(identity),
                issuer: owner.issuer.clone(),
                subject: owner.subject.clone(),
                // So that the connection gets a token of its own.
                expires: true,
                payload: String::new(),
            },
            token: String::new(),
            counted: node.metrics.upstreams.clone(),
        }
    }

    /// The client's token, or one in its place. A token with an end may have come to it since the client was let in: the
    /// session goes on all the same.
    pub(crate) fn current_token(&self, local: &dyn Local) -> String {
        let minted = local
            .tokens()
            .filter(|_| self.claims.expires)
            .and_then(|tokens| tokens.mint(&self.claims));
        minted.unwrap_or_else(|| self.token.clone())
    }
}

async fn attempt(local: &dyn Local, config: &UpstreamConfig) -> Result<Upstream, OpenError> {
    // From before the connection is there, so that no publication is missed.
    let published = local.publications(&config.database).map(|mut publications| {
        async move {
            if publications.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    });
    let address = local.address().ok_or(OpenError::Unavailable)?;
    let token = config.current_token(local);
    let url = format!(
        "ws://{address}/v1/database/{}/subscribe?connection_id={}&compression=None&confirmed=false&light={}",
        config.database.to_hex(),
        ConnectionId::from_le_byte_array(rtdb_runtime::random_bytes()).to_hex(),
        config.light,
    );
    let invalid = |error: &dyn std::fmt::Display| OpenError::Refused(error.to_string());
    let mut request = url.into_client_request().map_err(|error| invalid(&error))?;
    let headers = request.headers_mut();
    headers.insert(
        SEC_WEBSOCKET_PROTOCOL,
        http::HeaderValue::from_static(config.subprotocol.name()),
    );
    headers.insert(
        AUTHORIZATION,
        format!("Bearer {token}")
            .parse()
            .map_err(|error| invalid(&error))?,
    );

    let stream = TcpStream::connect(&address)
        .await
        .map_err(|_| OpenError::Unavailable)?;
    stream.set_nodelay(true).map_err(|_| OpenError::Unavailable)?;
    use tokio_tungstenite::tungstenite::Error;
    let present = Present::new(&config.counted);
    let config = Socket::<TcpStream>::config(CLIENT_BYTES_MAX);
    match client_async_with_config(request, Counted::new(stream), Some(config)).await {
        Ok((ws, _)) => Ok(Upstream {
            socket: Socket::new(ws),
            published,
            _present: present,
        }),
        Err(Error::Http(response)) => Err(OpenError::Refused(response.status().to_string())),
        Err(Error::Io(_) | Error::ConnectionClosed | Error::Protocol(_)) => Err(OpenError::Unavailable),
        Err(error) => Err(OpenError::Refused(error.to_string())),
    }
}
