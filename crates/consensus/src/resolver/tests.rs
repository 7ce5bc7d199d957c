mod ends;
mod issuers;
mod keys;
mod random;
mod restore;
mod timers;

use super::*;
use crate::command::{
    Call, Connect, Delete, Disconnect, EndDatabase, ExpireNode, InitCluster, InsertRows, Judgement, Owner,
    Publish, RegisterDatabase, Report, Reports, Resolve, SetIssuer, SetLock, SetNames, SetNode, Transaction,
    Write, WriteKind,
};
use crate::entry::Batch;
use crate::version::RECORD_VERSION;
use crate::{Command, ENTRY_VERSION, GroupId, Refusal, SHARD_ID_MAX};
use proptest::prelude::*;

const DATABASE: Bytes = Bytes::from_static(&[1; 32]);
const OTHER: Bytes = Bytes::from_static(&[2; 32]);

fn batch(node: u64, epoch: u64, first_seq: u64, bodies: Vec<Body>) -> Batch {
    Batch {
        node,
        epoch,
        first_seq,
        commands: bodies.into_iter().map(Command::from).collect(),
    }
}

fn entry(timestamp_us: i64, batches: Vec<Batch>) -> Entry {
    Entry {
        version: ENTRY_VERSION,
        timestamp_us,
        batches,
    }
}

fn call(session: u64, name: &str) -> Body {
    Body::Call(Call {
        database: DATABASE,
        session,
        reducer: name.to_owned(),
        ..Call::default()
    })
}

fn write(database: Bytes) -> Body {
    Body::Write(Write {
        database,
        kind: Some(WriteKind::Insert(InsertRows::default())),
        ..Write::default()
    })
}

fn transaction(database: Bytes, session: u64) -> Body {
    Body::Transaction(Transaction {
        database,
        session,
        ..Transaction::default()
    })
}

/// A turn's end.
fn ended(turn: u64, operations: &'static [u8]) -> Body {
    Body::Transaction(Transaction {
        database: DATABASE,
        turn,
        operations: Bytes::from_static(operations),
        ..Transaction::default()
    })
}

fn publish() -> Body {
    Body::Publish(Publish {
        database: DATABASE,
        ..Publish::default()
    })
}

fn connect(database: Bytes) -> Body {
    Body::Connect(Connect {
        database,
        ..Connect::default()
    })
}

fn disconnect(session: u64) -> Body {
    Body::Disconnect(Disconnect {
        session,
        refused: false,
    })
}

fn delete(database: Bytes) -> Body {
    Body::Delete(Delete { database, before: 0 })
}

/// The term of every entry.
const TERM: u64 = 3;

/// A resolver, and the state it would be restored from.
struct Bench {
    resolver: Resolver,
    index: LogIndex,
    changes: Vec<Change>,
}

impl Bench {
    fn new(resolver: Resolver) -> Self {
        Self {
            resolver,
            index: 0,
            changes: Vec::new(),
        }
    }

    /// Resolves an entry, and checks that reading it again gives the same.
    fn resolve(&mut self, entry: Entry) -> Decision {
        self.index += 1;
        let decision = self
            .resolver
            .resolve(self.index, TERM, entry.clone(), &mut self.changes)
            .unwrap();
        let encoded = decision.record.encode_to_vec();
        let record: Resolution = decode(encoded.into()).unwrap();
        assert_eq!(reread(self.index, entry, &record), decision.entry);
        decision
    }

    fn one(&mut self, seq: u64, body: Body) -> Decision {
        self.resolve(entry(0, vec![batch(1, 1, seq, vec![body])]))
    }

    /// The resolver, restored from the changes that were written.
    fn restored(&self) -> Resolver {
        let mut state: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = Default::default();
        for (key, value) in &self.changes {
            let mut encoded = Vec::new();
            key.encode(&mut encoded);
            match value {
                Some(value) => state.insert(encoded, value.clone()),
                None => state.remove(&encoded),
            };
        }
        let mut resolver = self.resolver.emptied();
        for (key, value) in state {
            resolver
                .restore(&StateKey::decode(&key).unwrap(), value.into())
                .unwrap();
        }
        resolver
    }
}

