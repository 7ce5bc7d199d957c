//! Snapshots of databases, and databases that are made of them.

use crate::support::{DATABASE, Log, Node, add, call, connect, digest, program};
use bytes::Bytes;
use rtdb_consensus::command::{Body, Departed, Load, Publish, TableRows, TableSum};
use rtdb_consensus::{Position, Refusal, Reply, Unapplied};
use rtdb_determinism::STATE_TABLE;
use rtdb_replica::{Replica, Snapshot};
use rtdb_snapshot::Sum;
use std::sync::Arc;

const TABLES: [&str; 5] = ["counter", "dice", "account", "note", "presence"];

/// The rows of all tables, each table's sorted.
async fn contents(node: &Node, replica: &Replica) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for table in TABLES {
        let mut rows = node.rows(replica, &format!("SELECT * FROM {table}")).await;
        rows.sort();
        all.push(rows);
    }
    all
}

/// A database with something in each table, and the snapshot of it.
async fn taken(node: &Node, log: &Arc<Log>, replica: &Replica) -> Snapshot {
    let session = log.append(vec![node.publish(false), connect()])[1];
    let mut bodies: Vec<Body> = (0..20)
        .map(|nth| add(&format!("row {nth}"), nth, session.0))
        .collect();
    bodies.push(call("roll", &crate::support::bsatn("die"), session.0));
    log.append(bodies);
    log.all_applied().await;
    replica.snapshot(&DATABASE).await.unwrap()
}

fn publish(snapshot: &Snapshot) -> Body {
    Body::Publish(Publish {
        clear: true,
        loads: true,
        ..snapshot.publish.clone()
    })
}

/// What follows the publication at `of`, so many rows at a time.
fn loads(snapshot: &Snapshot, of: Position, rows_max: usize) -> Vec<Load> {
    let (mut loads, mut sums) = (Vec::new(), Vec::new());
    let begun = || Load {
        database: Bytes::copy_from_slice(&DATABASE),
        of: of.0,
        ..Load::default()
    };
    for (table, rows) in &snapshot.tables {
        let (rows, mut sum): (Vec<Bytes>, _) = (rows.iter().collect(), Sum::default());
        rows.iter().for_each(|row| sum.add(row));
        let sum = sum.of_table(table.clone());
        sums.push(TableSum {
            table: sum.table,
            rows: sum.rows,
            sum: sum.sum,
        });
        loads.extend(rows.chunks(rows_max).map(|rows| Load {
            tables: vec![TableRows {
                table: table.clone(),
                rows: rows.to_vec(),
            }],
            ..begun()
        }));
    }
    let state = Bytes::copy_from_slice(snapshot.state.bytes());
    loads.push(Load {
        tables: vec![TableRows {
            table: STATE_TABLE.to_owned(),
            rows: vec![state],
        }],
        departed: vec![Departed {
            sender: vec![7; 32].into(),
            connection: vec![8; 16].into(),
            claims: String::new(),
        }],
        last: true,
        sums,
        ..begun()
    });
    for (load, number) in loads.iter_mut().zip(0..) {
        load.number = number;
    }
    loads
}

