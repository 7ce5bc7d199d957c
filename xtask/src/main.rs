//! Developer tasks: `cargo xtask <task>`. Run it without a task for the list.

mod cache;
mod checks;
mod modules;
mod programs;
mod server;
mod shell;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask <task>

  verify             everything CI checks except the tests; changes no file
  fix                format, and apply clippy's suggestions
  test [ARGS]        obtain SpacetimeDB and the tools, verify, then run all tests
                     (ARGS go to the test runner, and skip verify)
  demo [--keep]      three nodes, clients, a kill -9 of the leader under load, a report
  bench [ARGS]       figures as ratios in one run; writes target/bench/latest.json
  sim [ARGS]         clusters in the simulation, from seeds: --minutes M, --seeds N, --seed S, --planted
  modules [--check]  build modules/*/*.wasm, or check that each matches its source
  server             obtain the SpacetimeDB server and print its path

SpacetimeDB is taken from $SPACETIMEDB_BIN, else `spacetimedb-standalone` in PATH, else the newest that its
own installer has put into ($XDG_DATA_HOME or ~/.local/share)/spacetime/bin, else built once into the cache
($XDG_CACHE_HOME or ~/.cache)/rafttimedb.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["verify"] => checks::verify(),
        ["fix"] => checks::fix(),
        ["test", rest @ ..] => checks::test(rest),
        ["demo", rest @ ..] => programs::run_program("rtdb-demo", rest),
        ["bench", rest @ ..] => programs::run_program("rtdb-bench", rest),
        ["sim", rest @ ..] => programs::simulate(rest),
        ["modules"] => modules::build(),
        ["modules", "--check"] => modules::check(),
        ["server"] => server::obtain().map(|path| println!("{}", path.display())),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
