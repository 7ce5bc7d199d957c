//! Scheduled procedures on the fake host: the row is taken everywhere, and then the procedure runs with it.

use std::cell::RefCell;
use std::rc::Rc;

use rtdb_determinism::{
    Firing, Module, NOT_DUE, SCHEDULED, ScheduleKind, TICK, UNSCHEDULED, When, encode_timer, original_schema,
};
use serde_json::{Value, json};
use spacetimedb_lib::{ScheduleAt, bsatn};

use crate::fixtures::prepared;
use crate::host::{Failure, FakeHost};
use crate::procedures::{Log, MODULE, header, host, rows, run};

/// A text, the key, when it is due, and a payload.
type Alarm = (String, u64, ScheduleAt, String);

const INTERVAL_US: i64 = 50_000;

/// A host on which a procedure is scheduled, and what is known of its row.
fn scheduled(name: &str, after_us: Option<i64>, bytes: u32) -> (FakeHost, u64, When) {
    let mut host = host();
    let name = name.to_owned();
    let put = match after_us {
        Some(after_us) => host.call(
            "alarm_once",
            header(2),
            &bsatn::to_vec(&(name, after_us, bytes)).unwrap(),
        ),
        None => host.call(
            "alarm_every",
            header(2),
            &bsatn::to_vec(&(name, INTERVAL_US)).unwrap(),
        ),
    };
    put.unwrap();
    let (_, id, at, _): Alarm = bsatn::from_slice(&host.db.rows("alarm")[0]).unwrap();
    let when = match at {
        ScheduleAt::Interval(interval) => When::Interval(interval.to_micros()),
        ScheduleAt::Time(at) => When::Time(at.to_micros_since_unix_epoch()),
    };
    (host, id, when)
}

fn tick(host: &mut FakeHost, log: &Rc<RefCell<Log>>, id: u64, when: When) -> Result<(), Failure> {
    let args = encode_timer(Firing::ByTime, 0, id, Some(when));
    let returned = run(host, log, TICK, &args)?;
    assert!(returned.is_empty(), "nobody hears it");
    Ok(())
}

/// How often it has run, and how many rows are scheduled.
fn counts(host: &FakeHost) -> (usize, usize) {
    (host.db.rows("rung").len(), host.db.rows("alarm").len())
}

/// What the last one to run has seen: how long its payload was, and whether its row was there still.
fn last(host: &FakeHost) -> (u64, bool) {
    let rows = host.db.rows("rung");
    let row = rows.last().unwrap();
    // The due time and the number stand behind the texts.
    let (_, name, _, bytes): (u64, String, u64, u64) = bsatn::from_slice(row).unwrap();
    assert!(!name.is_empty());
    (bytes, row[row.len() - 1] == 1)
}

#[test]
fn one_for_one_time_is_taken_before_it_runs() {
    for (name, transactions) in [("one", 2), ("rests", 3), ("silent", 1)] {
        let (mut host, id, when) = scheduled(name, Some(5), 3);
        let log = Log::new(&host);
        tick(&mut host, &log, id, when).unwrap();
        assert_eq!(counts(&host), (usize::from(transactions > 1), 0), "{name}");
        assert_eq!(log.borrow().next, 3 + transactions, "{name}");
        assert_eq!(rows(&host), rows(&log.borrow().there));
        if transactions > 1 {
            assert_eq!(last(&host), (3, false));
        }
        // A second leader comes too late.
        tick(&mut host, &log, id, when).unwrap();
        assert_eq!(log.borrow().next, 3 + transactions, "{name}");
    }
}

#[test]
fn one_with_an_interval_stays_and_is_in_the_log_all_the_same() {
    let (mut host, id, when) = scheduled("again", None, 0);
    let log = Log::new(&host);
    for run in 1..=3 {
        tick(&mut host, &log, id, when).unwrap();
        assert_eq!((counts(&host), log.borrow().next), ((run, 1), 3 + 2 * run as u64));
        assert_eq!(last(&host), (0, true));
    }
    assert_eq!(rows(&host), rows(&log.borrow().there));
}

#[test]
fn a_row_that_is_gone_or_moved_is_left_alone() {
    let (mut host, id, when) = scheduled("one", Some(5), 0);
    let before = rows(&host);
    let log = Log::new(&host);
    let When::Time(at_us) = when else {
        panic!("it is for one time")
    };
    for (id, when) in [
        (id + 1, when),
        (id, When::Time(at_us + 1)),
        (id, When::Interval(at_us)),
    ] {
        tick(&mut host, &log, id, when).unwrap();
    }
    assert_eq!((log.borrow().sleeps, rows(&host)), (0, before));
    // The instance is none the worse for it.
    tick(&mut host, &log, id, when).unwrap();
    assert_eq!(counts(&host), (1, 0));
}

