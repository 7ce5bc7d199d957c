//! Rows that are due.

use super::*;
use rtdb_consensus::command::{IMMEDIATE_SCHEDULE, Timer, TimerAt};
use rtdb_determinism::{Firing, SCHEDULED, UNSCHEDULED, When, encode_timer};
use spacetimedb_lib::ScheduleAt;

/// A module with two schedules.
fn core() -> (Core, Calls) {
    let (mut core, calls) = super::core(false);
    let mut builder = RawModuleDefV9Builder::new();
    for (table, reducer) in [("job", "run"), ("chore", "clean")] {
        let row = ProductType::from([
            ("scheduled_id", AlgebraicType::U64),
            ("scheduled_at", ScheduleAt::get_type()),
        ]);
        let table = builder.build_table_with_new_type(table, row, true);
        table.with_primary_key(0).with_schedule(reducer, 1).finish();
        builder.add_reducer(reducer, ProductType::unit(), None);
    }
    let def = bsatn::to_vec(&RawModuleDef::V9(builder.finish())).unwrap();
    let active = ActiveDatabase::clone(&core.active().unwrap());
    core.set_active(Some(Arc::new(ActiveDatabase {
        module: Arc::new(Module::from_def(&def).unwrap()),
        ..active
    })));
    (core, calls)
}

fn timer(position: u64, module: u64, schedule: u32, over: bool) -> ResolvedCommand {
    let timer = Timer {
        database: Bytes::new(),
        module,
        schedule,
        row: 7,
        term: 3,
        interval_due_us: 0,
        at: Some(TimerAt::TimeUs(5)),
        over,
    };
    // Both halves are the same proposal.
    ResolvedCommand {
        seq: 10,
        ..command(position, Body::Timer(timer))
    }
}

fn take_both(core: &mut Core, calls: &mut Calls) {
    core.take(&timer(10, 1, 1, false), calls);
    core.take(&timer(11, 1, 1, true), calls);
}

fn told(core: &mut Core) -> Vec<(u64, bool)> {
    core.told().map(|told| (told.seq, told.outcome.is_ok())).collect()
}

#[test]
fn the_database_itself_calls_and_then_the_row_goes() {
    let (mut core, mut calls) = core();
    take_both(&mut core, &mut calls);
    let sent = sent(&mut calls);
    let own = encode_timer(Firing::ByTime, 1, 7, Some(When::Time(5)));
    for ((name, header, args, _), (reducer, index)) in sent.iter().zip([(SCHEDULED, 10), (UNSCHEDULED, 11)]) {
        let expected = CallHeader {
            sender: [1; 32],
            timestamp_us: 1000 + index as i64,
            index,
            ..CallHeader::default()
        };
        assert_eq!(
            (name.as_str(), *header, args.as_slice()),
            (reducer, expected, &own[..])
        );
    }
    assert_eq!(sent.len(), 2);
    // Nobody waits for what the reducer says: that the row is dealt with is the outcome.
    core.result(error(0, "oh")).unwrap();
    assert_eq!(told(&mut core), []);
    core.result(ok(0)).unwrap();
    assert_eq!(told(&mut core), [(10, true)]);
    assert_eq!(core.succeeded(), Position(11));
    assert!(core.window().is_empty());
}

/// One that is too long for a call, for one: it stays, and the others go on.
#[test]
fn that_a_row_can_t_be_deleted_is_told() {
    let (mut core, mut calls) = core();
    take_both(&mut core, &mut calls);
    core.result(error(0, "oh")).unwrap();
    core.result(error(0, "oh")).unwrap();
    assert_eq!(told(&mut core), [(10, false)]);
    assert!(core.window().is_empty());
}

#[test]
fn a_row_of_another_module_is_let_be() {
    let (mut core, mut calls) = core();
    for (module, schedule) in [(2, 0), (0, 0), (1, 2)] {
        core.take(&timer(10, module, schedule, false), &mut calls);
        core.take(&timer(11, module, schedule, true), &mut calls);
    }
    assert!(sent(&mut calls).is_empty());
    assert_eq!(
        told(&mut core),
        [(10, false)],
        "told once, though it came in two halves, and again"
    );
    let active = ActiveDatabase::clone(&core.active().unwrap());
    core.set_active(Some(Arc::new(ActiveDatabase {
        firing: Firing::Never,
        ..active
    })));
    take_both(&mut core, &mut calls);
    assert!(sent(&mut calls).is_empty(), "it has no such reducers");
}

#[test]
fn what_a_module_wants_called_at_once_is_called_if_it_may_ask_for_that() {
    let (mut core, mut calls) = core();
    let at_once = |position, over| timer(position, 1, IMMEDIATE_SCHEDULE, over);
    core.take(&at_once(10, false), &mut calls);
    core.take(&at_once(11, true), &mut calls);
    assert!(sent(&mut calls).is_empty());
    let active = ActiveDatabase::clone(&core.active().unwrap());
    core.set_active(Some(Arc::new(ActiveDatabase {
        calls_at_once: true,
        ..active
    })));
    core.take(&at_once(12, false), &mut calls);
    core.take(&at_once(13, true), &mut calls);
    let own = encode_timer(Firing::ByTime, IMMEDIATE_SCHEDULE, 7, Some(When::Time(5)));
    let sent = sent(&mut calls);
    let sent: Vec<_> = sent
        .iter()
        .map(|(name, _, args, _)| (name.as_str(), args.as_slice()))
        .collect();
    assert_eq!(sent, [(SCHEDULED, &own[..]), (UNSCHEDULED, &own[..])]);
}

#[test]
fn a_run_that_has_failed_by_decision_is_passed_over_and_the_row_goes() {
    let (mut core, mut calls) = core();
    core.pass_over(&timer(10, 1, 1, false), "it stops SpacetimeDB", &mut calls);
    core.take(&timer(11, 1, 1, true), &mut calls);
    let names: Vec<_> = sent(&mut calls).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, [UNSCHEDULED]);
    core.result(ok(0)).unwrap();
    assert_eq!(told(&mut core), [(10, true)]);
}

/// The database's record says where it is: behind both, or between them.
#[test]
fn what_is_open_when_the_connection_is_lost_goes_on_behind_what_is_recorded() {
    for (index, expected) in [(9, vec![]), (10, vec![]), (11, vec![(10, true)])] {
        let (mut core, mut calls) = core();
        take_both(&mut core, &mut calls);
        core.lost();
        let mut successes = Successes::default();
        (10..=index).for_each(|position| successes.add(position));
        let state = DatabaseState {
            successes,
            ..state(index)
        };
        assert_eq!(core.recovered(Some(&state)), Position(index));
        assert_eq!(told(&mut core), expected);
    }
}
