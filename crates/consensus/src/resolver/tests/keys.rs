//! Calls with keys: once each, for as long as the keys are kept, and what came of them.

use super::*;
use crate::command::{
    CallKey, Ended, FAILURE_BYTES_MAX, FINGERPRINT_BYTES_MAX, KEY_BYTES_MAX, KEYS_LEVEL, Known, OUTCOMES_MAX,
    Outcomes, Succeeded,
};
use crate::command::{Poison, PoisonStep, Skipped};
use crate::resolver::{
    KEY_KEPT_US_MAX, KEY_KEPT_US_MIN, KEYS_MAX, KEYS_PER_CALLER_MAX, KEYS_PER_DATABASE_MAX,
};

const ANN: &str = "ann";
const BOB: &str = "bob";

fn key(sender: &str, key: &str, print: &str) -> CallKey {
    CallKey {
        sender: sender.to_owned().into(),
        key: key.to_owned(),
        fingerprint: print.to_owned().into(),
    }
}

/// A call that is the same wherever it has that name, with a key.
fn keyed(sender: &str, name: &str, reducer: &str) -> Body {
    Body::Call(Call {
        database: DATABASE,
        reducer: reducer.to_owned(),
        key: Some(key(sender, name, reducer)),
        ..Call::default()
    })
}

fn outcomes(known: Vec<Known>, wanted: Vec<u64>) -> Body {
    Body::Outcomes(Outcomes {
        database: DATABASE,
        known,
        wanted,
    })
}

fn succeeded(position: Position) -> Known {
    Known {
        position: position.0,
        ended: Some(Ended::Succeeded(Succeeded::default())),
    }
}

fn failed(position: Position, why: &str) -> Known {
    Known {
        position: position.0,
        ended: Some(Ended::Failed(why.to_owned())),
    }
}

fn outcome(resolver: &Resolver, sender: &str, name: &str) -> Option<Outcome> {
    let shard = resolver.shard_state().unwrap();
    shard.keyed(&DATABASE, sender.as_bytes(), name)?.1.outcome()
}

/// How many keys are kept, by way of what is written.
fn count(resolver: &Resolver) -> usize {
    let dump = resolver.dump();
    dump.iter()
        .filter(|(key, _)| matches!(key, StateKey::Keyed(_)))
        .count()
}

/// Where the one command stands that was taken.
fn taken(decision: &Decision) -> Position {
    assert_eq!(decision.entry.commands.len(), 1, "{decision:?}");
    decision.entry.commands[0].position
}

#[test]
fn the_first_call_with_a_key_counts_and_no_other() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    taken(&bench.one(2, keyed(ANN, "k", "add")));
    assert_eq!(
        refusal(&bench.one(3, keyed(ANN, "k", "add"))),
        Some(Refusal::Repeated)
    );
    assert_eq!(
        refusal(&bench.one(4, keyed(ANN, "k", "fail"))),
        Some(Refusal::KeyTaken)
    );
    let other = bench.resolve(entry(0, vec![batch(2, 1, 1, vec![keyed(ANN, "k", "add")])]));
    assert_eq!(refusal(&other), Some(Refusal::Repeated), "through another node");
    let mut restored = bench.restored();
    let again = entry(0, vec![batch(1, 1, 5, vec![keyed(ANN, "k", "add")])]);
    let again = restored
        .resolve(bench.index + 1, TERM, again, &mut Vec::new())
        .unwrap();
    assert_eq!(refusal(&again), Some(Refusal::Repeated), "after a restart");
    // Others' keys are others, and so are those of SQL, which say by their fingerprints what they are.
    taken(&bench.one(5, keyed(BOB, "k", "add")));
    taken(&bench.one(6, keyed(ANN, "j", "add")));
    let sql = |print| {
        Body::Write(Write {
            database: DATABASE,
            kind: Some(WriteKind::Insert(InsertRows::default())),
            key: Some(key(ANN, "w", print)),
            ..Write::default()
        })
    };
    taken(&bench.one(7, sql("insert")));
    assert_eq!(refusal(&bench.one(8, sql("insert"))), Some(Refusal::Repeated));
    assert_eq!(
        refusal(&bench.one(9, keyed(ANN, "w", "add"))),
        Some(Refusal::KeyTaken)
    );
    assert_eq!(Command::from(sql("insert")).version, KEYS_LEVEL);
    assert_eq!(Command::from(keyed(ANN, "k", "add")).version, KEYS_LEVEL);
    assert_eq!(Command::from(call(0, "add")).version, 0);
}

