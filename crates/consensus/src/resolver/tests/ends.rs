//! How databases end, in the meta group and in their shard; and that connection ids are unique.

use super::*;
use crate::command::{EndDatabase, Names};
use crate::resolver::meta::ENDED_MAX;

const THIRD: Bytes = Bytes::from_static(&[3; 32]);

fn owner(name: &str) -> Option<Owner> {
    Some(Owner {
        subject: name.to_owned(),
        ..Owner::default()
    })
}

fn register(database: Bytes, who: &str, name: &str) -> Body {
    Body::RegisterDatabase(RegisterDatabase {
        database,
        owner: owner(who),
        name: name.to_owned(),
        shard: GroupId::SHARD.0,
        has_birth: true,
    })
}

/// What the registered database is: its identity, whether it is new, and its birth.
fn registered(decision: &Decision) -> (Bytes, bool, u64) {
    match decision.settled.as_slice() {
        [
            (
                _,
                _,
                Ok(Applied {
                    reply:
                        Reply::Database {
                            identity,
                            created,
                            born,
                        },
                    ..
                }),
            ),
        ] => (identity.clone(), *created, *born),
        other => panic!("{other:?}"),
    }
}

fn end(database: Bytes, born: u64) -> Body {
    Body::EndDatabase(EndDatabase { database, born })
}

fn rename(database: Bytes, names: &[&str], replaced: Option<(u64, &[&str])>) -> Body {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Body::SetNames(SetNames {
        database,
        names: owned(names),
        replaced: replaced.map(|(born, names)| Names {
            born,
            names: owned(names),
        }),
    })
}

#[test]
fn a_database_that_has_ended_is_found_by_nobody_and_keeps_its_names() {
    let mut bench = Bench::new(Resolver::meta());
    let (_, _, born) = registered(&bench.one(1, register(DATABASE, "ann", "a")));
    assert_eq!(born, Position::new(1, 0).0);
    assert_eq!(refusal(&bench.one(2, rename(DATABASE, &["a", "b"], None))), None);
    let other = Some(Refusal::NoSuchDatabase);
    assert_eq!(
        refusal(&bench.one(3, end(DATABASE, born + 1))),
        other,
        "another one"
    );
    assert_eq!(refusal(&bench.one(4, end(DATABASE, born))), None);
    let meta = bench.resolver.meta_state();
    assert!(meta.database(&DATABASE).is_none() && meta.named("a").is_none());
    assert_eq!(meta.databases().count(), 0);
    assert_eq!(meta.identity("a"), Some(&DATABASE));
    assert!(meta.has_ended(&DATABASE, born));
    assert_eq!(bench.restored().meta_state(), meta);

    // Once is enough, and there is nothing to rename; nobody else gets the name.
    assert_eq!(refusal(&bench.one(5, end(DATABASE, born))), other);
    assert_eq!(refusal(&bench.one(6, rename(DATABASE, &["c"], None))), other);
    registered(&bench.one(7, register(OTHER, "bob", "o")));
    let taken = Some(Refusal::NameTaken("b".to_owned()));
    assert_eq!(refusal(&bench.one(8, rename(OTHER, &["b"], None))), taken);

    // Who publishes under it gets the identity: in its next life, and perhaps somebody else's.
    let (identity, is_new, again) = registered(&bench.one(9, register(THIRD, "bob", "a")));
    assert_eq!((identity, is_new), (DATABASE, true));
    assert!(again > born);
    let meta = bench.resolver.meta_state();
    let found = meta.named("b").unwrap();
    assert_eq!((&found.owner, found.born), (&owner("bob"), again));
    assert!(meta.has_ended(&DATABASE, born) && !meta.has_ended(&DATABASE, again));
    assert_eq!(bench.restored().meta_state(), meta);

    // A late word on the life before does not end it.
    assert_eq!(refusal(&bench.one(10, end(DATABASE, born))), other);
    assert_eq!(refusal(&bench.one(11, end(DATABASE, again))), None);
    // By identity, the same.
    let (_, is_new, third) = registered(&bench.one(12, register(DATABASE, "ann", "")));
    assert!(is_new && third > again);
    assert_eq!(bench.resolver.meta_state().named("a").unwrap().born, third);
}

