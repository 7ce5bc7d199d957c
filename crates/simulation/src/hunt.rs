//! Many runs, and the shortest way to what goes wrong.

use crate::fault::KINDS;
use crate::run::{Plan, Report, run};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Runs that are made at most to shorten a schedule.
const SHORTENING_RUNS_MAX: usize = 400;

/// What many runs have met.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Virtual time.
    pub time: Duration,
    /// Polls.
    pub polls: u64,
    /// How often what went wrong.
    pub faults: [u64; KINDS.len()],
    /// What was reached.
    pub reached: BTreeMap<&'static str, u64>,
    /// How long nothing new was applied after each death of a leader that was asked for.
    pub gaps: Vec<Duration>,
    /// Commands that were acknowledged, those with unknown outcomes, and those that were refused.
    pub outcomes: [u64; 3],
}

impl Tally {
    /// Takes a run in.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.time += Duration::from_nanos(report.summary.virtual_ns);
        self.polls += report.summary.polls;
        for (sum, count) in self.faults.iter_mut().zip(report.faults) {
            *sum += count;
        }
        for (what, count) in &report.reached {
            *self.reached.entry(what).or_default() += count;
        }
        self.gaps.extend(&report.gaps);
        let counts = &report.counts;
        for (sum, count) in
            self.outcomes
                .iter_mut()
                .zip([counts.acknowledged, counts.unknown, counts.refused])
        {
            *sum += count as u64;
        }
        *self.reached.entry("leaders").or_default() += counts.leaders as u64;
    }
}

/// The shortest schedule that was found to break the same rule, and its run.
pub fn shorten(plan: &Plan, failed: &Report) -> (Vec<usize>, Report) {
    let mut kept: Vec<usize> = (0..failed.schedule.len()).collect();
    let mut best = failed.clone();
    let (mut runs, mut size) = (0, kept.len().div_ceil(2));
    while size > 0 && runs < SHORTENING_RUNS_MAX {
        let (mut at, mut has_shrunk) = (0, false);
        while at < kept.len() && runs < SHORTENING_RUNS_MAX {
            let without = kept
                .iter()
                .enumerate()
                .filter(|(place, _)| !(at..at + size).contains(place));
            let without: Vec<usize> = without.map(|(_, fault)| *fault).collect();
            runs += 1;
            let report = run(&Plan {
                only: Some(without.iter().copied().collect::<BTreeSet<_>>()),
                trace: true,
                ..plan.clone()
            });
            if report.broken.is_some() {
                (kept, best, has_shrunk) = (without, report, true);
            } else {
                at += size;
            }
        }
        size = match (has_shrunk, size) {
            (true, _) => size.min(kept.len().div_ceil(2)),
            (false, 1) => 0,
            (false, _) => size.div_ceil(2).min(size - 1),
        };
    }
    (kept, best)
}

/// Runs that are to be made.
#[derive(Clone, Debug)]
pub struct Search {
    /// What they have in common.
    pub plan: Plan,
    /// The seeds.
    pub seeds: Range<u64>,
    /// When no more are begun.
    pub until: Option<Instant>,
    /// How many are made at a time.
    pub threads: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What all runs have met.
    pub tally: Tally,
    /// The first one that broke a rule, and how many were made up to then.
    pub broken: Option<(Plan, Report)>,
}

/// Makes runs until one breaks a rule, all are made, or the time is over. `seen` hears of each.
pub fn hunt(search: &Search, seen: impl Fn(u64, &Tally) + Sync) -> Found {
    let next = AtomicU64::new(search.seeds.start);
    let is_over = AtomicBool::new(false);
    let found = Mutex::new(Found::default());
    let work = || {
        while !is_over.load(Ordering::Relaxed) && search.until.is_none_or(|until| Instant::now() < until) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !search.seeds.contains(&seed) {
                return;
            }
            let plan = Plan {
                seed,
                ..search.plan.clone()
            };
            let report = run(&plan);
            let mut found = found.lock();
            found.tally.add(&report);
            seen(seed, &found.tally);
            if report.broken.is_some() {
                is_over.store(true, Ordering::Relaxed);
                let is_first = found.broken.as_ref().is_none_or(|(first, _)| seed < first.seed);
                if is_first {
                    found.broken = Some((plan, report));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..search.threads {
            scope.spawn(work);
        }
    });
    found.into_inner()
}
