//! Leaders that are sick and not dead: they give leadership to a healthy node, once.

use crate::fault::{Fault, LEADER};
use crate::run::{Plan, run};
use crate::truth::Reign;
use std::collections::BTreeSet;
use std::time::Duration;

/// When the leader falls ill, and for how long it is.
const AT: Duration = Duration::from_secs(10);
const ILL: Duration = Duration::from_secs(20);

/// How long it goes on after that: it must not go back to where it was.
const AFTER: Duration = Duration::from_secs(10);

/// Within how long another leads. Silence is noticed at once; that a disk is slow, or that a database stands still, may pass, and
/// a slow disk has swift moments.
const SILENT_MAX: Duration = Duration::from_secs(3);
const SICK_MAX: Duration = ILL;

/// What leaders suffer from.
pub fn ailments() -> [(Fault, Duration); 4] {
    let (node, time) = (LEADER, ILL);
    let sync_max = Duration::from_secs(2);
    [
        (Fault::Deafen { node, time }, SILENT_MAX),
        (Fault::Pause { node, time }, SILENT_MAX),
        (Fault::DatabaseHangs { node, time }, SICK_MAX),
        (Fault::DiskSlow { node, sync_max, time }, SICK_MAX),
    ]
}

/// How long it takes in a seed's world until another node leads. The seeds differ in their number of nodes, delays and disks.
///
/// # Errors
/// If none does in time, if leadership goes to and fro, or if a rule is broken.
pub fn gives_way_once(seed: u64, fault: &Fault, within: Duration) -> Result<Duration, String> {
    let report = run(&Plan {
        seed,
        time: AT + ILL + AFTER,
        schedule: Some(vec![(AT, fault.clone())]),
        moves: false,
        is_calm: true,
        only: None,
        planted: BTreeSet::new(),
        trace: false,
    });
    if let Some(broken) = report.broken {
        return Err(broken);
    }
    let ill_at = report.begun + AT;
    let end = ill_at + ILL + AFTER;
    let reigns = report.reigns.iter().filter(|reign| reign.since < end);
    let (before, after): (Vec<&Reign>, Vec<_>) = reigns.partition(|reign| reign.since < ill_at);
    let [new] = after[..] else {
        return Err(format!("before it {before:?}, then {after:?}"));
    };
    let took = new.since - ill_at;
    match before.last().is_some_and(|old| old.node != new.node) && took <= within {
        true => Ok(took),
        false => Err(format!("node {} after {took:?}, before it {before:?}", new.node)),
    }
}
