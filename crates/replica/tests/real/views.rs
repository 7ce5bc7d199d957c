//! Views that are refreshed behind each call, and what they may not do to calls.

use crate::support::{DATABASE, Log, Node, TIMEOUT, add, bsatn, call, connect, program};
use bytes::Bytes;
use rtdb_consensus::command::{Body, Publish};
use rtdb_determinism::{Options, Prepared, view_key};
use rtdb_replica::{Replica, ViewHold};
use rtdb_testkit::{demo_module, server};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// As `modules/views-2x` has them.
const STUCK: u8 = 1;
/// The places of `team` and `stuck` among its views.
const VIEWS: [&str; 2] = ["team", "stuck"];

fn prepared(call_units_max: u64) -> Prepared {
    let options = Options {
        call_units_max,
        ..Options::default()
    };
    let module = demo_module::wasm_named("views-2x").unwrap();
    rtdb_determinism::prepare_with(&module, &options).unwrap()
}

fn publish(node: &Node, prepared: &Prepared) -> Body {
    Body::Publish(Publish {
        database: Bytes::copy_from_slice(&DATABASE),
        owner: Some(node.owner.clone()),
        module: prepared.wasm.clone().into(),
        original_def: prepared.original_def.clone().into(),
        judged: true,
        ..Publish::default()
    })
}

/// A replica whose module may use so many units.
async fn running(node: &Node, call_units_max: u64) -> (Arc<Log>, Replica) {
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![publish(node, &prepared(call_units_max))]);
    log.all_applied().await;
    (log, replica)
}

fn join() -> Body {
    call("join", &bsatn("ann"), 0)
}

fn score() -> Body {
    call("score", &1_i64.to_le_bytes(), 0)
}

/// The server has the views, somebody holds them, and refreshes follow calls.
async fn look(node: &Node, log: &Log, replica: &Replica) -> Vec<ViewHold> {
    let active = replica.database(&DATABASE).unwrap();
    let views = replica.views(&DATABASE).unwrap();
    let mut holds = Vec::new();
    for name in VIEWS {
        let view = active
            .module
            .views()
            .iter()
            .find(|view| view.name == name)
            .unwrap();
        let hold = views.hold(name, view_key(view.id, None)).unwrap();
        hold.refresh().await.unwrap();
        node.rows(replica, &format!("SELECT * FROM {name}")).await;
        hold.refresh().await.unwrap();
        holds.push(hold);
    }
    for body in [join(), score(), score()] {
        log.append(vec![body]);
        log.all_applied().await;
    }
    holds
}

/// 1.x knows no views.
fn has_views() -> bool {
    server::major().is_ok_and(|major| major >= 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refresh_follows_calls_of_a_module_without_views() {
    let Some(program) = program().filter(|_| has_views()) else {
        return;
    };
    let node = Node::start(program).await;
    let (log, replica) = running(&node, Options::default().call_units_max).await;
    let holds = look(&node, &log, &replica).await;
    // What the clients looked at is gone with the database.
    drop(holds);
    let mut calls = log.append(vec![
        node.publish(true),
        connect(),
        add("a", 1, 0),
        add("b", 1, 0),
        add("c", 1, 0),
    ]);
    log.all_applied().await;
    for name in ["d", "e", "f", "g"] {
        calls.extend(log.append(vec![add(name, 1, 0)]));
        log.all_applied().await;
    }
    calls.extend(log.append(vec![add("h", 1, 0)]));
    log.all_applied().await;
    for (place, call) in calls.into_iter().enumerate() {
        let outcome = log.outcome(call);
        assert!(outcome.is_ok(), "{place}: {outcome:?}");
    }
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_do_not_wait_for_many_refreshes_that_take_long() {
    let Some(program) = program().filter(|_| has_views()) else {
        return;
    };
    let node = Node::start(program).await;
    let (log, replica) = running(&node, Options::default().call_units_max).await;
    let holds = look(&node, &log, &replica).await;
    let begun = Instant::now();
    let mut bodies = vec![call("switch_on", &[STUCK], 0)];
    bodies.extend((0..63).map(|_| score()));
    let calls = log.append(bodies);
    log.all_applied().await;
    let took = begun.elapsed();
    assert!(calls.iter().all(|call| log.outcome(*call).is_ok()));
    let mut one = Duration::ZERO;
    for hold in &holds {
        let begun = Instant::now();
        let _ = hold.refresh().await;
        one = one.max(begun.elapsed());
    }
    eprintln!("64 calls took {took:?}, a refresh {one:?}");
    assert!(took < 16 * one, "64 calls took {took:?}, a refresh {one:?}");
    replica.stop().await;
    node.server.stop().await;
}

/// The module was prepared without a limit for its views; the server ends them after 13 s or so.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_takes_too_long_ends_with_its_server_and_no_call_is_blamed() {
    let Some(program) = program().filter(|_| has_views()) else {
        return;
    };
    let mut node = Node::start(program).await;
    node.call_time_max = Duration::from_secs(3);
    let (log, replica) = running(&node, u64::MAX).await;
    let _holds = look(&node, &log, &replica).await;
    let pid = node.pid();
    let begun = Instant::now();
    let calls = log.append(vec![call("switch_on", &[STUCK], 0)]);
    let ended = async {
        while node.pid() == pid {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), ended).await.is_ok();
    eprintln!("ended: {in_time}, after {:?}", begun.elapsed());
    assert!(in_time, "the server runs the view still");
    log.all_applied().await;
    assert!(log.outcome(calls[0]).is_ok());
    let calls = log.append(vec![score()]);
    tokio::time::timeout(TIMEOUT, log.all_applied()).await.unwrap();
    assert!(log.outcome(calls[0]).is_ok());
    replica.stop().await;
    node.server.stop().await;
}
