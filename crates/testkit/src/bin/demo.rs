//! `cargo xtask demo`: three nodes before three SpacetimeDB servers, and the leader dies under load.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rtdb_testkit::client::Wire;
use rtdb_testkit::clients::Clients;
use rtdb_testkit::cluster::{Cluster, ClusterConfig, Dump, built};
use rtdb_testkit::history::{History, Verdict, check};
use rtdb_testkit::load::{Load, Work};
use rtdb_testkit::{Api, demo_module, interrupted};
use tokio::process::Command;
use tokio::time::sleep;

const DATABASE: &str = "demo";
const NODES: u16 = 3;

/// How long starting, electing or catching up may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three nodes, clients on each, a kill -9 of the leader and its SpacetimeDB under load, and what came of it.
#[derive(Debug, Parser)]
struct Options {
    /// Leave the cluster running and print how to connect.
    #[arg(long)]
    keep: bool,
    /// Seconds of load before the kill, while the leader is dead, and after it is back; each.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Clients on each node; every second one subscribes to its rows.
    #[arg(long, default_value_t = 4)]
    clients: u32,
    /// Calls in flight for each client at most.
    #[arg(long, default_value_t = 32)]
    window: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    // Whatever ends first drops the cluster, which ends its processes.
    let held = tokio::select! {
        held = demo(&options) => held,
        _ = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says what happens, with the time since the start.
struct Story(Instant);

impl Story {
    fn tell(&self, what: impl std::fmt::Display) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

async fn demo(options: &Options) -> Result<bool> {
    let story = Story(Instant::now());
    let folder = tempfile::Builder::new().prefix("rafttimedb-demo-").tempdir()?;
    let config = ClusterConfig {
        usual_ports: true,
        ..ClusterConfig::new(NODES, folder.path())?
    };
    story.tell(format_args!(
        "starting three nodes, each with its own SpacetimeDB, in {}",
        folder.path().display()
    ));
    let mut cluster = Cluster::start(&config).await?;
    let shown = run(&mut cluster, options, &story).await;
    if shown.is_err() || options.keep {
        // The logs say why; the data is what is kept.
        let kept = folder.keep();
        if shown.is_err() {
            eprintln!("The nodes' logs and data are in {}", kept.display());
        }
    }
    let (held, owner) = shown?;
    if options.keep {
        print_kept(&cluster, &owner);
        cluster.leave_running();
    } else {
        cluster.stop().await?;
    }
    Ok(held)
}

/// Runs the story; returns whether all held, and the token of the database's owner.
async fn run(cluster: &mut Cluster, options: &Options, story: &Story) -> Result<(bool, String)> {
    init(cluster).await?;
    cluster.wait_ready(PATIENCE).await?;
    story.tell("the cluster is ready");

    let publisher = cluster.node(2).api();
    let owner = publisher.new_token().await?;
    publisher
        .with_token(&owner)
        .publish(DATABASE, demo_module::wasm()?)
        .await?;
    story.tell(format_args!(
        "published the module `{}` as `demo` through node 2",
        demo_module::name()?
    ));

    let clients = Clients::start(loads(cluster, options, Wire::usual()?));
    let phase = Duration::from_secs(options.seconds);
    let rate = clients.rate(phase).await;
    story.tell(format_args!(
        "{} clients on three nodes: {rate:.0} calls/s",
        options.clients * u32::from(NODES)
    ));

    let leader = cluster.wait_leader(PATIENCE).await?;
    let victim = cluster.node_mut(leader);
    victim.kill9().await?;
    story.tell(format_args!(
        "kill -9 of node {leader}, the leader, and of its SpacetimeDB"
    ));
    let rate = clients.rate(phase).await;
    story.tell(format_args!("two nodes went on: {rate:.0} calls/s"));

    cluster.restart(leader)?;
    story.tell(format_args!("node {leader} is started again"));
    let rate = clients.rate(phase).await;
    story.tell(format_args!(
        "three nodes: {rate:.0} calls/s; stopping the clients"
    ));
    let histories = clients.stop().await?;
    cluster.wait_ready(PATIENCE).await?;
    let replicas = cluster.wait_level(DATABASE, PATIENCE).await?;
    story.tell(format_args!(
        "node {leader} has caught up; comparing the three SpacetimeDB servers"
    ));

    let one_digest = replicas
        .iter()
        .all(|replica| replica.digest == replicas[0].digest);
    let dumps = cluster.dumps(DATABASE, &owner).await?;
    ensure!(
        dumps.len() == usize::from(NODES),
        "only {} of {NODES} replicas could be read",
        dumps.len()
    );
    let same_rows = dumps.iter().all(|dump| dump == &dumps[0]);
    let server: Api = cluster.node(leader).server_api().await?.with_token(&owner);
    let verdict = check(
        &histories,
        &demo_module::rows(&server, &replicas[0].identity).await?,
    );
    report(
        &histories,
        &verdict,
        replicas[0].digest.as_deref().filter(|_| one_digest),
        same_rows.then_some(&dumps[0]),
    );
    Ok((verdict.holds() && one_digest && same_rows, owner))
}

/// As an operator does it: `rtdb init --nodes 1=… 2=… 3=…`, once node 1 listens.
async fn init(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut init = Command::new(built("rtdb")?);
        init.args(["init", "--nodes"]);
        init.args(
            cluster
                .nodes()
                .iter()
                .map(|node| format!("{}={}", node.id(), node.raft_addr())),
        );
        let output = init.output().await.context("rtdb")?;
        if output.status.success() {
            return Ok(());
        }
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            Instant::now() < deadline,
            "rtdb init: {error}; logs: {}",
            cluster.node(1).log().display()
        );
        sleep(Duration::from_millis(200)).await;
    }
}

fn loads(cluster: &Cluster, options: &Options, wire: Wire) -> Vec<Load> {
    let addrs = cluster.client_addrs();
    let clients = 0..options.clients * u32::from(NODES);
    let loads = clients.map(|client| Load {
        client,
        addrs: addrs.clone(),
        first: client as usize % addrs.len(),
        database: DATABASE.to_string(),
        wire,
        window: options.window,
        invalid_every: 100,
        subscribed: client / u32::from(NODES) % 2 == 1,
        work: Work::Add,
    });
    loads.collect()
}

fn report(histories: &[History], verdict: &Verdict, digest: Option<&str>, rows: Option<&Dump>) {
    let gap = |moved: bool| {
        let gaps = histories
            .iter()
            .filter(|history| (history.reconnects > 0) == moved);
        gaps.map(|history| history.longest_gap)
            .max()
            .unwrap_or_default()
            .as_secs_f64()
    };
    let moved = histories.iter().filter(|history| history.reconnects > 0).count();
    let identical = match (digest, rows) {
        (Some(digest), Some(dump)) => {
            let rows: usize = dump.iter().map(|(_, rows)| rows.len()).sum();
            format!("yes (digest {digest}, {rows} rows in {} tables)", dump.len())
        }
        (digest, rows) => format!(
            "NO (digests equal: {}, rows equal: {})",
            digest.is_some(),
            rows.is_some()
        ),
    };
    println!();
    println!("  calls acknowledged      {}", verdict.acknowledged);
    println!("  calls failed            {}", verdict.failed);
    println!("  calls lost              {}", verdict.lost);
    println!("  calls applied twice     {}", verdict.applied_twice);
    println!("  calls out of order      {}", verdict.out_of_order);
    println!("  rows of no known call   {}", verdict.unaccountable);
    println!("  wrong answers           {}", verdict.wrong);
    println!(
        "  refused by the module   {} (as it should: an empty name)",
        verdict.refused
    );
    println!(
        "  never answered          {} in flight on the killed node, {} of them applied",
        verdict.unknown, verdict.unknown_applied
    );
    println!(
        "  longest gap             {:.2} s for clients on surviving nodes",
        gap(false)
    );
    println!(
        "                          {:.2} s for the {moved} that had to move",
        gap(true)
    );
    println!("  replicas identical      {identical}");
    let held = verdict.holds() && digest.is_some() && rows.is_some();
    println!("\n{}", if held { "All held." } else { "NOT all held." });
    for wrong in histories.iter().flat_map(|history| &history.wrong).take(10) {
        println!("  wrong: {wrong}");
    }
}

fn print_kept(cluster: &Cluster, owner: &str) {
    println!("\nThe cluster runs on. Connect an SDK or the CLI to any node, database `{DATABASE}`:");
    for node in cluster.nodes() {
        println!(
            "  node {}: http://{}  (admin: http://{})",
            node.id(),
            node.client_addr(),
            node.raft_addr()
        );
    }
    let first = cluster.node(1);
    println!(
        "\n  spacetime sql --anonymous -s http://{} {DATABASE} 'SELECT * FROM counter LIMIT 5'",
        first.client_addr()
    );
    println!("  rtdb status --addr http://{}", first.raft_addr());
    println!("\nThe owner's token:\n  {owner}");
    let pids: Vec<String> = cluster
        .nodes()
        .iter()
        .filter_map(|node| Some(node.pid()?.to_string()))
        .collect();
    println!("\nTo end it: kill {}", pids.join(" "));
}
