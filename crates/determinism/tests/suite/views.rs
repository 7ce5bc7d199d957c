//! Views on the fake host, which evaluates them as the real one does: in the transaction of the reducer that has changed
//! what they read.

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{
    Module, Options, REFRESH, REFRESH_ALL, REFRESH_BRIEFLY, prepare, prepare_with, refreshes_briefly,
    view_key, view_pause,
};
use spacetimedb_lib::bsatn;

use crate::fixtures::{prepared, wasm};
use crate::host::{Failure, FakeHost, Read};

const ANN: [u8; 32] = [7; 32];
const BOB: [u8; 32] = [9; 32];
const STUCK: u8 = 1;
const BROKEN: u8 = 2;

fn fixture() -> FakeHost {
    FakeHost::new(&prepared("views-2x").wasm, 4096)
}

fn call(
    host: &mut FakeHost,
    index: u64,
    sender: [u8; 32],
    reducer: &str,
    args: &[u8],
) -> Result<(), Failure> {
    let header = CallHeader {
        index,
        sender,
        timestamp_us: index as i64,
        ..CallHeader::default()
    };
    host.call(reducer, header, args)
}

fn refresh(host: &mut FakeHost, key: u64) -> Result<(), Failure> {
    host.call(REFRESH, CallHeader::default(), &key.to_le_bytes())
}

fn join(host: &mut FakeHost, index: u64, sender: [u8; 32]) {
    call(host, index, sender, "join", &bsatn::to_vec("a").unwrap()).unwrap();
}

/// The key of a view's instance.
fn key(view: &str, sender: Option<[u8; 32]>) -> u64 {
    let module = Module::from_def(&prepared("views-2x").original_def).unwrap();
    let view = module.views().iter().find(|it| it.name == view).unwrap();
    assert_eq!(view.anonymous, sender.is_none());
    view_key(view.id, sender)
}

/// A player's row: identity, name, score, team.
fn player(identity: [u8; 32], score: i64) -> Vec<u8> {
    [
        identity.to_vec(),
        bsatn::to_vec("a").unwrap(),
        score.to_le_bytes().to_vec(),
        vec![7],
    ]
    .concat()
}

#[test]
fn a_failing_view_takes_nothing_back_but_its_refresh() {
    let mut host = fixture();
    join(&mut host, 1, ANN);
    join(&mut host, 2, BOB);
    for (view, sender) in [("my_player", Some(ANN)), ("my_score", Some(ANN)), ("team", None)] {
        host.subscribe(view, sender).unwrap();
        assert_eq!(host.view(view, sender), <[Vec<u8>; 0]>::default());
    }
    refresh(&mut host, REFRESH_ALL).unwrap();
    assert_eq!(host.view("my_player", Some(ANN)), [player(ANN, 0)]);
    assert_eq!(host.view("team", None), [player(ANN, 0), player(BOB, 0)]);

    call(&mut host, 3, ANN, "leave", &[]).unwrap();
    assert_eq!(host.evaluated.len(), 3);
    // Nobody's code ran: the rows are what they were.
    assert_eq!(host.view("team", None), [player(ANN, 0), player(BOB, 0)]);
    let state = host.state();
    assert_eq!(refresh(&mut host, REFRESH_ALL), Err(Failure::Trapped));
    assert_eq!(host.view("my_score", Some(ANN)), [player(ANN, 0)]);
    assert_eq!(host.state(), state);

    // By their keys, the others go on.
    refresh(&mut host, key("my_score", Some(ANN))).unwrap();
    assert_eq!(host.evaluated, ["my_score"]);
    assert_eq!(host.view("my_score", Some(ANN)), <[Vec<u8>; 0]>::default());
    assert_eq!(
        refresh(&mut host, key("my_player", Some(ANN))),
        Err(Failure::Trapped)
    );
    refresh(&mut host, view_pause(key("my_player", Some(ANN)))).unwrap();
    refresh(&mut host, REFRESH_ALL).unwrap();
    assert_eq!(host.evaluated, ["team"]);
    assert_eq!(host.view("team", None), [player(BOB, 0)]);

    // What was put aside comes back when it is asked for.
    join(&mut host, 4, ANN);
    refresh(&mut host, REFRESH_ALL).unwrap();
    assert_eq!(host.evaluated, ["my_score", "team"]);
    refresh(&mut host, key("my_player", Some(ANN))).unwrap();
    assert_eq!(host.view("my_player", Some(ANN)), [player(ANN, 0)]);
    call(&mut host, 5, ANN, "score", &3_i64.to_le_bytes()).unwrap();
    refresh(&mut host, REFRESH_ALL).unwrap();
    assert_eq!(host.view("my_player", Some(ANN)), [player(ANN, 3)]);
    assert_eq!(host.state().0, 5);
}

