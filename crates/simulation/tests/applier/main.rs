//! One replica, over the model of a server and a log in memory.

mod lost;
mod support;
mod turns;

use self::support::{Eventful, Log, WITHIN, When, names, ran, skip, start};
use rtdb_consensus::Reply;
use rtdb_consensus::command::{Body, Delete};
use rtdb_protocol::Subprotocol;
use rtdb_runtime::{Instant, sleep, timeout};
use rtdb_simulation::client::call;
use rtdb_simulation::module::{ADD, BURN, DATABASE, publish};
use rtdb_simulation::spacetime::{Loss, SpacetimeDb};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The server has lost the database by the time at which it is decided that the publication has failed that cleared it.
#[test]
fn what_a_failed_publication_has_cleared_comes_back_to_a_server_that_has_nothing() {
    for seed in 1..=5 {
        let (outcome, names) = ran(seed, async {
            let server = SpacetimeDb::new(1, Subprotocol::V3, false, None);
            server.start();
            let log = Arc::<Log>::default();
            let replica = start(&log, Arc::new(server.clone()));
            log.push(Body::Publish(publish(1, false, false)));
            log.push(call(0, ADD, "one"));
            let cleared = log.push(Body::Publish(publish(2, true, false)));
            let two = log.push(call(0, ADD, "two"));
            log.outcome(two).await.expect("it goes well");
            assert_eq!(names(&server), ["two"]);
            server.die(Loss::Everything);
            log.push(skip(cleared));
            let three = log.push(call(0, ADD, "three"));
            let outcome = log.outcome(three).await;
            let names = names(&server);
            replica.stop().await;
            (
                outcome.map(|applied| matches!(applied.reply, Reply::Call { .. })),
                names,
            )
        });
        assert_eq!(outcome, Ok(true), "seed {seed}");
        assert_eq!(names, ["one", "two", "three"], "seed {seed}");
    }
}

/// 1.2.0 does not say that a call has run out of energy: the connection is made anew.
#[test]
fn calls_that_are_not_answered_are_soon_applied_once_more() {
    let took = ran(0, async {
        let server = SpacetimeDb::new(1, Subprotocol::V1, false, None);
        server.start();
        let log = Arc::<Log>::default();
        let replica = start(&log, Arc::new(server.clone()));
        log.push(Body::Publish(publish(1, false, false)));
        for number in 0..40 {
            log.push(call(0, BURN, &format!("burn {number}")));
            let add = log.push(call(0, ADD, &format!("add {number}")));
            log.outcome(add).await.expect("it goes well");
        }
        server.die(Loss::Everything);
        let begun = Instant::now();
        let all = async {
            while names(&server).len() < 40 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WITHIN * 10, all).await.expect("all is applied again");
        replica.stop().await;
        begun.elapsed()
    });
    assert!(took < Duration::from_secs(20), "it takes {took:?}");
}

/// What a server holds that has died between what it said and the connection: `next` is what the applier does there.
fn died_before_the_connection(next: Option<Body>, is_external: bool) -> (Vec<String>, u64) {
    ran(0, async move {
        let server = SpacetimeDb::new(1, Subprotocol::V3, is_external, None);
        server.start();
        let eventful = Eventful::new(&server);
        let log = Arc::<Log>::default();
        let mut replica = start(&log, eventful.clone());
        log.push(Body::Publish(publish(1, false, false)));
        let one = log.push(call(0, ADD, "one"));
        let two = log.push(call(0, ADD, "two"));
        log.outcome(two).await.expect("it goes well");
        eventful.at(When::Connects, move |server| {
            server.die_at(one.0);
            server.start();
        });
        match next {
            Some(body) => drop(log.push(body)),
            None => {
                replica.stop().await;
                replica = start(&log, eventful.clone());
            }
        }
        let three = log.push(call(0, ADD, "three"));
        log.outcome(three).await.expect("it goes well");
        assert!(eventful.is_over(), "it has died");
        let module = server.database(&DATABASE).map_or(0, |database| database.module);
        let held = (names(&server), module);
        replica.stop().await;
        held
    })
}

