//! Procedures' transactions.

use super::*;
use rtdb_consensus::command::Transaction;
use rtdb_determinism::{CONFLICT, REPLAY, replay_args};

fn transaction(position: u64, program: [u8; 32]) -> ResolvedCommand {
    command(
        position,
        Body::Transaction(Transaction {
            database: Bytes::new(),
            program: program.to_vec().into(),
            sender: vec![3; 32].into(),
            base: 9,
            operations: Bytes::from_static(b"done"),
            session: 5,
            turn: 0,
            claim: None,
        }),
    )
}

fn told(core: &mut Core) -> Vec<(u64, Result<Reply, String>)> {
    let told = core.told().map(|told| {
        let outcome = match told.outcome {
            Ok(applied) => Ok(applied.reply),
            Err(Unapplied::Reducer { message, .. }) => Err(message),
            Err(other) => panic!("{other:?}"),
        };
        (told.seq, outcome)
    });
    told.collect()
}

#[test]
fn a_transaction_is_a_call_among_others() {
    let (mut core, mut calls) = core(false);
    core.take(&call(10, 0, "add", "a"), &mut calls);
    for position in [11, 12] {
        core.take(&transaction(position, [0; 32]), &mut calls);
    }
    core.take(&call(13, 0, "add", "b"), &mut calls);
    let sent = sent(&mut calls);
    let (name, header, args, _) = &sent[1];
    let expected = CallHeader {
        sender: [3; 32],
        timestamp_us: 1011,
        index: 11,
        session: 5,
        ..CallHeader::default()
    };
    assert_eq!((name.as_str(), *header), (REPLAY, expected));
    assert_eq!(*args, replay_args(9, b"done"));
    assert_eq!(sent.len(), 4);
    core.result(ok(510)).unwrap();
    core.result(ok(0)).unwrap();
    core.result(error(0, CONFLICT)).unwrap();
    let expected = [(11, Ok(Reply::Done)), (12, Err(CONFLICT.to_owned()))];
    assert_eq!(told(&mut core)[1..], expected);
    assert_eq!(core.succeeded(), Position(11));
}

#[test]
fn a_transaction_of_another_module_is_not_done() {
    let (mut core, mut calls) = core(false);
    core.take(&transaction(10, [1; 32]), &mut calls);
    let active = ActiveDatabase::clone(&core.active().unwrap());
    core.set_active(Some(Arc::new(ActiveDatabase {
        runs_procedures: false,
        ..active
    })));
    core.take(&transaction(11, [0; 32]), &mut calls);
    assert!(sent(&mut calls).is_empty());
    assert!(told(&mut core).iter().all(|(_, outcome)| outcome.is_err()));
}

#[test]
fn what_ends_a_turn_does_nothing_where_it_stands() {
    let (mut core, mut calls) = core(false);
    let ends = Transaction {
        turn: 9,
        operations: Bytes::from_static(b"done"),
        ..Transaction::default()
    };
    core.take(&command(10, Body::Transaction(ends)), &mut calls);
    assert!(sent(&mut calls).is_empty());
    assert_eq!(told(&mut core), [(10, Ok(Reply::Done))]);
}
