//! What procedures do comes as a transaction, alone or in a turn for which the database is held.

use crate::publish::with_module;
use crate::support::{DATABASE, Log, Node, bsatn, call, program};
use bytes::Bytes;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, Transaction, Turn};
use rtdb_consensus::{Origin, Position, Unapplied};
use rtdb_determinism::{CONFLICT, Prepared};
use rtdb_protocol::Subprotocol;
use rtdb_replica::{Replica, Report};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Another node, where procedures run.
const OTHER: Origin = Origin { node: 2, epoch: 1 };

/// Keeps what the replica reports.
#[derive(Default)]
struct Reports(Mutex<Vec<Body>>);

impl Report for Reports {
    fn report(&self, body: Body) -> bool {
        self.0.lock().push(body);
        true
    }

    fn majority(&self) -> Option<usize> {
        None
    }

    fn wants(&self, _: rtdb_consensus::Position) -> bool {
        false
    }
}

fn prepared() -> Prepared {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules/procedures-2x/procedures-2x.wasm");
    rtdb_determinism::prepare(&std::fs::read(path).unwrap()).unwrap()
}

fn publish(node: &Node) -> Body {
    let prepared = prepared();
    let mut body = with_module(node.publish(false), prepared.wasm);
    if let Body::Publish(publish) = &mut body {
        publish.original_def = prepared.original_def.into();
    }
    body
}

/// The reducer that inserts a note.
fn write(text: &str) -> Body {
    call("reduce", &[&[1, 0, 0, 0, 4][..], &bsatn(text)].concat(), 0)
}

/// The insertion of a note, as the module notes it: what is called, what it returned, the table (the third by name), nothing, and
/// lengths.
fn wrote(text: &str) -> Bytes {
    let row = bsatn(text);
    let head = [1, 0, 3, 0, row.len() as u32, 0, 0].map(u32::to_le_bytes);
    [head.as_flattened(), &row].concat().into()
}

fn transaction(replica: &Replica, base: Position, turn: Position, text: &str) -> Body {
    let active = replica.database(&DATABASE).unwrap();
    Body::Transaction(Transaction {
        database: Bytes::copy_from_slice(&DATABASE),
        program: active.program.data.to_vec().into(),
        sender: vec![7; 32].into(),
        base: base.0,
        operations: wrote(text),
        session: 0,
        turn: turn.0,
        claim: None,
    })
}

fn turn(replica: &Replica, run: u64) -> Body {
    let active = replica.database(&DATABASE).unwrap();
    Body::Turn(Turn {
        database: Bytes::copy_from_slice(&DATABASE),
        program: active.program.data.to_vec().into(),
        run,
    })
}

async fn notes(node: &Node, replica: &Replica) -> Vec<String> {
    let mut notes = node.rows(replica, "SELECT text FROM note").await;
    notes.sort();
    notes
}

fn why(log: &Log, position: Position) -> String {
    match log.outcome(position) {
        Err(Unapplied::Reducer { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_done_in_their_place_or_in_their_turn() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    if node.server.newest_subprotocol() == Subprotocol::V1 {
        eprintln!("skipped: a server without procedures, of 1.x");
        return;
    }
    let log = Log::new();
    let reports = Arc::new(Reports::default());
    let replica = node.reporting(&log, reports.clone());
    let published = log.append(vec![publish(&node)])[0];
    log.all_applied().await;

    // What calls have come between with does nothing.
    let none = Position::default();
    let done = log.append(vec![
        transaction(&replica, published, none, "first"),
        transaction(&replica, published, none, "late"),
        write("a call"),
    ]);
    log.all_applied().await;
    assert!(log.outcome(done[0]).is_ok());
    assert_eq!(why(&log, done[1]), CONFLICT);
    assert_eq!(notes(&node, &replica).await, [r#"["a call"]"#, r#"["first"]"#]);

    // A turn of this node's whose procedure has ended is given back.
    let held = log.append(vec![turn(&replica, 5), write("behind")]);
    let given_back = async {
        loop {
            if let Some(body) = reports
                .0
                .lock()
                .iter()
                .find(|it| matches!(it, Body::Transaction(_)))
            {
                break body.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let nothing = tokio::time::timeout(Duration::from_secs(60), given_back)
        .await
        .unwrap();
    let database = Bytes::copy_from_slice(&DATABASE);
    assert_eq!(
        nothing,
        Body::Transaction(Transaction::nothing(database, held[0].0))
    );
    assert!(log.outcomes(held[1]).is_empty(), "the call waits");
    log.append(vec![nothing, transaction(&replica, done[2], held[0], "too late")]);
    log.all_applied().await;
    why(&log, held[0]);
    assert!(log.outcome(held[1]).is_ok());
    let behind = held[1];

    // One of another node's goes before the calls that came meanwhile, though the server dies.
    let before = notes(&node, &replica).await;
    let held = log.append_from(OTHER, vec![turn(&replica, 6), write("after"), turn(&replica, 7)]);
    node.kill_server();
    let Body::Transaction(ends) = transaction(&replica, behind, held[0], "in turn") else {
        unreachable!()
    };
    let second = Transaction {
        base: held[1].0,
        turn: held[2].0,
        operations: wrote("in the second turn"),
        ..ends.clone()
    };
    // The second turn's end comes first.
    log.append(vec![Body::Transaction(second), Body::Transaction(ends)]);
    log.all_applied().await;
    let mut expected = before;
    expected.extend(["in turn", "after", "in the second turn"].map(|text| format!("[\"{text}\"]")));
    expected.sort();
    assert_eq!(notes(&node, &replica).await, expected);
    replica.stop().await;

    // The whole log once more.
    log.forget_applied();
    let again = node.reporting(&log, Arc::new(Reports::default()));
    log.all_applied().await;
    assert_eq!(notes(&node, &again).await, expected);
    again.stop().await;
}
