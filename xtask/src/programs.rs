//! The demo and the benchmark: programs of `rtdb-testkit`, run with everything they need built in release. And the simulation.

use std::env::consts::EXE_SUFFIX;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::server;
use crate::shell::{cargo, root, run, step};

/// Builds the node, the CLI and `program`, and runs the latter with `args`.
pub(crate) fn run_program(program: &str, args: &[&str]) -> Result<()> {
    let server = server::obtain()?;
    let build = [
        "build",
        "--release",
        "--locked",
        "-p",
        "rafttimedb",
        "-p",
        "rtdb",
        "-p",
        "rtdb-testkit",
        "--bins",
    ];
    step(
        "building rafttimedb, rtdb and the test kit (release)",
        &mut cargo(build),
    )?;
    let built = built("release")?.join(format!("{program}{EXE_SUFFIX}"));
    let mut built = Command::new(built);
    run(built
        .args(args)
        .current_dir(root())
        .env("SPACETIMEDB_BIN", server))
}

/// Seeds of clusters in which nodes come and go.
const MOVES_SEEDS: u32 = 15;

/// Worlds in which leaders fall sick, for each of the ways to.
const GRAY_SEEDS: u32 = 3;

/// Seeds that must all go well, as they did for whoever made the change before, and leaders that fall sick; then seeds that
/// nobody has seen, for so many minutes. What is found there was there before the change, as a rule: it is shown, and stops
/// nobody.
pub(crate) fn simulate_seeds(known: u32, minutes: u32) -> Result<()> {
    simulate(&["--seeds", &known.to_string()])?;
    simulate(&["--moves", "--seeds", &MOVES_SEEDS.to_string(), "--seconds", "20"])?;
    simulate(&["--gray", &GRAY_SEEDS.to_string()])?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let first = (now.as_secs() * 1_000).to_string();
    if let Err(error) = simulate(&["--minutes", &minutes.to_string(), "--from", &first]) {
        eprintln!("A NEW SEED BREAKS A RULE: see above, and mend what it has found ({error:#})");
    }
    Ok(())
}

/// Builds the simulation, fast and with everything checked, and runs it with `args`.
pub(crate) fn simulate(args: &[&str]) -> Result<()> {
    let build = ["build", "--profile", "sim", "--locked", "-p", "rtdb-simulation"];
    step("building the simulation", &mut cargo(build))?;
    let built = built("sim")?.join(format!("rtdb-sim{EXE_SUFFIX}"));
    run(Command::new(built).args(args).current_dir(root()))
}

/// The folder of what is built in a profile. This program is beside it, in that of its own profile, wherever cargo builds.
fn built(profile: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let profiles = this.ancestors().nth(2).context("this program has no folder")?;
    Ok(profiles.join(profile))
}