#[test]
fn it_is_claimed_again_after_a_conflict() {
    for conflicts in [1, 3, 15] {
        let (mut host, id, when) = scheduled("one", Some(5), 1000);
        let log = Log::new(&host);
        log.borrow_mut().conflicts = conflicts;
        tick(&mut host, &log, id, when).unwrap();
        assert_eq!((counts(&host), last(&host)), ((1, 0), (1000, false)));
        assert_eq!(rows(&host), rows(&log.borrow().there));
    }
    let (mut host, id, when) = scheduled("one", Some(5), 0);
    let log = Log::new(&host);
    log.borrow_mut().conflicts = u32::MAX;
    tick(&mut host, &log, id, when).unwrap();
    assert_eq!(counts(&host), (0, 1), "it is not run without");
}

#[test]
fn one_that_is_cancelled_or_moved_meanwhile_does_not_run() {
    for name in ["alarm_off", "alarm_later"] {
        let (mut host, id, when) = scheduled("one", Some(5), 0);
        let log = Log::new(&host);
        log.borrow_mut().conflicts = 1;
        log.borrow_mut().between = (name, bsatn::to_vec(&"one".to_owned()).unwrap());
        tick(&mut host, &log, id, when).unwrap();
        assert_eq!(counts(&host), (0, usize::from(name == "alarm_later")));
        assert_eq!(rows(&host), rows(&log.borrow().there));
    }
}

#[test]
fn one_that_panics_has_had_its_time() {
    let (mut host, id, when) = scheduled("panics", Some(5), 0);
    let log = Log::new(&host);
    assert_eq!(tick(&mut host, &log, id, when), Err(Failure::Trapped));
    assert_eq!(counts(&host), (1, 0));
    assert_eq!(rows(&host), rows(&log.borrow().there));
}

#[test]
fn a_row_may_be_long_and_instances_come_and_go() {
    let bytes = 1 << 20;
    let (mut host, id, when) = scheduled("one", Some(5), bytes);
    let log = Log::new(&host);
    host.restart();
    tick(&mut host, &log, id, when).unwrap();
    assert_eq!((counts(&host), last(&host)), ((1, 0), (bytes.into(), false)));
    assert_eq!(rows(&host), rows(&log.borrow().there));
}

/// As a leader of before there were such schedules would call them.
#[test]
fn no_reducer_takes_the_row_of_a_procedure() {
    let (mut host, id, when) = scheduled("one", Some(5), 0);
    let args = encode_timer(Firing::ByTime, 0, id, Some(when));
    let ran = host.call(SCHEDULED, header(3), &args);
    assert_eq!(ran, Err(Failure::Failed(NOT_DUE.to_owned())));
    host.call(UNSCHEDULED, header(4), &args).unwrap();
    assert_eq!(counts(&host), (0, 1));
}

#[test]
fn clients_know_what_is_scheduled_and_may_not_call_it() {
    let module = Module::from_def(&prepared(MODULE).original_def).unwrap();
    let [schedule] = module.schedules() else {
        panic!("there is one")
    };
    assert_eq!(
        (&*schedule.function, schedule.kind),
        ("ring", ScheduleKind::Procedure)
    );
    assert!(module.procedure("ring").unwrap().private && module.procedure(TICK).is_none());
}

#[test]
fn the_schema_shows_nothing_of_the_hidden_procedure() {
    let module = Module::from_def(&prepared(MODULE).original_def).unwrap();
    let procedure = |name: &str, params: &[&str]| json!({ "name": name, "params": { "elements": params } });
    let prepared = ["sender", "connection", "timestamp", "index", "session", "alarm"];
    let (server, own) = (procedure("ring", &prepared), procedure("ring", &["alarm"]));
    let hidden = procedure(TICK, &prepared);
    let v9 = |all: &[&Value]| {
        let exports: Vec<_> = all.iter().map(|it| json!({ "Procedure": it })).collect();
        json!({ "misc_exports": exports })
    };
    let restored = original_schema(v9(&[&server, &hidden]), &module);
    assert_eq!(restored["misc_exports"], v9(&[&own])["misc_exports"]);
    let v10 = |all: &[&Value]| json!({ "sections": [{ "Procedures": all }] });
    let restored = original_schema(v10(&[&server, &hidden]), &module);
    let schedules = json!([{
        "source_name": { "some": "alarm_sched" },
        "table_name": "alarm",
        "schedule_at_col": 2,
        "function_name": "ring",
    }]);
    assert_eq!(restored["sections"][0], v10(&[&own])["sections"][0]);
    assert_eq!(restored["sections"][1], json!({ "Schedules": schedules }));
}
