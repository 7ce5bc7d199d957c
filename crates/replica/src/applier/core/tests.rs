mod refresh;
mod scheduled;
mod transaction;
mod written;

use super::*;
use crate::DatabaseState;
use crate::applier::window::CALLS_MAX;
use bytes::Bytes;
use rtdb_consensus::command::{Call, Connect, Disconnect, Owner};
use rtdb_consensus::{Applied, Origin, Unapplied};
use rtdb_determinism::{CLAIMS_BYTES_MAX, Firing, IDENTIFY, SKIPPED};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client::{self, ClientMessage};
use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawModuleDefV9Builder};
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_sats::{AlgebraicType, ProductType};

const ORIGIN: Origin = Origin { node: 1, epoch: 7 };

fn module(lifecycle: bool) -> Module {
    let mut builder = RawModuleDefV9Builder::new();
    builder.add_reducer("add", ProductType::from([("name", AlgebraicType::String)]), None);
    if lifecycle {
        builder.add_reducer("arrive", ProductType::unit(), Some(Lifecycle::OnConnect));
        builder.add_reducer("leave", ProductType::unit(), Some(Lifecycle::OnDisconnect));
    }
    let def = bsatn::to_vec(&RawModuleDef::V9(builder.finish())).unwrap();
    Module::from_def(&def).unwrap()
}

fn core(lifecycle: bool) -> (Core, Calls) {
    core_with(lifecycle, Claims::Ignored)
}

fn core_with(lifecycle: bool, claims: Claims) -> (Core, Calls) {
    let mut core = Core::default();
    core.set_active(Some(Arc::new(ActiveDatabase {
        identity: [1; 32],
        owner: Owner::default(),
        module: Arc::new(module(lifecycle)),
        claims,
        firing: Firing::ByTime,
        calls_at_once: false,
        takes_rows: true,
        refreshes_briefly: true,
        runs_procedures: true,
        position: Position(1),
        program: spacetimedb_lib::Hash::ZERO,
    })));
    (core, Calls::new(Subprotocol::V3))
}

fn command(position: u64, body: impl Into<Body>) -> ResolvedCommand {
    ResolvedCommand {
        position: Position(position),
        timestamp_us: 1000 + position as i64,
        origin: ORIGIN,
        seq: position,
        command: body.into().into(),
        session: None,
    }
}

fn call(position: u64, session: u64, reducer: &str, name: &str) -> ResolvedCommand {
    let header = CallHeader {
        sender: [3; 32],
        session,
        ..CallHeader::default()
    };
    let args = [
        header.encode().to_vec(),
        bsatn::to_vec(&name.to_string()).unwrap(),
    ]
    .concat();
    let request_id = position as u32 + 500;
    let reducer = reducer.to_owned();
    command(
        position,
        Body::Call(Call {
            database: Bytes::new(),
            session,
            reducer,
            args: args.into(),
            request_id,
            claims: String::new(),
            key: None,
        }),
    )
}

fn connect(position: u64) -> ResolvedCommand {
    connect_with(position, "")
}

fn connect_with(position: u64, claims: &str) -> ResolvedCommand {
    let (sender, connection) = (vec![4; 32].into(), vec![5; 16].into());
    command(
        position,
        Body::Connect(Connect {
            database: Bytes::new(),
            sender,
            connection,
            claims: claims.to_owned(),
            unique: false,
        }),
    )
}

fn disconnect(position: u64, session: u64, refused: bool) -> ResolvedCommand {
    let mut command = command(position, Body::Disconnect(Disconnect { session, refused }));
    let (sender, connection) = (vec![4; 32].into(), vec![5; 16].into());
    command.session = Some(Session {
        id: session,
        origin: ORIGIN,
        database: Bytes::new(),
        sender,
        connection,
    });
    command
}

