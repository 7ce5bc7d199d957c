//! Rows that are due, on the fake host: called with once, as they are then, and deleted afterwards if they are for one time.

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{
    Firing, Module, NOT_DUE, SCHEDULED, SKIPPED, UNSCHEDULED, When, encode_timer, prepare,
};
use spacetimedb_lib::db::raw_def::v9::{
    RawConstraintDataV9, RawConstraintDefV9, RawIndexAlgorithm, RawIndexDefV9, RawModuleDefV9,
    RawScheduleDefV9, RawUniqueConstraintDataV9,
};
use spacetimedb_lib::{RawModuleDef, ScheduleAt, TimeDuration, Timestamp, bsatn};
use spacetimedb_primitives::ColList;
use spacetimedb_sats::raw_identifier::RawIdentifier;
use spacetimedb_sats::{AlgebraicType, ProductType};

use crate::fixtures::{TIMERS, prepared};
use crate::host::{Failure, FakeHost};
use crate::raw_module::{encode, module_with_memory, reducer, table};

const ID: u64 = 7;

/// A text, the key, when it is due, and bytes.
type Job = (String, u64, ScheduleAt, Vec<u8>);

fn once() -> ScheduleAt {
    ScheduleAt::Time(Timestamp::from_micros_since_unix_epoch(5))
}

fn again() -> ScheduleAt {
    ScheduleAt::Interval(TimeDuration::from_micros(5))
}

/// A module whose table `rows` has the columns of the schedule tables `timer`, `second` and `third`, whose reducers `insert`,
/// `fail` and `explode` insert the row that they are called with into it.
fn module(algorithm: impl Fn(ColList) -> RawIndexAlgorithm) -> Vec<u8> {
    let row = || {
        ProductType::from([
            ("name", AlgebraicType::String),
            ("scheduled_id", AlgebraicType::U64),
            ("scheduled_at", ScheduleAt::get_type()),
            ("payload", AlgebraicType::bytes()),
        ])
    };
    let mut def = RawModuleDefV9::default();
    table(&mut def, "rows", row(), &[]);
    let left = ProductType::from([("left", AlgebraicType::bytes())]);
    table(&mut def, "left", left, &[]);
    for (name, called) in [("timer", "insert"), ("second", "fail"), ("third", "explode")] {
        table(&mut def, name, row(), &[]);
        reducer(&mut def, called);
        let timer = def.tables.last_mut().unwrap();
        let key = || ColList::new(1.into());
        timer.primary_key = key();
        timer.indexes = vec![RawIndexDefV9 {
            name: Some(RawIdentifier::new(format!("{name}_by_key"))),
            accessor_name: None,
            algorithm: algorithm(key()),
        }];
        timer.constraints = vec![RawConstraintDefV9 {
            name: None,
            data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 { columns: key() }),
        }];
        timer.schedule = Some(RawScheduleDefV9 {
            name: None,
            reducer_name: called.into(),
            scheduled_at_column: 2.into(),
        });
        let params = [("row", AlgebraicType::Ref(timer.product_type_ref))];
        def.reducers.last_mut().unwrap().params = ProductType::from(params);
    }
    let module = module_with_memory(&encode(RawModuleDef::V9(def)), 48, 64);
    let prepared = prepare(&module).expect("the module can be prepared");
    let schedules = Module::from_def(&prepared.original_def).unwrap();
    let named: Vec<_> = schedules.schedules().iter().map(|it| it.table.as_str()).collect();
    assert_eq!(named, ["timer", "second", "third"]);
    assert_eq!(Firing::of(&prepared.wasm), Firing::ByTime);
    assert_eq!(Firing::of(&module), Firing::Never);
    prepared.wasm
}

fn each_index(test: impl Fn(FakeHost)) {
    test(FakeHost::new(
        &module(|columns| RawIndexAlgorithm::BTree { columns }),
        4_096,
    ));
    test(FakeHost::new(
        &module(|columns| RawIndexAlgorithm::Hash { columns }),
        4_096,
    ));
}

fn place(host: &FakeHost, table: &str) -> usize {
    host.db.tables.iter().position(|it| it.name == table).unwrap()
}

/// Puts a row into a schedule table, as some call has.
fn put(host: &mut FakeHost, table: &str, at: ScheduleAt, payload: Vec<u8>) -> Vec<u8> {
    let job: Job = ("some text".to_owned(), ID, at, payload);
    let (row, table) = (bsatn::to_vec(&job).unwrap(), place(host, table));
    let value = host.db.decode(table, &row);
    assert_eq!(host.db.insert(table, value), 0);
    row
}

