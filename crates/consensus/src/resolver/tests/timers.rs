//! Rows that are due: two positions for each, both or none, and only in the term of the leader that saw them.

use super::*;
use crate::command::{CLAIM_LEVEL, Timer, TimerAt, Transaction};

fn timer(row: u64, term: u64) -> Body {
    Body::Timer(Timer {
        database: DATABASE,
        module: 65_536,
        schedule: 0,
        row,
        term,
        interval_due_us: 0,
        at: None,
        over: false,
    })
}

/// What reaches the replica: the place, the time behind that of the entry, the row, and whether it is the second half.
fn timers(decision: &Decision) -> Vec<(usize, i64, u64, bool)> {
    let commands = decision.entry.commands.iter();
    let timers = commands.filter_map(|command| match command.command.body.as_ref()? {
        Body::Timer(timer) => {
            let later = command.timestamp_us - decision.record.first_timestamp_us;
            Some((command.position.command(), later, timer.row, timer.over))
        }
        _ => None,
    });
    timers.collect()
}

#[test]
fn a_timer_is_two_commands_that_stand_together() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let bodies = vec![call(0, "a"), timer(7, TERM), timer(8, TERM), call(0, "b")];
    let decision = bench.resolve(entry(5, vec![batch(1, 1, 2, bodies)]));
    let expected = [
        (1, 1, 7, false),
        (2, 2, 7, true),
        (3, 3, 8, false),
        (4, 4, 8, true),
    ];
    assert_eq!(timers(&decision), expected);
    let last = decision.entry.commands.last().unwrap();
    assert_eq!(last.position.command(), 5);
    // What comes next is later than all of it.
    let next = bench.one(6, call(0, "c"));
    assert!(next.entry.commands[0].timestamp_us > last.timestamp_us);
    let twice: Vec<u64> = decision
        .entry
        .commands
        .iter()
        .map(|command| command.seq)
        .collect();
    assert_eq!(twice, [2, 3, 3, 4, 4, 5]);
}

#[test]
fn a_deposed_leaders_timer_counts_for_nothing() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    for term in [TERM - 1, TERM + 1, 0] {
        let bodies = vec![timer(7, term), call(0, "a")];
        let seq = bench.resolver.stream(1).unwrap().1 + 1;
        let decision = bench.resolve(entry(0, vec![batch(1, 1, seq, bodies)]));
        assert!(timers(&decision).is_empty());
        assert_eq!(refusal(&decision), Some(Refusal::Deposed));
        assert_eq!(decision.entry.commands[0].position.command(), 2);
    }
}

#[test]
fn a_timer_counts_for_nothing_before_its_row_is_due() {
    let mut bench = Bench::new(Resolver::shard());
    let now_us = bench.one(1, publish()).record.first_timestamp_us;
    let due = |at, interval_due_us| {
        let timer = Timer {
            database: DATABASE,
            term: TERM,
            interval_due_us,
            at: Some(at),
            ..Timer::default()
        };
        Body::Timer(timer)
    };
    let (once, again) = (TimerAt::TimeUs, TimerAt::IntervalUs);
    let later_us = now_us + 1_000_000;
    for early in [due(once(later_us), 0), due(again(5), later_us)] {
        let seq = bench.resolver.stream(1).unwrap().1 + 1;
        assert_eq!(refusal(&bench.one(seq, early)), Some(Refusal::NotDue));
    }
    for (at, interval_due_us) in [(once(now_us), 0), (once(i64::MIN), 0), (again(later_us), now_us)] {
        let seq = bench.resolver.stream(1).unwrap().1 + 1;
        assert_eq!(timers(&bench.one(seq, due(at, interval_due_us))).len(), 2);
    }
}

