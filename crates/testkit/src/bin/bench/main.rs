//! `cargo xtask bench`: what a cluster costs, as ratios to the plain server in the same run.
//!
//! The same clients, module and reducers (`add` and `deposit` of `counter-1x`, or of `counter-2x` on a server of 2.x)
//! everywhere, first on the plain server, then on a cluster of one node, then of three, all on this machine and its disk;
//! what many subscribers see, on both by turns.

mod calls;
mod cpu;
mod crowd;
mod duties;
mod failover;
mod fan_out;
mod figures;
mod latencies;
mod measure;
mod sides;
mod soak;
mod strain;
mod stranger;
mod writer;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::server::{PlainServer, binary};
use rtdb_testkit::{Api, demo_module, interrupted};

use crate::calls::{DATABASES, Load, rates};
use crate::cpu::Processes;
use crate::duties::AllDuties;
use crate::failover::Gaps;
use crate::fan_out::{Effort, FanOut};
use crate::figures::Figures;
use crate::measure::{
    Reading, SAMPLES, fdatasync_p50, idle_connections, latency_p50, prepared_ratio, raise_files,
    reading_ratios,
};

/// For calls one at a time, and for the failover.
const DATABASE: &str = "bench";

/// The ways of reading rows that are compared, those of as many rows together.
const READINGS: [(&str, Reading); 9] = [
    ("scan 1,000, keyed", reading("scan_keyed", 1_000, 200)),
    ("scan 1,000, no key", reading("scan_loose", 1_000, 200)),
    ("scan 10,000, keyed", reading("scan_keyed", 10_000, 20)),
    ("scan 10,000, no key", reading("scan_loose", 10_000, 20)),
    ("filter 10", reading("filter_loose", 10_000, 10_000)),
    ("filter 1,000", reading("filter_keyed", 10_000, 200)),
    ("find", reading("find_keyed", 10_000, 20_000)),
    ("scan 100,000, keyed", reading("scan_keyed", 100_000, 2)),
    ("scan 100,000, no key", reading("scan_loose", 100_000, 2)),
];

const fn reading(reducer: &'static str, rows: u32, times: u32) -> Reading {
    Reading { reducer, rows, times }
}

/// How long starting or electing may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Figures of the plain server, one node and three nodes, as ratios; written to `target/bench/latest.json`.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Seconds of each measurement of a call rate.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Clients that call at the same time; before that, one of them does.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Calls in flight at most, of one client or of all together.
    #[arg(long, default_value_t = 2048)]
    window: usize,
    /// Idle connections, as far as the limit of open files allows.
    #[arg(long, default_value_t = 10_000)]
    idle: u32,
    /// Only compare ways of reading rows.
    #[arg(long)]
    reading: bool,
    /// Only measure what a stranger who tries everything costs others.
    #[arg(long)]
    stranger: bool,
    /// Only see what others wait for beside clients that ask for all that a node has.
    #[arg(long)]
    strain: bool,
    /// Only measure how long clients wait when leaders are killed.
    #[arg(long)]
    failover: bool,
    /// Only measure rows that fall due, procedures, and updates of the module.
    #[arg(long)]
    duties: bool,
    /// Only measure what a node makes of many clients, and longer than in the whole benchmark.
    #[arg(long)]
    fan_out: bool,
    /// Only let a cluster run for so many minutes, 20 if none are named, among clients of every kind, and look at the
    /// memory of its processes.
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "20")]
    soak: Option<u32>,
    /// Nodes of that cluster.
    #[arg(long, default_value_t = 3)]
    soak_nodes: u16,
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
    let loads = Load::ways(
        Duration::from_secs(options.seconds),
        options.clients,
        options.window,
    );

    let mut figures = Figures {
        fdatasync_p50_ms: fdatasync_p50(&folder.path().join("fdatasync"))?,
        ..Figures::default()
    };
    figures.calls.clients = options.clients;
    figures.calls.cores = f64::from(u32::try_from(std::thread::available_parallelism()?.get())?);
    // Thousands of connections, of this program and of all that it starts.
    raise_files()?;
    if options.stranger {
        return beside_a_stranger(&mut figures, folder.path()).await;
    }
    if options.strain {
        return strain::run(&folder.path().join("strain")).await;
    }
    if options.failover {
        println!(
            "\n{}",
            Gaps::measure(&loads[1], &folder.path().join("kills")).await?
        );
        return Ok(());
    }
    if options.duties {
        let duties = AllDuties::measure(&folder.path().join("duties")).await?;
        println!("\n{duties}");
        return Ok(());
    }
    if options.fan_out {
        let figures = FanOut::measure(Effort::FULL, &folder.path().join("many")).await?;
        println!("\n{figures}");
        return Ok(());
    }
    if let Some(minutes) = options.soak {
        let time = Duration::from_secs(60) * minutes;
        return soak::run(options.soak_nodes, time, &folder.path().join("soak")).await;
    }
    read_rows(&mut figures, folder.path())
        .await
        .context("reading rows")?;
    if options.reading {
        return Ok(());
    }
    plain(&mut figures, &loads, &folder.path().join("plain"))
        .await
        .context("plain server")?;
    one_node(&mut figures, &loads, options.idle, &folder.path().join("one"))
        .await
        .context("one node")?;
    three_nodes(&mut figures, &loads, &folder.path().join("three"))
        .await
        .context("three nodes")?;
    figures.failover_gap_ms = Gaps::measure(&loads[1], &folder.path().join("kills"))
        .await
        .context("killed leaders")?;

    figures.duties = AllDuties::measure(&folder.path().join("duties"))
        .await
        .context("besides calls")?;

    beside_a_stranger(&mut figures, folder.path()).await?;
    figures.fan_out = FanOut::measure(Effort::SHORT, &folder.path().join("many"))
        .await
        .context("many clients")?;

    let written = target.join("bench").join("latest.json");
    figures.write(&written)?;
    println!("\n{figures}\nWritten to {}", written.display());
    Ok(())
}

