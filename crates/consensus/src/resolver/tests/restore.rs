//! Databases whose rows come by the log.

use super::*;
use crate::command::{Departed, LOAD_DEPARTED_MAX, Load, RESTORE_LEVEL, Timer, Verify};

fn restore() -> Body {
    Body::Publish(Publish {
        database: DATABASE,
        clear: true,
        loads: true,
        ..Publish::default()
    })
}

fn load(of: u64, number: u64, last: bool) -> Load {
    Load {
        database: DATABASE,
        of,
        number,
        last,
        ..Load::default()
    }
}

fn begun(bench: &mut Bench) -> u64 {
    bench.one(1, restore()).entry.commands[0].position.0
}

#[test]
fn nobody_sees_a_database_before_its_last_rows_have_come() {
    let mut bench = Bench::new(Resolver::shard());
    let of = begun(&mut bench);
    let refused = [
        (connect(DATABASE), Refusal::NoSuchDatabase),
        (call(0, "a"), Refusal::NoSuchDatabase),
        (write(DATABASE), Refusal::NoSuchDatabase),
        (
            Body::Timer(Timer {
                database: DATABASE,
                term: TERM,
                ..Timer::default()
            }),
            Refusal::NoSuchDatabase,
        ),
        (
            Body::Verify(Verify {
                database: DATABASE,
                ..Verify::default()
            }),
            Refusal::NoSuchDatabase,
        ),
        (publish(), Refusal::Restoring),
    ];
    let mut seq = 2;
    for (body, why) in refused {
        assert_eq!(refusal(&bench.one(seq, body.clone())), Some(why), "{body:?}");
        seq += 1;
    }
    assert!(!bench.resolver.shard_state().unwrap().is_open(&DATABASE));
    assert_eq!(refusal(&bench.one(seq, Body::Load(load(of, 0, false)))), None);
    assert_eq!(refusal(&bench.one(seq + 1, Body::Load(load(of, 1, true)))), None);
    assert!(bench.resolver.shard_state().unwrap().is_open(&DATABASE));
    assert_eq!(refusal(&bench.one(seq + 2, call(0, "a"))), None);
    assert_eq!(
        refusal(&bench.one(seq + 3, Body::Load(load(of, 2, true)))),
        Some(Refusal::NotRestoring)
    );
}

#[test]
fn rows_come_in_their_order_or_not_at_all() {
    let mut bench = Bench::new(Resolver::shard());
    let of = begun(&mut bench);
    let refused = Some(Refusal::NotRestoring);
    assert_eq!(refusal(&bench.one(2, Body::Load(load(of, 1, false)))), refused);
    assert_eq!(
        refusal(&bench.one(3, Body::Load(load(of + 1, 0, false)))),
        refused
    );
    assert_eq!(refusal(&bench.one(4, Body::Load(load(of, 0, false)))), None);
    assert_eq!(refusal(&bench.one(5, Body::Load(load(of, 0, false)))), refused);
    // Begun anew, those of before count for nothing.
    let again = bench.one(6, restore()).entry.commands[0].position.0;
    assert_eq!(refusal(&bench.one(7, Body::Load(load(of, 1, true)))), refused);
    assert_eq!(refusal(&bench.one(8, Body::Load(load(again, 0, true)))), None);
    assert_eq!(
        refusal(&bench.one(
            9,
            Body::Load(Load {
                database: OTHER,
                ..load(again, 0, true)
            })
        )),
        refused
    );
}

#[test]
fn clients_of_before_have_sessions_that_are_over_once_the_database_is_open() {
    let mut bench = Bench::new(Resolver::shard());
    let of = begun(&mut bench);
    let departed = |nth: u8| Departed {
        sender: vec![nth; 32].into(),
        connection: vec![nth; 16].into(),
        claims: String::new(),
    };
    let first = Load {
        departed: vec![departed(1), departed(2)],
        ..load(of, 0, false)
    };
    let decided = bench.one(2, Body::Load(first));
    let at = decided.entry.commands[0].position;
    assert!(bench.resolver.orphans(9).is_empty(), "not before it is open");
    let too_many = Load {
        departed: vec![departed(3); LOAD_DEPARTED_MAX + 1],
        ..load(of, 1, true)
    };
    assert_eq!(
        refusal(&bench.one(3, Body::Load(too_many))),
        Some(Refusal::NotRestoring)
    );
    bench.one(4, Body::Load(load(of, 1, true)));
    assert_eq!(bench.resolver.orphans(9), [at.0 + 1, at.0 + 2]);
    let gone = bench.one(5, disconnect(at.0 + 2));
    let session = gone.entry.commands[0].session.clone().unwrap();
    assert_eq!((session.sender[0], session.connection[0]), (2, 2));
    assert!(gone.entry.commands[0].position.0 > at.0 + 2);
}

#[test]
fn what_is_being_restored_survives_a_restart_and_may_be_deleted() {
    let mut bench = Bench::new(Resolver::shard());
    let of = begun(&mut bench);
    bench.one(2, Body::Load(load(of, 0, false)));
    let mut again = Resolver::shard();
    for (key, value) in bench.resolver.dump() {
        again.restore(&key, value.unwrap().into()).unwrap();
    }
    assert!(!again.shard_state().unwrap().is_open(&DATABASE));
    bench.resolver = again;
    assert_eq!(refusal(&bench.one(3, Body::Load(load(of, 1, false)))), None);
    assert_eq!(refusal(&bench.one(4, delete(DATABASE))), None);
    assert_eq!(
        refusal(&bench.one(5, Body::Load(load(of, 2, true)))),
        Some(Refusal::NotRestoring)
    );
    assert_eq!(refusal(&bench.one(6, publish())), None);
    assert_eq!(refusal(&bench.one(7, call(0, "a"))), None);
}

#[test]
fn older_nodes_stop_before_such_commands() {
    assert_eq!(Command::from(restore()).version, RESTORE_LEVEL);
    assert_eq!(Command::from(Body::Load(load(1, 0, true))).version, RESTORE_LEVEL);
    assert_eq!(Command::from(publish()).version, 0);
}

#[test]
fn what_a_node_that_is_gone_has_begun_is_abandoned() {
    let mut bench = Bench::new(Resolver::shard());
    let of = begun(&mut bench);
    assert!(bench.resolver.abandoned(9).is_empty());
    // Nobody else goes on with it.
    let other = bench.resolve(entry(
        0,
        vec![batch(2, 1, 1, vec![Body::Load(load(of, 0, false))])],
    ));
    assert_eq!(refusal(&other), Some(Refusal::NotRestoring));
    bench.one(2, Body::ExpireNode(expire(1, 1, TERM)));
    assert_eq!(bench.resolver.abandoned(9), [(DATABASE, 0)]);
    assert!(bench.resolver.abandoned(0).is_empty());
}
