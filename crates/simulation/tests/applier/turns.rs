//! Procedures' transactions and turns, on servers that die and lose what they had.

use super::support::{Eventful, Log, When, names, ran, start};
use rtdb_consensus::command::{Body, Transaction, Turn};
use rtdb_consensus::{Position, Unapplied};
use rtdb_determinism::CONFLICT;
use rtdb_protocol::Subprotocol;
use rtdb_replica::{DatabaseId, Replica};
use rtdb_simulation::client::call;
use rtdb_simulation::module::{ADD, DATABASE, publish_with_procedures};
use rtdb_simulation::spacetime::{Loss, SpacetimeDb};
use std::sync::Arc;
use std::time::Duration;

/// With a replica, a database and a call in it, at the position that is given.
async fn begun() -> (SpacetimeDb, Arc<Eventful>, Arc<Log>, Replica, Position) {
    let server = SpacetimeDb::new(1, Subprotocol::V3, false, None);
    server.start();
    let (eventful, log) = (Eventful::new(&server), Arc::<Log>::default());
    let replica = start(&log, eventful.clone());
    log.push(Body::Publish(publish_with_procedures(1)));
    let one = log.push(call(0, ADD, "one"));
    log.outcome(one).await.expect("it goes well");
    (server, eventful, log, replica, one)
}

fn program(replica: &Replica) -> Vec<u8> {
    let identity: DatabaseId = DATABASE.as_ref().try_into().expect("32 bytes");
    let active = replica.database(&identity).expect("the database");
    active.program.data.to_vec()
}

fn transaction(replica: &Replica, base: Position, turn: Position, what: &str) -> Body {
    Body::Transaction(Transaction {
        database: DATABASE,
        program: program(replica).into(),
        base: base.0,
        operations: what.to_owned().into(),
        turn: turn.0,
        ..Transaction::default()
    })
}

fn turn(replica: &Replica) -> Body {
    Body::Turn(Turn {
        database: DATABASE,
        program: program(replica).into(),
        run: 1,
    })
}

/// What is done, told and kept, whatever happens to the server while the turn waits, and behind it.
fn a_turn(loss: Option<Loss>, then: Option<Loss>) {
    let (told, kept) = ran(0, async move {
        let (server, _, log, replica, one) = begun().await;
        let held = log.push(turn(&replica));
        let behind = log.push(call(0, ADD, "behind"));
        rtdb_runtime::sleep(Duration::from_secs(3)).await;
        assert_eq!(names(&server), ["one"], "the call waits");
        if let Some(loss) = loss {
            server.die(loss);
            server.start();
        }
        log.push(transaction(&replica, one, held, "in turn"));
        log.push(transaction(&replica, one, held, "too late"));
        let told = (log.outcome(held).await.is_ok(), log.outcome(behind).await.is_ok());
        if let Some(loss) = then {
            server.die(loss);
            server.start();
        }
        let last = log.push(call(0, ADD, "last"));
        log.outcome(last).await.expect("it goes well");
        let kept = names(&server);
        replica.stop().await;
        (told, kept)
    });
    assert_eq!(told, (true, true), "{loss:?} {then:?}");
    assert_eq!(kept, ["one", "in turn", "behind", "last"], "{loss:?} {then:?}");
}

#[test]
fn a_turn_is_used_once_whatever_the_server_loses() {
    let losses = [
        None,
        Some(Loss::Nothing),
        Some(Loss::Commits(1)),
        Some(Loss::Commits(2)),
        Some(Loss::Everything),
    ];
    for loss in losses {
        for then in losses {
            a_turn(loss, then);
        }
    }
}

#[test]
fn a_turn_that_is_given_back_holds_nobody() {
    let kept = ran(0, async {
        let (server, _, log, replica, one) = begun().await;
        let held = log.push(turn(&replica));
        let behind = log.push(call(0, ADD, "behind"));
        log.push(Body::Transaction(Transaction::nothing(DATABASE, held.0)));
        log.push(transaction(&replica, one, held, "too late"));
        let outcome = log.outcome(held).await;
        assert!(matches!(outcome, Err(Unapplied::Reducer { .. })), "{outcome:?}");
        log.outcome(behind).await.expect("it goes well");
        let kept = names(&server);
        replica.stop().await;
        kept
    });
    assert_eq!(kept, ["one", "behind"]);
}

/// The connection is lost with the call on its way, which is made when it has already been asked what became of it.
#[test]
fn what_is_done_for_a_lost_connection_is_told() {
    let kept = ran(0, async {
        let (server, eventful, log, replica, one) = begun().await;
        eventful.is_late();
        let done = log.push(transaction(&replica, one, Position::default(), "done"));
        let conflict = log.push(transaction(&replica, one, Position::default(), "conflict"));
        log.outcome(done).await.expect("it goes well");
        match log.outcome(conflict).await {
            Err(Unapplied::Reducer { message, .. }) => assert_eq!(message, CONFLICT),
            other => panic!("{other:?}"),
        }
        eventful.at(When::Connects, |server| {
            server.die(Loss::Commits(1));
            server.start();
        });
        let last = log.push(call(0, ADD, "last"));
        log.outcome(last).await.expect("it goes well");
        let kept = names(&server);
        replica.stop().await;
        kept
    });
    assert_eq!(kept, ["one", "done", "last"]);
}