#[test]
fn a_database_of_before_there_were_births_ends_too() {
    let mut bench = Bench::new(Resolver::meta());
    let Body::RegisterDatabase(mut old) = register(DATABASE, "ann", "a") else {
        unreachable!()
    };
    old.has_birth = false;
    let old = Body::RegisterDatabase(old);
    assert_eq!(registered(&bench.one(1, old.clone())).2, 0);
    let meta = bench.resolver.meta_state();
    assert!(!meta.has_ended(&DATABASE, 0) && !meta.has_ended(&OTHER, 0));
    assert_eq!(refusal(&bench.one(2, end(DATABASE, 0))), None);
    assert!(bench.resolver.meta_state().has_ended(&DATABASE, 0));
    // What comes after an end has a birth whoever registers it.
    assert_ne!(registered(&bench.one(3, old)).2, 0);
}

#[test]
fn the_names_of_databases_that_ended_long_ago_are_forgotten() {
    let mut bench = Bench::new(Resolver::meta());
    let identity = |n: usize| Bytes::copy_from_slice(&[n.to_le_bytes(); 4].concat());
    let mut seq = 0;
    for n in 0..=ENDED_MAX {
        seq += 2;
        let both = vec![
            register(identity(n), "ann", &format!("n{n}")),
            end(identity(n), Position::new(bench.index + 1, 0).0),
        ];
        bench.resolve(entry(0, vec![batch(1, 1, seq - 1, both)]));
    }
    let meta = bench.resolver.meta_state();
    assert_eq!(meta.identity("n0"), None);
    assert_eq!(meta.identity("n1"), Some(&identity(1)));
    assert_eq!(bench.restored().meta_state(), meta);
}

#[test]
fn names_are_replaced_only_if_they_are_what_they_were() {
    let mut bench = Bench::new(Resolver::meta());
    let (_, _, born) = registered(&bench.one(1, register(DATABASE, "ann", "a")));
    let add = |name| rename(DATABASE, &["a", name], Some((born, &["a"])));
    assert_eq!(refusal(&bench.one(2, add("b"))), None);
    let changed = Some(Refusal::NamesChanged);
    assert_eq!(refusal(&bench.one(3, add("c"))), changed);
    let of_another = rename(DATABASE, &["d"], Some((born + 1, &["a", "b"])));
    assert_eq!(refusal(&bench.one(4, of_another)), changed);
    let meta = bench.resolver.meta_state();
    assert_eq!(meta.database(&DATABASE).unwrap().names, ["a", "b"]);
    assert_eq!(meta.identity("c"), None);
}

fn publish_born(born: u64) -> Body {
    Body::Publish(Publish {
        database: DATABASE,
        born,
        ..Publish::default()
    })
}

fn delete_before(before: u64) -> Body {
    Body::Delete(Delete {
        database: DATABASE,
        before,
    })
}

#[test]
fn a_shard_tells_a_database_from_what_its_identity_was_before() {
    let mut bench = Bench::new(Resolver::shard());
    let gone = Some(Refusal::NoSuchDatabase);
    assert_eq!(refusal(&bench.one(1, publish_born(7))), None);
    assert_eq!(refusal(&bench.one(2, publish_born(7))), None);
    assert_eq!(refusal(&bench.one(3, delete_before(7))), gone);
    assert_eq!(refusal(&bench.one(4, publish_born(9))), Some(Refusal::StillThere));
    assert_eq!(refusal(&bench.one(5, delete_before(9))), None);
    assert_eq!(refusal(&bench.one(6, publish_born(9))), None);
    bench.resolver = bench.restored();
    let births: Vec<_> = bench.resolver.shard_state().unwrap().births().collect();
    assert_eq!(births, [(&DATABASE, 9)]);
    assert_eq!(refusal(&bench.one(7, publish_born(7))), gone, "a late one");
    assert_eq!(refusal(&bench.one(8, publish_born(0))), gone);
    assert_eq!(refusal(&bench.one(9, delete_before(8))), gone);
    assert_eq!(bench.resolver.shard_state().unwrap().databases().count(), 1);
}