#[test]
fn a_timer_counts_once_however_often_it_comes() {
    let mut bench = Bench::new(Resolver::shard());
    bench.one(1, publish());
    let twice = |seq| batch(1, 1, seq, vec![timer(7, TERM)]);
    let decision = bench.resolve(entry(0, vec![twice(2), twice(2)]));
    assert_eq!(timers(&decision), [(0, 0, 7, false), (1, 1, 7, true)]);
    let again = bench.resolve(entry(0, vec![twice(2), batch(1, 0, 3, vec![timer(7, TERM)])]));
    assert!(timers(&again).is_empty());
}

#[test]
fn half_a_timer_is_none_and_neither_is_one_of_no_database() {
    let mut bench = Bench::new(Resolver::shard());
    assert_eq!(
        refusal(&bench.one(1, timer(7, TERM))),
        Some(Refusal::NoSuchDatabase)
    );
    bench.one(2, publish());
    let half = Body::Timer(Timer {
        database: DATABASE,
        term: TERM,
        over: true,
        ..Timer::default()
    });
    assert_eq!(refusal(&bench.one(3, half)), Some(Refusal::Deposed));
}

#[test]
fn an_entry_has_places_for_both_halves_of_all_its_timers() {
    let mut resolver = Resolver::shard();
    let mut resolve = |count| {
        let batches = vec![batch(1, 1, 1, vec![timer(7, TERM); count])];
        resolver.resolve(1, TERM, entry(0, batches), &mut Vec::new())
    };
    assert!(resolve(COMMANDS_PER_ENTRY_MAX / 2).is_ok());
    let error = resolve(COMMANDS_PER_ENTRY_MAX / 2 + 1).unwrap_err();
    assert!(matches!(error, RecordError::BeyondPositions { .. }), "{error}");
}

/// A transaction that takes a row.
fn claim(timer: Timer) -> Body {
    Body::Transaction(Transaction {
        database: DATABASE,
        operations: Bytes::from_static(b"done"),
        claim: Some(timer),
        ..Transaction::default()
    })
}

#[test]
fn a_row_is_claimed_where_a_timer_would_count() {
    let mut bench = Bench::new(Resolver::shard());
    let one = Timer {
        database: DATABASE,
        term: TERM,
        ..Timer::default()
    };
    assert_eq!(
        refusal(&bench.one(1, claim(one.clone()))),
        Some(Refusal::NoSuchDatabase)
    );
    let now_us = bench.one(2, publish()).record.first_timestamp_us;
    let later_us = now_us + 1_000_000;
    let refused = [
        (
            Timer {
                term: TERM - 1,
                ..one.clone()
            },
            Refusal::Deposed,
        ),
        (
            Timer {
                term: TERM + 1,
                ..one.clone()
            },
            Refusal::Deposed,
        ),
        (
            Timer {
                over: true,
                ..one.clone()
            },
            Refusal::Deposed,
        ),
        (
            Timer {
                database: OTHER,
                ..one.clone()
            },
            Refusal::NoSuchDatabase,
        ),
        (
            Timer {
                at: Some(TimerAt::TimeUs(later_us)),
                ..one.clone()
            },
            Refusal::NotDue,
        ),
        (
            Timer {
                at: Some(TimerAt::IntervalUs(5)),
                interval_due_us: later_us,
                ..one.clone()
            },
            Refusal::NotDue,
        ),
    ];
    for (timer, why) in refused {
        let seq = bench.resolver.stream(1).unwrap().1 + 1;
        assert_eq!(refusal(&bench.one(seq, claim(timer))), Some(why));
    }
    let due = Timer {
        at: Some(TimerAt::TimeUs(now_us)),
        ..one
    };
    assert_eq!(Command::from(claim(due.clone())).version, CLAIM_LEVEL);
    // One position, and once, however often it comes.
    let seq = bench.resolver.stream(1).unwrap().1 + 1;
    let twice = || batch(1, 1, seq, vec![claim(due.clone()), call(0, "a")]);
    let decision = bench.resolve(entry(0, vec![twice(), twice()]));
    let places: Vec<_> = decision
        .entry
        .commands
        .iter()
        .map(|it| it.position.command())
        .collect();
    assert_eq!(places, [0, 1]);
}