/// The calls that were sent: reducer, header, own arguments, request id.
fn sent(calls: &mut Calls) -> Vec<(String, CallHeader, Vec<u8>, u32)> {
    let mut sent = Vec::new();
    while let Some(frame) = calls.pop() {
        for message in client::split(Subprotocol::V3, frame) {
            let ClientMessage::Call(call) = message.unwrap() else {
                panic!("not a call")
            };
            let header = CallHeader::decode(&call.args).unwrap();
            sent.push((
                call.reducer.to_string(),
                header,
                call.args[header::LEN..].to_vec(),
                call.request_id,
            ));
        }
    }
    sent
}

fn ok(request_id: u32) -> AppliedCall {
    let outcome = Outcome::Ok {
        return_value: Bytes::from_static(b"r"),
        execution_us: 9,
        energy: 8,
    };
    AppliedCall {
        request_id,
        index: None,
        outcome,
    }
}

fn error(request_id: u32, message: &str) -> AppliedCall {
    AppliedCall {
        request_id,
        index: None,
        outcome: Outcome::Failed {
            message: message.into(),
            execution_us: 0,
            energy: 0,
        },
    }
}

fn outcomes(core: &mut Core) -> Vec<(u64, Result<Reply, String>)> {
    core.told()
        .map(|told| {
            assert_eq!(told.origin, ORIGIN);
            match told.outcome {
                Ok(Applied {
                    position,
                    timestamp_us,
                    reply,
                }) => {
                    assert_eq!((position.0, timestamp_us), (told.seq, 1000 + told.seq as i64));
                    (told.seq, Ok(reply))
                }
                Err(Unapplied::Reducer {
                    position, message, ..
                }) => {
                    assert_eq!(position.0, told.seq);
                    (told.seq, Err(message))
                }
                Err(e) => (told.seq, Err(e.to_string())),
            }
        })
        .collect()
}

fn called() -> Result<Reply, String> {
    Ok(Reply::Call {
        return_value: Bytes::from_static(b"r"),
        execution_us: 9,
        energy: 8,
    })
}

fn state(index: u64) -> DatabaseState {
    DatabaseState {
        index,
        digest: 0,
        module: 1,
        successes: Successes::default(),
    }
}

#[test]
fn a_call_is_stamped_with_its_place_and_time_and_keeps_the_rest() {
    let (mut core, mut calls) = core(false);
    core.take(&call(10, 7, "add", "x"), &mut calls);
    let [(reducer, header, own, request_id)] = &sent(&mut calls)[..] else {
        panic!("one call")
    };
    assert_eq!(
        (reducer.as_str(), *request_id, own.as_slice()),
        ("add", 510, &[1, 0, 0, 0, b'x'][..])
    );
    let expected = CallHeader {
        sender: [3; 32],
        connection: [0; 16],
        timestamp_us: 1010,
        index: 10,
        session: 7,
    };
    assert_eq!(*header, expected);

    core.result(ok(510)).unwrap();
    assert_eq!(outcomes(&mut core), [(10, called())]);
}

#[test]
fn outcomes_come_in_order_those_that_need_no_server_too() {
    let (mut core, mut calls) = core(false);
    for command in [
        call(10, 7, "add", "x"),
        connect(11),
        call(12, 7, "nothing", ""),
        call(13, 7, "add", "y"),
    ] {
        core.take(&command, &mut calls);
    }
    assert_eq!(sent(&mut calls).len(), 2);
    assert_eq!(outcomes(&mut core), []);
    core.result(ok(510)).unwrap();
    assert_eq!(
        outcomes(&mut core),
        [
            (10, called()),
            (11, Ok(Reply::Done)),
            (12, Err("no such reducer".into()))
        ]
    );
    core.result(error(513, "no")).unwrap();
    assert_eq!(outcomes(&mut core), [(13, Err("no".into()))]);
    assert!(core.window().is_empty());
    assert_eq!(core.window().bytes(), 0);
}

