//! Whole runs.

use rtdb_simulation::fault::Fault;
use rtdb_simulation::planted::{FAULTS, MAY_LIVE};
use rtdb_simulation::run::{Plan, Report, run};
use std::collections::BTreeSet;
use std::time::Duration;

fn plan(seed: u64, seconds: u64) -> Plan {
    Plan {
        seed,
        time: Duration::from_secs(seconds),
        schedule: None,
        moves: false,
        is_calm: false,
        only: None,
        planted: BTreeSet::new(),
        trace: true,
    }
}

fn planted(fault: &str, seed: u64) -> Report {
    let known = FAULTS.iter().chain(&MAY_LIVE);
    assert!(known.map(|known| known.name).any(|name| name == fault), "{fault}");
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

/// What went wrong once, in a few worlds.
fn happens_again(faults: &[(u64, Fault)]) {
    let schedule: Vec<_> = faults
        .iter()
        .map(|(at, fault)| (Duration::from_millis(*at), fault.clone()))
        .collect();
    for seed in 1..=3 {
        let report = run(&Plan {
            schedule: Some(schedule.clone()),
            ..plan(seed, 20)
        });
        assert_eq!(report.broken, None, "seed {seed}");
        assert!(report.counts.acknowledged > 0, "seed {seed}");
    }
}

/// Openraft's shutdown was given up after a while: then whoever asked why its core had ended made it panic.
#[test]
fn a_node_stops_though_its_disk_hangs() {
    let [long, short, down] = [26_000, 850, 100].map(Duration::from_millis);
    for node in 1..=3 {
        happens_again(&[
            (2_000, Fault::DiskHangs { node, time: long }),
            (10_900, Fault::Stop { node, down }),
            // When this is over the disk goes on, and raft ends, later than it was waited for.
            (15_200, Fault::DiskHangs { node, time: short }),
        ]);
    }
}

/// A client's first connection of its own was there before the server had again what the client was told.
#[test]
fn clients_are_shown_what_they_were_told_though_servers_lose_it() {
    let lose = |step: u64| {
        let node = 1 + step % 3;
        let everything = false;
        (step * 400, Fault::Lose { node, everything })
    };
    happens_again(&(2..40).map(lose).collect::<Vec<_>>());
}

#[test]
fn nodes_come_and_go_while_everything_goes_wrong() {
    let report = run(&Plan {
        moves: true,
        ..plan(1, 8)
    });
    assert_eq!(report.broken, None);
}

#[test]
fn a_feed_that_shows_late_joiners_old_rows_is_found() {
    let found = (1..20).find_map(|seed| planted("late joiners are shown old rows", seed).broken);
    let broken = found.expect("a rule is broken");
    assert!(broken.contains("is shown"), "{broken}");
}

/// Whether a fault breaks a rule in one of some seeds in one of these words.
fn is_found_as(fault: &str, words: &[&str]) -> bool {
    let broken = (1..20).filter_map(|seed| planted(fault, seed).broken);
    { broken }.any(|broken| words.iter().any(|words| broken.contains(words)))
}

#[test]
fn what_takes_commands_twice_is_found() {
    assert!(is_found_as("duplicates count", &["applied twice", "tells twice"]));
}

#[test]
fn what_takes_calls_again_with_their_keys_is_found() {
    assert!(is_found_as("repeated calls count", &["applied twice"]));
}

#[test]
fn what_tells_callers_of_others_calls_is_found() {
    let words = ["is acknowledged at", "where it does not stand"];
    assert!(is_found_as("outcomes go to the neighbour", &words));
}

#[test]
fn a_replica_that_does_not_look_where_its_server_is_is_found() {
    let found = (13..33).find_map(|seed| planted("losses of servers are not noticed", seed).broken);
    let broken = found.expect("a rule is broken");
    assert!(broken.contains("holds other rows"), "{broken}");
}

#[test]
fn a_trap_that_only_one_server_has_seen_is_found() {
    assert!(is_found_as(
        "doubtful answers are told at once",
        &["servers say so"]
    ));
}
