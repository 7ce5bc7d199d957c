//! The clocks of the nodes: whoever leads proposes the row that is due next, as it has read in the log. Each second row calls a
//! procedure, whose transaction claims it.
//!
//! Of the product this is the log's part alone: no model of a module has schedules, so that each row is nothing to the
//! replicas.

use crate::cluster::Cluster;
use crate::module::DATABASE;
use bytes::Bytes;
use rtdb_consensus::command::{Body, Timer, TimerAt, Transaction};
use rtdb_consensus::{Propose, Unapplied};
use rtdb_runtime::{sim, sleep};
use std::sync::Arc;
use std::time::Duration;

/// Between one row and the next.
const TICK: Duration = Duration::from_millis(20);

/// By how much, in microseconds, a row is due before or after it is proposed, at most.
const DUE_US: u64 = 20_000;

/// How often a node that leads looks whether its replica has caught up.
const LOOK: Duration = Duration::from_millis(5);

/// The clock of a node.
pub async fn run(cluster: Arc<Cluster>, node: u64) {
    // The term in which the node has seen all that came before it.
    let mut begun = None;
    loop {
        sleep(TICK).await;
        let Some(term) = term(&cluster, node) else {
            continue;
        };
        if begun != Some(term) {
            if !has_caught_up(&cluster, node, term).await {
                continue;
            }
            begun = Some(term);
        }
        // By the leader's own clock it may not be due yet.
        let due_us = sim::true_wall_us() as i64 + sim::draw(2 * DUE_US) as i64 - DUE_US as i64;
        let timer = Timer {
            database: DATABASE,
            row: cluster.truth.last_timer(node) + 1,
            term,
            at: Some(TimerAt::TimeUs(due_us)),
            ..Timer::default()
        };
        let body = match timer.row % 2 {
            0 => Body::Timer(timer),
            _ => Body::Transaction(Transaction {
                database: DATABASE,
                operations: Bytes::from_static(b"done"),
                claim: Some(timer),
                ..Transaction::default()
            }),
        };
        let submitted = cluster
            .manager(node)
            .and_then(|manager| manager.shard().submit(body.into()).ok());
        if let Some(pending) = submitted
            && let Err(Unapplied::Unknown { .. }) = pending.await
        {
            begun = None;
        }
    }
}

fn term(cluster: &Cluster, node: u64) -> Option<u64> {
    cluster.manager(node)?.shard().leads()
}

/// Waits until the node's replica has all that its log had in this term; `false` once it does not lead in it any more.
async fn has_caught_up(cluster: &Cluster, node: u64, of: u64) -> bool {
    let last = cluster
        .manager(node)
        .map(|manager| manager.shard().status().last_log);
    let Some(last) = last else { return false };
    while term(cluster, node) == Some(of) {
        let replica = cluster.replica(node);
        if replica.is_some_and(|replica| *replica.applied().borrow() >= last) {
            return true;
        }
        sleep(LOOK).await;
    }
    false
}