fn names(decision: &Decision) -> Vec<&str> {
    let name = |command: &ResolvedCommand| match command.command.body.as_ref() {
        Some(Body::Call(call)) => Some(call.reducer.as_str().to_owned()),
        _ => None,
    };
    let names: Vec<String> = decision.entry.commands.iter().filter_map(name).collect();
    names.into_iter().map(|name| &*name.leak()).collect()
}

fn refusal(decision: &Decision) -> Option<Refusal> {
    match decision.settled.as_slice() {
        [(_, _, Err(Unapplied::Refused(refusal)))] => Some(refusal.clone()),
        _ => None,
    }
}

#[test]
fn duplicates_and_what_follows_a_gap_are_passed_over() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let decision = bench.resolve(entry(
        0,
        vec![
            batch(1, 1, 2, vec![call(0, "a"), call(0, "b")]),
            batch(1, 1, 3, vec![call(0, "b"), call(0, "c")]),
            batch(1, 1, 6, vec![call(0, "gap")]),
            batch(2, 1, 1, vec![call(0, "other")]),
        ],
    ));
    assert_eq!(names(&decision), ["a", "b", "c", "other"]);
    assert!(decision.settled.is_empty());
    assert_eq!(bench.resolver.stream(1), Some((Origin { node: 1, epoch: 1 }, 4)));
}

fn expire(node: u64, epoch: u64, term: u64) -> ExpireNode {
    ExpireNode { node, epoch, term }
}

#[test]
fn an_older_epoch_and_an_expired_one_are_passed_over() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    assert_eq!(
        names(&bench.resolve(entry(0, vec![batch(2, 5, 1, vec![call(0, "a")])]))),
        ["a"]
    );
    assert_eq!(
        names(&bench.resolve(entry(0, vec![batch(2, 4, 2, vec![call(0, "old")])]))),
        [""; 0]
    );
    bench.one(2, Body::ExpireNode(expire(2, 5, TERM - 1)));
    assert!(
        !bench.resolver.is_over(Origin { node: 2, epoch: 5 }),
        "proposed by a leader of before"
    );
    bench.one(3, Body::ExpireNode(expire(2, 5, TERM)));
    assert!(bench.resolver.is_over(Origin { node: 2, epoch: 5 }));
    assert_eq!(
        names(&bench.resolve(entry(0, vec![batch(2, 5, 2, vec![call(0, "late")])]))),
        [""; 0]
    );
    assert_eq!(
        names(&bench.resolve(entry(0, vec![batch(2, 6, 1, vec![call(0, "new")])]))),
        ["new"]
    );
    assert!(!bench.resolver.is_over(Origin { node: 2, epoch: 6 }));
}

#[test]
fn a_session_lives_from_connect_to_disconnect() {
    let mut bench = Bench::new(Resolver::shard());
    assert_eq!(
        refusal(&bench.one(1, connect(DATABASE))),
        Some(Refusal::NoSuchDatabase)
    );
    bench.one(2, publish());
    let session = bench.one(3, connect(DATABASE)).entry.commands[0].position.0;
    assert_eq!(names(&bench.one(4, call(session, "a"))), ["a"]);
    assert_eq!(
        refusal(&bench.one(5, call(session + 1, "b"))),
        Some(Refusal::SessionGone)
    );
    let ended = bench.one(6, disconnect(session)).entry.commands[0]
        .session
        .clone();
    assert_eq!(ended.map(|session| session.id), Some(session));
    assert_eq!(
        refusal(&bench.one(7, disconnect(session))),
        Some(Refusal::SessionGone)
    );
    assert_eq!(
        refusal(&bench.one(8, call(session, "c"))),
        Some(Refusal::SessionGone)
    );
}

