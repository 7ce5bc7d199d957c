//! Applying a log to the real server, which is killed meanwhile.

use crate::support::{
    DATABASE, Log, Node, TIMEOUT, add, bsatn, call, connect, delete, digest, disconnect, prepared, program,
    start_server,
};
use rtdb_consensus::command::{Body, Owner};
use rtdb_consensus::{Refusal, Reply, Unapplied};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The names of the counters that calls have made, sorted.
async fn names(node: &Node, replica: &rtdb_replica::Replica) -> Vec<String> {
    let rows = node.rows(replica, "SELECT * FROM counter").await;
    let mut names: Vec<String> = rows
        .iter()
        .map(|row| {
            serde_json::from_str::<serde_json::Value>(row).unwrap()[1]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .filter(|name| name != "init")
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_publications_and_sessions_have_their_outcomes() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);

    let first = log.append(vec![node.publish(false)])[0];
    log.all_applied().await;
    assert_eq!(
        log.outcome(first).unwrap().reply,
        Reply::Published { created: true }
    );
    let active = replica.database(&DATABASE).unwrap();
    assert_eq!((active.position, &active.owner), (first, &node.owner));

    let session = log.append(vec![connect()])[0];
    let calls = log.append(vec![
        add("a", 1, session.0),
        add("", 1, session.0),
        call("no_such", &[], session.0),
        call("add", &[1], session.0),
        call("explode", &[], session.0),
        add("b", 2, 0),
    ]);
    log.all_applied().await;
    assert_eq!(log.outcome(session).unwrap().reply, Reply::Done);
    assert!(matches!(log.outcome(calls[0]).unwrap().reply, Reply::Call { .. }));
    let failures: Vec<_> = calls[1..5]
        .iter()
        .map(|call| log.outcome(*call).unwrap_err().to_string())
        .collect();
    assert_eq!(failures[..2], ["name required", "no such reducer"]);
    assert!(
        failures[2].starts_with("invalid arguments for reducer add"),
        "{}",
        failures[2]
    );
    assert!(!failures[3].is_empty());
    assert!(log.outcome(calls[5]).is_ok());
    assert_eq!(names(&node, &replica).await, ["a", "b"]);
    assert_eq!(node.rows(&replica, "SELECT * FROM presence").await.len(), 1);

    let left = log.append(vec![disconnect(session)])[0];
    let second = log.append(vec![node.publish(false), add("c", 3, 0)]);
    log.all_applied().await;
    assert_eq!(log.outcome(left).unwrap().reply, Reply::Done);
    assert_eq!(node.rows(&replica, "SELECT * FROM presence").await.len(), 0);
    let query = format!("SELECT * FROM rtdb_session WHERE session = {}", session.0);
    assert_eq!(node.rows(&replica, &query).await.len(), 0);
    assert_eq!(
        log.outcome(second[0]).unwrap().reply,
        Reply::Published { created: false }
    );
    assert_eq!(names(&node, &replica).await, ["a", "b", "c"]);
    assert_eq!(replica.database(&DATABASE).unwrap().position, second[0]);

    let cleared = log.append(vec![node.publish(true), add("d", 4, 0)]);
    log.all_applied().await;
    assert_eq!(
        log.outcome(cleared[0]).unwrap().reply,
        Reply::Published { created: false }
    );
    assert_eq!(names(&node, &replica).await, ["d"]);

    let gone = log.append(vec![
        delete(),
        add("e", 5, 0),
        node.publish(false),
        add("f", 6, 0),
    ]);
    log.all_applied().await;
    assert_eq!(log.outcome(gone[0]).unwrap().reply, Reply::Done);
    assert_eq!(
        log.outcome(gone[1]),
        Err(Unapplied::Refused(Refusal::NoSuchDatabase))
    );
    assert_eq!(
        log.outcome(gone[2]).unwrap().reply,
        Reply::Published { created: true }
    );
    assert_eq!(names(&node, &replica).await, ["f"]);

    assert!(digest(&replica).await.is_some());
    assert_eq!(replica.progress().databases[0].in_flight, 0);
    replica.stop().await;
    node.server.stop().await;
}

/// So that an update is known to be in place.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_which_module_it_runs() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false)]);
    log.all_applied().await;
    let told = node.rows(&replica, "SELECT program_hash FROM st_module").await;
    let hash = spacetimedb_lib::hash_bytes(&prepared().wasm).to_u256();
    assert_eq!(told, [format!("[\"{hash:#x}\"]")]);
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_the_server_refuses_leaves_what_was_there() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let broken = |clear| match node.publish(clear) {
        rtdb_consensus::command::Body::Publish(mut publish) => {
            publish.module = bytes::Bytes::from_static(b"\0asm\x01\0\0\0");
            rtdb_consensus::command::Body::Publish(publish)
        }
        other => other,
    };
    let refused = log.append(vec![broken(false), add("a", 1, 0)]);
    log.all_applied().await;
    assert!(matches!(
        log.outcome(refused[0]),
        Err(Unapplied::Refused(Refusal::Module(_)))
    ));
    assert_eq!(
        log.outcome(refused[1]),
        Err(Unapplied::Refused(Refusal::NoSuchDatabase))
    );
    assert!(replica.database(&DATABASE).is_none());

    let update = log.append(vec![
        node.publish(false),
        add("b", 1, 0),
        broken(false),
        add("c", 1, 0),
    ]);
    log.all_applied().await;
    assert!(matches!(
        log.outcome(update[2]),
        Err(Unapplied::Refused(Refusal::Module(_)))
    ));
    assert_eq!(names(&node, &replica).await, ["b", "c"]);
    assert_eq!(replica.database(&DATABASE).unwrap().position, update[0]);
    assert!(replica.fatal().borrow().is_none());
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_applied_once_though_the_server_is_killed_again_and_again() {
    const CALLS: usize = 6000;
    const BATCH: usize = 20;
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false)]);
    log.all_applied().await;

    let mut positions = Vec::new();
    for batch in 0..CALLS / BATCH {
        let calls = (0..BATCH).map(|n| match n {
            // Some fail, and must fail again when they are tried again.
            3 => call("fail", &bsatn("as told"), 0),
            n => add(&format!("{:06}", batch * BATCH + n), 1, 0),
        });
        positions.extend(log.append(calls.collect()));
        if batch % 60 == 30 {
            // With hundreds of calls under way, and time in between to come back.
            tokio::time::sleep(Duration::from_millis(5)).await;
            node.kill_server();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    log.all_applied().await;
    let expected: Vec<String> = (0..CALLS)
        .filter(|n| n % BATCH != 3)
        .map(|n| format!("{n:06}"))
        .collect();
    assert_eq!(names(&node, &replica).await, expected);
    let (mut lost_messages, mut unknown) = (0, 0);
    for (n, position) in positions.iter().enumerate() {
        match log.outcome(*position) {
            Ok(_) => assert_ne!(n % BATCH, 3),
            Err(Unapplied::Unknown { .. }) => unknown += 1,
            Err(Unapplied::Reducer { message, .. }) => {
                assert_eq!(n % BATCH, 3);
                lost_messages += usize::from(message != "as told");
            }
            Err(e) => panic!("{e}"),
        }
    }
    eprintln!("{CALLS} calls, 5 kills: {unknown} outcomes unknown, {lost_messages} error messages lost");
    assert!(unknown <= 5);

    // Another life of the node finds everything applied and tells nothing again.
    let before = digest(&replica).await;
    replica.stop().await;
    log.forget_applied();
    let replica = node.replica(&log);
    log.all_applied().await;
    assert_eq!(names(&node, &replica).await, expected);
    assert_eq!(digest(&replica).await, before);
    replica.stop().await;

    // A server that has lost its data altogether is filled from the log, with the very same result.
    node.server.stop().await;
    std::fs::remove_dir_all(node.folder.path().join("spacetimedb/data")).unwrap();
    let node = Node {
        server: start_server(&node.program, node.folder.path(), &node.keys).await,
        ..node
    };
    log.forget_applied();
    let replica = node.replica(&log);
    log.all_applied().await;
    assert_eq!(names(&node, &replica).await, expected);
    assert_eq!(digest(&replica).await, before);
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_log_stops_the_node() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false), add("a", 1, 0), add("b", 1, 0)]);
    log.all_applied().await;
    replica.stop().await;

    let other = Log::new();
    other.append(vec![node.publish(false), add("x", 1, 0)]);
    assert_diverged(&node, &other).await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_generation_is_set_aside_and_is_not_waited_for() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::in_generation(1);
    let replica = node.replica(&log);
    log.append(vec![node.publish(false)]);
    log.append(vec![add("a", 1, 0)]);
    log.all_applied().await;
    assert_eq!(names(&node, &replica).await, ["a"]);
    replica.stop().await;

    // The server is ahead of this log, and would be waited for if it were of the same generation.
    let other = Log::new();
    other.append(vec![node.publish(false)]);
    assert_diverged(&node, &other).await;
    node.server.stop().await;
}

