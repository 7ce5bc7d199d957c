//! The listening side: connections in, requests to the router, and the end of it all.

use crate::catalog::Catalog;
use crate::close::CloseReason;
use crate::gate::{Quotas, Slowed};
use crate::http;
use crate::issuers::Issuers;
use crate::limits::{ClientLimits, DRAIN_MAX, HEAD_BYTES_MAX, REFUSAL_MAX, REFUSALS_MAX, RETRY_AFTER_S};
use crate::local::Local;
use crate::metrics::{GatewayMetrics, Present};
use crate::node::Node;
use crate::place::Place;
use crate::procedures::scheduled::{self, Scheduled};
use crate::publishers::Publishers;
use crate::session::Guest;
use crate::session::arrival::Arrival;
use crate::wire::Wire;
use axum::Router;
use axum::body::{Body, Bytes};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rtdb_consensus::Propose;
use rtdb_consensus::command::Timer;
use rtdb_determinism::Prepared;
use spacetimedb_lib::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

/// How long to wait before accepting again when the process has no more file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a node says that is drained.
const DRAINED: &str = "this node is drained: turn to another node";

/// How often it is looked whether all sessions have ended.
const LOOK: Duration = Duration::from_millis(20);

/// What clients see of a node.
#[derive(Clone)]
pub struct Gateway {
    node: Arc<Node>,
    router: Router,
    stop: Arc<watch::Sender<bool>>,
    drained: Arc<watch::Sender<bool>>,
}