#[test]
fn a_call_touches_an_outdated_view_once_and_what_it_reads_stays_precise() {
    let mut host = fixture();
    join(&mut host, 1, ANN);
    join(&mut host, 2, BOB);
    for sender in [ANN, BOB] {
        host.subscribe("my_score", Some(sender)).unwrap();
    }
    refresh(&mut host, REFRESH_ALL).unwrap();
    assert_eq!(host.evaluated, ["my_score", "my_score"]);
    call(&mut host, 3, ANN, "score", &1_i64.to_le_bytes()).unwrap();
    assert_eq!(host.evaluated, ["my_score"]);
    for index in 4..8 {
        call(&mut host, index, ANN, "score", &1_i64.to_le_bytes()).unwrap();
        assert!(host.evaluated.is_empty());
    }
    let reads = &host.views[&("my_score".to_owned(), Some(ANN))];
    assert!(
        reads.iter().all(|read| matches!(read, Read::Key(..))),
        "{reads:?}"
    );
    refresh(&mut host, REFRESH_ALL).unwrap();
    assert_eq!(host.evaluated, ["my_score"]);
    assert_eq!(host.view("my_score", Some(ANN)), [player(ANN, 5)]);
    assert_eq!(host.view("my_score", Some(BOB)), [player(BOB, 0)]);
}

#[test]
fn views_make_no_difference_to_what_calls_leave() {
    let mut hosts = [fixture(), FakeHost::new(&prepared("views-2x").wasm, 70_000)];
    let [watched, plain] = &mut hosts;
    for (view, sender) in [
        ("my_player", Some(ANN)),
        ("my_score", Some(BOB)),
        ("team", None),
        ("broken", None),
    ] {
        watched.subscribe(view, sender).unwrap();
    }
    let mut index = 0;
    for round in 0..20_u64 {
        for sender in [ANN, BOB] {
            let calls: [(&str, Vec<u8>); 4] = [
                ("join", bsatn::to_vec("a").unwrap()),
                ("score", 1_i64.to_le_bytes().to_vec()),
                ("switch_on", vec![BROKEN]),
                ("leave", Vec::new()),
            ];
            let (reducer, args) = &calls[((round * 7 + u64::from(sender[0])) % 4) as usize];
            index += 1;
            let outcomes = [&mut *watched, &mut *plain].map(|host| call(host, index, sender, reducer, args));
            assert_eq!(outcomes[0], outcomes[1]);
        }
        let refreshed = refresh(watched, REFRESH_ALL);
        if round % 5 == 4 {
            for key in [key("my_player", Some(ANN)), key("broken", None)] {
                let _ = refresh(watched, key);
            }
        }
        assert!(matches!(refreshed, Ok(()) | Err(Failure::Trapped)));
    }
    assert_eq!(watched.state(), plain.state());
    for table in [
        "player",
        "switch",
        "note",
        "rtdb_state",
        "rtdb_session",
        "rtdb_now",
    ] {
        assert_eq!(watched.db.rows(table), plain.db.rows(table), "{table}");
    }
}

#[test]
fn many_and_large_rows_are_kept_as_they_are() {
    let mut host = fixture();
    for (index, sender) in (1..).zip(0..200_u8) {
        let name = "x".repeat(usize::from(sender) * usize::from(sender));
        call(
            &mut host,
            index,
            [sender; 32],
            "join",
            &bsatn::to_vec(&name).unwrap(),
        )
        .unwrap();
    }
    host.subscribe("team", None).unwrap();
    refresh(&mut host, REFRESH_ALL).unwrap();
    let rows = host.view("team", None);
    assert_eq!(rows.len(), 200);
    host.restart();
    call(&mut host, 300, [1; 32], "score", &1_i64.to_le_bytes()).unwrap();
    assert_eq!(host.evaluated, ["team"]);
    assert_eq!(host.view("team", None), rows);
    // The instance is as new, too.
    call(&mut host, 301, [2; 32], "score", &1_i64.to_le_bytes()).unwrap();
    refresh(&mut host, REFRESH_ALL).unwrap();
    assert_ne!(host.view("team", None), rows);
    assert_eq!(host.view("team", None).len(), 200);
}