#[test]
fn a_refused_call_uses_no_key_up() {
    let mut bench = Bench::new(Resolver::shard());
    assert_eq!(
        refusal(&bench.one(1, keyed(ANN, "k", "add"))),
        Some(Refusal::NoSuchDatabase)
    );
    bench.one(2, publish());
    let position = taken(&bench.one(3, keyed(ANN, "k", "add")));
    // The replicas have refused it, too: it has not been done.
    let free = Known {
        position: position.0,
        ended: None,
    };
    bench.one(4, outcomes(vec![free], vec![]));
    taken(&bench.one(5, keyed(ANN, "k", "fail")));
    assert_eq!(count(&bench.restored()), 1);
    let long = |what, max| Some(Refusal::TooLong { what, max });
    let name = "k".repeat(KEY_BYTES_MAX + 1);
    let refused = refusal(&bench.one(6, keyed(ANN, &name, "add")));
    assert_eq!(refused, long("an idempotency key", KEY_BYTES_MAX));
    let print = "f".repeat(FINGERPRINT_BYTES_MAX + 1);
    let refused = refusal(&bench.one(7, keyed(ANN, "k", &print)));
    assert_eq!(refused, long("a call's fingerprint", FINGERPRINT_BYTES_MAX));
    let refused = refusal(&bench.one(8, keyed(&"a".repeat(33), "k", "add")));
    assert_eq!(refused, long("a caller's identity", 32));
}

#[test]
fn what_came_of_it_is_what_was_said_first() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let calls = bench.resolve(entry(
        0,
        vec![batch(
            1,
            1,
            2,
            ["a", "b", "c"].map(|name| keyed(ANN, name, "add")).to_vec(),
        )],
    ));
    let at = |place: usize| calls.entry.commands[place].position;
    let wants = |bench: &Bench, place| bench.resolver.shard_state().unwrap().wants_outcome(at(place));
    assert!(wants(&bench, 0) && outcome(&bench.resolver, ANN, "a").is_none());
    let long = "é".repeat(FAILURE_BYTES_MAX);
    let known = vec![
        failed(at(0), &long),
        succeeded(at(0)),
        succeeded(at(1)),
        succeeded(Position(77)),
    ];
    let said = bench.one(5, outcomes(known, vec![]));
    assert!(said.entry.commands.is_empty(), "the replicas need not hear");
    bench.one(6, outcomes(vec![failed(at(1), "no")], vec![]));
    for resolver in [&bench.resolver, &bench.restored()] {
        match outcome(resolver, ANN, "a") {
            Some(Err(Unapplied::Reducer {
                position,
                message,
                trapped,
                ..
            })) => {
                assert_eq!((position, trapped), (at(0), false));
                assert_eq!(message, long[..FAILURE_BYTES_MAX]);
            }
            other => panic!("{other:?}"),
        }
        assert!(
            matches!(outcome(resolver, ANN, "b"), Some(Ok(Applied { position, .. })) if position == at(1))
        );
        assert_eq!(outcome(resolver, ANN, "c"), None);
    }
    assert!(!wants(&bench, 0) && wants(&bench, 2));
    // Of another database nothing is said.
    let other = Outcomes {
        database: OTHER,
        known: vec![succeeded(at(2))],
        wanted: vec![],
    };
    bench.one(7, Body::Outcomes(other));
    assert_eq!(outcome(&bench.resolver, ANN, "c"), None);
    let many = vec![failed(at(0), "no"); OUTCOMES_MAX].into_iter();
    bench.one(8, outcomes(many.chain([succeeded(at(2))]).collect(), vec![]));
    assert_eq!(outcome(&bench.resolver, ANN, "c"), None, "too many at once");
}

#[test]
fn what_is_wanted_reaches_the_replicas() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let position = taken(&bench.one(2, keyed(ANN, "a", "add")));
    taken(&bench.one(3, outcomes(vec![], vec![position.0])));
    assert_eq!(
        refusal(&bench.one(4, outcomes(vec![], vec![u64::MAX]))),
        Some(Refusal::NotYet)
    );
    assert_eq!(Command::from(outcomes(vec![], vec![])).version, KEYS_LEVEL);
    // A question reaches the replicas, and is nothing to be asked where the disk is full.
    let grows = |wanted| Command::from(outcomes(vec![], wanted)).grows();
    assert!(grows(vec![1]) && !grows(vec![]));
}

