//! One replica, over the model of a server and a log in memory.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Method;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, Delete, Owner, Poison, PoisonStep, Skipped};
use rtdb_consensus::{
    Follow, LogIndex, Origin, Outcome, Position, ReadError, Reply, ResolvedCommand, ResolvedEntry,
};
use rtdb_protocol::Subprotocol;
use rtdb_replica::{
    AdminError, Connecting, DatabaseId, Replica, ReplicaConfig, Server, ServerState, Version,
};
use rtdb_runtime::{Instant, sim, sleep, timeout};
use rtdb_simulation::client::call;
use rtdb_simulation::module::{ADD, BURN, DATABASE, publish};
use rtdb_simulation::spacetime::{Loss, SpacetimeDb};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

const WITHIN: Duration = Duration::from_secs(30);

/// A log in memory, and what came of its commands.
#[derive(Default)]
struct Log {
    resolved: watch::Sender<LogIndex>,
    entries: Mutex<Vec<Arc<ResolvedEntry>>>,
    outcomes: Mutex<BTreeMap<u64, Outcome>>,
    /// How many were told, some of them more than once.
    told: AtomicU64,
}

impl Log {
    /// Takes a command in, and gives its position.
    fn push(&self, command: impl Into<rtdb_consensus::Command>) -> Position {
        let mut entries = self.entries.lock();
        let index = entries.len() as LogIndex + 1;
        let position = Position::new(index, 0);
        entries.push(Arc::new(ResolvedEntry {
            index,
            commands: vec![ResolvedCommand {
                position,
                timestamp_us: index as i64,
                origin: Origin { node: 1, epoch: 1 },
                seq: index,
                command: command.into(),
                session: None,
            }],
        }));
        self.resolved.send_replace(index);
        position
    }

    async fn outcome(&self, position: Position) -> Outcome {
        let told = async {
            loop {
                if let Some(outcome) = self.outcomes.lock().get(&position.index()) {
                    return outcome.clone();
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WITHIN, told).await.expect("it is told in time")
    }
}

impl Follow for Log {
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.resolved.subscribe()
    }

    fn read(&self, from: LogIndex, _: usize) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        let entries = self.entries.lock().clone();
        async move { Ok(entries.into_iter().skip(from as usize - 1).collect()) }.boxed()
    }

    fn complete(&self, _: Origin, seq: u64, outcome: Outcome) {
        self.outcomes.lock().insert(seq, outcome);
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    fn applied(&self, _: LogIndex) {}
}

fn start(log: &Arc<Log>, server: Arc<dyn Server>) -> Replica {
    let config = ReplicaConfig {
        server,
        call_time_max: Duration::from_secs(20),
        damage_wait: Duration::from_secs(180),
        node: 1,
        reports: None,
    };
    Replica::start(config, log.clone())
}

/// What comes of a world.
fn ran<T: Send + 'static>(seed: u64, world: impl Future<Output = T> + Send + 'static) -> T {
    let config = sim::Config {
        seed,
        ..sim::Config::default()
    };
    sim::run(&config, world).output.expect("it runs")
}

fn skip(position: Position) -> Body {
    Body::Poison(Poison {
        database: DATABASE,
        position: position.0,
        step: Some(PoisonStep::Skipped(Skipped::default())),
    })
}

fn names(server: &SpacetimeDb) -> Vec<String> {
    let database = server.database(&DATABASE);
    let rows = database.into_iter().flat_map(|it| it.rows.into_values());
    rows.map(|row| row.name).collect()
}

/// The server has lost the database by the time at which it is decided that the publication has failed that cleared it.
#[test]
fn what_a_failed_publication_has_cleared_comes_back_to_a_server_that_has_nothing() {
    for seed in 1..=5 {
        let (outcome, names) = ran(seed, async {
            let server = SpacetimeDb::new(1, Subprotocol::V3, None);
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
        let server = SpacetimeDb::new(1, Subprotocol::V1, None);
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

/// A server that dies when somebody is about to connect, if it is told to, and loses what came after a position.
#[derive(Clone)]
struct Dying {
    server: SpacetimeDb,
    at: Arc<Mutex<Option<Position>>>,
}

impl Server for Dying {
    fn ask<'a>(
        &'a self,
        owner: &'a Owner,
        method: Method,
        path: String,
        body: Bytes,
        max: Duration,
    ) -> BoxFuture<'a, Result<Bytes, AdminError>> {
        self.server.ask(owner, method, path, body, max)
    }

    fn connect<'a>(&'a self, owner: &'a Owner, database: &'a DatabaseId) -> Connecting<'a> {
        if let Some(position) = self.at.lock().take() {
            self.server.die_at(position.0);
            self.server.start();
        }
        self.server.connect(owner, database)
    }

    fn state(&self) -> watch::Receiver<ServerState> {
        self.server.state()
    }

    fn version(&self) -> Option<Version> {
        self.server.version()
    }

    fn life(&self) -> u64 {
        self.server.life()
    }

    fn end_life(&self, life: u64, why: String) -> bool {
        self.server.end_life(life, why)
    }
}

/// What a server holds that has died between what it said and the connection: `next` is what the applier does there.
fn died_before_the_connection(next: Option<Body>) -> (Vec<String>, u64) {
    ran(0, async {
        let server = SpacetimeDb::new(1, Subprotocol::V3, None);
        server.start();
        let dying = Dying {
            server: server.clone(),
            at: Arc::default(),
        };
        let log = Arc::<Log>::default();
        let mut replica = start(&log, Arc::new(dying.clone()));
        log.push(Body::Publish(publish(1, false, false)));
        let one = log.push(call(0, ADD, "one"));
        let two = log.push(call(0, ADD, "two"));
        log.outcome(two).await.expect("it goes well");
        *dying.at.lock() = Some(one);
        match next {
            Some(body) => drop(log.push(body)),
            None => {
                replica.stop().await;
                replica = start(&log, Arc::new(dying.clone()));
            }
        }
        let three = log.push(call(0, ADD, "three"));
        log.outcome(three).await.expect("it goes well");
        assert_eq!(*dying.at.lock(), None, "it has died");
        let module = server.database(&DATABASE).map_or(0, |database| database.module);
        let held = (names(&server), module);
        replica.stop().await;
        held
    })
}

const ALL: [&str; 3] = ["one", "two", "three"];

#[test]
fn what_a_server_loses_after_it_has_said_where_it_is_is_sent_again() {
    let (names, module) = died_before_the_connection(None);
    assert_eq!((names, module), (ALL.map(str::to_owned).to_vec(), 1));
}

#[test]
fn what_a_server_loses_after_an_update_is_sent_again() {
    let update = Body::Publish(publish(2, false, false));
    let (names, module) = died_before_the_connection(Some(update));
    assert_eq!((names, module), (ALL.map(str::to_owned).to_vec(), 2));
}

#[test]
fn what_a_server_loses_after_it_has_refused_an_update_is_sent_again() {
    let bad = Body::Publish(publish(3, false, true));
    let (names, module) = died_before_the_connection(Some(bad));
    assert_eq!((names, module), (ALL.map(str::to_owned).to_vec(), 1));
}

/// A server that is killed may bring back a database that was deleted, though there is another one of its identity by now.
#[test]
fn a_deleted_database_that_comes_back_goes_again() {
    for seed in 1..=30 {
        let (is_ok, names, told) = ran(seed, async {
            let server = SpacetimeDb::new(1, Subprotocol::V3, None);
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
        let server = SpacetimeDb::new(1, Subprotocol::V3, None);
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
