//! The two that are compared.

use std::path::Path;

use anyhow::{Context, Result};
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::server::{PlainServer, binary};
use rtdb_testkit::{Api, demo_module};

use crate::PATIENCE;
use crate::cpu::Processes;
use crate::latencies::median;

/// The plain server and the node, by their place in arrays of two.
pub(crate) const SIDES: [&str; 2] = ["plain", "node"];

/// A plain server, and a cluster of one node before a server of the same kind; only one of them is busy at a time.
#[derive(Debug)]
pub(crate) struct Sides {
    plain: PlainServer,
    cluster: Cluster,
}

impl Sides {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        Ok(Self {
            plain: PlainServer::start(&binary()?, &folder.join("plain")).await?,
            cluster: Cluster::start_ready(&ClusterConfig::new(1, folder.join("node"))?, PATIENCE).await?,
        })
    }

    pub(crate) fn addrs(&self) -> [String; 2] {
        [
            self.plain.addr().to_string(),
            self.cluster.node(1).client_addr().to_string(),
        ]
    }

    /// The demo module on both, and their APIs as its owner.
    pub(crate) async fn publish(&self, database: &str) -> Result<[Api; 2]> {
        self.publish_module(database, demo_module::wasm()?).await
    }

    /// The same with another module.
    pub(crate) async fn publish_module(&self, database: &str, wasm: Vec<u8>) -> Result<[Api; 2]> {
        let [plain, node] = [self.plain.api(), self.cluster.node(1).api()];
        Ok([
            published(&plain, database, &wasm).await.context("plain")?,
            published(&node, database, &wasm).await.context("node")?,
        ])
    }

    pub(crate) fn processes(&self) -> Result<[Processes; 2]> {
        Ok([
            Processes::plain(&self.plain)?,
            Processes::nodes(&self.cluster, 1)?,
        ])
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.cluster.stop().await
    }
}

/// A module published by a new owner, and the API as that owner.
pub(crate) async fn published(api: &Api, database: &str, wasm: &[u8]) -> Result<Api> {
    let owner = api.with_token(api.new_token().await?);
    owner.publish(database, wasm.to_vec()).await?;
    Ok(owner)
}

/// What each side made in each round, until something went wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    values: [Vec<f64>; 2],
    wrong: [Option<String>; 2],
}

impl Rounds {
    /// Whether a side is still to be measured.
    pub(crate) fn goes_on(&self, side: usize) -> bool {
        self.wrong[side].is_none()
    }

    /// One more value of a side, or why there are no more.
    pub(crate) fn add(&mut self, side: usize, value: Result<f64>) {
        match value {
            Ok(value) => self.values[side].push(value),
            Err(error) => {
                eprintln!("  {}: {error:#}", SIDES[side]);
                self.wrong[side] = Some(format!("{error:#}"));
            }
        }
    }

    pub(crate) fn last(&self, side: usize) -> Option<f64> {
        self.values[side].last().copied()
    }

    /// The median of each side; 0 without a value.
    pub(crate) fn medians(&self) -> [f64; 2] {
        [0, 1].map(|side| median(self.values[side].clone()))
    }

    /// What went wrong, a line each.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let wrong = SIDES.iter().zip(&self.wrong);
        wrong
            .filter_map(|(side, wrong)| Some(format!("{side}: {}", wrong.as_ref()?)))
            .collect()
    }
}