#[test]
fn arguments_of_the_wrong_type_are_not_sent() {
    let (mut core, mut calls) = core(false);
    let mut bad = call(10, 7, "add", "x");
    if let Some(Body::Call(call)) = &mut bad.command.body {
        call.args = call.args.slice(..header::LEN + 2);
    }
    let mut headless = call(11, 7, "add", "x");
    if let Some(Body::Call(call)) = &mut headless.command.body {
        call.args = Bytes::from_static(b"short");
    }
    core.take(&bad, &mut calls);
    core.take(&headless, &mut calls);
    assert!(sent(&mut calls).is_empty());
    let told = outcomes(&mut core);
    assert_eq!(
        told[0],
        (
            10,
            Err("invalid arguments for reducer add: data too short".into())
        )
    );
    assert_eq!(told[1], (11, Err("the call has no header".into())));
}

#[test]
fn arrivals_and_departures_call_the_modules_reducers() {
    let (mut core, mut calls) = core(true);
    core.take(&connect(20), &mut calls);
    core.take(&disconnect(21, 20, false), &mut calls);
    core.take(&disconnect(22, 19, true), &mut calls);
    let sent = sent(&mut calls);
    let names: Vec<_> = sent
        .iter()
        .map(|(name, header, ..)| (name.as_str(), header.index, header.session))
        .collect();
    assert_eq!(
        names,
        [
            ("arrive", 20, 20),
            ("leave", 21, 20),
            (DISCONNECT, 21, 20),
            (DISCONNECT, 22, 19)
        ]
    );
    assert!(
        sent.iter()
            .all(|(_, header, ..)| header.sender == [4; 32] && header.connection == [5; 16])
    );

    core.result(error(0, "you are banned")).unwrap();
    core.result(error(0, "oh")).unwrap();
    core.result(ok(0)).unwrap();
    core.result(ok(0)).unwrap();
    assert_eq!(
        outcomes(&mut core),
        [
            (20, Err("you are banned".into())),
            (21, Ok(Reply::Done)),
            (22, Ok(Reply::Done))
        ]
    );
}

#[test]
fn what_a_token_says_goes_before_the_arrival() {
    for (claims, lifecycle) in [(Claims::Read, true), (Claims::Kept, true), (Claims::Kept, false)] {
        let (mut core, mut calls) = core_with(lifecycle, claims);
        core.take(&connect_with(20, "{}"), &mut calls);
        core.take(&connect(21), &mut calls);
        let sent = sent(&mut calls);
        let (reducer, header, own, _) = &sent[0];
        assert_eq!(
            (reducer.as_str(), own.as_slice()),
            (IDENTIFY, &[2, 0, 0, 0, b'{', b'}'][..])
        );
        assert_eq!(
            (header.index, header.session, header.connection),
            (20, 20, [5; 16])
        );
        assert_eq!(sent.len(), if lifecycle { 3 } else { 1 });
        core.result(ok(0)).unwrap();
        assert_eq!(
            core.succeeded(),
            Position(0),
            "it is not part of the database by that"
        );
        for _ in 1..sent.len() {
            core.result(ok(0)).unwrap();
        }
        let done = [(20, Ok(Reply::Done)), (21, Ok(Reply::Done))];
        assert_eq!(outcomes(&mut core), done);
        assert!(core.window().is_empty());
    }
    // The module could not say so, or the claims are longer than it takes.
    for (claims, said) in [(Claims::Ignored, 2), (Claims::Read, CLAIMS_BYTES_MAX + 1)] {
        let (mut core, mut calls) = core_with(false, claims);
        core.take(&connect_with(20, &"x".repeat(said)), &mut calls);
        assert_eq!(sent(&mut calls), []);
        assert_eq!(outcomes(&mut core), [(20, Ok(Reply::Done))]);
    }
}