async fn assert_diverged(node: &Node, log: &Arc<Log>) {
    let replica = node.replica(log);
    let mut aside = loop {
        if let Some(aside) = replica.quarantine(&DATABASE) {
            break aside;
        }
        tokio::task::yield_now().await;
    };
    let aside = tokio::time::timeout(TIMEOUT, aside.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(matches!(aside, Some(rtdb_replica::Quarantine::Diverged(_))));
    assert!(replica.fatal().borrow().is_none(), "the node goes on");
    replica.stop().await;
}

/// Not a test: how fast a log is applied. `cargo test -p rtdb-replica --release --test real -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn apply_rate() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false)]);
    log.all_applied().await;
    for (what, session) in [("with a slot", 0), ("with a receipt", 1 << 40)] {
        for _ in 0..3 {
            let start = Instant::now();
            for _ in 0..200 {
                log.append((0..100).map(|n| add("x", n, session)).collect());
            }
            log.all_applied().await;
            eprintln!("{what}: {:.0} calls/s", 20_000.0 / start.elapsed().as_secs_f64());
        }
    }
    replica.stop().await;
    node.server.stop().await;
}

/// The database is gone from the server, and nothing is kept of it on the node.
async fn nothing_is_left(node: &Node, log: &Log, replica: &rtdb_replica::Replica) {
    log.all_applied().await;
    let gone = async {
        while !replica.progress().databases.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, gone).await.expect("it is given up");
    assert!(replica.database(&DATABASE).is_none() && replica.deleted(&DATABASE).is_none());
    let state = replica.admin().state(&node.owner, &DATABASE).await;
    assert!(matches!(
        state,
        Ok(None) | Err(rtdb_replica::AdminError::NoSuchDatabase)
    ));
}