#[test]
fn keys_end_with_their_time_and_with_their_database() {
    let mut bench = Bench::new(Resolver::shard());
    let at = |us: i64, seq, bodies| entry(us, vec![batch(1, 1, seq, bodies)]);
    bench.resolve(at(0, 1, vec![publish()]));
    let names = ["a", "b", "c"];
    let first = bench.resolve(at(1_000, 2, names.map(|name| keyed(ANN, name, "add")).to_vec()));
    let born_us = first.entry.commands[0].timestamp_us;
    let last_us = born_us + KEY_KEPT_US_MAX - 1;
    let kept = bench.resolve(at(last_us, 5, vec![keyed(ANN, "a", "add")]));
    assert_eq!(refusal(&kept), Some(Refusal::Repeated));
    // A microsecond later.
    taken(&bench.resolve(at(last_us, 6, vec![keyed(ANN, "a", "fail")])));
    assert_eq!(count(&bench.resolver), 3);
    // All whose time is over go, with whatever comes.
    bench.resolve(at(last_us + KEY_KEPT_US_MAX / 2, 7, vec![call(0, "add")]));
    assert_eq!(count(&bench.resolver), 1);
    assert_eq!(count(&bench.restored()), 1);
    bench.resolve(at(0, 8, vec![delete(DATABASE)]));
    assert_eq!((count(&bench.resolver), count(&bench.restored())), (0, 0));
    bench.resolve(at(0, 9, vec![publish()]));
    taken(&bench.resolve(at(0, 10, vec![keyed(ANN, "a", "add")])));
}

/// Makes many calls with keys.
struct Callers {
    bench: Bench,
    seq: u64,
}

impl Callers {
    fn new(databases: &[Bytes]) -> Self {
        let mut bench = Bench::new(Resolver::shard());
        for (place, database) in databases.iter().enumerate() {
            let publish = Publish {
                database: database.clone(),
                ..Publish::default()
            };
            bench.one(place as u64 + 1, Body::Publish(publish));
        }
        let seq = databases.len() as u64;
        Self { bench, seq }
    }

    /// How many of the calls are taken, and whose keys are too many for the first one that is not.
    fn call(
        &mut self,
        us: i64,
        database: &Bytes,
        sender: &str,
        names: std::ops::Range<usize>,
    ) -> (usize, Option<&'static str>) {
        let body = |name: usize| {
            Body::Call(Call {
                database: database.clone(),
                key: Some(key(sender, &name.to_string(), "add")),
                ..Call::default()
            })
        };
        let bodies: Vec<_> = names.map(body).collect();
        let first = self.seq + 1;
        self.seq += bodies.len() as u64;
        let decision = self.bench.resolve(entry(us, vec![batch(1, 1, first, bodies)]));
        let whose = decision.settled.first().map(|(_, _, outcome)| match outcome {
            Err(Unapplied::Refused(Refusal::TooManyKeys { whose })) => *whose,
            other => panic!("{other:?}"),
        });
        (decision.entry.commands.len(), whose)
    }

    fn has(&self, database: &Bytes, sender: &str, name: usize) -> bool {
        let shard = self.bench.resolver.shard_state().unwrap();
        shard
            .keyed(database, sender.as_bytes(), &name.to_string())
            .is_some()
    }

    fn count(&self) -> usize {
        let count = count(&self.bench.resolver);
        assert_eq!(super::keys::count(&self.bench.restored()), count);
        count
    }
}

#[test]
fn a_caller_with_too_many_keys_waits_until_its_oldest_are_old() {
    let mut callers = Callers::new(&[DATABASE]);
    let max = KEYS_PER_CALLER_MAX;
    assert_eq!(callers.call(0, &DATABASE, ANN, 0..max).0, max);
    let (took, whose) = callers.call(0, &DATABASE, ANN, max..max + 1);
    assert_eq!((took, whose), (0, Some("the caller has made")));
    assert_eq!(callers.call(0, &DATABASE, BOB, 0..1).0, 1);
    // What has been there is still known, and may be said.
    let again = callers.bench.one(callers.seq + 1, keyed(ANN, "0", "add"));
    assert_eq!(refusal(&again), Some(Refusal::Repeated));
    callers.seq += 1;
    let later_us = KEY_KEPT_US_MIN + 1_000_000;
    assert_eq!(callers.call(later_us, &DATABASE, ANN, max..max + 1).0, 1);
    assert!(!callers.has(&DATABASE, ANN, 0) && callers.has(&DATABASE, ANN, 1));
    assert!(callers.has(&DATABASE, BOB, 0));
    assert_eq!(callers.count(), max + 1);
}

