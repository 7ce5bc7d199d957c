//! What CI runs, and the changing counterpart of it.

use std::time::Instant;

use anyhow::Result;

use crate::cache::Installed;
use crate::programs::simulate_seeds;
use crate::shell::{cargo, find_in_path, run, step, succeeds};
use crate::{modules, server};

const CARGO_DENY: Installed = Installed {
    package: "cargo-deny",
    folder: "cargo-deny",
    version: "0.20.2",
    binary: "cargo-deny",
    takes: "a few minutes",
};

/// Seeds that are run in the simulation each time.
const KNOWN_SEEDS: u32 = 60;

/// For how many minutes new seeds are run in the simulation.
const SIMULATED_MINUTES: u32 = 2;

/// How many tests nextest runs at a time.
const THREADS: &str = "NEXTEST_TEST_THREADS";

/// Format, lints, dependencies, docs and module fixtures. Changes no file of the repository.
pub(crate) fn verify() -> Result<()> {
    step("format", &mut cargo(["fmt", "--all", "--check"]))?;
    modules::check()?;
    deny()?;
    step(
        "clippy",
        &mut cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    let mut doc = cargo([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--locked",
    ]);
    step("docs", doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Licences, banned and duplicate crates, and where crates come from.
///
/// Duplicate versions are only warnings, which `cargo deny check bans` shows. The advisory database is a git repository, which a machine behind a registry mirror can't reach, so `advisories`
/// is not part of what has to pass; run `cargo deny check advisories` where it can.
fn deny() -> Result<()> {
    let program = match find_in_path(CARGO_DENY.binary) {
        Some(path) => path,
        None => CARGO_DENY.obtain()?,
    };
    let mut check = cargo([
        "deny",
        "--locked",
        "--log-level",
        "error",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]);
    // `cargo deny` is found in PATH: put the cached one there.
    let folder = program.parent().map(std::path::Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    check.env(
        "PATH",
        std::env::join_paths(folder.into_iter().chain(std::env::split_paths(&path)))?,
    );
    step("dependencies", &mut check)
}

/// Formats, and applies what clippy can.
pub(crate) fn fix() -> Result<()> {
    let mut clippy = cargo([
        "clippy",
        "--fix",
        "--workspace",
        "--all-targets",
        "--allow-dirty",
        "--allow-staged",
    ]);
    step("clippy --fix", &mut clippy)?;
    step("format", &mut cargo(["fmt", "--all"]))
}

/// Everything a change has to pass. With `args`, only the test runner, given them.
///
/// The test runner comes last and nothing is printed after it.
pub(crate) fn test(args: &[&str]) -> Result<()> {
    let started = Instant::now();
    let server = server::obtain()?;
    eprintln!("SpacetimeDB: {}", server.display());
    if args.is_empty() {
        verify()?;
        simulate_seeds(KNOWN_SEEDS, SIMULATED_MINUTES)?;
        eprintln!("verified in {:.0} s", started.elapsed().as_secs_f64());
    }
    let nextest = succeeds(&mut cargo(["nextest", "--version"]));
    if nextest && args.is_empty() {
        // nextest runs no doc tests.
        step(
            "doc tests",
            cargo(["test", "--workspace", "--doc", "--quiet", "--locked"]).env("SPACETIMEDB_BIN", &server),
        )?;
    }
    let runner: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
    let mut tests = cargo(
        runner
            .iter()
            .copied()
            .chain(["--workspace", "--locked"])
            .chain(args.iter().copied()),
    );
    if nextest && std::env::var_os(THREADS).is_none() {
        // Many tests wait rather than work.
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        tests.env(THREADS, (cpus + cpus / 2).to_string());
    }
    eprintln!("── tests");
    run(tests.env("SPACETIMEDB_BIN", &server))
}