impl Gateway {
    /// A gateway that proposes to `shard` and `meta`, knows databases from `catalog`, and reads from `local`.
    pub fn new(
        shard: Arc<dyn Propose>,
        meta: Arc<dyn Propose>,
        catalog: Arc<dyn Catalog>,
        local: Arc<dyn Local>,
        metrics: GatewayMetrics,
        limits: ClientLimits,
    ) -> Self {
        let node = Arc::new(Node::new(shard, meta, catalog, local, metrics, limits));
        Self {
            router: http::router(node.clone()),
            node,
            stop: Arc::new(watch::Sender::new(false)),
            drained: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Prepares a module as a publication would, when its turn comes; gives its hash, too.
    ///
    /// # Errors
    /// What its author is told.
    pub async fn prepare(&self, module: Bytes) -> Result<(Prepared, Hash), String> {
        let prepared = http::prepare(&self.node, module).await;
        let (_turn, prepared, program) = prepared.map_err(|error| error.body)?;
        Ok((prepared, program))
    }

    /// From now on no more calls are taken than these; at first as many as come.
    pub fn set_quotas(&self, quotas: Quotas) {
        self.node.gate.set_quotas(quotas);
    }

    /// From now on only these may create databases; at first everyone may. What is said first holds.
    pub fn set_publishers(&self, publishers: Publishers) {
        let _ = self.node.publishers.set(publishers);
    }

    /// From now on tokens of outside issuers are taken, if these say that they are good; at first only the cluster's own are.
    /// What is said first holds.
    pub fn set_issuers(&self, issuers: Arc<dyn Issuers>) {
        let _ = self.node.issuers.set(issuers);
    }

    /// Says which databases are slowed from now on: their calls pass one by one, as far as it is said here. All others
    /// pass at once.
    pub fn slow(&self, slowed: &[Slowed]) {
        self.node.gate.slow(slowed);
    }

    /// Runs a procedure with a row that is due, to its end, in the database's own name. `turn` is dropped once it is known
    /// whether the row is taken.
    pub async fn run_scheduled(&self, timer: Timer, turn: OwnedSemaphorePermit) -> Scheduled {
        scheduled::run(self.node.clone(), timer, turn).await
    }

    /// Serves clients until [`Gateway::shutdown`].
    pub async fn serve(&self, listener: TcpListener) {
        let limits = self.node.limits;
        let connections = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let mut stop = self.stop.subscribe();
        loop {
            // The end comes first: however many want to come in, it is seen.
            let accepted = rtdb_runtime::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    rtdb_runtime::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            if *self.drained.borrow() {
                self.turn_away(stream, &refusals, DRAINED.to_owned());
                continue;
            }
            // Beyond the limit a connection is told so and closed: a client that waits unheard is worse off.
            match connections.clone().try_acquire_owned() {
                Ok(permit) => {
                    let present = Present::new(&self.node.metrics.connections);
                    let place = Place::new(permit, present);
                    let router = self.router.clone();
                    let ends = [self.stop.subscribe(), self.drained.subscribe()];
                    rtdb_runtime::spawn(serve_connection(stream, router, place, limits, ends));
                }
                Err(_) => {
                    let max = limits.connections_max;
                    let words = format!(
                        "this node serves {max} connections already: come back later, or turn to another node"
                    );
                    self.turn_away(stream, &refusals, words);
                }
            }
        }
    }

    fn turn_away(&self, stream: TcpStream, refusals: &Arc<Semaphore>, words: String) {
        self.node.metrics.refused_connections.inc();
        if let Ok(permit) = refusals.clone().try_acquire_owned() {
            rtdb_runtime::spawn(refuse(stream, permit, words));
        }
    }

    /// Serves a client that has come by another way than [`Gateway::serve`], to the end of its session.
    ///
    /// # Errors
    /// Why it is turned away before anything of it is in the log.
    pub async fn attend(&self, wire: impl Wire, guest: Guest) -> Result<(), String> {
        let _present = Present::new(&self.node.metrics.connections);
        let arrival = Arrival::of_guest(self.node.clone(), guest).await;
        arrival.map_err(|error| error.body)?.enter(wire).await;
        Ok(())
    }

    /// Closes all sessions of now, for instance because the others have expired this node's epoch. New ones may come.
    pub fn close_sessions(&self, reason: CloseReason) {
        self.node.closing.send_replace(Some(reason));
    }

    /// Turns away whoever comes from now on, closes all sessions of now with 1001 and `hint` (`leader=<id>:<addr>`), and lets
    /// HTTP requests under way be answered. Until [`Gateway::take_clients`].
    pub fn drain(&self, hint: String) {
        self.drained.send_replace(true);
        self.close_sessions(CloseReason::new(CloseReason::AWAY, hint));
    }

    /// Whoever comes is welcome again.
    pub fn take_clients(&self) {
        self.drained.send_replace(false);
    }

    /// Accepts nobody any more, closes all sessions with 1001 and `reason` (`leader=<id>:<addr>`), lets HTTP requests
    /// under way be answered, and waits until all have ended, at most 5 s.
    pub async fn shutdown(&self, reason: String) {
        self.stop.send_replace(true);
        self.close_sessions(CloseReason::new(CloseReason::AWAY, reason));
        let ended = async {
            while self.node.metrics.connections.get() > 0 {
                rtdb_runtime::sleep(LOOK).await;
            }
        };
        let _ = rtdb_runtime::timeout(DRAIN_MAX, ended).await;
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    place: Place,
    limits: ClientLimits,
    ends: [watch::Receiver<bool>; 2],
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(place.clone());
        router.clone().oneshot(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.auth_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = pin!(serving);
    let [mut stop, mut drained] = ends;
    let is_over = async {
        rtdb_runtime::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            _ = drained.wait_for(|drained| *drained) => {}
        }
    };
    let served = rtdb_runtime::select! {
        () = is_over => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        served = &mut serving => served,
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Says why nobody is served, whatever is asked.
async fn refuse(mut stream: TcpStream, _permit: OwnedSemaphorePermit, body: String) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: {RETRY_AFTER_S}\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{body}",
        body.len(),
    );
    let told = async {
        let mut scrap = [0; 1024];
        // An answer to what was not asked yet is none to some clients.
        let _ = stream.read(&mut scrap).await?;
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // With unread bytes the connection would be reset, and the answer lost with it.
        while stream.read(&mut scrap).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = rtdb_runtime::timeout(REFUSAL_MAX, told).await;
}
