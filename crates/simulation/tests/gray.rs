//! Leaders that are sick and not dead: they give leadership to a healthy node, once.

use rtdb_simulation::fault::{Fault, LEADER};
use rtdb_simulation::run::{Plan, run};
use rtdb_simulation::truth::Reign;
use std::collections::BTreeSet;
use std::time::Duration;

/// When the leader falls ill, and for how long it is.
const AT: Duration = Duration::from_secs(10);
const ILL: Duration = Duration::from_secs(20);

/// How long it goes on after that: it must not go back to where it was.
const AFTER: Duration = Duration::from_secs(10);

/// Seeds: worlds that differ in their number of nodes, delays and disks.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// One change of leaders within a time, and no other.
fn gives_way_once(fault: &Fault, within: Duration) {
    for seed in SEEDS {
        let report = run(&Plan {
            seed,
            time: AT + ILL + AFTER,
            schedule: Some(vec![(AT, fault.clone())]),
            is_calm: true,
            only: None,
            planted: BTreeSet::new(),
            trace: false,
        });
        assert_eq!(report.broken, None, "seed {seed}");
        let ill_at = report.begun + AT;
        let end = ill_at + ILL + AFTER;
        let reigns = report.reigns.iter().filter(|reign| reign.since < end);
        let (before, after): (Vec<&Reign>, Vec<_>) = reigns.partition(|reign| reign.since < ill_at);
        let [new] = after[..] else {
            panic!("seed {seed}: {fault}: before it {before:?}, then {after:?}");
        };
        assert_ne!(before.last().map(|old| old.node), Some(new.node), "seed {seed}");
        let took = new.since - ill_at;
        assert!(took <= within, "seed {seed}: {fault}: {took:?}");
    }
}

#[test]
fn a_leader_that_hears_nobody() {
    let (node, time) = (LEADER, ILL);
    gives_way_once(&Fault::Deafen { node, time }, Duration::from_secs(3));
}

#[test]
fn a_leader_that_stands_still() {
    let (node, time) = (LEADER, ILL);
    gives_way_once(&Fault::Pause { node, time }, Duration::from_secs(3));
}

/// It serves nobody, and its timers stand still, however little there is to apply.
#[test]
fn a_leader_whose_database_hangs() {
    let (node, time) = (LEADER, ILL);
    gives_way_once(&Fault::DatabaseHangs { node, time }, Duration::from_secs(10));
}

#[test]
fn a_leader_whose_disk_is_slow() {
    let (node, time) = (LEADER, ILL);
    let sync_max = Duration::from_secs(2);
    let fault = Fault::DiskSlow { node, sync_max, time };
    gives_way_once(&fault, Duration::from_secs(10));
}
