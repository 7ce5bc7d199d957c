//! Whole runs.

use rtdb_simulation::planted::{FAULTS, MAY_LIVE};
use rtdb_simulation::run::{Plan, Report, run};
use std::collections::BTreeSet;
use std::time::Duration;

fn plan(seed: u64, seconds: u64) -> Plan {
    Plan {
        seed,
        time: Duration::from_secs(seconds),
        only: None,
        planted: BTreeSet::new(),
        trace: true,
    }
}

fn planted(fault: &str, seed: u64) -> Report {
    let known = FAULTS.iter().chain(&MAY_LIVE);
    assert!(known.map(|(name, _)| *name).any(|name| name == fault), "{fault}");
    run(&Plan {
        planted: [fault.to_owned()].into(),
        ..plan(seed, 10)
    })
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let mut hashes = BTreeSet::new();
    for seed in 1..=4 {
        let [one, other] = [run(&plan(seed, 4)), run(&plan(seed, 4))];
        assert_eq!(one.broken, None, "seed {seed}");
        assert_eq!(one.summary, other.summary, "seed {seed}");
        assert_eq!(one.trace, other.trace, "seed {seed}");
        assert!(one.counts.acknowledged > 0, "seed {seed}");
        hashes.insert(one.summary.hash);
    }
    assert_eq!(hashes.len(), 4);
}

#[test]
fn what_takes_commands_twice_is_found() {
    let found = (1..20).find_map(|seed| planted("duplicates count", seed).broken);
    let broken = found.expect("a rule is broken");
    assert!(broken.contains("applied twice"), "{broken}");
}

#[test]
fn what_tells_callers_of_others_calls_is_found() {
    let broken = planted("outcomes go to the neighbour", 1).broken;
    let broken = broken.expect("a rule is broken");
    assert!(broken.contains("is acknowledged at"), "{broken}");
}
