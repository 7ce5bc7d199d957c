//! Updates of one table, delivered to all its subscribers, while one pipelined client calls.

use std::fmt;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::{Effort, line, notes};
use crate::cpu::{Cost, write_costs};
use crate::crowd::Crowd;
use crate::sides::{Rounds, SIDES, Sides};
use crate::writer::Writer;

/// Calls under way.
const WINDOW: u64 = 16;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Deliveries {
    subscribers: usize,
    updates_per_s: [f64; 2],
    /// Of an update.
    costs: [Cost; 2],
    wrong: Vec<String>,
}

pub(super) async fn measure(sides: &Sides, subscribers: usize, effort: Effort) -> Result<Deliveries> {
    let database = format!("deliveries-{subscribers}");
    sides.publish(&database).await?;
    let mut rounds = Rounds::default();
    let (processes, mut costs) = (sides.processes()?, [Vec::new(), Vec::new()]);
    let mut scenes = [None, None];
    for (side, addr) in sides.addrs().iter().enumerate() {
        match Scene::open(addr, &database, subscribers).await {
            Ok(scene) => scenes[side] = Some(scene),
            Err(error) => rounds.add(side, Err(error)),
        }
    }
    for _ in 0..effort.rounds {
        for (side, scene) in scenes.iter_mut().enumerate() {
            if let Some(scene) = scene.as_mut().filter(|_| rounds.goes_on(side)) {
                let (before, spent) = (scene.crowd.delivered(), processes[side].spent()?);
                rounds.add(side, scene.updates_per_s(effort).await);
                let updates = scene.crowd.delivered() - before;
                costs[side].push(processes[side].spent()?.per_call(&spent, updates));
            }
        }
    }
    let updates_per_s = rounds.medians();
    for (side, updates) in SIDES.iter().zip(updates_per_s) {
        eprintln!("  {subscribers} subscribers, {side}: {updates:.0} updates/s");
    }
    Ok(Deliveries {
        subscribers,
        updates_per_s,
        costs: costs.map(|costs| Cost::mean(&costs)),
        wrong: rounds.wrong(),
    })
}

struct Scene {
    crowd: Crowd,
    writer: Writer,
}

impl Scene {
    async fn open(addr: &str, database: &str, subscribers: usize) -> Result<Self> {
        Ok(Self {
            crowd: Crowd::open(addr, database, subscribers).await?,
            writer: Writer::connect(addr, database).await?,
        })
    }

    /// Until the last of them has arrived: what is left in a queue at the end is no delivery.
    #[expect(clippy::cast_precision_loss, reason = "a count of updates is far below 2^52")]
    async fn updates_per_s(&mut self, effort: Effort) -> Result<f64> {
        let (before, start) = (self.crowd.delivered(), Instant::now());
        let written = self
            .writer
            .pipelined(self.crowd.board(), WINDOW, effort.time)
            .await;
        self.crowd.settle().await?;
        written?;
        let updates = self.crowd.delivered() - before;
        Ok(updates as f64 / (self.crowd.last() - start).as_secs_f64())
    }
}

impl fmt::Display for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("updates/s, {} subscribers", self.subscribers);
        let goal = if self.subscribers <= 50 { "1.50" } else { "3.00" };
        line(f, &name, self.updates_per_s, goal)?;
        write_costs(f, "an update", &self.costs)?;
        notes(f, &self.wrong)
    }
}
