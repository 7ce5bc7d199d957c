//! Calls at a fixed rate before many subscribers: how many a second are kept up with, and how late their updates come.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rtdb_testkit::{Api, demo_module};
use serde::Serialize;

use super::{Effort, line, notes};
use crate::cpu::{Cost, write_costs};
use crate::crowd::Crowd;
use crate::sides::{Rounds, SIDES, Sides, published};
use crate::writer::Writer;

const SUBSCRIBERS: usize = 500;

/// A rate is kept up with if the 99th part of a hundred is no later than this, and nothing is due for longer at the end.
const LATE_MAX: Duration = Duration::from_millis(250);

/// How long a rate is tried.
const STEP: Duration = Duration::from_secs(2);

/// From one rate to the next, first and when the region is known.
const FACTORS: [f64; 2] = [1.3, 1.15];

/// Rates tried in one search.
const STEPS_MAX: usize = 12;

/// To find where to begin.
const PROBE: Duration = Duration::from_secs(1);
const PROBE_WINDOW: u64 = 16;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Pace {
    calls_per_s_max: [f64; 2],
    /// Half the plain server's.
    calls_per_s: f64,
    late_p50_ms: [f64; 2],
    late_p99_ms: [f64; 2],
    /// Of an update, at that rate.
    costs: [Cost; 2],
    wrong: Vec<String>,
}

pub(super) async fn measure(sides: &Sides, effort: Effort) -> Result<Pace> {
    let mut highest = Rounds::default();
    let mut scenes = Vec::new();
    for addr in sides.addrs() {
        scenes.push(Scene::open(addr, 0).await?);
    }
    for round in 0..effort.rounds {
        for (side, scene) in scenes.iter_mut().enumerate() {
            if highest.goes_on(side) {
                let found = match highest.last(side).filter(|last| *last > 0.0) {
                    None => scene.search().await,
                    Some(last) => scene.highest(last, FACTORS[1]).await,
                };
                highest.add(side, found);
                let found = highest.last(side).unwrap_or_default();
                eprintln!(
                    "  round {}, {}: keeps up with {found:.0} calls/s",
                    round + 1,
                    SIDES[side]
                );
            }
        }
    }
    let calls_per_s_max = highest.medians();
    let calls_per_s = calls_per_s_max[0] / 2.0;
    ensure!(
        calls_per_s > 0.0,
        "the plain server keeps up with nothing: {:?}",
        highest.wrong()
    );
    let (mut p50, mut p99) = (Rounds::default(), Rounds::default());
    let (processes, mut costs) = (sides.processes()?, [Vec::new(), Vec::new()]);
    for _ in 0..effort.rounds {
        for (side, scene) in scenes.iter_mut().enumerate() {
            if highest.goes_on(side) && p50.goes_on(side) {
                let (before, spent) = (scene.crowd.delivered(), processes[side].spent()?);
                let late = scene.lateness(calls_per_s, effort.time).await;
                let updates = scene.crowd.delivered() - before;
                costs[side].push(processes[side].spent()?.per_call(&spent, updates));
                match late {
                    Ok([half, most]) => {
                        p50.add(side, Ok(half));
                        p99.add(side, Ok(most));
                    }
                    Err(error) => p50.add(side, Err(error)),
                }
            }
        }
    }
    let (late_p50_ms, late_p99_ms) = (p50.medians(), p99.medians());
    eprintln!(
        "  at {calls_per_s:.0} calls/s updates are late by {late_p50_ms:.1?} ms, p99 {late_p99_ms:.1?}"
    );
    Ok(Pace {
        calls_per_s_max,
        calls_per_s,
        late_p50_ms,
        late_p99_ms,
        costs: costs.map(|costs| Cost::mean(&costs)),
        wrong: [highest.wrong(), p50.wrong()].concat(),
    })
}

struct Scene {
    addr: String,
    /// Scenes before it, which some subscribers have left.
    before: u32,
    crowd: Crowd,
    writer: Writer,
}

impl Scene {
    /// On a database of its own.
    async fn open(addr: String, before: u32) -> Result<Self> {
        let database = format!("pace-{before}");
        published(&Api::new(&addr), &database, &demo_module::wasm()?).await?;
        Ok(Self {
            crowd: Crowd::open(&addr, &database, SUBSCRIBERS).await?,
            writer: Writer::connect(&addr, &database).await?,
            addr,
            before,
        })
    }

    /// The highest rate, with nothing known of it.
    #[expect(clippy::cast_precision_loss, reason = "a count of updates is far below 2^52")]
    async fn search(&mut self) -> Result<f64> {
        let (before, start) = (self.crowd.delivered(), Instant::now());
        self.writer
            .pipelined(self.crowd.board(), PROBE_WINDOW, PROBE)
            .await?;
        self.crowd.settle().await?;
        let calls = (self.crowd.delivered() - before) as f64 / SUBSCRIBERS as f64;
        let rate = calls / (self.crowd.last() - start).as_secs_f64();
        self.highest(rate, FACTORS[0]).await
    }

    /// The highest rate that is kept up with, in steps from `start`; 0 if it is none.
    async fn highest(&mut self, start: f64, factor: f64) -> Result<f64> {
        let (mut rate, mut kept) = (start, 0.0);
        for _ in 0..STEPS_MAX {
            if self.keeps_up(rate).await? {
                let was_too_high = kept == 0.0 && rate < start;
                kept = rate;
                if was_too_high {
                    break;
                }
                rate *= factor;
            } else if kept > 0.0 {
                break;
            } else {
                rate /= factor;
            }
        }
        Ok(kept)
    }

    /// A rate that costs subscribers is not kept up with either; then others come.
    async fn keeps_up(&mut self, rate: f64) -> Result<bool> {
        match self.step(rate).await {
            Ok(kept) => Ok(kept),
            Err(error) => {
                eprintln!("    at {rate:.0} calls/s: {error:#}");
                *self = Self::open(self.addr.clone(), self.before + 1).await?;
                Ok(false)
            }
        }
    }

    async fn step(&mut self, rate: f64) -> Result<bool> {
        self.crowd.latencies();
        self.writer.at_rate(self.crowd.board(), rate, STEP).await?;
        let all = self.crowd.level(LATE_MAX).await;
        let late = self.crowd.latencies().ms(0.99);
        self.writer.drain().await?;
        self.crowd.settle().await?;
        Ok(all && late <= LATE_MAX.as_secs_f64() * 1e3)
    }

    /// The median and the 99th part of a hundred, in ms.
    async fn lateness(&mut self, rate: f64, time: Duration) -> Result<[f64; 2]> {
        self.crowd.latencies();
        self.writer.at_rate(self.crowd.board(), rate, time).await?;
        self.writer.drain().await?;
        self.crowd.settle().await?;
        let late = self.crowd.latencies();
        Ok([late.ms(0.5), late.ms(0.99)])
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("calls/s kept up with, {SUBSCRIBERS} subscr.");
        line(f, &name, self.calls_per_s_max, "4.00")?;
        let name = format!("  updates late at {:.0} calls/s, ms", self.calls_per_s);
        line(f, &name, self.late_p50_ms, "at most 1.00")?;
        line(
            f,
            "    the 99th of a hundred, ms",
            self.late_p99_ms,
            "at most 1.00",
        )?;
        write_costs(f, "an update at that rate", &self.costs)?;
        notes(f, &self.wrong)
    }
}
