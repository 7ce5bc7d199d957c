//! What one node makes of many clients, beside the plain server: each figure is a family of its own.

mod deliveries;
mod distance;
mod held;
mod mixed;
mod pace;
mod reads;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::measure::raise_files;
use crate::sides::Sides;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Interleaved rounds, whose median counts.
    pub(crate) rounds: usize,
    /// How long a side is measured in each.
    pub(crate) time: Duration,
}

impl Effort {
    /// Some four minutes.
    pub(crate) const FULL: Self = Self {
        rounds: 3,
        time: Duration::from_secs(3),
    };
    /// Some two.
    pub(crate) const SHORT: Self = Self {
        rounds: 1,
        ..Self::FULL
    };
}

/// Open files of this program besides those of the subscribers of both sides.
const OTHER_FILES: u64 = 500;

/// How long one family may take.
const FAMILY_MAX: Duration = Duration::from_secs(300);

/// Between two of them.
const REST: Duration = Duration::from_secs(2);

/// All families.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct FanOut {
    deliveries: Vec<deliveries::Deliveries>,
    pace: pace::Pace,
    mixed: mixed::Mixed,
    held: held::Held,
    reads: reads::Reads,
    distance: distance::Distance,
}

impl FanOut {
    pub(crate) async fn measure(effort: Effort, folder: &Path) -> Result<Self> {
        eprintln!("many clients, on the plain server and one node");
        let sides = Sides::start(folder).await?;
        let mut all = Self::default();
        // Of both sides; and the node may need two for each.
        let files = usize::try_from(raise_files()?.saturating_sub(OTHER_FILES) / 2)?;
        for subscribers in [50, 500, 5_000] {
            let subscribers = subscribers.min(files);
            let deliveries = deliveries::measure(&sides, subscribers, effort);
            all.deliveries.push(family("deliveries", deliveries).await?);
        }
        all.pace = family("pace", pace::measure(&sides, effort)).await?;
        all.mixed = family("mixed load", mixed::measure(&sides, effort)).await?;
        all.reads = family("reads", reads::measure(&sides, effort)).await?;
        sides.stop().await?;
        all.held = family("memory", held::measure(effort, &folder.join("held"))).await?;
        let apart = folder.join("distance");
        all.distance = family("distance", distance::measure(effort, &apart)).await?;
        Ok(all)
    }
}

impl fmt::Display for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<34}{:>10} {:>10}  ratio",
            "many clients, medians", "plain", "one node"
        )?;
        for deliveries in &self.deliveries {
            write!(f, "{deliveries}")?;
        }
        write!(f, "{}{}{}", self.pace, self.mixed, self.reads)?;
        write!(f, "{}{}", self.held, self.distance)
    }
}

/// A family's figures, within a bounded time, and the rest that its clients leave after them.
async fn family<T>(name: &str, measure: impl Future<Output = Result<T>>) -> Result<T> {
    let measured = timeout(FAMILY_MAX, measure).await;
    let measured = measured.with_context(|| format!("{name}: not measured within {FAMILY_MAX:?}"))?;
    // Thousands of connections have ended at once, which takes a while.
    sleep(REST).await;
    measured.with_context(|| name.to_string())
}

/// One figure of both sides, the ratio, and what is wanted of it.
fn line(f: &mut fmt::Formatter<'_>, name: &str, values: [f64; 2], goal: &str) -> fmt::Result {
    let [plain, node] = values;
    let digits = usize::from(plain < 100.0) * 2;
    write!(
        f,
        "  {name:<34}{plain:>10.digits$} {node:>10.digits$}  {:>5.2}",
        node / plain
    )?;
    match goal {
        "" => writeln!(f),
        goal => writeln!(f, "  (goal {goal})"),
    }
}

/// What went wrong, below the figure that it spoils.
fn notes(f: &mut fmt::Formatter<'_>, wrong: &[String]) -> fmt::Result {
    wrong.iter().try_for_each(|wrong| writeln!(f, "    ! {wrong}"))
}