#[test]
fn what_a_token_says_goes_before_a_call_without_a_session() {
    let said = |claims, session| {
        let (mut core, mut calls) = core_with(false, claims);
        let mut command = call(10, session, "add", "x");
        if let Some(Body::Call(call)) = &mut command.command.body {
            call.claims = "{}".to_owned();
        }
        core.take(&command, &mut calls);
        sent(&mut calls)
            .into_iter()
            .map(|sent| (sent.0, sent.1.index))
            .collect::<Vec<_>>()
    };
    let add = || ("add".to_owned(), 10);
    assert_eq!(said(Claims::Read, 0), [(IDENTIFY.to_owned(), 10), add()]);
    assert_eq!(said(Claims::Read, 7), [add()]);
    assert_eq!(said(Claims::Kept, 0), [add()]);

    // A session that wants no receipt is told to a module that asks for its claims.
    for (claims, session) in [(Claims::Read, 7 | NO_RECEIPT), (Claims::Kept, 0)] {
        let (mut core, mut calls) = core_with(false, claims);
        let mut command = call(10, 0, "add", "x");
        if let Some(Body::Call(call)) = &mut command.command.body {
            call.session = 7;
        }
        core.take(&command, &mut calls);
        assert_eq!(sent(&mut calls)[0].1.session, session);
    }
}

