//! What a node holds for subscribers: the memory of one, and how soon all go on after their SpacetimeDB was killed.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rtdb_testkit::client::{Args, Client};
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::demo_module::{self, ADD, add};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::Effort;
use crate::PATIENCE;
use crate::crowd::Crowd;
use crate::latencies::median;
use crate::measure::connect_to;
use crate::sides::published;

const DATABASE: &str = "held";
const SUBSCRIBERS: usize = 500;
const ROWS: u32 = 10_000;

/// Before memory is looked at: what was only needed for the first rows is given back.
const QUIET: Duration = Duration::from_secs(2);

/// How often subscribers are looked at.
const POLL: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Held {
    subscriber_kib: f64,
    restored_ms: f64,
    wrong: Option<String>,
}

pub(super) async fn measure(effort: Effort, folder: &Path) -> Result<Held> {
    let mut cluster = Cluster::start_ready(&ClusterConfig::new(1, folder)?, PATIENCE).await?;
    published(&cluster.node(1).api(), DATABASE, &demo_module::wasm()?).await?;
    let addr = cluster.node(1).client_addr().to_string();
    let mut writer = Client::connect(&connect_to(&addr, DATABASE)?).await?;
    let args = Args::new().str("held").raw(&ROWS.to_le_bytes());
    let filled = writer.call_and_wait("add_many", &args).await?;
    ensure!(filled.result.is_ok(), "no rows: {filled:?}");

    // The first one brings what all share.
    let first = Crowd::open(&addr, DATABASE, 1).await?;
    sleep(QUIET).await;
    let before = cluster.node(1).resident_kib()?;
    let crowd = Crowd::open(&addr, DATABASE, SUBSCRIBERS).await?;
    sleep(QUIET).await;
    let grown = cluster.node(1).resident_kib()?.saturating_sub(before);
    let mut held = Held {
        subscriber_kib: f64::from(u32::try_from(grown)?) / f64::from(u32::try_from(SUBSCRIBERS)?),
        ..Held::default()
    };
    eprintln!("  a subscriber of {ROWS} rows: {:.1} KiB", held.subscriber_kib);

    let mut times = Vec::new();
    for _ in 0..effort.rounds {
        match restored(&mut cluster, &mut writer, &crowd).await {
            Ok(time) => times.push(time.as_secs_f64() * 1e3),
            Err(error) => {
                held.wrong = Some(format!("{error:#}"));
                break;
            }
        }
    }
    eprintln!(
        "  restored within {times:.0?} ms {}",
        held.wrong.as_deref().unwrap_or_default()
    );
    held.restored_ms = median(times);
    drop((first, crowd));
    cluster.stop().await?;
    Ok(held)
}

/// From the kill until every subscriber has seen the first update that was made after it.
async fn restored(cluster: &mut Cluster, writer: &mut Client, crowd: &Crowd) -> Result<Duration> {
    let (before, start) = (crowd.seen(), Instant::now());
    cluster.node_mut(1).kill9_server().await?;
    let called = timeout(PATIENCE, writer.call_and_wait(ADD, &add("held", 1))).await;
    let called = called.context("no answer after the kill")??;
    ensure!(called.result.is_ok(), "the call after the kill: {called:?}");
    loop {
        crowd.gone()?;
        let behind = crowd
            .seen()
            .iter()
            .zip(&before)
            .filter(|(now, before)| now <= before)
            .count();
        match behind {
            0 => return Ok(start.elapsed()),
            _ if start.elapsed() > PATIENCE => {
                bail!("{behind} subscribers wait for the update after the kill")
            }
            _ => sleep(POLL).await,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  a subscriber of {ROWS} rows, beyond the first {:>9.1} KiB  (goal 40)",
            self.subscriber_kib
        )?;
        writeln!(
            f,
            "  {SUBSCRIBERS} subscribers restored after a kill {:>11.0} ms",
            self.restored_ms
        )?;
        self.wrong
            .iter()
            .try_for_each(|wrong| writeln!(f, "    ! {wrong}"))
    }
}
