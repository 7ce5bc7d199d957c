//! What a stranger who tries everything costs others.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;
use rtdb_testkit::client::Client;
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::demo_module::{ADD, add};
use rtdb_testkit::poison_module::{self, DRAIN, EAT, FAIL, FILL, NOTHING, crafted};
use rtdb_testkit::{Api, demo_module};
use serde_json::json;

use crate::measure::{connect_to, median_ms};
use crate::{DATABASE, PATIENCE};

/// Stretches with the stranger, and as many without.
const STRETCHES: usize = 5;
/// How long each is.
const STRETCH: Duration = Duration::from_secs(6);
/// The stranger's database.
const OWN: &str = "own";

/// The median time of a call beside a stranger, as a multiple of that without: the medians of interleaved stretches.
pub(crate) async fn latency_ratio(folder: &Path) -> Result<f64> {
    let mut config = ClusterConfig::new(3, folder)?;
    let arguments = ["--call-time-max-s", "2", "--stdb-memory-max", "700"];
    config.arguments = arguments.map(str::to_owned).to_vec();
    let mut cluster = Cluster::start_ready(&config, PATIENCE).await?;
    let node = cluster.node(1).api();
    node.with_token(node.new_token().await?)
        .publish(DATABASE, demo_module::wasm()?)
        .await?;
    let stranger = cluster.node(2).api();
    let stranger = stranger.with_token(stranger.new_token().await?);
    stranger.publish(OWN, poison_module::wasm()?).await?;
    cluster.wait_level(DATABASE, PATIENCE).await?;
    let addr = cluster.node(1).client_addr().to_owned();
    let (mut without, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..STRETCHES {
        without.push(stretch(&addr).await?);
        let doings = tokio::spawn(annoy(stranger.clone()));
        beside.push(stretch(&addr).await?);
        doings.abort();
        // What it has begun goes on for a while.
        cluster.wait_ready(PATIENCE).await?;
        cluster.wait_level(OWN, PATIENCE).await?;
    }
    cluster.stop().await?;
    let [without, beside] = [without, beside].map(|mut medians: Vec<f64>| {
        medians.sort_by(f64::total_cmp);
        medians[STRETCHES / 2]
    });
    eprintln!("  a call takes {without:.2} ms, and {beside:.2} ms beside a stranger");
    Ok(beside / without)
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
