//! What servers lose, and do, at moments when it is hard to see.

use super::support::{Eventful, Log, WITHIN, When, judge, names, ran, skip, start};
use rtdb_consensus::command::{Body, Call, Delete};
use rtdb_consensus::{Position, Unapplied};
use rtdb_determinism::header::CallHeader;
use rtdb_protocol::Subprotocol;
use rtdb_replica::Replica;
use rtdb_runtime::{sleep, timeout};
use rtdb_simulation::client::call;
use rtdb_simulation::module::{ADD, DATABASE, REMOVE, own_args, publish};
use rtdb_simulation::spacetime::{Loss, SpacetimeDb};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn new(is_external: bool) -> (SpacetimeDb, Arc<Eventful>, Arc<Log>) {
    let server = SpacetimeDb::new(1, Subprotocol::V3, is_external, None);
    server.start();
    let eventful = Eventful::new(&server);
    (server, eventful, Arc::default())
}

/// With a replica, a database and a call in it.
async fn begun(is_external: bool) -> (SpacetimeDb, Arc<Eventful>, Arc<Log>, Replica) {
    let (server, eventful, log) = new(is_external);
    let replica = start(&log, eventful.clone());
    log.push(Body::Publish(publish(1, false, false)));
    let one = log.push(call(0, ADD, "one"));
    log.outcome(one).await.expect("it goes well");
    (server, eventful, log, replica)
}

fn module(server: &SpacetimeDb) -> u64 {
    server.database(&DATABASE).map_or(0, |database| database.module)
}

/// The server makes a call for a connection that is lost, when it has already been asked where it is.
#[test]
fn calls_that_are_made_for_a_lost_connection_are_told() {
    let (is_ok, names) = ran(0, async {
        let (server, eventful, log, replica) = begun(false).await;
        eventful.is_late();
        let two = log.push(call(0, ADD, "two"));
        let three = log.push(call(0, ADD, "three"));
        log.outcome(three).await.expect("it goes well");
        let is_ok = log.outcome(two).await.is_ok();
        replica.stop().await;
        (is_ok, names(&server))
    });
    assert!(is_ok);
    assert_eq!(names, ["one", "two", "three"]);
}

/// The server loses just the module that it has taken, and is where it was before.
#[test]
fn an_update_that_alone_is_lost_is_made_again() {
    for is_external in [false, true] {
        let (names, module) = ran(0, async move {
            let (server, eventful, log, replica) = begun(is_external).await;
            eventful.at(When::Connects, |server| {
                server.die(Loss::Commits(1));
                server.start();
            });
            log.push(Body::Publish(publish(2, false, false)));
            let two = log.push(call(0, ADD, "two"));
            log.outcome(two).await.expect("it goes well");
            assert!(eventful.is_over());
            let held = (names(&server), module(&server));
            replica.stop().await;
            held
        });
        assert_eq!(names, ["one", "two"]);
        assert_eq!(module, 2, "external: {is_external}");
    }
}

/// An update is in place that is refused, and once it was taken back the server loses that.
#[test]
fn a_refused_update_that_comes_back_goes_again() {
    for (is_external, is_later) in [(false, false), (false, true), (true, false), (true, true)] {
        let (names, module) = ran(0, async move {
            let (server, eventful, log, replica) = begun(is_external).await;
            let judged = log.clone();
            eventful.at(When::Connects, move |server| {
                server.die(Loss::Nothing);
                judged.push(judge(Position::new(3, 0), Some("no memory")));
            });
            // Where to go on, and then the module of before.
            eventful.at(When::Connects, |_| ());
            if !is_later {
                eventful.at(When::Connects, |server| {
                    server.die(Loss::Commits(1));
                    server.start();
                });
            }
            let update = log.push(Body::Publish(publish(2, false, false)));
            assert_eq!(update, Position::new(3, 0));
            log.outcome(update).await.expect_err("it is refused");
            let three = log.push(call(0, ADD, "three"));
            log.outcome(three).await.expect("it goes well");
            if is_later {
                server.die(Loss::Commits(2));
            }
            let four = log.push(call(0, ADD, "four"));
            log.outcome(four).await.expect("it goes well");
            assert!(eventful.is_over());
            let held = (names(&server), module(&server));
            replica.stop().await;
            held
        });
        assert_eq!(names, ["one", "three", "four"]);
        assert_eq!(module, 1, "external: {is_external}, later: {is_later}");
    }
}

/// A database is made again without a call that has failed by decision, and the server brings back the one with it.
#[test]
fn what_has_failed_stays_so_though_the_server_brings_it_back() {
    let ways = [
        (false, When::Connects),
        (false, When::Deleted),
        (true, When::Connects),
    ];
    for (is_external, when) in ways {
        let names = ran(0, async move {
            let (server, eventful, log) = new(is_external);
            let replica = start(&log, eventful.clone());
            log.push(Body::Publish(publish(1, false, false)));
            let one = log.push(call(0, ADD, "one"));
            let two = log.push(call(0, ADD, "two"));
            log.outcome(two).await.expect("it goes well");
            // That it was made is on disk.
            server.die(Loss::Nothing);
            let three = log.push(call(0, ADD, "three"));
            log.outcome(three).await.expect("it goes well");
            eventful.at(when, |server| server.die(Loss::Catalog));
            log.push(skip(one));
            let four = log.push(call(0, ADD, "four"));
            log.outcome(four).await.expect("it goes well");
            assert!(eventful.is_over());
            let names = names(&server);
            replica.stop().await;
            names
        });
        assert_eq!(names, ["two", "three", "four"], "external: {is_external}");
    }
}