async fn beside_a_stranger(figures: &mut Figures, folder: &Path) -> Result<()> {
    eprintln!("beside a stranger who tries everything");
    for (nodes, beside) in [
        (1, &mut figures.one_node_beside),
        (3, &mut figures.three_nodes_beside),
    ] {
        *beside = stranger::latency_ratios(&folder.join(format!("stranger-{nodes}")), nodes)
            .await
            .context("beside a stranger")?;
        eprintln!(
            "  {:.2} of without, {:.2} beside spinning threads",
            beside.stranger, beside.spinners
        );
    }
    Ok(())
}

async fn plain(figures: &mut Figures, loads: &[Load; 3], folder: &Path) -> Result<()> {
    eprintln!("plain server");
    let server = PlainServer::start(&binary()?, folder).await?;
    publish(&server.api()).await?;
    let addrs = [server.addr().to_string()];
    figures.calls.plain = rates(&addrs, loads, &Processes::plain(&server)?).await?;
    figures.plain_p50_ms = latency_p50(server.addr(), DATABASE, SAMPLES).await?;
    drop(server);
    // On a server that has nothing else to do, such as to write snapshots of what was called before.
    let server = PlainServer::start(&binary()?, &folder.with_extension("ratio")).await?;
    figures.prepared_module_ratio = prepared_ratio(&server, &loads[0]).await?;
    eprintln!(
        "  a prepared module makes {:.2} of a plain one's calls",
        figures.prepared_module_ratio
    );
    drop(server);
    Ok(())
}

async fn read_rows(figures: &mut Figures, folder: &Path) -> Result<()> {
    eprintln!("a prepared module that reads rows, of the plain one");
    let server = PlainServer::start(&binary()?, &folder.join("reading")).await?;
    let readings = READINGS.map(|(_, reading)| reading);
    let ratios = reading_ratios(&server, &readings).await?;
    for ((name, _), ratio) in READINGS.into_iter().zip(ratios) {
        eprintln!("  {name}: {ratio:.2}");
        figures.reading_ratios.push((name, ratio));
    }
    Ok(())
}

async fn one_node(figures: &mut Figures, loads: &[Load; 3], idle: u32, folder: &Path) -> Result<()> {
    eprintln!("one node");
    let mut config = ClusterConfig::new(1, folder)?;
    // Besides the idle ones there are those that call.
    config.arguments = vec![
        "--connections-max".to_owned(),
        idle.saturating_add(100).to_string(),
    ];
    let mut cluster = Cluster::start_ready(&config, PATIENCE).await?;
    publish(&cluster.node(1).api()).await?;
    let addrs = cluster.client_addrs();
    figures.calls.one_node = rates(&addrs, loads, &Processes::nodes(&cluster, 1)?).await?;
    figures.one_node_p50_ms = latency_p50(cluster.node(1).client_addr(), DATABASE, SAMPLES).await?;
    idle_connections(figures, cluster.node(1), DATABASE, idle).await?;
    cluster.stop().await
}

async fn three_nodes(figures: &mut Figures, loads: &[Load; 3], folder: &Path) -> Result<()> {
    eprintln!("three nodes");
    let mut cluster = Cluster::start_ready(&ClusterConfig::new(3, folder)?, PATIENCE).await?;
    publish(&cluster.node(2).api()).await?;
    // A node is healthy before it has applied a publish that another one served.
    for database in databases() {
        cluster.wait_level(database, PATIENCE).await?;
    }
    // The first address is the first client's.
    let mut addrs = cluster.client_addrs();
    let leader = cluster.wait_leader(PATIENCE).await?;
    let leads = cluster.node(leader).client_addr().to_string();
    addrs.sort_by_key(|addr| *addr != leads);
    figures.calls.three_nodes = rates(&addrs, loads, &Processes::nodes(&cluster, leader)?).await?;
    cluster.wait_level(DATABASES[2], PATIENCE).await?;
    let leader = cluster.wait_leader(PATIENCE).await?;
    let p50 = latency_p50(cluster.node(leader).client_addr(), DATABASE, SAMPLES).await?;
    figures.added_p50_ms = p50 - figures.plain_p50_ms;
    cluster.stop().await
}

fn databases() -> impl Iterator<Item = &'static str> {
    DATABASES.into_iter().chain([DATABASE])
}

async fn publish(api: &Api) -> Result<()> {
    let api = api.with_token(api.new_token().await?);
    for database in databases() {
        api.publish(database, demo_module::wasm()?).await?;
    }
    Ok(())
}
