//! Whatever comes, in whatever order, twice or late: what is written is all there is, nodes that read the log from different
//! places agree, and names, births and connection ids belong to one.

use super::*;
use crate::command::{
    CallKey, Departed, Ended, Known, Load, Names, Outcomes, Poison, PoisonStep, Skipped, Stuck, Timer, Verify,
};
use crate::resolver::state::Restoring;
use std::collections::{BTreeMap, BTreeSet};

/// A choice among a few.
type Pick = proptest::sample::Index;

#[derive(Clone, Debug)]
enum Step {
    Register(Pick, Pick, Pick, bool),
    End(Pick, Pick),
    Rename(Pick, Vec<Pick>, Option<bool>),
    Lock(Pick, bool, Pick),
    DeleteRecord(Pick),
    Publish(Pick, u64, bool),
    Delete(Pick, u64),
    Connect(Pick, u8, bool),
    Disconnect(Pick),
    Call(Pick, Pick),
    Keyed(Pick, u8, u8, u8, bool),
    Known(Pick, Pick, Option<bool>, bool),
    Timer(Pick, u64),
    Write(Pick),
    Transaction(Pick, Pick),
    Claim(Pick, Pick, u64),
    Report(Pick, Pick, u64, bool, bool),
    Stuck(Pick, Pick, u32),
    Skip(Pick, Pick),
    Judge(Pick, Pick, bool),
    Verify(Pick),
    Resolve(Pick, u64),
    Expire(u64),
    Restore(Pick, u64),
    Load(Pick, bool, u8, bool),
}

fn pick() -> impl Strategy<Value = Pick> {
    any::<Pick>()
}

fn step() -> impl Strategy<Value = Step> {
    let flag = any::<bool>;
    prop_oneof![
        (pick(), pick(), pick(), flag()).prop_map(|(a, b, c, d)| Step::Register(a, b, c, d)),
        (pick(), pick()).prop_map(|(a, b)| Step::End(a, b)),
        (
            pick(),
            proptest::collection::vec(pick(), 0..3),
            proptest::option::of(flag())
        )
            .prop_map(|(a, b, c)| Step::Rename(a, b, c)),
        (pick(), flag(), pick()).prop_map(|(a, b, c)| Step::Lock(a, b, c)),
        pick().prop_map(Step::DeleteRecord),
        (pick(), 0..4u64, flag()).prop_map(|(a, b, c)| Step::Publish(a, b, c)),
        (pick(), 0..5u64).prop_map(|(a, b)| Step::Delete(a, b)),
        (pick(), 0..3u8, flag()).prop_map(|(a, b, c)| Step::Connect(a, b, c)),
        pick().prop_map(Step::Disconnect),
        (pick(), pick()).prop_map(|(a, b)| Step::Call(a, b)),
        (pick(), 0..2u8, 0..3u8, 0..2u8, flag()).prop_map(|(a, b, c, d, e)| Step::Keyed(a, b, c, d, e)),
        (pick(), pick(), proptest::option::of(flag()), flag())
            .prop_map(|(a, b, c, d)| Step::Known(a, b, c, d)),
        (pick(), TERM - 1..TERM + 1).prop_map(|(a, b)| Step::Timer(a, b)),
        pick().prop_map(Step::Write),
        (pick(), pick()).prop_map(|(a, b)| Step::Transaction(a, b)),
        (pick(), pick(), TERM - 1..=TERM).prop_map(|(a, b, term)| Step::Claim(a, b, term)),
        (pick(), pick(), 0..3u64, flag(), flag()).prop_map(|(a, b, c, d, e)| Step::Report(a, b, c, d, e)),
        (pick(), pick(), 0..3u32).prop_map(|(a, b, c)| Step::Stuck(a, b, c)),
        (pick(), pick()).prop_map(|(a, b)| Step::Skip(a, b)),
        (pick(), pick(), flag()).prop_map(|(a, b, c)| Step::Judge(a, b, c)),
        pick().prop_map(Step::Verify),
        (pick(), 1..4u64).prop_map(|(a, b)| Step::Resolve(a, b)),
        (1..4u64).prop_map(Step::Expire),
        (pick(), 0..4u64).prop_map(|(a, b)| Step::Restore(a, b)),
        (pick(), flag(), 0..3u8, flag()).prop_map(|(a, b, c, d)| Step::Load(a, b, c, d)),
    ]
}