#[test]
fn what_is_known_of_a_database_goes_with_it() {
    let mut bench = Bench::new(Resolver::shard());
    bench.resolver.set_voters([1, 2, 3].into());
    bench.one(1, publish_born(7));
    bench.one(2, connect(DATABASE));
    let before = at(5);
    for (node, seq, digest) in [(1, 3, 1), (2, 1, 2)] {
        bench.resolve(entry(1, vec![batch(node, 1, seq, vec![report(before, digest)])]));
    }
    assert_eq!(refusal(&bench.one(4, delete_before(8))), None);
    assert_eq!(refusal(&bench.one(5, publish_born(9))), None);
    // A replica that is behind reports of what was before.
    bench.resolve(entry(2, vec![batch(3, 1, 1, vec![report(before, 3)])]));
    let shard = bench.resolver.shard_state().unwrap();
    assert_eq!(shard.session_count(), 0);
    assert_eq!(shard.audit(&DATABASE).and_then(Audit::contest), None);
    let decision = bench.resolve(entry(LATER_US, vec![batch(1, 1, 6, vec![call(0, "a")])]));
    assert_eq!(refusal(&decision), None, "it is not split");
}

fn unique(database: Bytes, connection: u8) -> Body {
    Body::Connect(Connect {
        database,
        connection: vec![connection; 16].into(),
        unique: true,
        ..Connect::default()
    })
}

#[test]
fn a_connection_id_is_one_sessions_of_a_database() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    bench.one(
        2,
        Body::Publish(Publish {
            database: OTHER,
            ..Publish::default()
        }),
    );
    let first = bench.one(3, unique(DATABASE, 1)).entry.commands[0].position.0;
    let taken = Some(Refusal::ConnectionTaken);
    assert_eq!(refusal(&bench.one(4, unique(DATABASE, 1))), taken);
    assert_eq!(refusal(&bench.one(5, unique(DATABASE, 2))), None);
    assert_eq!(refusal(&bench.one(6, unique(OTHER, 1))), None);
    bench.resolver = bench.restored();
    assert_eq!(refusal(&bench.one(7, unique(DATABASE, 1))), taken);
    assert_eq!(refusal(&bench.one(8, disconnect(first))), None);
    assert_eq!(refusal(&bench.one(9, unique(DATABASE, 1))), None);

    // As it was before all nodes knew: whoever of the two goes first, the other one still has it.
    let old = || {
        let Body::Connect(mut connect) = unique(DATABASE, 3) else {
            unreachable!()
        };
        connect.unique = false;
        Body::Connect(connect)
    };
    let both = [10, 11].map(|seq| bench.one(seq, old()).entry.commands[0].position.0);
    bench.one(12, disconnect(both[1]));
    assert_eq!(refusal(&bench.one(13, unique(DATABASE, 3))), taken);
    bench.one(14, disconnect(both[0]));
    assert_eq!(refusal(&bench.one(15, unique(DATABASE, 3))), None);
}

/// The owner locks, or unlocks, while the database ends and becomes somebody else's.
#[test]
fn a_late_lock_is_not_put_on_what_has_the_identity_by_now() {
    let mut bench = Bench::new(Resolver::meta());
    let (_, _, born) = registered(&bench.one(1, register(DATABASE, "ann", "a")));
    assert_eq!(refusal(&bench.one(2, end(DATABASE, born))), None);
    let (_, _, again) = registered(&bench.one(3, register(DATABASE, "bob", "a")));
    let lock = |born, locked| {
        Body::SetLock(SetLock {
            database: DATABASE,
            locked,
            born,
        })
    };
    let gone = Some(Refusal::NoSuchDatabase);
    assert_eq!(refusal(&bench.one(4, lock(born, true))), gone);
    assert_eq!(refusal(&bench.one(5, lock(again, true))), None);
    assert_eq!(refusal(&bench.one(6, lock(born, false))), gone);
    let meta = bench.resolver.meta_state();
    assert!(meta.database(&DATABASE).unwrap().locked);
}

/// Of a database that ended long ago nothing is kept, and it is registered again by a node that knows of no births yet.
#[test]
fn what_was_forgotten_has_ended_whoever_registers_it_again() {
    let mut bench = Bench::new(Resolver::meta());
    let (_, _, born) = registered(&bench.one(1, register(DATABASE, "ann", "a")));
    bench.one(2, delete(DATABASE));
    assert!(bench.resolver.meta_state().has_ended(&DATABASE, born));
    let Body::RegisterDatabase(mut old) = register(DATABASE, "ann", "a") else {
        unreachable!()
    };
    old.has_birth = false;
    assert_eq!(registered(&bench.one(3, Body::RegisterDatabase(old))).2, 0);
    let meta = bench.resolver.meta_state();
    assert!(meta.has_ended(&DATABASE, born) && !meta.has_ended(&DATABASE, 0));
}