#[test]
fn a_token_that_was_being_kept_is_not_told_of_when_the_connection_is_lost() {
    let (mut core, mut calls) = core_with(true, Claims::Read);
    core.take(&connect_with(20, "{}"), &mut calls);
    core.take(&connect_with(21, "{}"), &mut calls);
    core.lost();
    let mut sum = Successes::default();
    sum.add(20);
    let recorded = DatabaseState {
        successes: sum,
        ..state(20)
    };
    core.recovered(Some(&recorded));
    assert_eq!(outcomes(&mut core), [(20, Ok(Reply::Done))]);

    core.take(&connect_with(21, "{}"), &mut calls);
    let refused = core.result(error(0, "no"));
    assert!(
        matches!(
            refused,
            Err(Violation::Hidden {
                reducer: IDENTIFY,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_call_that_was_passed_over_is_told_from_the_record() {
    for failed in [10, 11] {
        let (mut core, mut calls) = core(false);
        for position in 10..13 {
            core.take(&call(position, 7, "add", "x"), &mut calls);
        }
        // Sent on a connection before, and applied since: the first of them, and one behind it.
        assert_eq!(
            core.result(error(510, SKIPPED)),
            Err(Violation::Skipped { index: 10 })
        );
        assert_eq!(outcomes(&mut core), []);
        core.lost();
        let mut sum = Successes::default();
        [10, 11, 12]
            .into_iter()
            .filter(|at| *at != failed)
            .for_each(|at| sum.add(at));
        core.recovered(Some(&DatabaseState {
            successes: sum,
            ..state(12)
        }));
        let told = outcomes(&mut core);
        assert_eq!(told.iter().map(|told| told.0).collect::<Vec<_>>(), [10, 11, 12]);
        for (position, outcome) in told {
            assert_eq!(outcome.is_ok(), position != failed, "{outcome:?}");
        }
    }
}

#[test]
fn a_module_that_says_it_passed_a_call_over_stops_nothing() {
    let (mut core, mut calls) = core(false);
    core.take(&call(10, 7, "add", "x"), &mut calls);
    assert_eq!(
        core.result(error(510, SKIPPED)),
        Err(Violation::Skipped { index: 10 })
    );
    core.lost();
    core.recovered(Some(&state(9)));
    core.take(&call(10, 7, "add", "x"), &mut calls);
    core.take(&call(11, 7, "add", "y"), &mut calls);
    core.result(error(510, SKIPPED)).unwrap();
    core.result(ok(511)).unwrap();
    let told = outcomes(&mut core);
    let unknown = told[0].1.as_ref().unwrap_err();
    assert!(unknown.contains("unknown"), "{unknown}");
    assert_eq!(told[1], (11, called()));
}

#[test]
fn without_lifecycle_reducers_only_the_receipt_is_deleted() {
    let (mut core, mut calls) = core(false);
    core.take(&disconnect(21, 20, false), &mut calls);
    assert_eq!(sent(&mut calls)[0].0, DISCONNECT);
}

#[test]
fn a_result_that_is_not_the_next_ones_is_a_violation() {
    let (mut core, mut calls) = core(false);
    assert_eq!(core.result(ok(1)), Err(Violation::NoCall));
    core.take(&call(10, 7, "add", "x"), &mut calls);
    assert_eq!(
        core.result(ok(511)),
        Err(Violation::OtherCall {
            expected: 510,
            got: 511
        })
    );
    // It still waits.
    core.result(ok(510)).unwrap();
    core.take(&call(11, 7, "add", "x"), &mut calls);
    let other = AppliedCall {
        index: Some(12),
        ..ok(511)
    };
    assert_eq!(
        core.result(other),
        Err(Violation::OtherCall {
            expected: 11,
            got: 12
        })
    );
    core.result(ok(511)).unwrap();
    // 1.2.0 forgets the request id of a call that fails; the position stands for it.
    core.take(&call(13, 7, "add", "x"), &mut calls);
    core.result(AppliedCall {
        index: Some(13),
        ..error(0, "no")
    })
    .unwrap();
    assert_eq!(outcomes(&mut core)[2], (13, Err("no".into())));
}

/// Else it would be said that they are applied.
#[test]
fn commands_whose_connection_is_lost_are_open_until_the_database_has_said_what_came_of_them() {
    let (mut core, mut calls) = core(false);
    for position in [10, 11] {
        core.take(&call(position, 7, "add", "x"), &mut calls);
    }
    core.result(ok(510)).unwrap();
    assert_eq!(core.first_open(), Some(Position(11)));
    core.lost();
    assert_eq!(core.first_open(), Some(Position(11)));
    core.recovered(Some(&state(10)));
    assert_eq!(core.first_open(), None);
}

#[test]
fn without_a_database_all_calls_are_refused() {
    let (mut core, mut calls) = (Core::default(), Calls::new(Subprotocol::V1));
    for command in [call(10, 0, "add", "x"), connect(11), disconnect(12, 11, false)] {
        core.take(&command, &mut calls);
    }
    assert!(calls.is_empty());
    let gone = || Err("no such database".to_owned());
    assert_eq!(
        outcomes(&mut core),
        [(10, gone()), (11, gone()), (12, Ok(Reply::Done))]
    );
}

#[test]
fn of_lost_results_that_the_sums_do_not_explain_nothing_is_said() {
    let (mut core, mut calls) = core(true);
    for command in [
        connect(10),
        call(11, 10, "add", "x"),
        disconnect(12, 9, false),
        call(13, 9, "add", "not applied yet"),
    ] {
        core.take(&command, &mut calls);
    }
    core.lost();
    assert!(core.window().is_empty());
    core.recovered(Some(&DatabaseState {
        successes: Successes::from_columns([7; 2]),
        ..state(12)
    }));

    let told = outcomes(&mut core);
    assert_eq!(told.len(), 3);
    for (_, outcome) in &told[..2] {
        assert!(outcome.as_ref().unwrap_err().contains("unknown"));
    }
    assert_eq!(told[2], (12, Ok(Reply::Done)));

    // What comes after is read from the log again, and told once.
    core.take(&call(13, 9, "add", "not applied yet"), &mut calls);
    core.result(ok(513)).unwrap();
    assert_eq!(outcomes(&mut core), [(13, called())]);
}

#[test]
fn lost_results_are_told_from_the_successes() {
    let (mut core, mut calls) = core(true);
    for command in [
        connect(10),
        call(11, 10, "add", "x"),
        call(12, 10, "add", "x"),
        call(13, 10, "add", "failed"),
        call(14, 10, "add", "x"),
        disconnect(15, 10, false),
        call(16, 8, "add", "x"),
        call(17, 8, "add", "not applied yet"),
    ] {
        core.take(&command, &mut calls);
    }
    core.result(ok(0)).unwrap();
    core.result(ok(511)).unwrap();
    core.lost();
    let mut sum = Successes::default();
    for position in [10, 11, 12, 14, 15, 16] {
        sum.add(position);
    }
    let recorded = DatabaseState {
        successes: sum,
        ..state(16)
    };
    core.recovered(Some(&recorded));
    let told = outcomes(&mut core);
    assert_eq!(
        told.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(),
        [10, 11, 12, 13, 14, 15, 16]
    );
    for (seq, outcome) in told {
        assert_eq!(outcome.is_ok(), seq != 13, "{seq}: {outcome:?}");
    }
}

#[test]
fn what_the_server_lost_is_applied_again_and_not_told_again() {
    let (mut core, mut calls) = core(false);
    for position in [10, 11] {
        core.take(&call(position, 7, "add", "x"), &mut calls);
        core.result(ok(position as u32 + 500)).unwrap();
    }
    assert_eq!(outcomes(&mut core).len(), 2);
    core.lost();
    core.recovered(Some(&state(9)));
    for position in [10, 11, 12] {
        core.take(&call(position, 7, "add", "x"), &mut calls);
        core.result(ok(position as u32 + 500)).unwrap();
    }
    assert_eq!(outcomes(&mut core), [(12, called())]);
}

#[test]
fn a_publication_whose_result_was_lost_is_told_from_the_running_module() {
    let (mut core, _) = core(false);
    let publish = command(30, Body::Publish(rtdb_consensus::command::Publish::default()));
    core.publishing(&publish);
    core.lost();
    core.recovered(Some(&DatabaseState {
        index: 30,
        digest: 0,
        module: 30,
        successes: Successes::default(),
    }));
    assert_eq!(
        outcomes(&mut core),
        [(30, Ok(Reply::Published { created: false }))]
    );
}

#[test]
fn the_window_is_bounded_by_count_and_bytes() {
    let (mut core, mut calls) = core(false);
    for position in 0..CALLS_MAX as u64 {
        assert!(core.window().has_room());
        core.take(&call(position + 1, 7, "add", "x"), &mut calls);
    }
    assert!(!core.window().has_room());

    let (mut core, mut calls) = self::core(false);
    let large = "x".repeat(1 << 20);
    let mut taken = 0;
    while core.window().has_room() {
        taken += 1;
        core.take(&call(taken, 7, "add", &large), &mut calls);
    }
    assert_eq!(taken, 8);
}

/// v1 echoes a call's position.
fn echoed(index: u64, result: AppliedCall) -> AppliedCall {
    AppliedCall {
        request_id: 0,
        index: Some(index),
        ..result
    }
}

#[test]
fn a_call_that_is_not_answered_has_failed_if_the_database_has_later_ones() {
    let (mut core, mut calls) = core(false);
    for position in 10..15 {
        core.take(&call(position, 7, "add", "x"), &mut calls);
    }
    core.result(echoed(10, ok(0))).unwrap();
    let unanswered = Violation::Unanswered {
        position: Position(11),
    };
    assert_eq!(core.result(echoed(12, ok(0))), Err(unanswered));
    core.lost();
    let mut sums = Successes::default();
    [10, 12].into_iter().for_each(|position| sums.add(position));
    let recorded = DatabaseState {
        successes: sums,
        ..state(12)
    };
    assert_eq!(core.recovered(Some(&recorded)), Position(12));
    let told = outcomes(&mut core);
    let oks: Vec<_> = told
        .iter()
        .map(|(seq, outcome)| (*seq, outcome.is_ok()))
        .collect();
    assert_eq!(oks, [(10, true), (11, false), (12, true)]);
}

#[test]
fn calls_that_have_run_and_left_no_trace_are_not_sent_again() {
    let (mut core, mut calls) = core(false);
    for position in 10..15 {
        core.take(&call(position, 7, "add", "x"), &mut calls);
    }
    core.result(echoed(10, ok(0))).unwrap();
    core.result(echoed(13, error(0, "its own"))).unwrap_err();
    core.lost();
    assert_eq!(core.recovered(Some(&state(10))), Position(13));
    let told = outcomes(&mut core);
    assert_eq!(told[0], (10, called()));
    let errors: Vec<_> = told[1..]
        .iter()
        .map(|(seq, it)| (*seq, it.as_ref().unwrap_err()))
        .collect();
    assert_eq!(errors.len(), 3);
    assert!(errors[0].1.contains("gave no reason") && errors[1].1.contains("gave no reason"));
    assert_eq!(errors[2], (13, &"its own".to_owned()));
}

#[test]
fn calls_that_have_run_are_sent_again_if_the_server_has_lost_later_ones() {
    let (mut core, mut calls) = core(false);
    for position in 10..13 {
        core.take(&call(position, 7, "add", "x"), &mut calls);
    }
    core.result(echoed(10, ok(0))).unwrap();
    core.result(echoed(12, ok(0))).unwrap_err();
    core.lost();
    // It died, too, and its last transaction is gone.
    assert_eq!(core.recovered(Some(&state(10))), Position(10));
    assert_eq!(outcomes(&mut core).len(), 1);
}

#[test]
fn a_fence_shows_that_all_before_it_have_run() {
    let (mut core, _) = core(false);
    let mut calls = Calls::new(Subprotocol::V1);
    core.fence(&mut calls);
    assert!(calls.is_empty(), "nothing is under way");
    core.take(&call(10, 7, "add", "x"), &mut calls);
    core.fence(&mut calls);
    core.fence(&mut calls);
    assert_eq!(std::iter::from_fn(|| calls.pop()).count(), 2);
    core.result(echoed(10, ok(0))).unwrap();
    core.result(echoed(0, ok(0))).unwrap();
    assert!(core.window().is_empty());

    core.take(&call(11, 7, "add", "x"), &mut calls);
    core.fence(&mut calls);
    core.result(echoed(0, ok(0))).unwrap_err();
    core.lost();
    assert_eq!(core.recovered(Some(&state(10))), Position(11));
    let told = outcomes(&mut core);
    assert!(told[0].1.is_ok() && told[1].1.is_err() && told.len() == 2);
}

/// Both are at the same position.
#[test]
fn the_cleanup_behind_a_disconnect_that_was_overtaken_is_not_passed_over() {
    let (mut core, mut calls) = core(true);
    core.take(&call(10, 7, "add", "x"), &mut calls);
    core.take(&disconnect(11, 7, false), &mut calls);
    core.result(echoed(11, error(0, "no"))).unwrap_err();
    core.lost();
    assert_eq!(core.recovered(Some(&state(9))), Position(10));
}

#[test]
fn what_is_passed_over_here_may_have_been_done_elsewhere() {
    let (mut core, mut calls) = core(true);
    core.take(&call(5, 0, "add", "x"), &mut calls);
    core.lost();
    core.give_up("why");
    core.pass(&call(6, 0, "add", "y"), "why");
    let told: Vec<_> = core.told().map(|told| told.outcome).collect();
    assert!(
        matches!(
            &told[..],
            [Err(Unapplied::Unknown { .. }), Err(Unapplied::Unknown { .. })]
        ),
        "{told:?}"
    );
}

/// The log has let it in: its session is to be ended.
#[test]
fn who_comes_where_there_is_no_database_is_told_where_that_stands() {
    let mut core = Core::default();
    core.take(&connect(5), &mut Calls::new(Subprotocol::V3));
    let told: Vec<_> = core.told().map(|told| told.outcome).collect();
    let refusal = Refusal::NothingToEnter(Position(5));
    assert_eq!(told, [Err(Unapplied::Refused(refusal))]);
}
