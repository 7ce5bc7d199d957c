//! Tests of whole nodes, in one process.

mod announce;
mod budgets;
mod clocks;
mod cluster;
mod deletions;
mod ends;
mod faults;
mod fitness;
mod formation;
mod hangs;
mod hostile;
mod hub;
mod impostor;
mod lags;
mod loopback;
mod members;
mod nodes;
mod order;
mod overtake;
mod peers;
mod poison;
mod reads;
mod replica;
mod samples;
mod scenarios;
mod succession;

use std::future::Future;
use std::time::Duration;

/// No test takes longer, on however slow a machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs a test, for no longer than [`TEST_TIMEOUT`].
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let finished = runtime.block_on(async { tokio::time::timeout(TEST_TIMEOUT, test).await });
    runtime.shutdown_timeout(Duration::from_secs(5));
    assert!(finished.is_ok(), "the test did not finish in time");
}
