//! Several load clients at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::history::History;
use crate::load::{self, Load, Progress};

/// Clients that run until they are told to stop.
#[derive(Debug)]
pub struct Clients {
    running: JoinSet<Result<History>>,
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
}

impl Clients {
    /// Starts one client for each of `loads`.
    pub fn start(loads: impl IntoIterator<Item = Load>) -> Self {
        let mut clients = Self {
            running: JoinSet::new(),
            progress: Arc::default(),
            stop: watch::Sender::new(false),
        };
        for load in loads {
            let (progress, stop) = (Arc::clone(&clients.progress), clients.stop.subscribe());
            clients.running.spawn(load::run(load, progress, stop));
        }
        clients
    }

    /// Calls answered with success so far.
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::Relaxed)
    }

    /// Successful calls a second, over `time` from now.
    #[expect(clippy::cast_precision_loss, reason = "a count of calls is far below 2^52")]
    pub async fn rate(&self, time: Duration) -> f64 {
        let (before, started) = (self.acknowledged(), Instant::now());
        sleep(time).await;
        (self.acknowledged() - before) as f64 / started.elapsed().as_secs_f64()
    }

    /// Makes no new calls, waits for the answers due, and returns what each client saw, in no order.
    pub async fn stop(mut self) -> Result<Vec<History>> {
        self.stop.send_replace(true);
        let mut histories = Vec::new();
        while let Some(ended) = self.running.join_next().await {
            histories.push(ended??);
        }
        Ok(histories)
    }
}