const ALL: [&str; 3] = ["one", "two", "three"];

#[test]
fn what_a_server_loses_after_it_has_said_where_it_is_is_sent_again() {
    for is_external in [false, true] {
        let (names, module) = died_before_the_connection(None, is_external);
        assert_eq!((names, module), (ALL.map(str::to_owned).to_vec(), 1));
    }
}

#[test]
fn what_a_server_loses_after_an_update_is_sent_again() {
    for is_external in [false, true] {
        let update = Body::Publish(publish(2, false, false));
        let (names, module) = died_before_the_connection(Some(update), is_external);
        assert_eq!((names, module), (ALL.map(str::to_owned).to_vec(), 2));
    }
}

#[test]
fn what_a_server_loses_after_it_has_refused_an_update_is_sent_again() {
    for is_external in [false, true] {
        let bad = Body::Publish(publish(3, false, true));
        let (names, module) = died_before_the_connection(Some(bad), is_external);
        assert_eq!((names, module), (ALL.map(str::to_owned).to_vec(), 1));
    }
}

/// A server that is killed may bring back a database that was deleted, though there is another one of its identity by now.
#[test]
fn a_deleted_database_that_comes_back_goes_again() {
    for seed in 1..=30 {
        let (is_ok, names, told) = ran(seed, async {
            let server = SpacetimeDb::new(1, Subprotocol::V3, false, None);
            server.start();
            let log = Arc::<Log>::default();
            let replica = start(&log, Arc::new(server.clone()));
            log.push(Body::Publish(publish(1, false, false)));
            let one = log.push(call(0, ADD, "one"));
            log.outcome(one).await.expect("it goes well");
            let deleted = log.push(Body::Delete(Delete {
                database: DATABASE,
                ..Delete::default()
            }));
            log.outcome(deleted).await.expect("it goes well");
            log.push(Body::Publish(publish(2, false, false)));
            let two = log.push(call(0, ADD, "two"));
            log.outcome(two).await.expect("it goes well");
            server.die(Loss::Last);
            let three = log.push(call(0, ADD, "three"));
            let outcome = log.outcome(three).await;
            replica.stop().await;
            (outcome.is_ok(), names(&server), log.told.load(Ordering::Relaxed))
        });
        assert!(is_ok, "seed {seed}");
        assert_eq!(told, 6, "seed {seed}");
        assert_eq!(names, ["two", "three"], "seed {seed}");
    }
}

/// The server has taken the mark before a publication, and a node that starts anew does not know yet that the log has that.
#[test]
fn a_log_that_is_not_known_to_the_publication_yet_is_waited_for() {
    let (aside, is_ok, names) = ran(0, async {
        let server = SpacetimeDb::new(1, Subprotocol::V3, false, None);
        server.start();
        let commands = || {
            [
                Body::Publish(publish(1, false, false)).into(),
                call(0, ADD, "one"),
                Body::Publish(publish(2, false, false)).into(),
            ]
        };
        let log = Arc::<Log>::default();
        let replica = start(&log, Arc::new(server.clone()));
        let [.., update] = commands().map(|command: rtdb_consensus::Command| log.push(command));
        log.outcome(update).await.expect("it goes well");
        replica.stop().await;
        server.die_at(update.0 - 1);
        let log = Arc::<Log>::default();
        let [first, second, third] = commands();
        log.push(first);
        log.push(second);
        let replica = start(&log, Arc::new(server.clone()));
        sleep(WITHIN).await;
        let aside = replica.quarantine(&[7; 32]).map(|aside| aside.borrow().clone());
        log.push(third);
        let two = log.push(call(0, ADD, "two"));
        let outcome = log.outcome(two).await;
        replica.stop().await;
        (aside.flatten(), outcome.is_ok(), names(&server))
    });
    assert_eq!(aside, None);
    assert!(is_ok);
    assert_eq!(names, ["one", "two"]);
}
