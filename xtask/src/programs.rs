//! The demo and the benchmark: programs of `rtdb-testkit`, run with everything they need built in release.

use anyhow::Result;

use crate::server;
use crate::shell::{cargo, run, step};

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
    let start = [
        "run",
        "--release",
        "--locked",
        "--quiet",
        "-p",
        "rtdb-testkit",
        "--bin",
        program,
        "--",
    ];
    run(cargo(start.into_iter().chain(args.iter().copied())).env("SPACETIMEDB_BIN", server))
}