/// The same calls to both.
fn more() -> Vec<Body> {
    (0..5).map(|nth| add(&format!("later {nth}"), nth, 0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_goes_on_like_what_was_taken() {
    let Some(program) = program() else { return };
    let (old, new) = (Node::start(program.clone()).await, Node::start(program).await);
    let (old_log, new_log) = (Log::new(), Log::new());
    let (from, to) = (old.replica(&old_log), new.replica(&new_log));
    let snapshot = taken(&old, &old_log, &from).await;
    assert!(!snapshot.sessions.is_empty(), "a client is connected");
    assert!(
        snapshot
            .tables
            .iter()
            .any(|(table, rows)| table == "note" || rows.iter().count() > 0)
    );

    let of = new_log.append(vec![publish(&snapshot)])[0];
    new_log.all_applied().await;
    assert!(to.database(&DATABASE).is_none(), "nobody sees it yet");
    let loads = loads(&snapshot, of, 3);
    let count = loads.len();
    let last = loads
        .into_iter()
        .map(|load| new_log.append(vec![Body::Load(load)])[0])
        .last()
        .unwrap();
    new_log.all_applied().await;
    assert!(count > 5);
    assert_eq!(
        new_log.outcome(last).unwrap().reply,
        Reply::Published { created: true }
    );
    assert_eq!(contents(&old, &from).await, contents(&new, &to).await);
    let (was, is) = (digest(&from).await.unwrap(), digest(&to).await.unwrap());
    assert_eq!((was.value, is.position), (is.value, last));

    // Generated numbers go on, too. Times and positions differ.
    old_log.append(more());
    let calls = new_log.append(more());
    old_log.all_applied().await;
    new_log.all_applied().await;
    for call in calls {
        assert!(new_log.outcome(call).is_ok());
    }
    let ids = "SELECT id, name FROM counter";
    let (mut was, mut is) = (old.rows(&from, ids).await, new.rows(&to, ids).await);
    was.sort();
    is.sort();
    assert_eq!(was, is);
    assert_eq!(was.len(), 26);

    // It survives its server, and its server's loss of all data.
    let before = contents(&new, &to).await;
    new.kill_server();
    new.server.up().await;
    let more = new_log.append(vec![add("after", 1, 0)]);
    new_log.all_applied().await;
    assert!(new_log.outcome(more[0]).is_ok());
    assert_eq!(contents(&new, &to).await[0].len(), before[0].len() + 1);
    to.stop().await;
    to.admin().delete(&new.owner, &DATABASE).await.unwrap();
    let again = new.replica(&new_log);
    new_log.forget_applied();
    new_log.all_applied().await;
    assert_eq!(contents(&new, &again).await[0].len(), before[0].len() + 1);
    for (replica, node) in [(from, old), (again, new)] {
        replica.stop().await;
        node.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_between_the_rows_has_them_all_in_the_end() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let snapshot = taken(&node, &log, &replica).await;
    let before = contents(&node, &replica).await;
    let of = log.append(vec![publish(&snapshot)])[0];
    let mut loads = loads(&snapshot, of, 2).into_iter().map(Body::Load);
    let half: Vec<_> = loads.by_ref().take(4).collect();
    log.append(half);
    log.all_applied().await;
    node.kill_server();
    let rest: Vec<_> = loads.collect();
    let last = *log.append(rest).last().unwrap();
    log.all_applied().await;
    assert!(log.outcome(last).is_ok());
    assert_eq!(contents(&node, &replica).await, before);
    // And a node that starts anew in the middle of them.
    let of = log.append(vec![publish(&snapshot)])[0];
    let mut loads = self::loads(&snapshot, of, 2).into_iter().map(Body::Load);
    log.append(loads.by_ref().take(4).collect());
    log.all_applied().await;
    replica.stop().await;
    log.forget_applied();
    let replica = node.replica(&log);
    let last = *log.append(loads.collect()).last().unwrap();
    log.all_applied().await;
    assert!(log.outcome(last).is_ok());
    assert_eq!(contents(&node, &replica).await, before);
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_leave_nothing() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let snapshot = taken(&node, &log, &replica).await;
    let state = Bytes::copy_from_slice(snapshot.state.bytes());
    let rows = |table: &str, rows: Vec<Bytes>| TableRows {
        table: table.to_owned(),
        rows,
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<Load>);
    let changes: [(&str, Change<'_>); 6] = [
        ("one is missing", &|loads| drop(loads[0].tables[0].rows.pop())),
        ("one is no row", &|loads| {
            loads[0].tables[0].rows[0] = Bytes::from_static(b"\x01")
        }),
        ("no such table", &|loads| {
            loads[0].tables[0].table = "nothing".into()
        }),
        ("it says too early what it is", &|loads| {
            loads[0].tables.push(rows(STATE_TABLE, vec![state.clone()]));
        }),
        ("it never says what it is", &|loads| {
            loads.last_mut().unwrap().tables.clear()
        }),
        ("it is about sessions", &|loads| {
            loads[0]
                .tables
                .push(rows("rtdb_session", vec![Bytes::from_static(&[0; 16])]));
        }),
    ];
    for (what, change) in changes {
        let of = log.append(vec![publish(&snapshot)])[0];
        let mut loads = loads(&snapshot, of, 1_000);
        change(&mut loads);
        let first = log.append(vec![Body::Load(loads.remove(0))])[0];
        let rest = log.append(loads.into_iter().map(Body::Load).collect());
        let after = log.append(vec![add("a", 1, 0)])[0];
        log.all_applied().await;
        let outcomes: Vec<_> = [first].iter().chain(&rest).map(|at| log.outcome(*at)).collect();
        let refused = outcomes
            .iter()
            .any(|outcome| matches!(outcome, Err(Unapplied::Refused(Refusal::Module(_)))));
        assert!(refused, "{what}: {outcomes:?}");
        assert_eq!(
            log.outcome(after),
            Err(Unapplied::Refused(Refusal::NoSuchDatabase)),
            "{what}"
        );
    }
    // What is published then begins anew.
    let last = log.append(vec![node.publish(false), add("a", 1, 0)]);
    log.all_applied().await;
    assert!(log.outcome(last[1]).is_ok());
    let stray = log.append(vec![Body::Load(Load {
        database: Bytes::copy_from_slice(&DATABASE),
        of: 7,
        ..Load::default()
    })]);
    log.all_applied().await;
    assert_eq!(
        log.outcome(stray[0]),
        Err(Unapplied::Refused(Refusal::NotRestoring))
    );
    replica.stop().await;
    node.server.stop().await;
}
