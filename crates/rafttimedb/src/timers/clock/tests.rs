use super::*;
use proptest::prelude::*;
use rtdb_consensus::command::IMMEDIATE_SCHEDULE;

const ROW: RowId = (0, 1);
const MS: i64 = 1_000;

fn rows(clock: &mut Clock, now_us: i64) -> Vec<u64> {
    std::iter::from_fn(|| clock.take(now_us))
        .map(|due| due.row.1)
        .collect()
}

#[test]
fn an_interval_of_50_ms_does_not_drift_in_1000_ticks() {
    let mut clock = Clock::default();
    clock.came(ROW, When::Interval(50 * MS), 0);
    let mut now_us = 0;
    for tick in 1..=1_000 {
        assert_eq!(clock.next_us(), Some(tick * 50 * MS));
        // It is looked at a little late, and takes a while.
        now_us = tick * 50 * MS + tick % 7 * MS;
        let due = clock.take(now_us).unwrap();
        assert_eq!(due.due_us, tick * 50 * MS);
        assert_eq!(clock.next_us(), None, "the next one comes once this one is over");
        now_us += 3 * MS;
        clock.done(due, Ended::Ran, now_us);
    }
    assert!(now_us < 1_000 * 50 * MS + 10 * MS);
}

#[test]
fn a_run_longer_than_its_interval_does_not_pile_up() {
    let mut clock = Clock::default();
    clock.came(ROW, When::Interval(50 * MS), 0);
    let due = clock.take(50 * MS).unwrap();
    clock.done(due, Ended::Ran, 275 * MS);
    assert_eq!(clock.next_us(), Some(300 * MS));
    let due = clock.take(300 * MS).unwrap();
    clock.done(due, Ended::Ran, 350 * MS);
    assert_eq!(
        clock.next_us(),
        Some(400 * MS),
        "a tick at the very moment is missed, as natively"
    );
}

#[test]
fn what_is_overdue_comes_at_once_and_in_order() {
    let mut clock = Clock::default();
    for (id, at) in [(1, 30), (2, 10), (3, 20), (4, 10), (5, 2_000)] {
        clock.came((0, id), When::Time(at), 1_000);
    }
    clock.came((1, 1), When::Interval(5 * MS), 1_000);
    assert_eq!(rows(&mut clock, 1_000), [2, 4, 3, 1]);
    assert_eq!(clock.next_us(), Some(2_000));
    assert_eq!(rows(&mut clock, 1_000), [0_u64; 0]);
}

/// The log's time goes on where it was when all clocks are set back.
#[test]
fn calls_at_once_are_made_whatever_the_clock_says() {
    let mut clock = Clock::default();
    let at_once = |id| (IMMEDIATE_SCHEDULE, id);
    clock.came((0, 1), When::Time(5), 10);
    clock.came(at_once(7), When::Time(1_000_001), 10);
    clock.came(at_once(8), When::Time(1_000_002), 4);
    clock.came(at_once(9), When::Time(3), 4);
    clock.came(at_once(10), When::Time(1_000_003), 4);
    clock.went(at_once(8));
    assert!(clock.next_us().is_some_and(|next_us| next_us <= 4));
    let due = clock.take(4).unwrap();
    assert_eq!((due.row, due.due_us), (at_once(9), 3));
    assert_eq!(clock.take(10).unwrap().row, (0, 1));
    let due = clock.take(10).unwrap();
    assert_eq!((due.row, due.when), (at_once(7), When::Time(1_000_001)));
    assert_eq!(due.due_us, 10);
    // One that was not taken comes before those behind it.
    clock.done(due, Ended::NotRun, 11);
    assert_eq!(rows(&mut clock, 11), [7, 10]);
    assert_eq!(clock.next_us(), None);
}

#[test]
fn a_row_for_one_time_runs_once() {
    let mut clock = Clock::default();
    clock.came(ROW, When::Time(5), 0);
    let due = clock.take(5).unwrap();
    clock.done(due, Ended::Ran, 6);
    assert_eq!((clock.next_us(), clock.take(100)), (None, None));
    clock.went(ROW);
    // Another one under the same key.
    clock.came(ROW, When::Time(7), 7);
    assert!(clock.take(7).is_some());
}