/// Another owner, and his publication.
fn heir(node: &Node) -> (Owner, Body) {
    let minted = node.tokens.mint("localhost", "heir", None).unwrap();
    let heir = Owner {
        identity: bytes::Bytes::copy_from_slice(&minted.identity),
        issuer: "localhost".into(),
        subject: "heir".into(),
    };
    let Body::Publish(mut publish) = node.publish(false) else {
        unreachable!()
    };
    publish.owner = Some(heir.clone());
    (heir, Body::Publish(publish))
}

/// The node is away while a database is deleted, made by another owner, and deleted again.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_owner_has_left_goes() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false), add("a", 1, 0)]);
    log.all_applied().await;
    replica.stop().await;
    let (heir, of_heir) = heir(&node);
    log.append(vec![delete(), of_heir.clone(), add("b", 1, 0)]);
    let replica = node.replica(&log);
    log.all_applied().await;
    let found = node
        .rows(&replica, "SELECT * FROM counter WHERE name = 'b'")
        .await;
    assert_eq!(found.len(), 1);
    let owner = replica.admin().owner(&node.owner, &DATABASE).await.unwrap();
    assert_eq!(owner.map(|owner| owner.to_vec()), Some(heir.identity.to_vec()));
    replica.stop().await;

    log.append(vec![delete(), node.publish(false), delete()]);
    let replica = node.replica(&log);
    nothing_is_left(&node, &log, &replica).await;
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_database_leaves_nothing() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false), add("a", 1, 0)]);
    log.all_applied().await;
    let mut deleted = replica.deleted(&DATABASE).expect("a database");
    assert!(!*deleted.borrow());
    let gone = log.append(vec![delete()])[0];
    tokio::time::timeout(TIMEOUT, deleted.wait_for(|deleted| *deleted))
        .await
        .expect("it is told")
        .expect("by whoever knows");
    nothing_is_left(&node, &log, &replica).await;
    assert_eq!(log.outcome(gone).unwrap().reply, Reply::Done);

    // Deleted and made again and again, the last time by another owner: each is a database of its own.
    let (heir, of_heir) = heir(&node);
    let lives = log.append(vec![
        node.publish(false),
        add("b", 1, 0),
        delete(),
        of_heir,
        add("c", 1, 0),
    ]);
    log.all_applied().await;
    for publication in [lives[0], lives[3]] {
        assert_eq!(
            log.outcome(publication).unwrap().reply,
            Reply::Published { created: true }
        );
    }
    for call in [lives[1], lives[2], lives[4]] {
        log.outcome(call).unwrap();
    }
    let found = replica
        .admin()
        .sql(&heir, &DATABASE, "SELECT name FROM counter")
        .await;
    assert_eq!(
        found.unwrap()[0].rows.len(),
        2,
        "what `init` has made, and what the call has"
    );
    assert!(!*replica.deleted(&DATABASE).expect("it is there").borrow());
    replica.stop().await;

    // The node is away while it is deleted: what its server still has goes when it is back.
    log.append(vec![delete()]);
    let replica = node.replica(&log);
    nothing_is_left(&node, &log, &replica).await;
    replica.stop().await;
    // And once more, when there is nothing left to delete.
    log.forget_applied();
    let replica = node.replica(&log);
    nothing_is_left(&node, &log, &replica).await;
    replica.stop().await;
    node.server.stop().await;
}