/// A new database may get the files of one that the server has forgotten.
#[test]
fn a_new_database_has_nothing_of_a_forgotten_one() {
    for seed in 1..=40 {
        let (names, module) = ran(seed, async {
            let (server, eventful, log) = new(false);
            let replica = start(&log, eventful);
            let first = log.push(Body::Publish(publish(1, false, false)));
            let one = log.push(call(0, ADD, "one"));
            log.outcome(one).await.expect("it goes well");
            server.die(Loss::Last);
            log.push(skip(first));
            log.push(Body::Publish(publish(2, false, false)));
            let two = log.push(call(0, ADD, "two"));
            log.outcome(two).await.expect("it goes well");
            let held = (names(&server), module(&server));
            replica.stop().await;
            held
        });
        assert_eq!((names, module), (vec!["two".to_owned()], 2), "seed {seed}");
    }
}

/// The server does not answer when it is asked what a new database holds.
#[test]
fn a_new_database_is_not_taken_for_empty_unseen() {
    let names = ran(0, async {
        let (server, eventful, log) = new(false);
        let replica = start(&log, eventful.clone());
        let first = log.push(Body::Publish(publish(1, false, false)));
        let one = log.push(call(0, ADD, "one"));
        log.outcome(one).await.expect("it goes well");
        let is_silent = eventful.is_silent.clone();
        eventful.at(When::Connects, move |_| is_silent.store(true, Ordering::Relaxed));
        server.die(Loss::Catalog);
        log.push(skip(first));
        log.push(Body::Publish(publish(2, false, false)));
        let two = log.push(call(0, ADD, "two"));
        log.outcome(two).await.expect("it goes well");
        assert!(eventful.is_over());
        let names = names(&server);
        replica.stop().await;
        names
    });
    assert_eq!(names, ["two"]);
}

/// What is applied once more has been told long ago, and is progress all the same.
#[test]
fn a_server_that_breaks_off_now_and_then_is_not_set_aside() {
    const CALLS: usize = 60;
    let aside = ran(0, async {
        let server = SpacetimeDb::new(1, Subprotocol::V1, false, None);
        server.start();
        let log = Arc::<Log>::default();
        let eventful = Eventful::new(&server);
        let replica = start(&log, eventful.clone());
        log.push(Body::Publish(publish(1, false, false)));
        for number in 0..CALLS {
            let add = log.push(call(0, ADD, &format!("add {number}")));
            log.outcome(add).await.expect("it goes well");
        }
        eventful.stutters(10);
        server.die(Loss::Everything);
        let aside = replica.quarantine(&[7; 32]).expect("there is a database");
        let all = async {
            while names(&server).len() < CALLS && aside.borrow().is_none() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WITHIN * 10, all).await.expect("all is applied again");
        let why = aside.borrow().clone();
        replica.stop().await;
        why
    });
    assert_eq!(aside, None);
}

/// A publication that clears the database does not end that it is set aside, if it is what the server does not take.
#[test]
fn a_server_that_does_not_take_a_module_is_asked_now_and_then() {
    let (is_aside, put) = ran(0, async {
        let (_, eventful, log, replica) = begun(false).await;
        log.push(judge(Position::new(4, 0), None));
        log.push(Body::Publish(publish(2, true, true)));
        let mut aside = replica.quarantine(&[7; 32]).expect("there is a database");
        let set_aside = timeout(WITHIN * 10, aside.wait_for(Option::is_some)).await;
        let is_aside = set_aside.is_ok_and(|aside| aside.is_ok());
        let put = eventful.put.load(Ordering::Relaxed);
        sleep(Duration::from_secs(100)).await;
        let put = eventful.put.load(Ordering::Relaxed) - put;
        replica.stop().await;
        (is_aside, put)
    });
    assert!(is_aside);
    assert!(put <= 2, "it was asked {put} times in 100 s");
}

/// What becomes of a call behind an update that removes the row of one before it, in a database that is deleted behind both, and
/// which a server that `dies` has to make again. It may have troubles when it is to take the publication.
fn told_before_the_deletion(dies: Loss, is_troubled: bool) -> Result<Position, Unapplied> {
    ran(0, async move {
        let (server, eventful, log, replica) = begun(false).await;
        let put = eventful.put.load(Ordering::Relaxed);
        if is_troubled {
            eventful.at(When::Deleted, |server| server.trouble(true));
        }
        server.die(dies);
        log.push(Body::Publish(publish(2, false, false)));
        let args = [&CallHeader::default().encode()[..], &own_args("two", 1)].concat();
        let removed = log.push(Body::Call(Call {
            database: DATABASE,
            reducer: REMOVE.to_owned(),
            args: args.into(),
            ..Call::default()
        }));
        let deleted = log.push(Body::Delete(Delete {
            database: DATABASE,
            ..Delete::default()
        }));
        while eventful.put.load(Ordering::Relaxed) == put {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_secs(1)).await;
        server.trouble(false);
        log.outcome(deleted).await.expect("it goes well");
        assert!(eventful.is_over());
        assert_eq!(server.database(&DATABASE), None);
        let told = log.outcome(removed).await;
        replica.stop().await;
        told.map(|applied| applied.position)
    })
}

/// Others may have made it with what stood before: here the update would have made a database of its own.
#[test]
fn what_follows_a_publication_that_is_left_out_is_left_out_too() {
    let told = told_before_the_deletion(Loss::Everything, true);
    assert!(matches!(told, Err(Unapplied::Unknown { .. })), "{told:?}");
}

/// That a new database gets the files of a forgotten one is not the publication's trouble.
#[test]
fn a_database_that_is_deleted_later_is_made_though_the_server_has_forgotten_it() {
    let told = told_before_the_deletion(Loss::Catalog, false);
    assert_eq!(told, Ok(Position::new(4, 0)));
}
