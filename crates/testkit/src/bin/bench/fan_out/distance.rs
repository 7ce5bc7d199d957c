//! Calls with a distance between the nodes.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::demo_module;
use serde::Serialize;

use super::Effort;
use crate::PATIENCE;
use crate::latencies::median;
use crate::measure::{fdatasync_p50, latency_p50};
use crate::sides::published;

const DATABASE: &str = "distance";
const NODES: u64 = 3;

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(1);

/// Calls, one at a time, whose median is taken.
const CALLS: usize = 500;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Distance {
    near_p50_ms: f64,
    far_p50_ms: f64,
    fdatasync_p50_ms: f64,
}

pub(super) async fn measure(effort: Effort, folder: &Path) -> Result<Distance> {
    let mut config = ClusterConfig::new(NODES as u16, folder)?;
    config.proxied = true;
    let mut cluster = Cluster::start_ready(&config, PATIENCE).await?;
    published(&cluster.node(1).api(), DATABASE, &demo_module::wasm()?).await?;
    cluster.wait_level(DATABASE, PATIENCE).await?;
    let leader = cluster.wait_leader(PATIENCE).await?;
    let addr = cluster.node(leader).client_addr();
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        near.push(latency_p50(addr, DATABASE, CALLS).await?);
        for a in 1..=NODES {
            for b in a + 1..=NODES {
                cluster.network()?.delay(a, b, ROUND_TRIP / 2);
            }
        }
        far.push(latency_p50(addr, DATABASE, CALLS).await?);
        cluster.network()?.heal();
    }
    let distance = Distance {
        near_p50_ms: median(near),
        far_p50_ms: median(far),
        fdatasync_p50_ms: fdatasync_p50(&folder.join("fdatasync"))?,
    };
    eprintln!(
        "  a call takes {:.2} ms, and {:.2} ms over links of {ROUND_TRIP:?}",
        distance.near_p50_ms, distance.far_p50_ms
    );
    cluster.stop().await?;
    Ok(distance)
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  added to a call of {:.2} ms by 1 ms of round trip between nodes {:.2} ms  (goal {:.2})",
            self.near_p50_ms,
            self.far_p50_ms - self.near_p50_ms,
            ROUND_TRIP.as_secs_f64() * 1e3 + self.fdatasync_p50_ms
        )
    }
}
