//! A node's life: start, serve, hand over, stop.

use crate::admin;
use crate::auditor::Auditor;
use crate::catalog::LogCatalog;
use crate::config::{Config, Peer};
use crate::cpu;
use crate::descriptors;
use crate::discovery;
use crate::issuers::OutsideIssuers;
use crate::keys;
use crate::local::{LocalNode, Running};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::pacer::Pacer;
use crate::reports::Reports;
use crate::scrubber::Scrubber;
use crate::snapshots::Turns;
use crate::timers::Timers;
use anyhow::{Context, anyhow, bail};
use axum::serve::ListenerExt;
use futures::future::BoxFuture;
use rtdb_consensus::command::InitCluster;
use rtdb_consensus::{Follow, Limits, Manager, PeerError};
use rtdb_consensus::{SystemClock, SystemSpace};
use rtdb_gateway::{ClientLimits, CloseReason, Gateway, GatewayMetrics};
use rtdb_replica::{LocalServer, Replica, ReplicaConfig, ServerConfig, Tokens};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

/// How long to wait before a peer that could not be reached is asked again.
const HELLO_RETRY: Duration = Duration::from_secs(1);

/// How long a node may take to stop in order: to hand over leadership, close its clients and end its SpacetimeDB.
const STOP_MAX: Duration = Duration::from_secs(60);

/// Why a node can't go on whose server is left to itself.
const UNWATCHED: &str = "the task that keeps SpacetimeDB running has failed";

/// Runs the node until it is told to stop, or can't go on. An error means that it did not start; why it can't go on it
/// has said itself, before it tried to stop in order.
pub(crate) async fn run(config: Config, clients: &Handle) -> anyhow::Result<ExitCode> {
    let client_limits = client_limits(&config)?;
    let raft_listener = bind(config.raft_addr, "--raft-addr").await?;
    let client_listener = clients.spawn(bind(config.listen_addr, "--listen-addr")).await??;
    let manager = Manager::start(rtdb_consensus::Config {
        node: config.node_id,
        data_dir: config.data_dir.clone(),
        raft_addr: config.own_raft_addr(),
        client_addr: config.client_addr(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cpu: cpu::kind(),
        timing: config.timing(),
        limits: Limits::default(),
        disk_reserve_bytes: config.disk_reserve_mb << 20,
        wall_clock: Arc::new(SystemClock),
        free_space: Arc::new(SystemSpace),
    })
    .await?;
    let gateway_metrics = GatewayMetrics::new()?;
    let metrics = Metrics::new(&gateway_metrics)?;
    let local = Arc::new(LocalNode::new(manager.clone()));
    let gateway = Gateway::new(
        manager.shard().clone(),
        manager.meta().clone(),
        Arc::new(LogCatalog {
            meta: manager.meta().clone(),
            shard: manager.shard().clone(),
        }),
        local.clone(),
        gateway_metrics,
        client_limits,
    );
    gateway.set_quotas(config.quotas());
    gateway.set_publishers(config.publishers.clone());
    let issuers = OutsideIssuers::new(config.issuers.clone(), manager.meta().clone());
    gateway.set_issuers(Arc::new(issuers.clone()));
    clients.spawn(async move { issuers.serve_others().await });
    let node = Arc::new(Node {
        config,
        manager: manager.clone(),
        local: local.clone(),
        metrics,
        gateway: gateway.clone(),
        is_drained: AtomicBool::new(false),
        snapshots: Turns::default(),
    });
    tracing::info!(
        node = node.config.node_id,
        clients = %node.config.listen_addr,
        raft = %node.config.raft_addr,
        data = %node.config.data_dir.display(),
        "RaftTimeDB {} has started", env!("CARGO_PKG_VERSION"),
    );
    let routes = manager.router().merge(admin::router(node.clone()));
    // What the peers are told must not wait for their acknowledgement of what they were told before.
    let raft_listener = raft_listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    });
    let raft_server = tokio::spawn(async move { axum::serve(raft_listener, routes).await });

    let ended = tokio::select! {
        ended = raft_server => Err(anyhow!("the raft address is not served any more: {ended:?}")),
        ended = fatal(&manager) => ended,
        ended = check_peers(&node) => ended,
        ended = discovery::bootstrap(&node) => ended,
        ended = serve(&node, &gateway, clients, client_listener) => ended,
        () = told_to_stop() => Ok(()),
    };
    match &ended {
        Ok(()) => tracing::info!("stopping"),
        Err(reason) => tracing::error!("the node stops, since it can't go on: {reason:#}"),
    }
    if tokio::time::timeout(STOP_MAX, stop(&node, &gateway))
        .await
        .is_err()
    {
        tracing::warn!("the node did not stop in order within {} s", STOP_MAX.as_secs());
    }
    Ok(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

async fn bind(addr: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("{flag} {addr} can't be listened on"))
}

