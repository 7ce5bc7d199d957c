//! Updates that may break clients: whether they do is what the log says, at one position.

use crate::support::{DATABASE, Log, Node, add, prepared, program};
use crate::verdict::{Others, told};
use rtdb_consensus::command::Body;
use rtdb_consensus::{Position, Refusal, Unapplied};
use rtdb_replica::{Replica, migration_token};
use rtdb_testkit::{demo_module, variant};
use spacetimedb_lib::{Hash, hash_bytes};
use std::sync::OnceLock;

/// The demo module with one more rule.
fn ruled() -> &'static rtdb_determinism::Prepared {
    static PREPARED: OnceLock<rtdb_determinism::Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let module = demo_module::wasm_named("counter-1x").unwrap();
        let module = variant::with_rule(&module, "SELECT * FROM dice").unwrap();
        rtdb_determinism::prepare(&module).unwrap()
    })
}

fn update(node: &Node, program: Hash, token: Option<Hash>) -> Body {
    match node.publish(false) {
        Body::Publish(mut publish) => {
            publish.module = ruled().wasm.clone().into();
            publish.original_def = ruled().original_def.clone().into();
            publish.program = program.data.to_vec().into();
            publish.token = token.map_or_else(Vec::new, |token| token.data.to_vec()).into();
            Body::Publish(publish)
        }
        other => other,
    }
}

fn broken(replica: &Replica) -> Position {
    *replica.broken(&DATABASE).unwrap().borrow()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_the_module_that_it_was_made_for() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let breaks = node.server.version().unwrap().numbers() >= Some((1, 4));
    let log = Log::new();
    let mut replica = node.replica(&log);
    // Published before there were hashes of originals in the log.
    let first = log.append(vec![node.publish(false)]);
    log.all_applied().await;
    let (before, after) = (hash_bytes(&prepared().wasm), hash_bytes("an original"));
    assert_eq!(replica.database(&DATABASE).unwrap().program, before);
    let wrong = log.append(vec![
        update(&node, after, Some(migration_token(&DATABASE, after, before))),
        update(&node, after, Some(migration_token(&[1; 32], before, after))),
    ]);
    log.all_applied().await;
    for position in wrong {
        let refusal = log.outcome(position);
        assert!(
            matches!(&refusal, Err(Unapplied::Refused(Refusal::Module(text))) if text.contains("Token provided is invalid")),
            "{refusal:?}"
        );
    }
    assert_eq!(replica.database(&DATABASE).unwrap().position, first[0]);
    assert_eq!(broken(&replica), Position::default());

    let good = Some(migration_token(&DATABASE, before, after));
    let taken = log.append(vec![update(&node, after, good), add("a", 1, 0)]);
    log.all_applied().await;
    assert_eq!(log.outcome(taken[0]).err(), None);
    assert_eq!(log.outcome(taken[1]).err(), None);
    assert_eq!(replica.database(&DATABASE).unwrap().program, after);
    assert_eq!(
        broken(&replica),
        if breaks { taken[0] } else { Position::default() }
    );
    // The same again needs none; it breaks nobody.
    let again = log.append(vec![update(&node, after, good), add("b", 1, 0)]);
    log.all_applied().await;
    assert!(log.outcome(again[0]).is_ok() && log.outcome(again[1]).is_ok());
    assert_eq!(
        broken(&replica),
        if breaks { taken[0] } else { Position::default() }
    );

    // A replica that makes everything anew comes to the same.
    replica.admin().delete(&node.owner, &DATABASE).await.unwrap();
    replica.stop().await;
    log.forget_applied();
    replica = node.replica(&log);
    log.all_applied().await;
    assert_eq!(replica.database(&DATABASE).unwrap().position, again[0]);
    assert_eq!(
        node.rows(&replica, "SELECT name FROM counter WHERE name != 'init'")
            .await
            .len(),
        2
    );
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_clients_are_broken_is_the_first_word_in_the_log() {
    let Some(program) = program() else { return };
    for breaks in [true, false] {
        let node = Node::start(program.clone()).await;
        let log = Log::new();
        let others = Others::new(&log, 2);
        let mut replica = node.reporting(&log, others.clone());
        let first = log.append(vec![node.publish(false)]);
        told(&log, first[0]).await;
        let (before, after) = (hash_bytes(&prepared().wasm), hash_bytes("an original"));
        others.say_that_it_breaks(breaks);
        let token = migration_token(&DATABASE, before, after);
        let taken = log.append(vec![update(&node, after, Some(token)), add("a", 1, 0)]);
        told(&log, taken[1]).await;
        assert!(log.outcome(taken[0]).is_ok());
        assert_eq!(broken(&replica) == taken[0], breaks);
        // What an earlier life has applied is still so.
        replica.stop().await;
        log.forget_applied();
        replica = node.reporting(&log, others.clone());
        log.all_applied().await;
        assert_eq!(broken(&replica) == taken[0], breaks);
        replica.stop().await;
        node.server.stop().await;
    }
}

/// Its publication may be broken off where all is in place and the clients have not heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn who_finds_a_database_cleared_closes_the_clients_of_before() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let mut replica = node.replica(&log);
    let cleared = log.append(vec![
        node.publish(false),
        add("a", 1, 0),
        node.publish(true),
        add("b", 1, 0),
    ])[2];
    log.all_applied().await;
    assert_eq!(broken(&replica), cleared);
    replica.stop().await;
    log.forget_applied();
    replica = node.replica(&log);
    log.all_applied().await;
    assert_eq!(broken(&replica), cleared);
    replica.stop().await;
    node.server.stop().await;
}
