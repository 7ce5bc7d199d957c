//! Rows that are changed as the log says.

use super::*;
use rtdb_consensus::command::Write;

fn write(position: u64) -> ResolvedCommand {
    command(position, Body::Write(Write::default()))
}

fn rows(deleted: u64) -> Reply {
    Reply::Rows {
        inserted: 0,
        deleted,
        updated: 0,
    }
}

/// What a server says that has applied the write at 10, and nothing else.
fn applied() -> DatabaseState {
    let mut successes = Successes::default();
    successes.add(10);
    DatabaseState {
        successes,
        ..state(10)
    }
}

#[test]
fn a_write_is_answered_once_it_is_applied() {
    let (mut core, _) = core(false);
    core.writing(&write(10));
    core.writes(Position(10), rows(3));
    assert_eq!(outcomes(&mut core), []);
    core.result(ok(0)).unwrap();
    assert_eq!(outcomes(&mut core), [(10, Ok(rows(3)))]);
}

#[test]
fn how_many_rows_were_written_is_said_after_a_lost_answer_only_if_it_is_known() {
    for (before, afterwards) in [(true, false), (false, true), (false, false)] {
        let (mut core, _) = core(false);
        core.writing(&write(10));
        if before {
            core.writes(Position(10), rows(3));
        }
        core.lost();
        if afterwards {
            core.writes(Position(10), rows(3));
        }
        core.recovered(Some(&applied()));
        let (position, outcome) = outcomes(&mut core).remove(0);
        assert_eq!(position, 10);
        match before || afterwards {
            true => assert_eq!(outcome, Ok(rows(3))),
            false => assert!(outcome.unwrap_err().contains("unknown")),
        }
    }
}

/// The rows were found after the first one had come to the server, and before it was seen there.
#[test]
fn a_write_that_was_applied_before_does_not_say_how_many_rows() {
    let (mut core, _) = core(false);
    core.writing(&write(10));
    core.writes(Position(10), rows(0));
    assert_eq!(
        core.result(error(0, SKIPPED)),
        Err(Violation::Skipped { index: 10 })
    );
    core.lost();
    core.writes(Position(10), rows(0));
    core.recovered(Some(&applied()));
    let outcome = outcomes(&mut core).remove(0).1;
    assert!(outcome.unwrap_err().contains("unknown"));
}

#[test]
fn a_write_where_there_is_no_database_is_refused() {
    let mut core = Core::default();
    core.writing(&write(5));
    core.unwritten_here();
    let told: Vec<_> = core.told().map(|told| told.outcome).collect();
    assert_eq!(told, [Err(Unapplied::Refused(Refusal::NoSuchDatabase))]);
}

/// 1.2.0 says nothing of it: what is behind it is answered.
#[test]
fn a_write_without_an_answer_has_failed() {
    let (mut core, _) = core(false);
    core.writing(&write(10));
    core.writes(Position(10), rows(3));
    let outcome = Outcome::OutOfEnergy;
    core.result(AppliedCall { outcome, ..ok(0) }).unwrap();
    assert!(outcomes(&mut core).remove(0).1.is_err());
}
