//! What a stranger who tries everything costs others.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;
use rtdb_testkit::client::Client;
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::demo_module::{ADD, add};
use rtdb_testkit::poison_module::{self, DRAIN, EAT, FAIL, FILL, NOTHING, crafted};
use rtdb_testkit::{Api, demo_module};
use serde::Serialize;
use serde_json::json;

use crate::measure::{connect_to, median_ms};
use crate::{DATABASE, PATIENCE};

/// Stretches with the stranger, and as many without.
const STRETCHES: usize = 5;
/// How long each is.
const STRETCH: Duration = Duration::from_secs(6);
/// The stranger's database.
const OWN: &str = "own";

/// The median time of a call, as a multiple of that with nothing beside it: the medians of interleaved stretches.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Beside {
    /// Beside a stranger, who calls the same node, or another one.
    pub(crate) stranger: f64,
    /// Beside as many threads that do nothing but spin as there are servers: what sharing the processors costs by itself.
    pub(crate) spinners: f64,
}

/// What is beside the calls of a stretch.
#[derive(Clone, Copy)]
enum Neighbour {
    Nobody,
    Stranger,
    Spinners,
}

/// What stands beside the calls to a cluster of so many nodes costs them.
pub(crate) async fn latency_ratios(folder: &Path, nodes: u16) -> Result<Beside> {
    let mut config = ClusterConfig::new(nodes, folder)?;
    let arguments = ["--call-time-max-s", "2", "--stdb-memory-max", "700"];
    config.arguments = arguments.map(str::to_owned).to_vec();
    let mut cluster = Cluster::start_ready(&config, PATIENCE).await?;
    let node = cluster.node(1).api();
    node.with_token(node.new_token().await?)
        .publish(DATABASE, demo_module::wasm()?)
        .await?;
    let stranger = cluster.node(nodes.min(2).into()).api();
    let stranger = stranger.with_token(stranger.new_token().await?);
    stranger.publish(OWN, poison_module::wasm()?).await?;
    cluster.wait_level(DATABASE, PATIENCE).await?;
    let addr = cluster.node(1).client_addr().to_owned();
    let neighbours = [Neighbour::Nobody, Neighbour::Spinners, Neighbour::Stranger];
    let mut medians = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..STRETCHES {
        for (neighbour, medians) in neighbours.iter().zip(&mut medians) {
            let ends = Arc::new(AtomicBool::new(false));
            let doings = match neighbour {
                Neighbour::Nobody => None,
                Neighbour::Stranger => Some(tokio::spawn(annoy(stranger.clone()))),
                Neighbour::Spinners => {
                    (0..nodes).for_each(|_| spin(ends.clone()));
                    None
                }
            };
            let median = stretch(&addr).await;
            ends.store(true, Ordering::Relaxed);
            if let Some(doings) = doings {
                doings.abort();
            }
            medians.push(median?);
            // What was begun goes on for a while.
            cluster.wait_ready(PATIENCE).await?;
            cluster.wait_level(OWN, PATIENCE).await?;
        }
    }
    cluster.stop().await?;
    let [alone, spinners, stranger] = medians.map(|mut medians: Vec<f64>| {
        medians.sort_by(f64::total_cmp);
        medians[STRETCHES / 2]
    });
    eprintln!(
        "  {nodes} nodes: a call takes {alone:.2} ms, {spinners:.2} ms beside {nodes} spinning threads, {stranger:.2} ms \
         beside a stranger"
    );
    Ok(Beside {
        stranger: stranger / alone,
        spinners: spinners / alone,
    })
}

fn spin(ends: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
}

/// The median time of one call at a time, in ms.
async fn stretch(addr: &str) -> Result<f64> {
    let end = Instant::now() + STRETCH;
    let mut times = Vec::new();
    let mut client = Client::connect(&connect_to(addr, DATABASE)?).await?;
    while Instant::now() < end {
        let sent = Instant::now();
        if client.call_and_wait(ADD, &add("latency", 1)).await.is_err() {
            client = Client::connect(&connect_to(addr, DATABASE)?).await?;
        }
        times.push(sent.elapsed());
    }
    client.close().await;
    Ok(median_ms(times))
}

/// Tries everything, again and again.
async fn annoy(api: Api) -> Result<()> {
    let modules = crafted()?;
    for (_, module) in modules.iter().cycle() {
        // How it is refused does not matter here.
        let _ = api
            .send(Method::PUT, "/v1/database/crafted", module.clone())
            .await;
        for (reducer, args) in [
            (NOTHING, json!([])),
            (FAIL, json!([])),
            (DRAIN, json!([])),
            (FILL, json!([u32::MAX])),
            (EAT, json!([])),
            ("no_such_reducer", json!([1])),
        ] {
            let path = format!("/v1/database/{OWN}/call/{reducer}");
            let _ = api.post_json(&path, &args).await;
        }
    }
    Ok(())
}
