//! Procedures: when they begin, and when their results are told.

use super::*;
use crate::procedures::Finished;
use rtdb_protocol::server::{ServerMessage, split};
use spacetimedb_lib::db::raw_def::v10::RawModuleDefV10Builder;

/// A module with the procedure `fetch(u64)` and the reducer `add(u64)`.
fn with_procedure(mut script: Script) -> Script {
    let mut def = RawModuleDefV10Builder::new();
    let params = || ProductType::from([("n", AlgebraicType::U64)]);
    def.add_procedure("fetch", params(), AlgebraicType::U64);
    def.add_reducer("add", params());
    let def = bsatn::to_vec(&RawModuleDef::V10(def.finish())).expect("a definition");
    script.module = Module::from_def(&def).expect("a module");
    script
}

fn fetch(args: &[u8], request_id: u32) -> Bytes {
    client::call_procedure(V2, "fetch", &[args], request_id)
}

/// Its transaction was the one at `last`.
fn returned(script: &mut Script, last: u64) -> Vec<String> {
    let mut payload = BytesMut::from(&[0, 7, 0][..]);
    payload.put_u32_le(8);
    payload.put_bytes(0, 8 + 8 + 8);
    payload.put_u32_le(5);
    let Some(Ok(ServerMessage::Procedure(result))) = split(V2, payload.freeze()).next() else {
        panic!("no result")
    };
    let finished = Finished {
        result: Ok(result),
        last,
        args_bytes: 8,
    };
    script.step(|core, context, actions| core.procedure_finished(5, finished, context, actions))
}

#[test]
fn a_procedure_begins_behind_the_calls_before_it_and_holds_up_none() {
    let mut script = with_procedure(Script::new());
    assert_eq!(script.client(call(1)), [""; 0]);
    assert_eq!(script.propose(), [1]);
    assert_eq!(script.client(fetch(&[0; 8], 5)), [""; 0]);
    assert_eq!(script.ok(), ["result 1 ok", "run fetch for 0"]);
    assert_eq!(script.client(call(2)), [""; 0]);
    assert_eq!(script.propose(), [2]);
    assert_eq!(returned(&mut script, 9), ["procedure returned"]);
    assert_eq!(script.ok(), ["result 2 ok"]);
}

#[test]
fn a_result_comes_behind_the_rows_of_its_last_transaction() {
    let mut script = with_procedure(Script::subscribed());
    assert_eq!(
        script.client(fetch(&[0; 8], 5)),
        [format!("run fetch for {SESSION}")]
    );
    assert_eq!(script.upstream(update(Some(3))), ["update"]);
    assert_eq!(returned(&mut script, 4), [""; 0]);
    assert_eq!(script.upstream(update(None)), ["update"]);
    assert_eq!(script.upstream(update(Some(4))), ["update", "procedure returned"]);

    // The other way round, and one without transactions.
    assert_eq!(
        script.client(fetch(&[0; 8], 6)),
        [format!("run fetch for {SESSION}")]
    );
    assert_eq!(
        script.client(fetch(&[0; 8], 7)),
        [format!("run fetch for {SESSION}")]
    );
    assert_eq!(script.upstream(update(Some(6))), ["update"]);
    assert_eq!(returned(&mut script, 6), ["procedure returned"]);
    assert_eq!(returned(&mut script, 0), ["procedure returned"]);
}

#[test]
fn receipts_of_a_procedure_and_of_calls_don_t_get_mixed_up() {
    let mut script = with_procedure(Script::subscribed());
    assert_eq!(
        script.client(fetch(&[0; 8], 5)),
        [format!("run fetch for {SESSION}")]
    );
    assert_eq!(script.client(call(1)), [""; 0]);
    assert_eq!(script.propose(), [1]);
    // The transaction at 1, then the call at 2.
    script.position = 1;
    assert_eq!(script.upstream(update(Some(1))), [""; 0]);
    assert_eq!(returned(&mut script, 1), [""; 0]);
    assert_eq!(script.ok(), ["update", "procedure returned"]);
    assert_eq!(script.upstream(update(Some(2))), ["result 1 ok with rows"]);
}

#[test]
fn a_result_does_not_wait_for_ever() {
    let mut script = with_procedure(Script::subscribed());
    script.client(fetch(&[0; 8], 5));
    assert_eq!(returned(&mut script, 4), [""; 0]);
    let overdue = |script: &mut Script| script.step(|core, _, actions| core.tell_overdue(actions));
    assert_eq!(overdue(&mut script), [""; 0]);
    assert_eq!(overdue(&mut script), ["procedure returned"]);
}

#[test]
fn what_is_no_call_of_a_procedure_is_refused_in_its_place() {
    let mut script = with_procedure(Script::new());
    script.client(call(1));
    script.propose();
    assert_eq!(script.client(fetch(&[0; 7], 5)), [""; 0]);
    assert_eq!(script.ok(), ["result 1 ok", "procedure failed"]);
    let other = client::call_procedure(V2, "add", &[&[0; 8]], 6);
    assert_eq!(script.client(other), ["procedure failed"]);
}

#[test]
fn arguments_count_while_a_procedure_runs() {
    let mut script = with_procedure(Script::new());
    let before = script.core.bytes();
    script.client(fetch(&[0; 8], 5));
    assert_eq!(script.core.bytes() - before, 8);
    assert_eq!(returned(&mut script, 0), ["procedure returned"]);
    assert_eq!(script.core.bytes(), before);
}

#[test]
fn so_many_run_at_a_time() {
    let mut script = with_procedure(Script::new());
    for _ in 0..crate::limits::PROCEDURES_MAX {
        assert_eq!(script.client(fetch(&[0; 8], 5)), ["run fetch for 0"]);
    }
    assert_eq!(script.client(fetch(&[0; 8], 5)), [""; 0]);
    assert!(!script.core.wants_client());
    assert_eq!(
        returned(&mut script, 0),
        ["procedure returned", "run fetch for 0"]
    );
}