#[test]
fn deleting_a_database_ends_its_sessions() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let session = bench.one(2, connect(DATABASE)).entry.commands[0].position.0;
    assert_eq!(bench.one(3, delete(DATABASE)).entry.commands.len(), 1);
    assert_eq!(bench.resolver.shard_state().unwrap().session_count(), 0);
    assert_eq!(
        refusal(&bench.one(4, call(session, "a"))),
        Some(Refusal::NoSuchDatabase)
    );
    assert_eq!(
        refusal(&bench.one(5, delete(OTHER))),
        Some(Refusal::NoSuchDatabase)
    );
}

#[test]
fn sessions_of_a_node_that_is_gone_are_orphans() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let first = bench.resolve(entry(0, vec![batch(2, 1, 1, vec![connect(DATABASE)])]));
    let first = first.entry.commands[0].position.0;
    bench.one(2, connect(DATABASE));
    assert!(bench.resolver.orphans(9).is_empty());
    bench.resolve(entry(0, vec![batch(2, 2, 1, vec![])]));
    assert_eq!(
        bench.resolver.orphans(9),
        [first],
        "a newer life of the node was announced"
    );
    bench.one(3, Body::ExpireNode(expire(1, 1, TERM)));
    assert_eq!(bench.resolver.orphans(9).len(), 2);
    assert_eq!(bench.resolver.orphans(1).len(), 1);
}

#[test]
fn timestamps_grow_whatever_the_clock_does() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let mut last = 0;
    for (seq, clock) in [(2, 1_000), (4, 500), (6, 1_001), (8, i64::MIN), (10, 5_000)] {
        let bodies = vec![call(0, "a"), call(0, "b")];
        let decision = bench.resolve(entry(clock, vec![batch(1, 1, seq, bodies)]));
        for command in &decision.entry.commands {
            assert!(command.timestamp_us > last && command.timestamp_us >= clock);
            last = command.timestamp_us;
        }
    }
    assert_eq!(last, 5_001);
}

#[test]
fn names_belong_to_one_database() {
    let owner = |name: &str| {
        Some(Owner {
            subject: name.to_owned(),
            ..Owner::default()
        })
    };
    let register = |database: Bytes, who: &str, name: &str| {
        Body::RegisterDatabase(RegisterDatabase {
            database,
            owner: owner(who),
            name: name.to_owned(),
            shard: GroupId::SHARD.0,
            has_birth: false,
        })
    };
    let reply = |decision: Decision| match decision.settled.into_iter().next() {
        Some((
            _,
            _,
            Ok(Applied {
                reply: Reply::Database {
                    identity, created, ..
                },
                ..
            }),
        )) => (identity, created),
        other => panic!("{other:?}"),
    };
    let mut bench = Bench::new(Resolver::meta());
    assert_eq!(
        reply(bench.one(1, register(DATABASE, "ann", "a"))),
        (DATABASE, true)
    );
    assert_eq!(
        reply(bench.one(2, register(OTHER, "ann", "a"))),
        (DATABASE, false)
    );
    assert_eq!(
        refusal(&bench.one(3, register(OTHER, "bob", "a"))),
        Some(Refusal::NameTaken("a".to_owned()))
    );
    assert_eq!(
        refusal(&bench.one(4, register(DATABASE, "bob", "b"))),
        Some(Refusal::NotOwner)
    );
    assert_eq!(reply(bench.one(5, register(OTHER, "bob", ""))), (OTHER, true));
    let rename = |database, names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Body::SetNames(SetNames {
            database,
            names,
            replaced: None,
        })
    };
    assert_eq!(
        refusal(&bench.one(6, rename(OTHER, &["b", "a"]))),
        Some(Refusal::NameTaken("a".to_owned()))
    );
    assert_eq!(refusal(&bench.one(7, rename(DATABASE, &["c"]))), None);
    assert_eq!(refusal(&bench.one(8, rename(OTHER, &["a"]))), None);
    let init = |id: &str| {
        Body::InitCluster(InitCluster {
            cluster_id: id.to_owned(),
            ..InitCluster::default()
        })
    };
    assert_eq!(refusal(&bench.one(9, init("x"))), None);
    assert_eq!(refusal(&bench.one(10, init("x"))), None);
    assert_eq!(
        refusal(&bench.one(11, init("y"))),
        Some(Refusal::AlreadyInitialised)
    );
    let meta = bench.resolver.meta_state();
    assert_eq!(meta.named("a").map(|database| &database.identity), Some(&OTHER));
    assert_eq!(bench.restored().meta_state(), meta);
    bench.one(12, delete(OTHER));
    assert_eq!(bench.resolver.meta_state().named("a"), None);
    assert_eq!(bench.restored().meta_state(), bench.resolver.meta_state());
}

