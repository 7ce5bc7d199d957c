//! The node: reads its settings, and wires the crates together.

mod admin;
mod auditor;
mod catalog;
mod config;
mod cpu;
mod descriptors;
mod discovery;
mod dns;

mod issuers;
mod keys;
mod kinds;
mod lag;
mod local;
mod metrics;
mod node;
mod pacer;
mod reports;
mod run;
mod scrubber;
mod snapshots;
mod status;
mod timers;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use config::{Config, LogFormat};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

/// What lives long (the newest entries, rows that clients were shown) is allocated among what does not: the system's allocator
/// kept twice the memory that was in use.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is logged unless RUST_LOG says otherwise. The libraries tell every step at info.
const DEFAULT_LOG: &str = "info,openraft=error";

/// How long what is left of a node may take to end, once it has stopped.
const LEFT_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let config = match Config::parse().validate() {
        Ok(config) => config,
        Err(reason) => Config::command()
            .error(clap::error::ErrorKind::ValueValidation, reason)
            .exit(),
    };
    log_to_stderr(config.log_format);
    log_panics();
    match start(config) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Clients have a runtime of their own: whatever they do, raft, the replica and the admin API go on.
fn start(config: Config) -> anyhow::Result<ExitCode> {
    let node = runtime("node")?;
    let clients = runtime("clients")?;
    let code = node.block_on(run::run(config, clients.handle()));
    clients.shutdown_timeout(LEFT_MAX);
    // A read from a disk that hangs is not waited for.
    node.shutdown_timeout(LEFT_MAX);
    code
}

fn runtime(name: &str) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        .worker_threads(worker_threads())
        .enable_all()
        .build()
        .context("the runtime can't start")
}

/// Half of the machine's cores for each of the two runtimes: together they take all at most, and no task of the one keeps
/// the other from its own; SpacetimeDB shares them. On few cores, tasks that hand work to each other are much faster on one
/// thread than on two that wake each other. What goes from one runtime to the other goes many calls at a time if there are
/// many, and takes 1 to 4 µs of a processor a call.
fn worker_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.div_ceil(2)
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// A panic is one line of the log, like everything else, in whichever thread it happens. Whose task it was decides
/// whether the node goes on. With RUST_BACKTRACE set, the line is followed by where it came from.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("it said nothing");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        tracing::error!(at, thread, "a task has panicked: {message}");
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            tracing::error!("{trace}");
        }
    }));
}
