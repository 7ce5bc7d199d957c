//! `cargo xtask bench`: what a cluster costs, as ratios to the plain server in the same run.
//!
//! The same client, module and reducer (`add` of `counter-1x`, or of `counter-2x` on a server of 2.x) everywhere, first
//! on the plain server, then on a cluster of one node, then of three, all on this machine and its disk.

mod figures;
mod measure;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::server::{PlainServer, binary};
use rtdb_testkit::{Api, demo_module, interrupted};
use tokio::time::sleep;

use crate::figures::Figures;
use crate::measure::{Load, fdatasync_p50, idle_connections, latency_p50, prepared_ratio, rate};

const DATABASE: &str = "bench";

/// How long starting or electing may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Figures of the plain server, one node and three nodes, as ratios; written to `target/bench/latest.json`.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Seconds of each measurement of a call rate.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Connections that call at the same time.
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Calls in flight on each of them at most.
    #[arg(long, default_value_t = 256)]
    window: usize,
    /// Idle connections, as far as the limit of open files allows.
    #[arg(long, default_value_t = 10_000)]
    idle: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    // Whatever ends first drops the servers and clusters, which ends their processes.
    let done = tokio::select! {
        done = bench(&options) => done,
        _ = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(options: &Options) -> Result<()> {
    // On the disk of the build, not in a /tmp that may be memory.
    let exe = std::env::current_exe()?;
    let target = exe
        .ancestors()
        .nth(2)
        .context("the program is not in a target folder")?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(target)?;
    let load = Load {
        seconds: Duration::from_secs(options.seconds),
        connections: options.connections,
        window: options.window,
    };

    let mut figures = Figures {
        fdatasync_p50_ms: fdatasync_p50(&folder.path().join("fdatasync"))?,
        ..Figures::default()
    };
    plain(&mut figures, &load, &folder.path().join("plain"))
        .await
        .context("plain server")?;
    one_node(&mut figures, &load, options.idle, &folder.path().join("one"))
        .await
        .context("one node")?;
    three_nodes(&mut figures, &load, &folder.path().join("three"))
        .await
        .context("three nodes")?;

    let written = target.join("bench").join("latest.json");
    figures.write(&written)?;
    println!("\n{figures}\nWritten to {}", written.display());
    Ok(())
}

async fn plain(figures: &mut Figures, load: &Load, folder: &Path) -> Result<()> {
    eprintln!("plain server");
    let server = PlainServer::start(&binary()?, folder).await?;
    publish(&server.api()).await?;
    figures.plain_calls_per_s = rate(&[server.addr().to_string()], DATABASE, load).await?;
    figures.plain_p50_ms = latency_p50(server.addr(), DATABASE).await?;
    eprintln!(
        "  {:.0} calls/s, {:.2} ms for one",
        figures.plain_calls_per_s, figures.plain_p50_ms
    );
    figures.prepared_module_ratio = prepared_ratio(&server, load).await?;
    eprintln!(
        "  a prepared module makes {:.2} of a plain one's calls",
        figures.prepared_module_ratio
    );
    Ok(())
}

async fn one_node(figures: &mut Figures, load: &Load, idle: u32, folder: &Path) -> Result<()> {
    eprintln!("one node");
    let mut cluster = Cluster::start_ready(&ClusterConfig::new(1, folder)?, PATIENCE).await?;
    publish(&cluster.node(1).api()).await?;
    figures.one_node_calls_per_s = rate(&cluster.client_addrs(), DATABASE, load).await?;
    figures.one_node_p50_ms = latency_p50(cluster.node(1).client_addr(), DATABASE).await?;
    eprintln!(
        "  {:.0} calls/s, {:.2} ms for one",
        figures.one_node_calls_per_s, figures.one_node_p50_ms
    );
    idle_connections(figures, cluster.node(1), DATABASE, idle).await?;
    cluster.stop().await
}

async fn three_nodes(figures: &mut Figures, load: &Load, folder: &Path) -> Result<()> {
    eprintln!("three nodes");
    let mut cluster = Cluster::start_ready(&ClusterConfig::new(3, folder)?, PATIENCE).await?;
    publish(&cluster.node(2).api()).await?;
    // A node is healthy before it has applied a publish that another one served.
    cluster.wait_level(DATABASE, PATIENCE).await?;
    figures.three_node_calls_per_s = rate(&cluster.client_addrs(), DATABASE, load).await?;
    cluster.wait_level(DATABASE, PATIENCE).await?;
    let leader = cluster.wait_leader(PATIENCE).await?;
    let p50 = latency_p50(cluster.node(leader).client_addr(), DATABASE).await?;
    figures.added_p50_ms = p50 - figures.plain_p50_ms;

    eprintln!(
        "  {:.0} calls/s, {p50:.2} ms for one",
        figures.three_node_calls_per_s
    );
    let clients = measure::clients(&cluster.client_addrs(), DATABASE, &Load { window: 16, ..*load })?;
    clients.rate(Duration::from_secs(2)).await;
    cluster.node_mut(leader).kill9().await?;
    cluster.node_mut(leader).kill9_server().await?;
    sleep(Duration::from_secs(8)).await;
    let histories = clients.stop().await?;
    let wrong = histories.iter().flat_map(|history| &history.wrong).next();
    ensure!(wrong.is_none(), "an answer after the failover: {wrong:?}");
    let gap = histories
        .iter()
        .map(|history| history.longest_gap)
        .max()
        .unwrap_or_default();
    figures.failover_gap_ms = gap.as_secs_f64() * 1e3;
    cluster.stop().await
}

async fn publish(api: &Api) -> Result<()> {
    api.with_token(api.new_token().await?)
        .publish(DATABASE, demo_module::wasm()?)
        .await
}