const IDENTITIES: [Bytes; 3] = [DATABASE, OTHER, Bytes::from_static(&[3; 32])];
const NAMES: [&str; 4] = ["", "a", "b", "c"];

fn identity(pick: &Pick) -> Bytes {
    IDENTITIES[pick.index(IDENTITIES.len())].clone()
}

fn body(step: &Step, bench: &Bench, births: &[u64]) -> Body {
    let meta = bench.resolver.meta_state();
    let index = bench.index;
    let born = |pick: &Pick| births[pick.index(births.len())];
    // Somewhere before, or a little after.
    let at = |pick: &Pick| Position::new(1 + pick.index(index as usize + 2) as u64, 0).0;
    let session = |pick: &Pick| {
        let sessions: Vec<u64> = match bench.resolver.shard_state() {
            Some(shard) => shard.sessions().map(|session| session.id).collect(),
            None => Vec::new(),
        };
        match sessions.is_empty() {
            true => 0,
            false => sessions[pick.index(sessions.len())],
        }
    };
    match step {
        Step::Register(database, owner, name, has_birth) => Body::RegisterDatabase(RegisterDatabase {
            database: identity(database),
            owner: Some(Owner {
                subject: ["ann", "bob"][owner.index(2)].to_owned(),
                ..Owner::default()
            }),
            name: NAMES[name.index(NAMES.len())].to_owned(),
            shard: GroupId::SHARD.0,
            has_birth: *has_birth,
        }),
        Step::End(database, of) => {
            let database = identity(database);
            let known = meta.database(&database).map(|it| it.born);
            let born = known.filter(|_| of.index(3) > 0).unwrap_or_else(|| born(of));
            Body::EndDatabase(EndDatabase { database, born })
        }
        Step::Rename(database, names, replaced) => {
            let database = identity(database);
            let known = meta.database(&database);
            let replaced = replaced.map(|is_right| Names {
                born: known.map_or(0, |it| it.born) + u64::from(!is_right),
                names: known.map(|it| it.names.clone()).unwrap_or_default(),
            });
            let names = names.iter().map(|name| NAMES[name.index(NAMES.len())].to_owned());
            let names: BTreeSet<String> = names.filter(|name| !name.is_empty()).collect();
            Body::SetNames(SetNames {
                database,
                names: names.into_iter().collect(),
                replaced,
            })
        }
        Step::Lock(database, locked, of) => {
            let database = identity(database);
            let known = meta.database(&database).map(|it| it.born);
            Body::SetLock(SetLock {
                database,
                locked: *locked,
                born: known.filter(|_| of.index(3) > 0).unwrap_or_else(|| born(of)),
            })
        }
        Step::DeleteRecord(database) => delete(identity(database)),
        Step::Publish(database, born, clear) => Body::Publish(Publish {
            database: identity(database),
            born: *born,
            clear: *clear,
            ..Publish::default()
        }),
        Step::Delete(database, before) => Body::Delete(Delete {
            database: identity(database),
            before: *before,
        }),
        Step::Connect(database, connection, unique) => Body::Connect(Connect {
            database: identity(database),
            connection: vec![*connection; 16].into(),
            unique: *unique,
            ..Connect::default()
        }),
        Step::Disconnect(of) => disconnect(session(of)),
        Step::Call(database, of) => Body::Call(Call {
            database: identity(database),
            session: [0, session(of)][of.index(2)],
            ..Call::default()
        }),
        Step::Keyed(database, sender, name, print, is_write) => {
            let key = Some(CallKey {
                sender: vec![*sender; 32].into(),
                key: name.to_string(),
                fingerprint: vec![*print].into(),
            });
            match write(identity(database)) {
                Body::Write(write) if *is_write => Body::Write(Write { key, ..write }),
                _ => Body::Call(Call {
                    database: identity(database),
                    key,
                    ..Call::default()
                }),
            }
        }
        Step::Known(database, position, succeeded, is_wanted) => Body::Outcomes(Outcomes {
            database: identity(database),
            known: vec![Known {
                position: at(position),
                ended: succeeded.map(|succeeded| match succeeded {
                    true => Ended::Succeeded(Default::default()),
                    false => Ended::Failed("no".to_owned()),
                }),
            }],
            wanted: is_wanted.then(|| at(position)).into_iter().collect(),
        }),
        Step::Timer(database, term) => Body::Timer(Timer {
            database: identity(database),
            term: *term,
            ..Timer::default()
        }),
        Step::Write(database) => write(identity(database)),
        Step::Transaction(database, of) => transaction(identity(database), [0, session(of)][of.index(2)]),
        Step::Claim(database, of, term) => Body::Transaction(Transaction {
            database: identity(database),
            claim: Some(Timer {
                database: identity(of),
                term: *term,
                ..Timer::default()
            }),
            ..Transaction::default()
        }),
        Step::Report(database, position, digest, of_rows, is_placed) => Body::Reports(Reports {
            reports: vec![Report {
                database: identity(database),
                position: at(position),
                digest: *digest,
                of_rows: *of_rows,
                place: if *is_placed { at(position) + 1 } else { 0 },
            }],
        }),
        Step::Stuck(database, position, attempts) => Body::Poison(Poison {
            database: identity(database),
            position: at(position),
            step: Some(PoisonStep::Stuck(Stuck { attempts: *attempts })),
        }),
        Step::Skip(database, position) => Body::Poison(Poison {
            database: identity(database),
            position: at(position),
            step: Some(PoisonStep::Skipped(Skipped {})),
        }),
        Step::Judge(database, position, refused) => Body::Judgement(Judgement {
            database: identity(database),
            position: at(position),
            refusal: refused.then(|| "no".to_owned()),
            breaks: false,
        }),
        Step::Verify(database) => Body::Verify(Verify {
            database: identity(database),
            scrub: false,
        }),
        Step::Resolve(database, node) => Body::Resolve(Resolve {
            database: identity(database),
            node: *node,
        }),
        Step::Restore(database, born) => Body::Publish(Publish {
            database: identity(database),
            born: *born,
            clear: true,
            loads: true,
            ..Publish::default()
        }),
        Step::Load(database, is_next, departed, last) => {
            let database = identity(database);
            let shard = bench.resolver.shard_state();
            let begun = shard.and_then(|shard| shard.restoring.get(&database)).copied();
            let Restoring { of, loads, .. } = begun.unwrap_or_default();
            let departed = (0..*departed).map(|nth| Departed {
                sender: vec![nth; 32].into(),
                connection: vec![100 + nth; 16].into(),
                claims: String::new(),
            });
            Body::Load(Load {
                database,
                of,
                number: loads + u64::from(!is_next),
                departed: departed.collect(),
                last: *last,
                ..Load::default()
            })
        }
        Step::Expire(node) => Body::ExpireNode(ExpireNode {
            node: *node,
            epoch: 1,
            term: TERM,
        }),
    }
}