/// How many instructions of the interpreter's a refresh takes.
fn fuel_of(host: &mut FakeHost, key: u64) -> (Result<(), Failure>, u64) {
    let done = refresh(host, key);
    (done, host.fuel_used)
}

/// However much a call has made of a view's work: those behind it wait for a fiftieth at most of what views may take else.
#[test]
fn a_brief_refresh_ends_where_views_take_long_and_leaves_nothing() {
    const UNITS: u64 = 200_000_000;
    let options = Options {
        call_units_max: UNITS,
        ..Options::default()
    };
    let module = prepare_with(&wasm("views-2x"), &options).unwrap().wasm;
    assert!(refreshes_briefly(&module));
    let mut host = FakeHost::with_fuel(&module, 4096, Some(u64::MAX / 2));
    join(&mut host, 1, ANN);
    for (view, sender) in [("my_score", Some(ANN)), ("stuck", None)] {
        host.subscribe(view, sender).unwrap();
    }
    // What is quick is done as by the other kind.
    refresh(&mut host, REFRESH_BRIEFLY).unwrap();
    assert_eq!(host.evaluated, ["my_score", "stuck"]);
    assert_eq!(host.view("my_score", Some(ANN)), [player(ANN, 0)]);

    call(&mut host, 2, ANN, "score", &1_i64.to_le_bytes()).unwrap();
    call(&mut host, 3, ANN, "switch_on", &[STUCK]).unwrap();
    let (rows, state) = (host.view("my_score", Some(ANN)), host.state());
    let (brief, spent) = fuel_of(&mut host, REFRESH_BRIEFLY);
    assert_eq!(brief, Err(Failure::Trapped));
    assert_eq!((host.view("my_score", Some(ANN)), host.state()), (rows, state));
    let (whole, all) = fuel_of(&mut host, REFRESH_ALL);
    assert_eq!(whole, Err(Failure::Trapped));
    // An instance that is new, too, takes some.
    assert!(spent * 20 < all, "{spent} of {all}");

    // It takes nothing from what follows: neither from calls, nor from refreshes.
    call(&mut host, 4, ANN, "switch_off", &[STUCK]).unwrap();
    call(&mut host, 5, ANN, "score", &1_i64.to_le_bytes()).unwrap();
    refresh(&mut host, REFRESH_BRIEFLY).unwrap();
    assert_eq!(host.view("my_score", Some(ANN)), [player(ANN, 2)]);
}

/// Many views that are quick each are not all together.
#[test]
fn what_a_brief_refresh_may_take_is_for_all_views_together() {
    let takes = |instances: u8, key: u64| {
        let options = Options {
            call_units_max: 50_000_000,
            ..Options::default()
        };
        let module = prepare_with(&wasm("views-2x"), &options).unwrap().wasm;
        let mut host = FakeHost::new(&module, 4096);
        for sender in 0..instances {
            join(&mut host, 1 + u64::from(sender), [sender; 32]);
            host.subscribe("my_score", Some([sender; 32])).unwrap();
        }
        refresh(&mut host, key)
    };
    assert_eq!(takes(1, REFRESH_BRIEFLY), Ok(()));
    assert_eq!(takes(100, REFRESH_BRIEFLY), Err(Failure::Trapped));
    assert_eq!(takes(100, REFRESH_ALL), Ok(()));
}

#[test]
fn the_definition_hides_what_refreshes() {
    let prepared = prepare(&wasm("views-2x")).unwrap();
    let module = Module::from_def(&prepared.original_def).unwrap();
    let mut names: Vec<_> = module.views().iter().map(|view| view.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["broken", "my_player", "my_score", "notes", "stuck", "team"]
    );
    assert!(module.reducer(REFRESH).is_none());
}
