//! `rtdb wait`: for scripts.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::Value;

use crate::admin::{Admin, AdminError};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// The node knows a leader.
    Leader,
    /// The node serves clients well: as `/cluster/ready` has it.
    Ready,
    /// The node has applied all that it knows to be committed when this begins.
    Applied,
}

/// Waits; the exit status says whether it has come so far in time.
pub(crate) fn run(admin: &Admin, goal: Goal, timeout: Duration) -> Result<ExitCode, AdminError> {
    let (begin, mut wanted) = (Instant::now(), None);
    loop {
        let missing = match look(admin, goal, &mut wanted) {
            Ok(None) => return Ok(ExitCode::SUCCESS),
            Ok(Some(missing)) => missing,
            Err(error) => error.to_string(),
        };
        if begin.elapsed() >= timeout {
            eprintln!("rtdb: not within {} s: {missing}", timeout.as_secs());
            return Ok(ExitCode::FAILURE);
        }
        sleep(LOOK.min(timeout));
    }
}

/// What is missing. How far the node is to come is `wanted` from the first look on.
fn look(admin: &Admin, goal: Goal, wanted: &mut Option<u64>) -> Result<Option<String>, AdminError> {
    let path = match goal {
        Goal::Leader => "/cluster/leader",
        Goal::Ready => "/cluster/ready",
        Goal::Applied => "/cluster/status",
    };
    let answer = admin.get(path)?;
    if !answer.status.is_success() {
        return Ok(Some(admin.refused(&answer).to_string()));
    }
    if goal != Goal::Applied {
        return Ok(None);
    }
    let status: Value = admin.json(answer)?;
    let shards = status["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|group| group["group"] != "meta");
    let (mut committed, mut applied) = (0, u64::MAX);
    for shard in shards {
        let index = |name: &str| {
            shard[name]
                .as_u64()
                .ok_or_else(|| admin.not_a_node(format!("no {name}")))
        };
        committed = committed.max(index("committed_index")?);
        applied = applied.min(index("applied_index")?);
    }
    let wanted = *wanted.get_or_insert(committed);
    Ok((applied < wanted).then(|| format!("it has applied {applied} of {wanted} entries")))
}