fn clear(host: &mut FakeHost, table: &str) {
    let (rows, table) = (host.db.rows(table), place(host, table));
    let rows: Vec<_> = rows.iter().map(|row| host.db.decode(table, row)).collect();
    assert_eq!(host.db.delete(table, &rows) as usize, rows.len());
}

fn call(host: &mut FakeHost, hidden: &str, index: u64, schedule: u32, id: u64) -> Result<(), Failure> {
    call_when(host, hidden, index, [u64::from(schedule), id], None)
}

/// The same, of a row that was seen to be due then.
fn call_when(
    host: &mut FakeHost,
    hidden: &str,
    index: u64,
    [schedule, id]: [u64; 2],
    when: Option<When>,
) -> Result<(), Failure> {
    let header = CallHeader {
        sender: [9; 32],
        timestamp_us: index as i64,
        index,
        ..CallHeader::default()
    };
    let args = encode_timer(Firing::ByTime, schedule as u32, id, when);
    host.call(hidden, header, &args)
}

#[test]
fn the_reducer_gets_the_row_and_one_for_one_time_goes() {
    each_index(|mut host| {
        let row = put(&mut host, "timer", once(), vec![1, 2, 3]);
        put(&mut host, "second", once(), Vec::new());
        call(&mut host, SCHEDULED, 5, 0, ID).unwrap();
        for table in ["rows", "timer"] {
            assert_eq!(host.db.rows(table), std::slice::from_ref(&row));
        }
        let (_, digest, _) = host.state();
        call(&mut host, UNSCHEDULED, 6, 0, ID).unwrap();
        assert!(host.db.rows("timer").is_empty());
        assert_eq!(host.db.rows("second").len(), 1, "another schedule's");
        assert_eq!(host.state().0, 6);
        assert_ne!(host.state().1, digest);
    });
}

#[test]
fn one_with_an_interval_stays() {
    each_index(|mut host| {
        let row = put(&mut host, "timer", again(), Vec::new());
        for index in [5, 7] {
            call(&mut host, SCHEDULED, index, 0, ID).unwrap();
            let (_, digest, _) = host.state();
            call(&mut host, UNSCHEDULED, index + 1, 0, ID).unwrap();
            assert_eq!((host.state().0, host.state().1), (index + 1, digest));
        }
        assert_eq!(host.db.rows("timer"), [row]);
        assert_eq!(host.db.rows("left").len(), 1, "both runs were the same");
    });
}

#[test]
fn a_row_that_is_gone_was_cancelled() {
    each_index(|mut host| {
        put(&mut host, "timer", once(), Vec::new());
        let before = |host: &FakeHost| (host.db.rows("rows").len(), host.db.rows("timer").len());
        call(&mut host, SCHEDULED, 5, 0, ID + 1).unwrap();
        call(&mut host, UNSCHEDULED, 6, 0, ID + 1).unwrap();
        assert_eq!(before(&host), (0, 1));
        assert_eq!(host.state().0, 6, "it is recorded all the same");
    });
}

#[test]
fn a_row_that_was_moved_waits() {
    each_index(|mut host| {
        call(&mut host, SCHEDULED, 1, 0, ID).unwrap();
        for (nth, at, seen) in [
            (0, once(), When::Time(4)),
            (1, once(), When::Interval(5)),
            (2, again(), When::Interval(6)),
            (3, again(), When::Time(5)),
        ] {
            let row = put(&mut host, "timer", at, Vec::new());
            let before = host.state();
            let index = 10 * (nth + 1);
            let ran = call_when(&mut host, SCHEDULED, index, [0, ID], Some(seen));
            assert_eq!(ran, Err(Failure::Failed(NOT_DUE.to_owned())));
            assert_eq!(host.state(), before);
            call_when(&mut host, UNSCHEDULED, index + 1, [0, ID], Some(seen)).unwrap();
            assert_eq!(host.db.rows("timer"), [row]);
            assert!(host.db.rows("rows").is_empty());
            clear(&mut host, "timer");
        }
    });
}

#[test]
fn a_row_that_is_due_then_runs() {
    each_index(|mut host| {
        for (index, at, seen) in [(5, again(), When::Interval(5)), (7, once(), When::Time(5))] {
            clear(&mut host, "timer");
            put(&mut host, "timer", at, vec![index as u8]);
            call_when(&mut host, SCHEDULED, index, [0, ID], Some(seen)).unwrap();
            call_when(&mut host, UNSCHEDULED, index + 1, [0, ID], Some(seen)).unwrap();
        }
        assert_eq!(host.db.rows("rows").len(), 2);
        assert!(host.db.rows("timer").is_empty());
    });
}