/// What clients may take: no more connections than there are descriptors for.
fn client_limits(config: &Config) -> anyhow::Result<ClientLimits> {
    let limit = descriptors::raise().context("the limit of open files can't be read")?;
    let wanted = config.connections_max as usize;
    let connections = descriptors::connections(limit, wanted).map_err(|why| anyhow!(why))?;
    if connections < wanted {
        tracing::warn!(
            "clients can have {connections} connections rather than --connections-max {wanted}, since at most {limit} \
             files may be open: raise the limit (`ulimit -n`, LimitNOFILE= of systemd)"
        );
    }
    Ok(config.client_limits(connections))
}

/// Serves clients, at first with the news that the node is not ready; and runs the local server and the replica as
/// soon as the cluster has its settings.
async fn serve(
    node: &Arc<Node>,
    gateway: &Gateway,
    clients: &Handle,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let (serving, handle) = (gateway.clone(), clients.clone());
    let clients = clients.spawn(async move { serving.serve(listener).await });
    let work = async {
        let settings = settings(node).await;
        let running = start_replica(node, &settings).await?;
        let mut fatal = running.replica.fatal();
        let mut epoch = node.manager.shard().epoch();
        epoch.mark_unchanged();
        tracing::info!(spacetimedb = running.server.url(), "ready");
        let auditor = Auditor::new(node.manager.clone(), running.replica.clone());
        let mut auditor = std::pin::pin!(auditor.run());
        let scrubber = Scrubber {
            manager: node.manager.clone(),
            interval: node.config.scrub_interval(),
        };
        let mut scrubber = std::pin::pin!(scrubber.run());
        let pacer = Pacer {
            manager: node.manager.clone(),
            replica: running.replica.clone(),
            gateway: gateway.clone(),
        };
        let mut pacer = std::pin::pin!(pacer.run());
        let timers = Timers::new(
            node.manager.clone(),
            running.replica.clone(),
            (gateway.clone(), handle),
            node.metrics.timer_delay.clone(),
            node.config.calls_per_second_max_database,
        );
        let mut timers = std::pin::pin!(timers.run());
        loop {
            tokio::select! {
                () = &mut auditor => bail!("the replicas are not compared any more"),
                () = &mut scrubber => bail!("the replicas' rows are not compared any more"),
                () = &mut timers => bail!("scheduled reducers are not called any more"),
                () = &mut pacer => bail!("calls are not slowed any more where the replicas lag"),
                changed = fatal.changed() => match (changed, fatal.borrow_and_update().clone()) {
                    (_, Some(reason)) => return Err(anyhow!(reason)),
                    (Err(_), None) => bail!("the replica has stopped"),
                    (Ok(()), None) => {}
                },
                changed = epoch.changed() => {
                    changed.context("the shard has stopped")?;
                    tracing::warn!("the cluster had given this node up: its clients are closed and must reconnect");
                    gateway.close_sessions(CloseReason::restart());
                }
                () = running.server.unwatched() => bail!(UNWATCHED),
            }
        }
    };
    tokio::select! {
        ended = clients => Err(anyhow!("the clients' address is not served any more: {ended:?}")),
        ended = work => ended,
    }
}