/// All of the state, by key.
fn state(resolver: &Resolver) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let dump = resolver.dump().into_iter().map(|(key, value)| {
        let mut encoded = Vec::new();
        key.encode(&mut encoded);
        (encoded, value.unwrap())
    });
    dump.collect()
}

fn with_voters(mut resolver: Resolver) -> Resolver {
    resolver.set_voters([1, 2, 3].into());
    resolver
}

/// Of the meta group: every name is one database's, and what has ended stays so.
fn check_meta(meta: &MetaState, ended: &BTreeSet<(Bytes, u64)>) -> Result<(), TestCaseError> {
    for database in meta.databases() {
        prop_assert!(!meta.has_ended(&database.identity, database.born));
        for name in &database.names {
            prop_assert_eq!(meta.identity(name), Some(&database.identity));
        }
    }
    for name in NAMES {
        if let Some(database) = meta.named(name) {
            prop_assert!(database.names.iter().any(|it| it == name));
        }
    }
    for (identity, born) in ended {
        prop_assert!(meta.has_ended(identity, *born), "{born}");
    }
    Ok(())
}

/// Whether a command was let through, of which there is one in the entry.
fn is_effect(decision: &Decision) -> bool {
    !decision.entry.commands.is_empty()
}

fn keyed_database(body: &Body) -> Option<&Bytes> {
    match body {
        Body::Call(call) => Some(&call.database),
        Body::Write(write) => Some(&write.database),
        _ => None,
    }
}