#[test]
fn who_has_few_keys_gets_room_from_who_has_the_most() {
    let mut callers = Callers::new(&[DATABASE]);
    let strangers = ["a", "b", "c", "d"];
    let max = KEYS_PER_CALLER_MAX;
    assert_eq!(strangers.len() * max, KEYS_PER_DATABASE_MAX);
    // The first has made one call less, the last one more before the others.
    assert_eq!(callers.call(0, &DATABASE, ANN, 0..1).0, 1);
    for stranger in strangers {
        let count = max - usize::from(stranger == "a");
        assert_eq!(callers.call(0, &DATABASE, stranger, 0..count).0, count);
    }
    // Nobody's, while it may still be sent again.
    let whose = "the callers of this database have made";
    assert_eq!(callers.call(0, &DATABASE, BOB, 0..1), (0, Some(whose)));
    let later_us = KEY_KEPT_US_MIN + 1_000_000;
    assert_eq!(callers.call(later_us, &DATABASE, BOB, 0..1), (1, None));
    assert!(!callers.has(&DATABASE, "b", 0) && callers.has(&DATABASE, "b", 1));
    // Now two have the most, and then one.
    assert_eq!(callers.call(later_us, &DATABASE, BOB, 1..3), (2, None));
    assert!(!callers.has(&DATABASE, "c", 0) && !callers.has(&DATABASE, "d", 0));
    assert!(callers.has(&DATABASE, "a", 0));
    assert_eq!(callers.call(later_us, &DATABASE, BOB, 3..4), (1, None));
    assert!(!callers.has(&DATABASE, "a", 0) && callers.has(&DATABASE, ANN, 0));
    // Who has as many as any makes room for itself.
    assert_eq!(callers.call(later_us, &DATABASE, "b", max..max + 1), (1, None));
    assert!(!callers.has(&DATABASE, "b", 1) && callers.has(&DATABASE, "c", 1));
    assert_eq!(callers.count(), KEYS_PER_DATABASE_MAX);
}

#[test]
fn a_shard_keeps_so_many_keys_and_takes_from_the_database_with_the_most() {
    let databases: Vec<_> = (10..13).map(|it| Bytes::from(vec![it; 32])).collect();
    let mut callers = Callers::new(&databases);
    let (last, others) = databases.split_last().unwrap();
    assert_eq!(others.len() * KEYS_PER_DATABASE_MAX, KEYS_MAX);
    for database in others {
        for stranger in 0..KEYS_PER_DATABASE_MAX / KEYS_PER_CALLER_MAX {
            callers.call(0, database, &stranger.to_string(), 0..KEYS_PER_CALLER_MAX);
        }
    }
    assert_eq!(callers.count(), KEYS_MAX);
    let whose = "the callers of all databases have made";
    assert_eq!(callers.call(0, last, ANN, 0..1), (0, Some(whose)));
    // Of databases that have as many, that of the oldest key.
    let later_us = KEY_KEPT_US_MIN + 1_000_000;
    assert_eq!(callers.call(later_us, last, ANN, 0..2), (2, None));
    assert!(!callers.has(&others[0], "0", 0) && !callers.has(&others[1], "0", 0));
    assert!(callers.has(&others[0], "1", 0) && callers.has(&others[1], "1", 0));
    assert_eq!(callers.count(), KEYS_MAX);
}

/// A database is full on a busy day, and so is a shard: that turns nobody away as long as something is old enough to go.
#[test]
fn who_is_busy_in_a_full_database_turns_nobody_away() {
    let mut callers = Callers::new(&[DATABASE]);
    for person in 0..KEYS_PER_DATABASE_MAX / 8 {
        callers.call(0, &DATABASE, &person.to_string(), 0..8);
    }
    assert_eq!(callers.count(), KEYS_PER_DATABASE_MAX);
    let later_us = KEY_KEPT_US_MIN + 1_000_000;
    // Some calls in a row, and then others have fewer.
    assert_eq!(callers.call(later_us, &DATABASE, ANN, 0..9), (9, None));
    assert!(!callers.has(&DATABASE, "7", 0) && callers.has(&DATABASE, "8", 0));
    assert!(!callers.has(&DATABASE, "0", 1) && callers.has(&DATABASE, "0", 2));
    assert_eq!(callers.call(later_us, &DATABASE, BOB, 0..1), (1, None));
    assert!(callers.has(&DATABASE, ANN, 0) && !callers.has(&DATABASE, "0", 2));
    // Nobody has more than a caller may have, however many of them come.
    let max = KEYS_PER_CALLER_MAX;
    assert_eq!(callers.call(later_us, &DATABASE, ANN, 9..max).0, max - 9);
    let whose = "the caller has made";
    assert_eq!(
        callers.call(later_us, &DATABASE, ANN, max..max + 1),
        (0, Some(whose))
    );
    assert_eq!(callers.call(later_us, &DATABASE, BOB, 1..9), (8, None));
    assert_eq!(callers.count(), KEYS_PER_DATABASE_MAX);
}