/// Waits for the cluster's settings: for `rtdb init`, or for the log that holds what it wrote.
async fn settings(node: &Node) -> InitCluster {
    let meta = node.manager.meta();
    let mut resolved = meta.resolved();
    let waits = !node.config.looks() && !node.config.force_bootstrap;
    if waits && meta.meta().cluster().is_none() && node.manager.cluster().is_none() {
        tracing::info!("waiting for `rtdb init`, or `rtdb add-node`");
    }
    loop {
        if let Some(settings) = meta.meta().cluster() {
            return settings.clone();
        }
        if resolved.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn start_replica<'a>(node: &'a Node, settings: &InitCluster) -> anyhow::Result<&'a Running> {
    let args = &node.config.server;
    let keys = keys::of_cluster(args, settings)?;
    let tokens = Tokens::new(&keys)?;
    let server = match &args.stdb_bin {
        Some(program) => ServerConfig::Managed {
            program: program.clone(),
            data_dir: node.config.data_dir.clone(),
            limits: node.config.server_limits(),
        },
        None => ServerConfig::External {
            url: node.config.external_url().to_owned(),
        },
    };
    let server = LocalServer::start(server, &keys).await?;
    tokio::select! {
        () = server.up() => {}
        () = server.unwatched() => bail!(UNWATCHED),
    }
    server.check(&keys).await?;
    if let Some(version) = server.version().filter(|version| version.numbers().is_some()) {
        node.manager.set_spacetimedb_version(version.to_string());
    }
    let replica = ReplicaConfig {
        server: server.named(tokens.clone()),
        call_time_max: node.config.call_time_max(),
        damage_wait: node.config.damage_wait(),
        node: node.config.node_id,
        reports: Some(Arc::new(Reports(node.manager.clone()))),
    };
    let replica = Arc::new(Replica::start(replica, node.manager.shard().clone()));
    Ok(node.local.run(Running::new(server, replica, tokens)))
}

/// Ends when the raft side can't go on.
async fn fatal(manager: &Manager) -> anyhow::Result<()> {
    let mut fatal = manager.fatal();
    match fatal.wait_for(Option::is_some).await {
        Ok(reason) => Err(anyhow!(reason.as_deref().unwrap_or("unknown").to_owned())),
        Err(_) => std::future::pending().await,
    }
}

/// Asks every peer who it is, and ends only if one of them shows that this node is set up wrongly.
async fn check_peers(node: &Node) -> anyhow::Result<()> {
    let checks: Vec<BoxFuture<'_, anyhow::Error>> = node
        .config
        .peers()
        .map(|peer| Box::pin(check_peer(node, peer)) as BoxFuture<'_, _>)
        .collect();
    if checks.is_empty() {
        return std::future::pending().await;
    }
    Err(futures::future::select_all(checks).await.0)
}

async fn check_peer(node: &Node, peer: &Peer) -> anyhow::Error {
    loop {
        match (node.manager.hello(&peer.addr).await, peer.id) {
            (Ok(found), Some(id)) if found.node != id => {
                let wrong = PeerError::OtherNode {
                    wanted: id,
                    found: found.node,
                };
                return anyhow!(wrong).context(format!("peer {}", peer.addr));
            }
            (Ok(found), _) => {
                tracing::info!(peer = found.node, addr = peer.addr, "a peer has answered");
                return std::future::pending().await;
            }
            (Err(error @ (PeerError::SameId { .. } | PeerError::OtherCluster { .. })), _) => {
                return anyhow!(error).context(format!("peer {}", peer.addr));
            }
            (Err(error), _) => {
                tracing::debug!(addr = peer.addr, "no answer from a peer yet: {error}");
                tokio::time::sleep(HELLO_RETRY).await;
            }
        }
    }
}

async fn told_to_stop() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::warn!("a signal can't be waited for: {error}");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

/// Leadership goes to another node first, so that clients can be told whom to turn to.
async fn stop(node: &Node, gateway: &Gateway) {
    if node.manager.cluster().is_some() && !node.manager.transfer_leadership().await {
        tracing::info!("no other node could take over the leadership");
    }
    gateway.shutdown(node.hint("shutting down")).await;
    if let Some(running) = node.local.running() {
        running.replica.stop().await;
        running.server.stop().await;
    }
    node.manager.shutdown().await;
}