fn check_shard(
    shard: &ShardState,
    before: &BTreeMap<Bytes, u64>,
    taken: &BTreeSet<(Bytes, Bytes)>,
    body: &Body,
    decision: &Decision,
) -> Result<(), TestCaseError> {
    for session in shard.sessions() {
        prop_assert!(shard.databases().any(|database| *database == session.database));
    }
    for database in shard.databases() {
        let of: Vec<_> = shard.sessions_of(database).collect();
        let all = shard.sessions().filter(|session| session.database == *database);
        prop_assert_eq!(
            of.iter().map(|session| session.id).collect::<BTreeSet<_>>(),
            all.map(|session| session.id).collect()
        );
        for last in &of {
            let behind = of.iter().filter(|session| session.connection > last.connection);
            prop_assert!(shard.sessions_behind(last).eq(behind.copied()));
        }
    }
    for (database, _) in shard.stuck() {
        prop_assert!(shard.databases().any(|it| it == database));
    }
    let key = Command::from(body.clone()).key().cloned();
    if let (Some(key), Some(database)) = (key, keyed_database(body)) {
        let (first, call) = shard.keyed(database, &key.sender, &key.key).unzip();
        match decision.entry.commands.first() {
            Some(command) => prop_assert_eq!(first, Some(command.position)),
            None if !before.contains_key(database) || !shard.is_open(database) => {
                prop_assert_eq!(first, None)
            }
            None => {
                let expected = match call.is_some_and(|call| call.is_same(&key)) {
                    true => Refusal::Repeated,
                    false => Refusal::KeyTaken,
                };
                prop_assert!([Some(expected), Some(Refusal::Split)].contains(&refusal(decision)));
            }
        }
    }
    let effect = is_effect(decision);
    match body {
        Body::Delete(delete) => {
            let is_meant = before
                .get(&delete.database)
                .is_some_and(|born| delete.before == 0 || *born < delete.before);
            prop_assert_eq!(effect, is_meant);
            if effect {
                prop_assert_eq!(shard.audits(&delete.database).count(), 0);
            }
        }
        Body::Write(write) if effect => prop_assert!(before.contains_key(&write.database)),
        Body::Transaction(it) if effect => {
            prop_assert!(before.contains_key(&it.database));
            let is_claimed = |claim: &Timer| claim.term == TERM && claim.database == it.database;
            prop_assert!(it.claim.as_ref().is_none_or(is_claimed));
        }
        Body::Publish(publish) if effect => {
            let born = before.get(&publish.database).copied();
            prop_assert!(born.is_none_or(|born| born == publish.born));
        }
        Body::Connect(connect) if effect && connect.unique => {
            let key = (connect.database.clone(), connect.connection.clone());
            prop_assert!(!taken.contains(&key));
        }
        _ => {}
    }
    Ok(())
}

