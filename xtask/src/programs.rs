//! The demo and the benchmark: programs of `rtdb-testkit`, run with everything they need built in release.

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
    let built = release()?.join(format!("{program}{EXE_SUFFIX}"));
    let mut built = Command::new(built);
    run(built
        .args(args)
        .current_dir(root())
        .env("SPACETIMEDB_BIN", server))
}

/// The folder of what is built in release. This program is beside it, in that of its own profile, wherever cargo builds.
fn release() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let profiles = this.ancestors().nth(2).context("this program has no folder")?;
    Ok(profiles.join("release"))
}