#[test]
fn who_is_busy_in_a_full_shard_turns_no_other_database_away() {
    let databases: Vec<_> = (10..14).map(|it| Bytes::from(vec![it; 32])).collect();
    let mut callers = Callers::new(&databases);
    let [one, other, busy, last] = &databases[..] else {
        panic!("four databases")
    };
    for database in [one, other] {
        for caller in 0..KEYS_PER_DATABASE_MAX / KEYS_PER_CALLER_MAX {
            callers.call(0, database, &caller.to_string(), 0..KEYS_PER_CALLER_MAX - 1);
        }
    }
    let later_us = KEY_KEPT_US_MIN + 1_000_000;
    for caller in ["a", "b", "c", "d"] {
        let names = 0..KEYS_PER_CALLER_MAX;
        let (took, whose) = callers.call(later_us, busy, caller, names);
        assert_eq!((took, whose), (KEYS_PER_CALLER_MAX, None));
    }
    assert_eq!(callers.count(), KEYS_MAX);
    assert_eq!(callers.call(later_us, last, ANN, 0..2), (2, None));
    assert!(callers.has(busy, "a", 0));
    assert_eq!(callers.count(), KEYS_MAX);
}

#[test]
fn what_the_log_decides_is_what_came_of_a_call() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let position = taken(&bench.one(2, keyed(ANN, "k", "add")));
    bench.one(3, outcomes(vec![succeeded(position)], vec![]));
    let skip = Poison {
        database: DATABASE,
        position: position.0,
        step: Some(PoisonStep::Skipped(Skipped {})),
    };
    taken(&bench.one(4, Body::Poison(skip)));
    bench.one(5, outcomes(vec![succeeded(position)], vec![]));
    for resolver in [&bench.resolver, &bench.restored()] {
        let outcome = outcome(resolver, ANN, "k");
        assert!(
            matches!(outcome, Some(Err(Unapplied::Reducer { trapped: true, .. }))),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_call_that_is_kept_is_small() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let [sender, name, print] = [32, KEY_BYTES_MAX, FINGERPRINT_BYTES_MAX].map(|len| "x".repeat(len));
    let call = Body::Call(Call {
        database: DATABASE,
        key: Some(key(&sender, &name, &print)),
        ..Call::default()
    });
    let position = taken(&bench.one(2, call));
    let why = "no".repeat(FAILURE_BYTES_MAX);
    bench.one(3, outcomes(vec![failed(position, &why)], vec![]));
    let dump = bench.resolver.dump();
    let kept = dump.iter().find(|(key, _)| matches!(key, StateKey::Keyed(_)));
    let bytes = kept.unwrap().1.as_ref().unwrap().len();
    assert!(bytes <= 320, "{bytes} bytes");
}

/// Sessions and databases outlive their entries, which may be large.
#[test]
fn what_is_kept_has_bytes_of_its_own() {
    let log = Bytes::from(vec![1; 1 << 10]);
    let mut bench = Bench::new(Resolver::shard());
    bench.one(
        1,
        Body::Publish(Publish {
            database: log.slice(..32),
            ..Publish::default()
        }),
    );
    bench.one(
        2,
        Body::Connect(Connect {
            database: log.slice(..32),
            sender: log.slice(32..64),
            connection: log.slice(64..80),
            ..Connect::default()
        }),
    );
    let shard = bench.resolver.shard_state().unwrap();
    let session = shard.sessions().next().unwrap();
    let mut kept = vec![&session.database, &session.sender, &session.connection];
    kept.extend(shard.databases());
    let range = log.as_ptr_range();
    assert!(kept.iter().all(|it| !range.contains(&it.as_ptr())));
}