#[test]
fn a_locked_database_is_not_deleted() {
    let mut bench = Bench::new(Resolver::meta());
    let register = Body::RegisterDatabase(RegisterDatabase {
        database: DATABASE,
        ..RegisterDatabase::default()
    });
    let lock = |database, locked| {
        Body::SetLock(SetLock {
            database,
            locked,
            born: 0,
        })
    };
    let end = || {
        Body::EndDatabase(EndDatabase {
            database: DATABASE,
            born: 0,
        })
    };
    assert_eq!(
        refusal(&bench.one(1, lock(DATABASE, true))),
        Some(Refusal::NoSuchDatabase)
    );
    bench.one(2, register);
    assert_eq!(refusal(&bench.one(3, lock(DATABASE, true))), None);
    assert_eq!(refusal(&bench.one(4, delete(DATABASE))), Some(Refusal::Locked));
    assert_eq!(refusal(&bench.one(5, end())), Some(Refusal::Locked));
    let restored = bench.restored();
    assert_eq!(restored.meta_state(), bench.resolver.meta_state());
    assert!(restored.meta_state().database(&DATABASE).unwrap().locked);
    assert_eq!(refusal(&bench.one(6, lock(DATABASE, false))), None);
    assert_eq!(refusal(&bench.one(7, end())), None);
    assert_eq!(bench.resolver.meta_state().database(&DATABASE), None);
}

#[test]
fn a_database_belongs_to_a_shard_that_is_there() {
    let mut bench = Bench::new(Resolver::meta());
    let register = |shard| {
        Body::RegisterDatabase(RegisterDatabase {
            database: DATABASE,
            name: "a".to_owned(),
            shard,
            ..RegisterDatabase::default()
        })
    };
    let missing = [1, SHARD_ID_MAX, SHARD_ID_MAX + 1, GroupId::META.0];
    for (seq, shard) in (1..).zip(missing) {
        assert_eq!(
            refusal(&bench.one(seq, register(shard))),
            Some(Refusal::NoSuchShard(shard))
        );
        assert_eq!(bench.resolver.meta_state().named("a"), None);
    }
    assert_eq!(refusal(&bench.one(5, register(0))), None);
    // What is there keeps its shard, whatever else is asked for.
    assert_eq!(refusal(&bench.one(6, register(1))), None);
    assert_eq!(bench.resolver.meta_state().named("a").unwrap().shard, 0);
}

#[test]
fn what_a_newer_version_wrote_stops_the_node() {
    let mut resolver = Resolver::shard();
    let unknown = Entry {
        batches: vec![Batch {
            node: 1,
            epoch: 1,
            first_seq: 1,
            commands: vec![Command::default()],
        }],
        ..entry(0, vec![])
    };
    let error = resolver.resolve(1, TERM, unknown, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, RecordError::UnknownCommand));
    let newer = Entry {
        version: ENTRY_VERSION + 1,
        ..entry(0, vec![])
    };
    let error = crate::entry::Proposal(newer.encode_to_vec().into())
        .decode()
        .unwrap_err();
    assert!(matches!(error, RecordError::Newer { .. }));
}