/// Resolves the steps on a node that was there from the beginning, on one that is restored before each, and on one that is
/// restored once.
fn play(of_meta: bool, steps: &[(Step, u64, bool, u8)], restored_at: usize) -> Result<(), TestCaseError> {
    let fresh = || {
        with_voters(if of_meta {
            Resolver::meta()
        } else {
            Resolver::shard()
        })
    };
    let mut bench = Bench::new(fresh());
    let (mut again, mut other) = (fresh(), None);
    let mut seqs: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut births, mut ended) = (vec![0, 1, u64::MAX], BTreeSet::new());
    for (turn, (step, node, is_late, hours)) in steps.iter().enumerate() {
        if turn == restored_at {
            other = Some(with_voters(bench.restored()));
        }
        let body = body(step, &bench, &births);
        let seq = seqs.entry(*node).or_default();
        // The one before comes once more, in this one's place.
        let first = if *is_late { *seq } else { *seq + 1 };
        let entry = entry(
            i64::from(*hours) * 7_000_000,
            vec![batch(*node, 1, first, vec![body.clone()])],
        );
        let shard = bench.resolver.shard_state();
        let before: BTreeMap<Bytes, u64> = shard
            .iter()
            .flat_map(|shard| shard.births())
            .map(|(identity, born)| (identity.clone(), born))
            .collect();
        let taken = shard.iter().flat_map(|shard| shard.sessions());
        let taken = taken
            .map(|session| (session.database.clone(), session.connection.clone()))
            .collect();
        let locked: Vec<_> = bench.resolver.meta_state().databases().cloned().collect();
        let decision = bench.resolve(entry.clone());
        let known = bench.resolver.stream(*node).map_or(0, |(_, seq)| seq);
        let was_taken = known == first && first > *seq;
        *seq = known.max(*seq);

        again = {
            let mut changes = Vec::new();
            let same = again
                .resolve(bench.index, TERM, entry.clone(), &mut changes)
                .unwrap();
            prop_assert_eq!(format!("{:?}", &same), format!("{:?}", &decision));
            with_voters(bench.restored())
        };
        if let Some(other) = &mut other {
            let same = other.resolve(bench.index, TERM, entry, &mut Vec::new()).unwrap();
            prop_assert_eq!(format!("{:?}", &same), format!("{:?}", &decision));
            prop_assert_eq!(state(other), state(&bench.resolver));
        }
        prop_assert_eq!(state(&again), state(&bench.resolver));

        let meta = bench.resolver.meta_state();
        for database in locked.iter().filter(|database| database.locked) {
            prop_assert!(meta.database(&database.identity).is_some(), "it was locked");
        }
        if was_taken {
            match &body {
                Body::EndDatabase(end) if refusal(&decision).is_none() && of_meta => {
                    ended.insert((end.database.clone(), end.born));
                }
                // Nothing of it is known any more: what has a birth has ended.
                Body::Delete(delete) => {
                    ended.retain(|(identity, born)| *identity != delete.database || *born != 0)
                }
                Body::SetLock(lock) if refusal(&decision).is_none() && of_meta => {
                    prop_assert_eq!(meta.database(&lock.database).map(|it| it.born), Some(lock.born));
                }
                _ => {}
            }
            if let [(_, _, Ok(Applied { reply, .. }))] = decision.settled.as_slice()
                && let Reply::Database {
                    identity,
                    created: true,
                    born,
                } = reply
            {
                prop_assert!(!ended.contains(&(identity.clone(), *born)), "a birth of before");
                births.push(*born);
            }
            if let Some(shard) = bench.resolver.shard_state() {
                check_shard(shard, &before, &taken, &body, &decision)?;
            }
        }
        if of_meta {
            check_meta(&meta, &ended)?;
        }
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<(Step, u64, bool, u8)>> {
    let late = proptest::bool::weighted(0.1);
    proptest::collection::vec((step(), 1..4u64, late, 0..6u8), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nodes_agree_on_databases_and_their_names(steps in steps(), restored_at in 0usize..60) {
        play(true, &steps, restored_at)?;
    }

    #[test]
    fn nodes_agree_on_what_a_shard_has(steps in steps(), restored_at in 0usize..60) {
        play(false, &steps, restored_at)?;
    }
}