#[test]
fn a_row_that_is_moved_or_cancelled_does_not_run_when_it_was_due() {
    let mut clock = Clock::default();
    clock.came(ROW, When::Time(50), 0);
    clock.came(ROW, When::Time(90), 10);
    assert_eq!(clock.take(89), None);
    clock.came(ROW, When::Interval(20 * MS), 90);
    assert_eq!(clock.next_us(), Some(90 + 20 * MS));
    clock.went(ROW);
    assert_eq!((clock.next_us(), clock.take(i64::MAX)), (None, None));
}

#[test]
fn a_row_that_changes_while_it_runs_is_scheduled_anew() {
    let mut clock = Clock::default();
    clock.came(ROW, When::Interval(50 * MS), 0);
    let due = clock.take(50 * MS).unwrap();
    clock.came(ROW, When::Interval(10 * MS), 52 * MS);
    clock.done(due, Ended::Ran, 53 * MS);
    assert_eq!(clock.next_us(), Some(63 * MS));
    // Gone, and another one under its key, while it runs: what comes of the first run says nothing of it.
    let due = clock.take(63 * MS).unwrap();
    clock.went(ROW);
    clock.came(ROW, When::Time(70 * MS), 64 * MS);
    let other = clock.take(70 * MS).unwrap();
    clock.done(due, Ended::Ran, 71 * MS);
    clock.done(other, Ended::NotRun, 72 * MS);
    assert_eq!(clock.next_us(), Some(70 * MS));
}

#[test]
fn what_was_not_run_or_is_not_known_is_settled() {
    let mut clock = Clock::default();
    clock.came(ROW, When::Time(5), 0);
    let due = clock.take(6).unwrap();
    clock.done(due, Ended::NotRun, 8);
    let due = clock.take(8).unwrap();
    assert_eq!(due.due_us, 5);
    clock.done(due, Ended::Unknown, 9);
    // It is there still, and so has not run.
    clock.reset([(ROW, When::Time(5))].into_iter(), &BTreeMap::new(), 10);
    let due = clock.take(10).unwrap();
    clock.done(due, Ended::Unknown, 11);
    clock.reset([].into_iter(), &BTreeMap::new(), 12);
    assert_eq!(clock.take(100), None);
    // Of an interval nothing tells: it does not run twice.
    clock.came(ROW, When::Interval(50 * MS), 0);
    let due = clock.take(50 * MS).unwrap();
    clock.done(due, Ended::Unknown, 51 * MS);
    clock.reset(
        [(ROW, When::Interval(50 * MS))].into_iter(),
        &BTreeMap::new(),
        52 * MS,
    );
    assert_eq!(clock.next_us(), Some(100 * MS));
}

/// As procedures may, which take long.
#[test]
fn a_run_goes_on_while_the_rows_are_looked_at_again() {
    let mut clock = Clock::default();
    let all = [50, 60, 70].map(|ms| When::Interval(ms * MS));
    for (row, when) in (1..).zip(all) {
        clock.came((0, row), when, 0);
    }
    let runs = [(); 3].map(|()| clock.take(70 * MS).unwrap());
    // The second one has changed, and the third one is gone.
    let changed = When::Interval(200 * MS);
    let rows = [((0, 1), all[0]), ((0, 2), changed)];
    clock.reset(rows.into_iter(), &[((0, 1), 50 * MS)].into(), 75 * MS);
    assert_eq!(clock.next_us(), None, "it is not due again meanwhile");
    for run in runs {
        clock.done(run, Ended::Ran, 120 * MS);
    }
    let due: Vec<_> = std::iter::from_fn(|| clock.take(1_000 * MS)).collect();
    let due: Vec<_> = due.iter().map(|due| (due.row.1, due.due_us)).collect();
    assert_eq!(due, [(1, 150 * MS), (2, 320 * MS)]);
}

#[test]
fn a_clock_that_was_ahead_leaves_no_interval_asleep() {
    let mut clock = Clock::default();
    let hour = 3_600_000 * MS;
    clock.looked(hour);
    clock.came(ROW, When::Interval(50 * MS), hour);
    clock.came((0, 2), When::Time(hour), 0);
    let due = clock.take(hour + 50 * MS).unwrap();
    clock.done(due, Ended::Ran, hour + 51 * MS);
    clock.looked(10 * MS);
    assert_eq!(clock.next_us(), Some(60 * MS));
    // Nor does one that was taken meanwhile, or that another leader has left.
    let due = clock.take(60 * MS).unwrap();
    clock.done(due, Ended::Ran, 20 * MS);
    assert_eq!(clock.next_us(), Some(70 * MS));
    let rows = [(ROW, When::Interval(40 * MS))];
    clock.reset(rows.into_iter(), &[(ROW, hour)].into(), 30 * MS);
    assert_eq!(clock.next_us(), Some(70 * MS));
}

