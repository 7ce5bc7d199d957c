//! How long clients wait when the process of the leader is killed.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use serde::Serialize;
use tokio::time::sleep;

use crate::calls::Load;
use crate::{DATABASE, PATIENCE, measure, publish};

/// Leaders that are killed, one after the other.
const KILLS: u32 = 20;

/// Each client's calls in flight.
const WINDOW: usize = 16;

/// How long clients call before the leader is killed, and afterwards, until they make no more calls and wait for the last
/// answers.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(2);

/// The longest waits of all kills, in ms.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Gaps {
    /// Of clients on nodes that live.
    pub(crate) on_live_nodes: f64,
    /// Of clients that have to find another node.
    pub(crate) moved: f64,
}

impl Gaps {
    /// Kills leaders of three nodes, and starts them again.
    pub(crate) async fn measure(load: &Load, folder: &Path) -> Result<Self> {
        eprintln!("{KILLS} leaders are killed");
        let mut cluster = Cluster::start_ready(&ClusterConfig::new(3, folder)?, PATIENCE).await?;
        publish(&cluster.node(1).api()).await?;
        let load = Load {
            window: WINDOW,
            ..*load
        };
        let mut longest = Self::default();
        for _ in 0..KILLS {
            cluster.wait_level(DATABASE, PATIENCE).await?;
            let gaps = kill(&mut cluster, &load).await?;
            eprintln!("  {gaps}");
            longest = longest.max(gaps);
        }
        cluster.stop().await?;
        Ok(longest)
    }

    fn max(self, other: Self) -> Self {
        Self {
            on_live_nodes: self.on_live_nodes.max(other.on_live_nodes),
            moved: self.moved.max(other.moved),
        }
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { on_live_nodes, moved } = self;
        write!(
            f,
            "{on_live_nodes:.0} ms on live nodes, {moved:.0} ms for who has to move"
        )
    }
}

async fn kill(cluster: &mut Cluster, load: &Load) -> Result<Gaps> {
    let leader = cluster.wait_leader(PATIENCE).await?;
    let clients = measure::clients(&cluster.client_addrs(), DATABASE, load)?;
    clients.rate(BEFORE).await;
    cluster.node_mut(leader).kill9().await?;
    sleep(AFTER).await;
    let histories = clients.stop().await?;
    cluster.restart(leader)?;
    cluster.wait_ready(PATIENCE).await?;
    let mut gaps = Gaps::default();
    for history in histories {
        let wrong = history.wrong.first();
        ensure!(wrong.is_none(), "an answer after the failover: {wrong:?}");
        let gap = history.longest_gap.as_secs_f64() * 1e3;
        let moved = history.home as u64 + 1 == leader;
        ensure!(
            moved || history.reconnects == 0,
            "a client on a live node had to move"
        );
        let longest = if moved {
            &mut gaps.moved
        } else {
            &mut gaps.on_live_nodes
        };
        *longest = longest.max(gap);
    }
    Ok(gaps)
}