#[test]
fn no_part_of_a_newer_version_s_state_is_taken_in() {
    let mut shard = Bench::new(Resolver::shard());
    shard.one(1, publish());
    shard.one(2, connect(DATABASE));
    let keyed = Call {
        database: DATABASE,
        key: Some(Default::default()),
        ..Call::default()
    };
    shard.one(3, Body::Call(keyed));
    let mut meta = Bench::new(Resolver::meta());
    meta.one(1, Body::InitCluster(InitCluster::default()));
    meta.one(2, Body::SetNode(SetNode::default()));
    let register = RegisterDatabase {
        database: DATABASE,
        ..RegisterDatabase::default()
    };
    meta.one(3, Body::RegisterDatabase(register));
    meta.one(4, Body::SetIssuer(SetIssuer::default()));
    let mut kinds = std::collections::BTreeSet::new();
    for bench in [shard, meta] {
        for (key, value) in bench.resolver.dump() {
            let value = value.unwrap();
            let mut known = bench.resolver.emptied();
            known.restore(&key, value.clone().into()).unwrap();
            // Tag 15, and a version that is not known.
            let newer = [value, vec![15 << 3, RECORD_VERSION as u8 + 1]].concat();
            let error = known.restore(&key, newer.into()).unwrap_err();
            assert!(matches!(error, RecordError::Newer { .. }), "{key:?}: {error}");
            let mut encoded = Vec::new();
            key.encode(&mut encoded);
            kinds.insert(encoded[0]);
        }
    }
    assert_eq!(kinds, b"acdiklnorst".iter().copied().collect(), "kinds of state");
}

