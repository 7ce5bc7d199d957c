//! The figures, as a table and as JSON.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::calls::Calls;
use crate::duties::AllDuties;
use crate::failover::Gaps;
use crate::fan_out::FanOut;
use crate::stranger::Beside;

/// What one run measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) calls: Calls,
    pub(crate) prepared_module_ratio: f64,
    /// Rows read by a prepared module, as a part of those that the plain one reads in the same time.
    pub(crate) reading_ratios: Vec<(&'static str, f64)>,
    pub(crate) fdatasync_p50_ms: f64,
    /// One call at a time, on the plain server.
    pub(crate) plain_p50_ms: f64,
    /// One call at a time, on a cluster of one.
    pub(crate) one_node_p50_ms: f64,
    /// One call at a time at the leader of three, less the plain server's time.
    pub(crate) added_p50_ms: f64,
    pub(crate) failover_gap_ms: Gaps,
    pub(crate) idle_connections: u32,
    pub(crate) idle_connection_kib: f64,
    /// One call at a time beside the idle connections, as a multiple of without them.
    pub(crate) idle_latency_ratio: f64,
    /// One call at a time beside a stranger who tries everything on the same node.
    pub(crate) one_node_beside: Beside,
    /// The same with three nodes, whose servers share the cores.
    pub(crate) three_nodes_beside: Beside,
    pub(crate) duties: AllDuties,
    pub(crate) fan_out: FanOut,
}

impl Figures {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().context("no folder")?;
        fs::create_dir_all(folder)?;
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| path.display().to_string())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.one_node_p50_ms - self.plain_p50_ms;
        write!(f, "{}", self.calls)?;
        writeln!(
            f,
            "  prepared module          {:>8.2} of plain  (goal 0.80)",
            self.prepared_module_ratio
        )?;
        for (reading, ratio) in &self.reading_ratios {
            writeln!(f, "    {reading:<23}{ratio:>8.2} of plain")?;
        }
        writeln!(f, "  fdatasync, median        {:>8.2} ms", self.fdatasync_p50_ms)?;
        writeln!(f, "  one call, plain, median  {:>8.2} ms", self.plain_p50_ms)?;
        writeln!(f, "    added by one node      {one:>8.2} ms")?;
        writeln!(
            f,
            "    added by three         {:>8.2} ms  (goal {:.2})",
            self.added_p50_ms,
            self.fdatasync_p50_ms + 1.0
        )?;
        writeln!(
            f,
            "  gap when leader dies     {:>8.0} ms  (goal 600; {:.0} ms for who has to move)",
            self.failover_gap_ms.on_live_nodes, self.failover_gap_ms.moved
        )?;
        writeln!(
            f,
            "  an idle connection       {:>8.1} KiB of {}  (goal 60)",
            self.idle_connection_kib, self.idle_connections
        )?;
        writeln!(
            f,
            "  latency beside them      {:>8.2} of without  (goal 2)",
            self.idle_latency_ratio
        )?;
        for (nodes, beside) in [
            ("one node", self.one_node_beside),
            ("three", self.three_nodes_beside),
        ] {
            writeln!(
                f,
                "  latency beside a stranger{:>7.2} of without  (goal 2; {nodes}; {:.2} beside spinning threads)",
                beside.stranger, beside.spinners
            )?;
        }
        write!(f, "\n{}\n{}", self.duties, self.fan_out)
    }
}
