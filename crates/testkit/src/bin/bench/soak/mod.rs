//! A cluster for many minutes, among clients of every kind, and the memory of each of its processes.

mod clients;
mod curve;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rtdb_testkit::client::Client;
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::demo_module::{self, ADD, add};
use rtdb_testkit::resident_kib;
use tokio::time::sleep;

use crate::PATIENCE;
use crate::measure::connect_to;
use crate::sides::published;
use clients::{Clients, Scene};
use curve::Curve;

const DATABASE: &str = "soak";

/// Rows that are changed, and never more.
const ROWS: u64 = 64;

/// What fills the caches of the log beforehand: callers, and calls of each. They must be small, as those that follow are: a few
/// large ones take less memory for as many bytes.
const FILLING: (usize, u32) = (8, 15_000);

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_secs(3);

/// An error if a node's memory goes on growing, or if its best clients have lost their connections.
pub(crate) async fn run(nodes: u16, time: Duration, folder: &Path) -> Result<()> {
    eprintln!("{nodes} nodes for {time:?}, among all kinds of clients");
    let mut cluster = Cluster::start_ready(&ClusterConfig::new(nodes, folder)?, PATIENCE).await?;
    let owner = published(&cluster.node(1).api(), DATABASE, &demo_module::wasm()?).await?;
    let mut writer = Client::connect(&connect_to(cluster.node(1).client_addr(), DATABASE)?).await?;
    for _ in 0..ROWS {
        let added = writer.call_and_wait(ADD, &add("soak", 0)).await?;
        ensure!(added.result.is_ok(), "no rows: {added:?}");
    }
    writer.close().await;
    cluster.wait_level(DATABASE, PATIENCE).await?;
    let rows = demo_module::rows(&owner, DATABASE).await?;
    let scene = Scene {
        addrs: cluster.client_addrs(),
        database: DATABASE.to_string(),
        rows: rows.iter().map(|row| row.id).collect(),
    };

    fill(&cluster).await.context("filling the caches")?;
    let clients = Clients::start(&scene);
    let mut curves = Vec::new();
    let (start, mut told) = (Instant::now(), 0);
    while start.elapsed() < time {
        sleep(PERIOD).await;
        sample(&cluster, &mut curves)?;
        let minutes = start.elapsed().as_secs() / 60;
        if minutes > told {
            told = minutes;
            eprintln!("  after {minutes} min: {}", clients.counts());
        }
    }
    let counts = clients.stop().await;
    // Equal in the end, whatever was thrown at them.
    cluster.wait_ready(PATIENCE).await?;
    cluster.wait_level(DATABASE, PATIENCE).await?;
    cluster.stop().await?;

    println!("\n  resident memory, MiB        first{:62}last  most", "");
    curves.iter().for_each(|curve| println!("{curve}"));
    println!("  {counts}");
    let growing = curves
        .iter()
        .filter(|curve| !curve.is_flat() && curve.name.starts_with("node"));
    let growing: Vec<_> = growing.map(|curve| curve.name.as_str()).collect();
    ensure!(
        growing.is_empty(),
        "memory goes on growing: {}",
        growing.join(", ")
    );
    ensure!(
        counts.lost == 0,
        "{} connections of orderly clients have broken",
        counts.lost
    );
    Ok(())
}

/// Fills what a node keeps of the log's end, which is bounded: else it would fill all the time.
async fn fill(cluster: &Cluster) -> Result<()> {
    const FILLED: &str = "filled";
    published(&cluster.node(1).api(), FILLED, &demo_module::wasm()?).await?;
    let (callers, calls) = FILLING;
    let filling = (0..callers).map(async |_| {
        let mut writer = Client::connect(&connect_to(cluster.node(1).client_addr(), FILLED)?).await?;
        for _ in 0..calls {
            let added = writer.call_and_wait(ADD, &add("filled", 0)).await?;
            ensure!(added.result.is_ok(), "no rows: {added:?}");
        }
        writer.close().await;
        Ok(())
    });
    futures::future::try_join_all(filling).await?;
    cluster.wait_level(FILLED, PATIENCE).await?;
    Ok(())
}

/// One more point of every process's curve. A server that is being started again has none.
fn sample(cluster: &Cluster, curves: &mut Vec<Curve>) -> Result<()> {
    for node in cluster.running() {
        let pid = node.pid().context("the node is not running")?;
        Curve::add(curves, &format!("node {}", node.id()), resident_kib(pid)?);
        for pid in node.server_pids()?.into_iter().take(1) {
            if let Ok(kib) = resident_kib(pid) {
                Curve::add(curves, &format!("server {}", node.id()), kib);
            }
        }
    }
    Curve::add(curves, "this program", resident_kib(std::process::id())?);
    Ok(())
}