#[test]
fn an_interval_goes_on_where_another_leader_has_left_it() {
    let mut clock = Clock::default();
    let rows = [(ROW, When::Interval(50 * MS)), ((0, 2), When::Interval(50 * MS))];
    clock.reset(rows.into_iter(), &[(ROW, 100 * MS)].into(), 165 * MS);
    assert_eq!(clock.take(200 * MS).map(|due| due.row), Some(ROW));
    assert_eq!(
        clock.next_us(),
        Some(215 * MS),
        "of the other one nothing is known"
    );
}

#[test]
fn strange_times_are_no_trouble() {
    let mut clock = Clock::default();
    for (id, when) in (0..).zip([
        When::Interval(0),
        When::Interval(i64::MIN),
        When::Interval(i64::MAX),
        When::Time(i64::MIN),
        When::Time(i64::MAX),
    ]) {
        clock.came((0, id), when, i64::MAX - 5);
    }
    for _ in 0..20 {
        if let Some(due) = clock.take(i64::MAX) {
            clock.done(due, Ended::Ran, i64::MAX);
        }
    }
    let mut clock = Clock::default();
    clock.came(ROW, When::Interval(-20 * MS), 0);
    assert_eq!(clock.next_us(), Some(20 * MS), "as natively");
}

#[derive(Clone, Debug)]
enum Step {
    Came(u64, bool, i64),
    Went(u64),
    Later(i64),
    Take,
    Done(prop::sample::Index, u8),
}

proptest! {
    /// Whatever comes and goes: no row runs before it is due, twice at a time, or when it is gone, and what is due is found.
    #[test]
    fn rows_run_when_they_are_due_and_as_long_as_they_are_there(
        steps in prop::collection::vec(
            prop_oneof![
                (0..6_u64, any::<bool>(), 0..40_i64).prop_map(|(id, once, at)| Step::Came(id, once, at)),
                (0..6_u64).prop_map(Step::Went),
                (0..30_i64).prop_map(Step::Later),
                Just(Step::Take),
                (any::<prop::sample::Index>(), 0..3_u8).prop_map(|(which, how)| Step::Done(which, how)),
            ],
            1..200,
        ),
    ) {
        let mut clock = Clock::default();
        let mut now_us = 0;
        let mut there: BTreeMap<u64, When> = BTreeMap::new();
        let mut running: Vec<Due> = Vec::new();
        for step in steps {
            match step {
                Step::Came(id, once, at) => {
                    let when = if once { When::Time(now_us + (at - 10) * MS) } else { When::Interval((at + 1) * MS) };
                    there.insert(id, when);
                    clock.came((0, id), when, now_us);
                }
                Step::Went(id) => {
                    there.remove(&id);
                    running.retain(|due| due.row.1 != id);
                    clock.went((0, id));
                }
                Step::Later(by) => now_us += by * MS,
                Step::Take => {
                    let expected = clock.next_us().filter(|next| *next <= now_us);
                    let due = clock.take(now_us);
                    prop_assert_eq!(due.map(|due| due.due_us), expected);
                    if let Some(due) = due {
                        prop_assert!(there.contains_key(&due.row.1));
                        prop_assert!(running.iter().all(|it| it.row != due.row));
                        running.push(due);
                    }
                }
                Step::Done(which, how) => if !running.is_empty() {
                    let due = running.swap_remove(which.index(running.len()));
                    let ended = [Ended::Ran, Ended::NotRun, Ended::Unknown][usize::from(how)];
                    clock.done(due, ended, now_us);
                }
            }
            prop_assert_eq!(clock.rows.len(), there.len());
            let waiting = clock.rows.values().filter(|row| matches!(row.state, State::Waits(_)));
            prop_assert_eq!(waiting.count(), clock.due.len());
        }
    }
}
