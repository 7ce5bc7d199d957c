//! `cargo xtask sim`: runs clusters in the simulation.

use clap::Parser;
use rtdb_simulation::fault::{Fault, KINDS};
use rtdb_simulation::gray::{ailments, gives_way_once};
use rtdb_simulation::hunt::{Found, Search, Tally, hunt, shorten};
use rtdb_simulation::planted::{FAULTS, MAY_LIVE, SEEDS_MAX};
use rtdb_simulation::run::{Plan, Report, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Lines of the trace that are shown.
const TRACE_LINES: usize = 60;

/// Leaders that are killed in one run, of those that are asked for.
const KILLS_A_RUN: u64 = 3;

/// How often the progress is shown.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs whole clusters in a deterministic simulation, each from a seed, while everything goes wrong that can, and checks
/// what must hold.
#[derive(Debug, Parser)]
struct Options {
    /// Run one seed, and show what happens in it.
    #[arg(long, conflicts_with_all = ["minutes", "seeds", "from", "planted"])]
    seed: Option<u64>,
    /// Of that seed's faults only these, by their numbers.
    #[arg(long, requires = "seed", value_delimiter = ',')]
    only: Option<Vec<usize>>,
    /// For so many minutes.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<f64>,
    /// So many seeds; 100 if neither is named.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Virtual seconds of faults in each.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Runs at a time; as many as there are processors, if none are named.
    #[arg(long)]
    threads: Option<usize>,
    /// Kill so many leaders in fair weather, and say how long nothing went on.
    #[arg(long, conflicts_with_all = ["minutes", "seeds", "planted", "seed"])]
    failovers: Option<u64>,
    /// Let leaders fall sick in fair weather, in so many worlds each, and say how soon another node leads.
    #[arg(long, conflicts_with_all = ["minutes", "seeds", "planted", "seed", "failovers"])]
    gray: Option<u64>,
    /// A fault that is planted in the code: that it is found says that the check is one.
    #[arg(long, value_name = "FAULT")]
    plant: Vec<String>,
    /// Let nodes come and go in each world, too
    #[arg(long)]
    moves: bool,

    /// Plant each of the known faults, one after the other, and say how soon each is found.
    #[arg(long, conflicts_with_all = ["minutes", "plant"])]
    planted: bool,
}

impl Options {
    fn plan(&self) -> Plan {
        Plan {
            seed: self.seed.unwrap_or(0),
            time: Duration::from_secs(self.seconds),
            schedule: None,
            moves: self.moves,
            is_calm: false,
            only: self.only.as_ref().map(|only| only.iter().copied().collect()),
            planted: self.plant.iter().cloned().collect(),
            trace: self.seed.is_some(),
        }
    }

    fn threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(processors).max(1)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A panic is the end of a run, and told as its outcome.
    let is_replay = options.seed.is_some();
    std::panic::set_hook(Box::new(move |panic| {
        if is_replay {
            eprintln!("{panic}\n{}", std::backtrace::Backtrace::capture());
        }
    }));
    match &options {
        Options { seed: Some(_), .. } => replay(&options.plan()),
        Options { planted: true, .. } => planted(&options),
        Options {
            failovers: Some(count),
            ..
        } => failovers(&options, *count),
        Options {
            gray: Some(count), ..
        } => gray(options.from..options.from + count),
        _ => search(&options),
    }
}

fn replay(plan: &Plan) -> ExitCode {
    let report = run(plan);
    report.trace.iter().for_each(|line| println!("{line}"));
    println!("{:?}\nhash {:016x}", report.counts, report.summary.hash);
    match &report.broken {
        Some(broken) => {
            println!("broken: {broken}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn search(options: &Options) -> ExitCode {
    let begin = Instant::now();
    let until = options
        .minutes
        .map(|minutes| begin + Duration::from_secs_f64(minutes * 60.0));
    let count = match (options.seeds, until) {
        (Some(seeds), _) => seeds,
        (None, Some(_)) => u64::MAX,
        (None, None) => 100,
    };
    let search = Search {
        plan: options.plan(),
        seeds: options.from..options.from.saturating_add(count),
        until,
        threads: options.threads(),
    };
    let shown = parking_lot::Mutex::new(begin);
    let found = hunt(&search, |seed, tally| {
        let mut shown = shown.lock();
        if shown.elapsed() > PROGRESS {
            *shown = Instant::now();
            let rate = tally.runs as f64 / begin.elapsed().as_secs_f64();
            eprintln!("seed {seed}: {rate:.1} seeds a second");
        }
    });
    summarize(&found.tally, begin.elapsed(), search.threads);
    match found.broken {
        Some((plan, report)) => {
            explain(&plan, &report);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// How long nothing goes on when a leader's process is killed.
fn failovers(options: &Options, count: u64) -> ExitCode {
    let down = Duration::from_secs(4);
    let schedule: Vec<_> = (0..KILLS_A_RUN)
        .map(|kill| (Duration::from_secs(2 + 9 * kill), Fault::KillLeader { down }))
        .collect();
    let search = Search {
        plan: Plan {
            schedule: Some(schedule),
            is_calm: true,
            ..options.plan()
        },
        seeds: options.from..options.from + count.div_ceil(KILLS_A_RUN),
        until: None,
        threads: options.threads(),
    };
    let Found { tally, broken } = hunt(&search, |_, _| {});
    let mut gaps = tally.gaps;
    gaps.sort_unstable();
    let at = |part: usize| {
        gaps.get(gaps.len() * part / 100)
            .copied()
            .unwrap_or_default()
            .as_millis()
    };
    println!(
        "{} leaders killed: nothing new for {} ms at the median, {} at the 99th percentile, {} at most",
        gaps.len(),
        at(50),
        at(99),
        gaps.last().copied().unwrap_or_default().as_millis()
    );
    match broken {
        Some((plan, report)) => {
            explain(&plan, &report);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// How soon sick leaders give way.
fn gray(seeds: std::ops::Range<u64>) -> ExitCode {
    for (fault, within) in ailments() {
        let mut slowest = Duration::ZERO;
        for seed in seeds.clone() {
            match gives_way_once(seed, &fault, within) {
                Ok(took) => slowest = slowest.max(took),
                Err(why) => {
                    println!("seed {seed}: the leader: {fault}: {why}");
                    return ExitCode::FAILURE;
                }
            }
        }
        let slowest = slowest.as_millis();
        println!("the leader: {fault}: another leads within {slowest} ms, once");
    }
    ExitCode::SUCCESS
}

/// A table of how soon each planted fault is found.
fn planted(options: &Options) -> ExitCode {
    let mut missed = 0;
    println!("| Planted | Seeds | Found as |\n|---|---|---|");
    let must = FAULTS.iter().map(|fault| (fault, true));
    let may = MAY_LIVE.iter().map(|fault| (fault, false));
    for (fault, is_due) in must.chain(may) {
        let mut plan = options.plan();
        plan.planted.insert(fault.name.to_owned());
        let search = Search {
            plan,
            seeds: options.from..options.from + options.seeds.unwrap_or(SEEDS_MAX),
            until: None,
            threads: options.threads(),
        };
        let Found { tally, broken } = hunt(&search, |_, _| {});
        let (seeds, found) = match broken {
            Some((_, report)) => (tally.runs.to_string(), report.broken.unwrap_or_default()),
            None => (format!("not in {}", tally.runs), String::new()),
        };
        missed += u32::from(found.is_empty() && is_due);
        let found = found.lines().next().unwrap_or_default();
        println!("| {}: {} | {seeds} | {found} |", fault.name, fault.what);
    }
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn summarize(tally: &Tally, took: Duration, threads: usize) {
    let busy = took.as_secs_f64() * threads as f64;
    println!(
        "{} seeds, {:.0} virtual seconds in {:.0} s with {threads} at a time: {:.0} seeds an hour and thread, {:.1} µs a \
         step",
        tally.runs,
        tally.time.as_secs_f64(),
        took.as_secs_f64(),
        tally.runs as f64 / busy * 3_600.0,
        busy * 1e6 / tally.polls.max(1) as f64,
    );
    let [acknowledged, unknown, refused] = tally.outcomes;
    println!("{acknowledged} commands acknowledged, {unknown} with unknown outcomes, {refused} refused");
    let faults = KINDS.iter().copied().zip(tally.faults);
    let reached = tally.reached.iter().map(|(what, count)| (*what, *count));
    for (what, count) in faults.chain(reached) {
        println!("{count:>9} {what}{}", if count == 0 { ": never" } else { "" });
    }
}

fn explain(plan: &Plan, report: &Report) {
    let broken = |report: &Report| report.broken.clone().unwrap_or_default();
    println!("\nseed {} breaks a rule: {}", plan.seed, broken(report));
    let (kept, shortest) = shorten(plan, report);
    println!("of its {} faults these are enough:", report.schedule.len());
    for place in &kept {
        let (at, fault) = &report.schedule[*place];
        println!("  after {at:?}: {fault}");
    }
    println!("then: {}\nthe last of what happened:", broken(&shortest));
    let skip = shortest.trace.len().saturating_sub(TRACE_LINES);
    shortest
        .trace
        .iter()
        .skip(skip)
        .for_each(|line| println!("  {line}"));
    let only: Vec<String> = kept.iter().map(usize::to_string).collect();
    println!(
        "again: cargo xtask sim --seed {} --only {}",
        plan.seed,
        only.join(",")
    );
}
