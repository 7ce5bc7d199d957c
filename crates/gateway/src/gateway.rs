//! The listening side: connections in, requests to the router, and the end of it all.

use crate::catalog::Catalog;
use crate::close::CloseReason;
use crate::gate::{Quotas, Slowed};
use crate::http;
use crate::limits::{CONNECTIONS_MAX, DRAIN_MAX, HEAD_BYTES_MAX, HEAD_READ_MAX};
use crate::local::Local;
use crate::metrics::GatewayMetrics;
use crate::node::Node;
use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rtdb_consensus::Propose;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

/// How long to wait before accepting again when the process has no more file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How often it is looked whether all sessions have ended.
const LOOK: Duration = Duration::from_millis(20);

/// A connection's place among [`CONNECTIONS_MAX`]. A WebSocket session keeps it when the HTTP connection has ended.
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

/// What clients see of a node.
#[derive(Clone)]
pub struct Gateway {
    node: Arc<Node>,
    router: Router,
    stop: Arc<watch::Sender<bool>>,
}

impl Gateway {
    /// A gateway that proposes to `shard` and `meta`, knows databases from `catalog`, and reads from `local`.
    pub fn new(
        shard: Arc<dyn Propose>,
        meta: Arc<dyn Propose>,
        catalog: Arc<dyn Catalog>,
        local: Arc<dyn Local>,
        metrics: GatewayMetrics,
    ) -> Self {
        let node = Arc::new(Node::new(shard, meta, catalog, local, metrics));
        Self {
            router: http::router(node.clone()),
            node,
            stop: Arc::new(watch::Sender::new(false)),
        }
    }

    /// From now on no more calls are taken than these; at first as many as come.
    pub fn set_quotas(&self, quotas: Quotas) {
        self.node.gate.set_quotas(quotas);
    }

    /// Says which databases are slowed from now on: their calls pass one by one, as far as it is said here. All others
    /// pass at once.
    pub fn slow(&self, slowed: &[Slowed]) {
        self.node.gate.slow(slowed);
    }

    /// Serves clients until [`Gateway::shutdown`].
    pub async fn serve(&self, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut stop = self.stop.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            // Beyond the limit the connection is closed at once: a client that waits unheard is worse off.
            let Ok(place) = connections.clone().try_acquire_owned() else {
                continue;
            };
            tokio::spawn(serve_connection(stream, self.router.clone(), Arc::new(place)));
        }
    }

    /// Closes all sessions of now, for instance because the others have expired this node's epoch. New ones may come.
    pub fn close_sessions(&self, reason: CloseReason) {
        self.node.closing.send_replace(Some(reason));
    }

    /// Accepts nobody any more, closes all sessions with 1001 and `reason` (`leader=<id>:<addr>`), and waits until
    /// they have ended, at most 5 s for calls under way and a moment for the close handshakes.
    pub async fn shutdown(&self, reason: String) {
        self.stop.send_replace(true);
        self.close_sessions(CloseReason::new(CloseReason::AWAY, reason));
        let ended = async {
            while self.node.metrics.sessions.get() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN_MAX, ended).await;
    }
}

async fn serve_connection(stream: TcpStream, router: Router, place: Place) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(place.clone());
        router.clone().oneshot(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}
