//! Rows that are due: called once, gone if they are for one time, and seen as they come and go.

use crate::publish::with_module;
use crate::support::{DATABASE, Log, Node, TIMEOUT, bsatn, call, program};
use bytes::Bytes;
use rtdb_consensus::Position;
use rtdb_consensus::command::{Body, IMMEDIATE_SCHEDULE, Timer};
use rtdb_determinism::{Options, Prepared};
use rtdb_replica::{Replica, ScheduleKind, ScheduleRow, ScheduleWatch, Watched, When};
use std::path::Path;

fn prepared() -> Prepared {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules/timers-1x/timers-1x.wasm");
    let options = Options {
        calls_at_once: true,
        ..Options::default()
    };
    rtdb_determinism::prepare_with(&std::fs::read(path).unwrap(), &options).unwrap()
}

fn publish(node: &Node) -> Body {
    let prepared = prepared();
    let mut body = with_module(node.publish(false), prepared.wasm);
    if let Body::Publish(publish) = &mut body {
        publish.original_def = prepared.original_def.into();
    }
    body
}

/// Both halves, as the log's rules give them.
fn timer(module: Position, row: u64) -> [Body; 2] {
    [false, true].map(|over| {
        Body::Timer(Timer {
            database: Bytes::copy_from_slice(&DATABASE),
            module: module.0,
            row,
            over,
            ..Timer::default()
        })
    })
}

async fn ran(node: &Node, replica: &Replica) -> Vec<String> {
    let mut rows = node.rows(replica, "SELECT job FROM ran").await;
    rows.sort();
    rows
}

async fn watch(replica: &Replica) -> ScheduleWatch {
    watch_also(replica, false).await
}

async fn watch_also(replica: &Replica, immediate: bool) -> ScheduleWatch {
    let active = replica.database(&DATABASE).unwrap();
    let rows = Watched {
        kind: ScheduleKind::Reducer,
        immediate,
    };
    let watch = ScheduleWatch::open(replica.admin(), active, rows);
    tokio::time::timeout(TIMEOUT, watch).await.unwrap().unwrap()
}

async fn next(watch: &mut ScheduleWatch) -> Vec<(u64, Option<When>)> {
    let rows = tokio::time::timeout(TIMEOUT, watch.next())
        .await
        .unwrap()
        .unwrap();
    let row = |ScheduleRow { schedule, id, when }| {
        assert_eq!(schedule, 0);
        (id, when)
    };
    rows.into_iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_called_with_once_and_goes_if_it_is_for_one_time() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let module = log.append(vec![publish(&node)])[0];
    log.all_applied().await;
    let born_us = 1_700_000_000_000_000 + module.0 as i64;

    let mut rows = watch(&replica).await;
    let pulse = (2, Some(When::Interval(200_000)));
    assert_eq!(next(&mut rows).await, [(1, Some(When::Time(born_us))), pulse]);
    let both = [timer(module, 1), timer(module, 2)].concat();
    log.append(both.clone());
    log.all_applied().await;
    assert_eq!(next(&mut rows).await, [(1, None)]);
    let once = [r#"["first"]"#, r#"["pulse"]"#];
    assert_eq!(ran(&node, &replica).await, once);

    // The server may have lost some of it, and the log is applied to it anew: it is the same.
    node.kill_server();
    let settled = log.append(timer(module, 1).into());
    log.all_applied().await;
    assert_eq!(ran(&node, &replica).await, once, "the row was gone");
    assert!(log.outcome(settled[1]).is_ok());

    let mut rows = watch(&replica).await;
    assert_eq!(next(&mut rows).await, [pulse]);
    let own = [bsatn("fails"), 0_i64.to_le_bytes().to_vec()].concat();
    log.append(vec![call("once", &own, 0)]);
    log.all_applied().await;
    let [(id, Some(When::Time(_)))] = next(&mut rows).await[..] else {
        panic!("it was not scheduled")
    };
    let failed = log.append(timer(module, id).into());
    log.all_applied().await;
    assert_eq!(next(&mut rows).await, [(id, None)]);
    assert_eq!(ran(&node, &replica).await, once);
    // What the reducer said is nobody's business.
    assert!(log.outcomes(failed[0]).is_empty() && log.outcome(failed[1]).is_ok());

    // What was due of another module is nothing.
    let other = log.append(timer(Position(module.0 - 1), 2).into());
    log.all_applied().await;
    assert!(log.outcomes(other[0]).is_empty() && log.outcome(other[1]).is_err());
    assert_eq!(ran(&node, &replica).await, once);
    replica.stop().await;
    node.server.stop().await;
}

/// Each replica that watches sees them come and go, and one that has to apply the log anew makes them once.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_module_wants_called_at_once_is_seen_and_called_once() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let module = log.append(vec![publish(&node)])[0];
    log.all_applied().await;
    let mut rows = watch_also(&replica, true).await;
    let mut next = async || {
        let rows = tokio::time::timeout(TIMEOUT, rows.next()).await.unwrap().unwrap();
        let at_once = rows.into_iter().filter(|row| row.schedule == IMMEDIATE_SCHEDULE);
        at_once.map(|row| (row.id, row.when)).collect::<Vec<_>>()
    };
    assert_eq!(next().await, []);
    let own = [bsatn("a"), 3_u32.to_le_bytes().to_vec()].concat();
    log.append(vec![call("at_once", &own, 0)]);
    log.all_applied().await;
    let three = next().await;
    assert!(three.iter().all(|(_, when)| matches!(when, Some(When::Time(_)))));
    assert_eq!(three.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3]);
    let at_once = |row| {
        timer(module, row).map(|mut body| {
            if let Body::Timer(timer) = &mut body {
                timer.schedule = IMMEDIATE_SCHEDULE;
            }
            body
        })
    };
    log.append([at_once(1), at_once(3)].concat());
    log.all_applied().await;
    assert_eq!((next().await, next().await), (vec![(1, None)], vec![(3, None)]));
    node.kill_server();
    log.append([at_once(3), at_once(2)].concat());
    log.all_applied().await;
    let expected = [r#"["a 0"]"#, r#"["a 1"]"#, r#"["a 2"]"#];
    assert_eq!(ran(&node, &replica).await, expected);
    replica.stop().await;
    node.server.stop().await;
}
