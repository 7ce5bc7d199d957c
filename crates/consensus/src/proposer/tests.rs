use super::queue::Queue;
use super::*;
use crate::command::{Body, Disconnect};
use crate::{Applied, Position, Reply};
use std::collections::VecDeque;

fn command() -> Command {
    Body::Disconnect(Disconnect {
        session: 1,
        refused: false,
    })
    .into()
}

fn limits(count: usize) -> Limits {
    Limits {
        outstanding_count_max: count,
        ..Limits::default()
    }
}

fn origin(epoch: u64) -> Origin {
    Origin { node: 1, epoch }
}

fn done() -> Outcome {
    Ok(Applied {
        position: Position(0),
        timestamp_us: 0,
        reply: Reply::Done,
    })
}

#[test]
fn everything_unresolved_is_sent_again_from_the_first() {
    let mut queue = Queue::new(5);
    let mut waiters: VecDeque<_> = (0..6u8)
        .map(|number| {
            let (done, pending) = Pending::new();
            queue.push(Bytes::from(vec![number]), done);
            pending
        })
        .collect();
    let batch = queue.next_batch(1).unwrap();
    assert_eq!((batch.epoch, batch.first_seq, batch.commands.len()), (5, 1, 6));
    assert_eq!(queue.next_batch(1), None);
    assert_eq!(queue.bytes_under_way(), 6);
    queue.resolved(2);
    assert_eq!(queue.bytes_under_way(), 4);
    queue.rewind();
    assert_eq!(queue.bytes_under_way(), 0);
    queue.resolved(2);
    let batch = queue.next_batch(1).unwrap();
    assert_eq!(
        (batch.first_seq, batch.commands.len(), batch.commands[0][0]),
        (3, 4, 2)
    );
    assert_eq!(queue.bytes_under_way(), 4);
    assert!(queue.complete(4, 1).is_none(), "another epoch");
    assert!(queue.complete(5, 2).is_some());
    assert!(queue.complete(5, 2).is_none(), "completed twice");
    assert_eq!(queue.waited_for(), 5);
    assert!(queue.complete(5, 1).is_some());
    assert_eq!((queue.waited_for(), queue.outstanding()), (4, (4, 4)));
    // Whose client has gone away is not waited for once the log has it.
    waiters.pop_back();
    queue.resolved(5);
    assert_eq!((queue.waited_for(), queue.outstanding()), (4, (1, 1)));
    queue.resolved(6);
    assert_eq!((queue.waited_for(), queue.outstanding()), (3, (0, 0)));
    assert!(queue.complete(5, 6).is_none());
    assert_eq!(queue.under_way(), 0);
}

/// A long call of one database, and many others' behind it.
#[test]
fn a_command_that_waits_for_long_holds_up_no_others() {
    let mut queue = Queue::new(5);
    let mut wait = |count: u64| -> Vec<Pending> {
        let submit = |_| {
            let (done, pending) = Pending::new();
            queue.push(Bytes::new(), done);
            pending
        };
        (0..count).map(submit).collect()
    };
    let _long = wait(100);
    let _others = wait(1000);
    for seq in 101..=1100 {
        assert!(queue.complete(5, seq).is_some());
    }
    assert_eq!((queue.waited_for(), queue.under_way()), (100, 0));
    assert!(queue.complete(5, 1).is_some());
    assert_eq!((queue.waited_for(), queue.under_way()), (99, 0));
}

#[test]
fn a_new_epoch_is_announced_until_the_log_has_it() {
    let mut queue = Queue::new(5);
    assert_eq!(queue.next_batch(1).unwrap().commands.len(), 0);
    assert_eq!(queue.next_batch(1), None);
    queue.rewind();
    assert!(queue.next_batch(1).is_some() && queue.is_waiting());
    queue.resolved(0);
    queue.rewind();
    assert!(queue.next_batch(1).is_none() && !queue.is_waiting());
}

#[tokio::test]
async fn there_is_a_limit_and_room_is_made() {
    let proposer = Proposer::new(1, 5, limits(2));
    let first = proposer.submit(&command()).unwrap();
    let _second = proposer.submit(&command()).unwrap();
    assert!(matches!(
        proposer.submit(&command()),
        Err(NotProposed::Overloaded { count: 2, .. })
    ));
    let ready = proposer.ready();
    tokio::pin!(ready);
    assert!(proposer.next_batch().is_some());
    assert!(futures::poll!(&mut ready).is_pending());
    proposer.progress(Some((origin(4), 1)), |_| false);
    assert!(futures::poll!(&mut ready).is_pending(), "another stream");
    // What the log has may be held up by its database for any time.
    proposer.progress(Some((origin(5), 1)), |_| false);
    ready.await;
    let _third = proposer.submit(&command()).unwrap();
    proposer.complete(Origin { node: 2, epoch: 5 }, 1, done());
    assert_eq!(proposer.outstanding().0, 3, "another node's command");
    proposer.complete(origin(5), 1, done());
    assert_eq!(proposer.outstanding().0, 2);
    assert_eq!(first.await, done());
    let small = Proposer::new(
        1,
        5,
        Limits {
            command_bytes_max: 3,
            ..limits(2)
        },
    );
    assert!(matches!(
        small.submit(&command()),
        Err(NotProposed::TooLarge { max: 3, .. })
    ));
}

#[tokio::test]
async fn an_expired_node_knows_nothing_of_what_it_had_under_way() {
    let proposer = Proposer::new(1, 5, limits(9));
    let mut epoch = proposer.epoch();
    let lost = proposer.submit(&command()).unwrap();
    proposer.progress(None, |origin| origin.epoch <= 5);
    assert!(matches!(lost.await, Err(Unapplied::Unknown { .. })));
    assert_eq!(*epoch.borrow_and_update(), 0);
    let next = proposer.submit(&command()).unwrap();
    assert_eq!(proposer.next_batch(), None, "there is no epoch yet");
    proposer.renew(7);
    assert_eq!(*epoch.borrow_and_update(), 7);
    let batch = proposer.next_batch().unwrap();
    assert_eq!((batch.epoch, batch.first_seq), (7, 1));
    proposer.progress(Some((origin(5), 1)), |_| false);
    proposer.complete(origin(7), 1, done());
    assert_eq!(next.await, done());
    let stopped = proposer.submit(&command()).unwrap();
    proposer.stop();
    assert!(matches!(stopped.await, Err(Unapplied::Unknown { .. })));
    assert_eq!(proposer.submit(&command()).err(), Some(NotProposed::Stopping));
    proposer.ready().await;
}