#[test]
fn an_entry_that_positions_can_t_name_stops_the_node() {
    let mut resolver = Resolver::shard();
    let mut resolve = |index, count| {
        let batches = vec![batch(1, 1, 1, vec![call(0, "a"); count])];
        resolver.resolve(index, TERM, entry(0, batches), &mut Vec::new())
    };
    let last = resolve(LOG_INDEX_MAX, COMMANDS_PER_ENTRY_MAX).unwrap();
    assert_eq!(last.settled.len(), COMMANDS_PER_ENTRY_MAX);
    for (index, count) in [
        (LOG_INDEX_MAX + 1, 1),
        (u64::MAX, 0),
        (1, COMMANDS_PER_ENTRY_MAX + 1),
    ] {
        let error = resolve(index, count).unwrap_err();
        assert!(matches!(error, RecordError::BeyondPositions { .. }), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives of the streams, in whatever order and however often: each command takes effect at most once
    /// and in its turn, and a restored resolver decides the same.
    #[test]
    fn each_command_takes_effect_once_and_in_order(
        arrivals in proptest::collection::vec((1u64..4, 1u64..4, 1u64..12, 0usize..6, any::<bool>()), 1..60),
        restart_at in 0usize..60,
    ) {
        let mut bench = Bench::new(Resolver::shard());
        bench.resolve(entry(0, vec![batch(9, 1, 1, vec![publish()])]));
        let mut expected: std::collections::BTreeMap<u64, (u64, u64)> = Default::default();
        for (turn, (node, epoch, first, count, with_next)) in arrivals.into_iter().enumerate() {
            if turn == restart_at {
                bench.resolver = bench.restored();
            }
            let known = expected.entry(node).or_default();
            let first = if with_next { known.1 + 1 } else { first };
            let bodies = (first..first + count as u64).map(|seq| call(0, &format!("{node}/{epoch}/{seq}"))).collect();
            let decision = bench.resolve(entry(turn as i64, vec![batch(node, epoch, first, bodies)]));
            if epoch > known.0 {
                *known = (epoch, 0);
            }
            for command in &decision.entry.commands {
                prop_assert_eq!(command.origin, Origin { node, epoch: known.0 });
                prop_assert_eq!(command.seq, known.1 + 1);
                known.1 = command.seq;
            }
            let end = first + count as u64 - 1;
            if epoch == known.0 && first <= known.1 + 1 && count > 0 {
                prop_assert!(known.1 >= end, "a command that was in turn did not take effect");
            }
        }
    }

    #[test]
    fn skipped_runs_are_found(places in proptest::collection::btree_set(0usize..400, 0..200)) {
        let mut record = Resolution::new(0);
        for place in &places {
            record.skip(*place);
        }
        for place in 0..401 {
            prop_assert_eq!(record.is_skipped(place), places.contains(&place));
        }
    }
}

fn report(position: u64, digest: u64) -> Body {
    reported(position, digest, false)
}

/// A position after all that the tests have written.
fn at(count: usize) -> u64 {
    Position::new(9, count).0
}

fn reported(position: u64, digest: u64, of_rows: bool) -> Body {
    let database = DATABASE;
    let report = Report {
        database,
        position,
        digest,
        of_rows,
        place: 0,
    };
    Body::Reports(Reports {
        reports: vec![report],
    })
}

#[test]
fn rows_that_are_stored_otherwise_differ_whatever_is_written_later() {
    let mut bench = Bench::new(Resolver::shard());
    bench.resolver.set_voters([1, 2, 3].into());
    bench.resolve(entry(1, vec![batch(1, 1, 1, vec![publish(), report(at(5), 1)])]));
    for (node, seq, hash) in [(1, 3, 7), (2, 1, 7), (3, 1, 8)] {
        let batch = batch(node, 1, seq, vec![reported(at(6), hash, true)]);
        bench.resolve(entry(2, vec![batch]));
    }
    for (node, seq) in [(1, 4), (2, 2), (3, 2)] {
        bench.resolve(entry(3, vec![batch(node, 1, seq, vec![report(at(9), 2)])]));
    }
    let shard = bench.resolver.shard_state().unwrap();
    let diverged =
        |audit: Option<&super::Audit>| audit.unwrap().diverged().keys().copied().collect::<Vec<_>>();
    assert_eq!(diverged(shard.audit(&DATABASE)), [0; 0]);
    assert_eq!(diverged(shard.stored(&DATABASE)), [3]);
    // Two that are left contradict each other: no calls.
    for (node, seq, hash) in [(1, 5, 1), (2, 3, 2)] {
        bench.resolve(entry(
            4,
            vec![batch(node, 1, seq, vec![reported(at(10), hash, true)])],
        ));
    }
    let refused = |bench: &mut Bench, seq, body: Body| {
        let decision = bench.resolve(entry(LATER_US, vec![batch(1, 1, seq, vec![body])]));
        decision
            .settled
            .into_iter()
            .next()
            .is_some_and(|(_, _, outcome)| outcome.is_err())
    };
    assert!(refused(&mut bench, 6, call(0, "a")));
    assert!(refused(&mut bench, 7, write(DATABASE)));
    assert!(refused(&mut bench, 8, transaction(DATABASE, 0)));
    // A turn of before ends all the same.
    let turn = at(5);
    assert!(refused(&mut bench, 9, ended(turn, b"done")));
    assert!(!refused(&mut bench, 10, ended(turn, b"")));
    assert!(refused(&mut bench, 11, ended(u64::MAX, b"")));
    let database = DATABASE;
    assert!(!refused(
        &mut bench,
        12,
        Body::Resolve(Resolve { database, node: 1 })
    ));
    assert!(!refused(&mut bench, 13, call(0, "a")));
    assert!(!refused(&mut bench, 14, write(DATABASE)));
    assert!(!refused(&mut bench, 15, transaction(DATABASE, 0)));
}

#[test]
fn a_transaction_wants_no_receipt_of_a_session_that_is_over() {
    let mut bench = Bench::new(Resolver::shard());
    let bodies = vec![publish(), connect(DATABASE), transaction(OTHER, 0)];
    let decision = bench.resolve(entry(1, vec![batch(1, 1, 1, bodies)]));
    assert_eq!(refusal(&decision), Some(Refusal::NoSuchDatabase));
    let session = decision.entry.commands[1].position.0;
    let leaves = Body::Disconnect(Disconnect {
        session,
        refused: false,
    });
    let bodies = vec![
        transaction(DATABASE, session),
        leaves,
        transaction(DATABASE, 0),
        transaction(DATABASE, session),
    ];
    let decision = bench.resolve(entry(2, vec![batch(1, 1, 4, bodies)]));
    assert_eq!(decision.entry.commands.len(), 3);
    assert_eq!(refusal(&decision), Some(Refusal::SessionGone));
}

#[test]
fn rows_are_written_in_databases_that_exist_as_this_version_knows() {
    let mut bench = Bench::new(Resolver::shard());
    let bodies = vec![publish(), write(DATABASE), write(OTHER)];
    let decision = bench.resolve(entry(1, vec![batch(1, 1, 1, bodies)]));
    assert_eq!(decision.entry.commands.len(), 2);
    assert_eq!(refusal(&decision), Some(Refusal::NoSuchDatabase));
    let unknown = entry(2, vec![batch(1, 1, 4, vec![Body::Write(Write::default())])]);
    let unknown = bench.resolver.resolve(9, TERM, unknown, &mut Vec::new());
    assert!(matches!(unknown, Err(RecordError::UnknownCommand)));
}

/// Time that replicas which contradict each other are given, and more.
const LATER_US: i64 = 2 * super::audit::DOUBT_US;

#[test]
fn a_split_database_takes_no_calls_until_it_is_resolved_or_cleared() {
    let mut bench = Bench::new(Resolver::shard());
    bench.resolver.set_voters([1, 2, 3].into());
    bench.resolve(entry(1, vec![batch(1, 1, 1, vec![publish(), report(at(5), 1)])]));
    bench.resolve(entry(2, vec![batch(2, 1, 1, vec![report(at(5), 2)])]));
    let taken = |bench: &mut Bench, time_us, seq, body: Body| {
        let decision = bench.resolve(entry(time_us, vec![batch(1, 1, seq, vec![body])]));
        match decision.settled.into_iter().next() {
            Some((_, _, Err(Unapplied::Refused(refusal)))) => Err(refusal),
            _ => Ok(()),
        }
    };
    // The third may still say who is right.
    assert_eq!(taken(&mut bench, 100, 3, call(0, "a")), Ok(()));
    assert_eq!(taken(&mut bench, LATER_US, 4, call(0, "b")), Err(Refusal::Split));
    assert_eq!(taken(&mut bench, LATER_US, 5, publish()), Err(Refusal::Split));
    assert_eq!(taken(&mut bench, LATER_US, 6, connect(DATABASE)), Ok(()));
    let resolve = |node| {
        Body::Resolve(Resolve {
            database: DATABASE,
            node,
        })
    };
    let not_reported = Err(Refusal::NotReported(3));
    assert_eq!(taken(&mut bench, LATER_US, 7, resolve(3)), not_reported);
    assert_eq!(taken(&mut bench, LATER_US, 8, resolve(2)), Ok(()));
    assert_eq!(taken(&mut bench, LATER_US, 9, call(0, "c")), Ok(()));
    assert_eq!(
        taken(&mut bench, LATER_US, 10, resolve(2)),
        Err(Refusal::NotSplit)
    );
    let audit = bench.resolver.shard_state().unwrap().audit(&DATABASE).unwrap();
    assert_eq!(audit.diverged().keys().copied().collect::<Vec<_>>(), [1]);

    // Differing again, it is begun anew: then all are the same.
    bench.resolve(entry(LATER_US, vec![batch(2, 1, 2, vec![report(at(9), 2)])]));
    bench.resolve(entry(LATER_US, vec![batch(3, 1, 1, vec![report(at(9), 1)])]));
    assert_eq!(
        taken(&mut bench, 2 * LATER_US, 11, call(0, "d")),
        Err(Refusal::Split)
    );
    // A publication that clears the database is let in, and ends the split once it is taken.
    let mut seq = 12;
    for (word, then) in [
        (None, Err(Refusal::Split)),
        (Some(Some("bad")), Err(Refusal::Split)),
        (Some(None), Ok(())),
    ] {
        assert_eq!(taken(&mut bench, 2 * LATER_US, seq, clear()), Ok(()));
        let position = Position::new(bench.index, 0);
        if let Some(refusal) = word {
            assert_eq!(
                taken(&mut bench, 2 * LATER_US, seq + 1, judgement(position, refusal)),
                Ok(())
            );
            // Who comes later says nothing any more.
            assert_eq!(
                taken(&mut bench, 2 * LATER_US, seq + 2, judgement(position, None)),
                Ok(())
            );
            seq += 2;
        }
        bench.resolver = bench.restored();
        bench.resolver.set_voters([1, 2, 3].into());
        assert_eq!(taken(&mut bench, 2 * LATER_US, seq + 1, call(0, "e")), then);
        seq += 2;
    }
    let audit = bench.resolver.shard_state().unwrap().audit(&DATABASE).unwrap();
    assert_eq!((audit.agreed(), audit.contest()), (None, None));
    assert!(audit.diverged().is_empty());
}

fn clear() -> Body {
    Body::Publish(Publish {
        database: DATABASE,
        clear: true,
        ..Publish::default()
    })
}

fn judgement(position: Position, refusal: Option<&str>) -> Body {
    Body::Judgement(Judgement {
        database: DATABASE,
        position: position.0,
        refusal: refusal.map(str::to_owned),
        breaks: false,
    })
}

/// Replicas that are behind the log report of before a clearing publication when the log is past it already, and one that
/// has been cleared reports of after it.
#[test]
fn reports_of_before_a_clear_say_nothing_of_what_is_after_it() {
    for of_rows in [false, true] {
        let mut bench = Bench::new(Resolver::shard());
        bench.resolver.set_voters([1, 2, 3].into());
        bench.resolve(entry(1, vec![batch(1, 1, 1, vec![publish(), call(0, "a")])]));
        let before = Position::new(1, 1).0;
        bench.resolve(entry(2, vec![batch(2, 1, 1, vec![reported(before, 7, of_rows)])]));
        bench.resolve(entry(2, vec![batch(1, 1, 3, vec![clear()])]));
        bench.resolve(entry(
            2,
            vec![batch(1, 1, 4, vec![judgement(Position::new(3, 0), None)])],
        ));
        let placed = |place: Position, digest| {
            let Body::Reports(mut reports) = reported(before, digest, of_rows) else {
                unreachable!()
            };
            reports.reports[0].place = place.0;
            Body::Reports(reports)
        };
        // The place before the clearing publication is named after it.
        for (node, seq, digest) in [(1, 5, 7), (3, 1, 9)] {
            let body = placed(Position::new(3, 0), digest);
            bench.resolve(entry(3, vec![batch(node, 1, seq, vec![body])]));
        }
        let decision = bench.resolve(entry(LATER_US, vec![batch(1, 1, 6, vec![call(0, "b")])]));
        assert_eq!(refusal(&decision), None);
        bench.resolve(entry(
            LATER_US,
            vec![batch(2, 1, 2, vec![placed(Position::new(3, 0), 7)])],
        ));
        let shard = bench.resolver.shard_state().unwrap();
        assert!(shard.diverged(&DATABASE).is_empty());
    }
}

/// Calls fail on a replica that succeed on the others: their last changes never meet, and their places do.
#[test]
fn a_replica_on_which_calls_fail_is_found_at_a_place_of_the_log() {
    let mut bench = Bench::new(Resolver::shard());
    bench.resolver.set_voters([1, 2, 3].into());
    bench.resolve(entry(1, vec![batch(1, 1, 1, vec![publish()])]));
    for (node, seq, position, digest) in [(1, 2, 8, 2), (2, 1, 8, 2), (3, 1, 5, 1)] {
        let Body::Reports(mut reports) = report(at(position), digest) else {
            unreachable!()
        };
        reports.reports[0].place = at(9);
        bench.resolve(entry(2, vec![batch(node, 1, seq, vec![Body::Reports(reports)])]));
    }
    let shard = bench.resolver.shard_state().unwrap();
    assert!(shard.audit(&DATABASE).unwrap().diverged().is_empty());
    assert_eq!(shard.diverged(&DATABASE).into_keys().collect::<Vec<_>>(), [3]);
    let restored = bench.restored();
    let restored = restored.shard_state().unwrap();
    assert!(restored.audits(&DATABASE).eq(shard.audits(&DATABASE)));
}
