//! A connection to the local SpacetimeDB, as its client.

use crate::catalog::DatabaseRecord;
use crate::limits::{UPSTREAM_AWAY_MAX, UPSTREAM_OPEN_MAX};
use crate::local::{Claims, Local};
use crate::metrics::Present;
use crate::node::Node;
use crate::reach::{OpenError, Reach, Visit};
use crate::socket::Socket;
use crate::wire::Wire;
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus::IntGauge;
use rtdb_protocol::Subprotocol;
use spacetimedb_lib::{ConnectionId, Identity};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long to wait before the local server is tried again; where it may be away for long, each time twice as long, up to the
/// second.
pub(crate) const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The connection.
pub(crate) struct Upstream {
    pub(crate) socket: Socket<Box<dyn Wire>>,
    /// Resolves at the next publication of the database: the server may have kept the connection to what was there before.
    published: Option<BoxFuture<'static, ()>>,
    _present: Present,
}

impl Upstream {
    /// Ready when the database's module was replaced, or nearly, since the connection was opened.
    pub(crate) fn poll_published(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.published {
            Some(published) if !rtdb_runtime::planted("publications are not noticed") => {
                published.poll_unpin(cx)
            }
            _ => Poll::Pending,
        }
    }
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
    /// The client's token, as the local server is shown it.
    pub(crate) token: String,
    /// Where connections are counted that are open.
    pub(crate) counted: IntGauge,
}

/// Opens the connection; while the server does not answer it is tried again and again, for a while. Whom it is for may have seen
/// something of the database already: results of calls, or what came on an earlier connection.
pub(crate) async fn open(
    local: Arc<dyn Local>,
    reach: Arc<dyn Reach>,
    config: UpstreamConfig,
) -> Result<Upstream, OpenError> {
    let attempts = async {
        loop {
            match attempt(local.as_ref(), reach.as_ref(), &config).await {
                Err(OpenError::Unavailable) => rtdb_runtime::sleep(RETRY).await,
                settled => return settled,
            }
        }
    };
    let opened = rtdb_runtime::timeout(UPSTREAM_OPEN_MAX, attempts)
        .await
        .unwrap_or(Err(OpenError::Unavailable))?;
    let is_there = rtdb_runtime::timeout(UPSTREAM_AWAY_MAX, until_there(local.as_ref(), &config.database));
    match is_there.await {
        Ok(()) => Ok(opened),
        Err(_) => Err(OpenError::Unavailable),
    }
}

/// Opens the connection again for somebody who has seen something already: whatever the server says is taken to be of its
/// recovery, and nothing is asked of it before it has again what it may have shown. To be given up after
/// [`UPSTREAM_AWAY_MAX`].
pub(crate) async fn reopen(local: &dyn Local, reach: &dyn Reach, config: &UpstreamConfig) -> Upstream {
    let mut pause = RETRY;
    let opened = loop {
        match attempt(local, reach, config).await {
            Ok(opened) => break opened,
            Err(error) => tracing::debug!(%error, "SpacetimeDB is not back yet"),
        }
        rtdb_runtime::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    };
    until_there(local, &config.database).await;
    opened
}

/// Resolves when the server has all that it may have shown anybody. It is asked on a new connection's server: if that dies in
/// between, the connection is dead too.
async fn until_there(local: &dyn Local, database: &Identity) {
    if !rtdb_runtime::planted("servers are not waited for") {
        local.caught_up(database, 0).await;
    }
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

async fn attempt(
    local: &dyn Local,
    reach: &dyn Reach,
    config: &UpstreamConfig,
) -> Result<Upstream, OpenError> {
    // From before the connection is there, so that no publication is missed.
    let published = local.publications(&config.database).map(|mut publications| {
        async move {
            if publications.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    });
    let token = config.current_token(local);
    let visit = Visit {
        database: &config.database,
        subprotocol: config.subprotocol,
        light: config.light,
        token: &token,
    };
    let present = Present::new(&config.counted);
    Ok(Upstream {
        socket: Socket::new(reach.connect(visit).await?),
        published,
        _present: present,
    })
}