/// As natively: for whatever time.
#[test]
fn a_row_that_its_own_run_has_moved_goes() {
    each_index(|mut host| {
        let seen = Some(When::Time(5));
        for (end, left) in [(7, 1), (6, 0)] {
            clear(&mut host, "timer");
            put(&mut host, "timer", once(), Vec::new());
            call_when(&mut host, SCHEDULED, 5 + 10 * (1 - left as u64), [0, ID], seen).unwrap();
            clear(&mut host, "timer");
            let later = ScheduleAt::Time(Timestamp::from_micros_since_unix_epoch(99));
            put(&mut host, "timer", later, Vec::new());
            call_when(
                &mut host,
                UNSCHEDULED,
                end + 10 * (1 - left as u64),
                [0, ID],
                seen,
            )
            .unwrap();
            assert_eq!(
                host.db.rows("timer").len(),
                left,
                "a later call may have moved it"
            );
        }
        // A run that has failed has moved nothing.
        put(&mut host, "second", once(), Vec::new());
        call_when(&mut host, SCHEDULED, 25, [1, ID], seen).unwrap_err();
        call_when(&mut host, UNSCHEDULED, 26, [1, ID], seen).unwrap();
        assert!(host.db.rows("second").is_empty());
    });
}

#[test]
fn a_run_that_fails_leaves_nothing_and_the_row_goes_all_the_same() {
    each_index(|mut host| {
        for (schedule, table) in [(1, "second"), (2, "third")] {
            put(&mut host, table, once(), Vec::new());
            let index = 10 * u64::from(schedule);
            call(&mut host, SCHEDULED, index, schedule, ID).unwrap_err();
            assert!(host.db.rows("rows").is_empty());
            assert_eq!(host.db.rows(table).len(), 1);
            call(&mut host, UNSCHEDULED, index + 1, schedule, ID).unwrap();
            assert!(host.db.rows(table).is_empty());
            assert_eq!(host.state().0, index + 1);
        }
    });
}

#[test]
fn a_run_counts_once() {
    each_index(|mut host| {
        put(&mut host, "timer", again(), Vec::new());
        call(&mut host, SCHEDULED, 5, 0, ID).unwrap();
        let before = host.state();
        for index in [5, 4, 0] {
            let skipped = Err(Failure::Failed(SKIPPED.to_owned()));
            assert_eq!(call(&mut host, SCHEDULED, index, 0, ID), skipped);
            assert_eq!(call(&mut host, UNSCHEDULED, index, 0, ID), Ok(()));
        }
        assert_eq!((host.state(), host.db.rows("left").len()), (before, 1));
    });
}

#[test]
fn a_row_may_be_long_and_instances_come_and_go() {
    each_index(|mut host| {
        let payload: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
        let row = put(&mut host, "timer", once(), payload);
        let short = put(&mut host, "second", once(), vec![1]);
        call(&mut host, SCHEDULED, 5, 0, ID).unwrap();
        assert!(host.db.rows("rows") == [row]);
        // The next call finds nothing of it.
        call(&mut host, SCHEDULED, 6, 1, ID).unwrap_err();
        host.restart();
        call(&mut host, UNSCHEDULED, 7, 0, ID).unwrap();
        assert!(host.db.rows("timer").is_empty());
        assert_eq!(host.db.rows("second"), [short]);
    });
}

#[test]
fn there_is_no_schedule_beyond_the_last_one() {
    each_index(|mut host| {
        for hidden in [SCHEDULED, UNSCHEDULED] {
            assert_eq!(call(&mut host, hidden, 5, 3, ID), Err(Failure::Trapped));
        }
    });
}

#[test]
fn modules_of_both_versions_see_who_calls_and_when() {
    for name in TIMERS {
        let mut host = FakeHost::new(&prepared(name).wasm, 4_096);
        let header = |index: u64| CallHeader {
            timestamp_us: 1_000_000,
            index,
            ..CallHeader::default()
        };
        host.call("init", header(1), &[]).unwrap();
        let jobs = host.db.rows("job");
        assert_eq!(jobs.len(), 2);
        for (nth, job) in jobs.iter().enumerate() {
            let (_, id, _, _): Job = bsatn::from_slice(job).unwrap();
            let index = 10 + 2 * nth as u64;
            call(&mut host, SCHEDULED, index, 0, id).unwrap();
            call(&mut host, UNSCHEDULED, index + 1, 0, id).unwrap();
        }
        let rows = host.db.rows("ran");
        assert_eq!(rows.len(), 2, "{name}");
        for row in rows {
            let end = row.len() - 1;
            assert_eq!(
                (&row[end - 32..end], row[end]),
                (&[9; 32][..], 0),
                "the sender, and no connection"
            );
        }
        assert_eq!(host.db.rows("job").len(), 1, "the interval stays");
    }
}
