//! Rows that are changed as the log says, while the server is killed.

use crate::support::{DATABASE, Log, Node, TIMEOUT, bsatn, call, digest, prepared, program, start_server};
use bytes::Bytes;
use rtdb_consensus::command::{Assignment, Body, DeleteRows, InsertRows, UpdateRows, Write, WriteKind};
use rtdb_consensus::{Outcome, Position, Refusal, Reply, Unapplied};
use rtdb_determinism::Module;
use spacetimedb_lib::hash_bytes;
use std::time::Duration;

/// How often rows are changed; every second time the server is killed meanwhile.
const ROUNDS: u64 = 12;

/// A change of a table of the demo module's, by its owner.
fn write(node: &Node, table: &str, kind: WriteKind) -> Body {
    let module = Module::from_def(&prepared().original_def).unwrap();
    let (table, _) = module.table_named(table).unwrap();
    Body::Write(Write {
        database: Bytes::copy_from_slice(&DATABASE),
        program: hash_bytes(&prepared().wasm).data.to_vec().into(),
        sender: node.owner.identity.clone(),
        table,
        kind: Some(kind),
        key: None,
    })
}

fn insert(node: &Node, texts: &[&str]) -> Body {
    let row = |text: &&str| [&0_u64.to_le_bytes()[..], &bsatn(text)].concat().into();
    let rows = texts.iter().map(row).collect();
    write(node, "secret", WriteKind::Insert(InsertRows { rows }))
}

fn update(node: &Node, condition: &str, text: &str) -> Body {
    let update = UpdateRows {
        query: format!("SELECT * FROM secret WHERE {condition}"),
        assignments: vec![Assignment {
            column: 1,
            value: bsatn(text).into(),
        }],
    };
    write(node, "secret", WriteKind::Update(update))
}

fn remove(node: &Node, table: &str, condition: &str) -> Body {
    let query = format!("SELECT * FROM {table}{condition}");
    write(node, table, WriteKind::Delete(DeleteRows { query }))
}

fn rows(inserted: u64, deleted: u64, updated: u64) -> Reply {
    Reply::Rows {
        inserted,
        deleted,
        updated,
    }
}

async fn told(log: &Log, position: Position) -> Outcome {
    let told = async {
        while log.outcomes(position).is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        log.outcome(position)
    };
    tokio::time::timeout(TIMEOUT, told).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_changed_once_and_counted_right_whenever_the_server_dies() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false)]);
    log.all_applied().await;
    for round in 0..ROUNDS {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        let old_is = format!("text = '{old}'");
        let positions = log.append(vec![
            insert(&node, &[&old, &old]),
            update(&node, &old_is, &new),
            update(&node, &old_is, "nothing"),
            remove(
                &node,
                "secret",
                &format!(" WHERE text = '{new}' AND id < {}", 2 * round + 2),
            ),
        ]);
        tokio::time::sleep(Duration::from_millis(round * 7 % 40)).await;
        if round % 2 == 0 {
            node.kill_server();
        }
        let expected = [rows(2, 0, 0), rows(0, 0, 2), rows(0, 0, 0), rows(0, 1, 0)];
        for (position, expected) in positions.into_iter().zip(expected) {
            assert_eq!(told(&log, position).await.unwrap().reply, expected, "{round}");
        }
    }
    log.all_applied().await;
    let before = digest(&replica).await;
    replica.stop().await;
    // A server that has lost all of it is filled from the log.
    node.server.stop().await;
    std::fs::remove_dir_all(node.folder.path().join("spacetimedb/data")).unwrap();
    let node = Node {
        server: start_server(&node.program, node.folder.path(), &node.keys).await,
        ..node
    };
    log.forget_applied();
    let replica = node.replica(&log);
    log.all_applied().await;
    assert_eq!(digest(&replica).await, before);
    let left = node.rows(&replica, "SELECT * FROM secret").await;
    let mut expected: Vec<_> = (0..ROUNDS)
        .map(|at| format!("[{},\"new {at}\"]", 2 * at + 2))
        .collect();
    let mut left: Vec<_> = left.iter().map(|row| row.replace(", ", ",")).collect();
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    replica.stop().await;
    node.server.stop().await;
}

/// Rows of more than may change are not all read.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused_and_what_is_just_enough_is_done() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false)]);
    let long = "x".repeat(1 << 20);
    for _ in 0..40 {
        log.append(vec![call("keep_secret", &bsatn(&long), 0)]);
    }
    let writes = log.append(vec![
        remove(&node, "secret", ""),
        remove(&node, "secret", " WHERE id > 15"),
        remove(&node, "secret", " WHERE id > 30"),
        remove(&node, "secret", " WHERE id > 10"),
    ]);
    log.all_applied().await;
    for position in &writes[..2] {
        let refused = log.outcome(*position).unwrap_err().to_string();
        assert!(refused.contains("changes too much"), "{refused}");
    }
    assert_eq!(log.outcome(writes[2]).unwrap().reply, rows(0, 10, 0));
    assert_eq!(log.outcome(writes[3]).unwrap().reply, rows(0, 20, 0));
    assert_eq!(node.rows(&replica, "SELECT id FROM secret").await.len(), 10);
    replica.stop().await;
    node.server.stop().await;
}

/// A database that has ended and come again is not written to by who had it before.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_of_now_writes() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let Body::Write(mut write) = insert(&node, &["theirs"]) else {
        unreachable!()
    };
    write.sender = vec![5; 32].into();
    let positions = log.append(vec![
        insert(&node, &["before"]),
        node.publish(false),
        Body::Write(write),
        insert(&node, &["ours"]),
    ]);
    log.all_applied().await;
    assert!(matches!(log.outcome(positions[0]), Err(Unapplied::Refused(_))));
    assert_eq!(
        log.outcome(positions[2]),
        Err(Unapplied::Refused(Refusal::NotOwner))
    );
    assert_eq!(
        node.rows(&replica, "SELECT text FROM secret").await,
        ["[\"ours\"]"]
    );
    replica.stop().await;
    node.server.stop().await;
}
