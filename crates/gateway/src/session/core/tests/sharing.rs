//! Subscriptions that are shared, and clients that leave their feed.

use super::*;
use crate::feed::{Batch, Item};
use rtdb_protocol::reply::{Direction, TableRows, applied_rows};
use rtdb_protocol::server::{ServerMessage, split};
use std::sync::Arc;

/// The feed's number of the query set that the client calls 1.
pub(super) const SET: u32 = 40;

impl Script {
    /// A session that may share, with a module that has `counter`.
    fn sharing() -> Self {
        let script = Self::new();
        let caller = script.core.caller.clone();
        let gauge = IntGauge::new("rows", "bytes").expect("a gauge");
        Self {
            core: Core::new(V2, caller, gauge, true),
            module: module(&["counter", "other"]),
            ..script
        }
    }

    /// The same, with a subscription to `counter` as 1.
    pub(super) fn member() -> Self {
        let mut script = Self::sharing();
        assert_eq!(script.client(subscribe(1)), ["join 1"]);
        assert_eq!(script.feed(joined(1, SET)), ["subscribed 1", "numbers [(40, 1)]"]);
        script
    }

    pub(super) fn feed(&mut self, item: Item) -> Vec<String> {
        assert!(self.core.wants_feed());
        self.step(|core, context, actions| core.feed(item, context, actions))
    }
}

pub(super) fn rows() -> Bytes {
    let counter = TableRows {
        table: "counter",
        table_id: 0,
        rows: vec![&[0xAA]],
    };
    applied_rows(V2, Direction::Come, Some(&[counter]))
}

fn joined(ticket: u32, set: u32) -> Item {
    Item::Joined {
        ticket,
        set,
        rows: rows(),
    }
}

fn one_off() -> Bytes {
    let mut query = BytesMut::from(&[2][..]);
    query.put_u32_le(5);
    query.put_u32_le(21);
    query.put_slice(b"SELECT * FROM counter");
    query.freeze()
}

/// Updates of the feed, some with this session's receipts.
fn batch(receipts: &[Option<u64>]) -> Item {
    let updates = receipts.iter().map(|receipt| {
        let mut payload = BytesMut::from(&[0, 4][..]);
        payload.put_u32_le(1 + u32::from(receipt.is_some()));
        put_set(&mut payload, SET, "counter", &[0xAA]);
        if let Some(index) = receipt {
            let row = [SESSION.to_le_bytes(), index.to_le_bytes()].concat();
            put_set(&mut payload, RECEIPT_QUERY_SET, "rtdb_session", &row);
        }
        match split(V2, payload.freeze()).next() {
            Some(Ok(ServerMessage::Update(update))) => update,
            _ => panic!("no update"),
        }
    });
    Item::Batch(Arc::new(Batch::new(updates.collect(), None)))
}

#[test]
fn what_can_be_shared_needs_no_upstream() {
    let mut script = Script::member();
    assert_eq!(script.feed(batch(&[None, None])), ["show 2"]);
    // Its answer gives the rows that are let go of, or not.
    assert_eq!(
        script.client(client::unsubscribe(V2, client::ReadKind::SubscribeMulti, 1)),
        ["leave 2 40"]
    );
    let rows = applied_rows(V2, Direction::Leave, None);
    assert_eq!(
        script.feed(Item::Left { ticket: 2, rows }),
        ["unsubscribed 1", "numbers []"]
    );
}

#[test]
fn the_update_with_the_receipt_is_the_result() {
    let mut script = Script::member();
    assert_eq!(script.client(call(1)), [""; 0]);
    assert_eq!(script.client(call(2)), [""; 0]);
    script.propose();
    // The updates may come first, or the outcomes.
    assert_eq!(script.feed(batch(&[None, Some(1), None])), ["show the one at 0"]);
    assert!(!script.core.wants_feed());
    assert_eq!(script.ok(), ["result 1 ok with rows", "show the one at 2"]);
    assert_eq!(script.ok(), [""; 0]);
    assert_eq!(
        script.feed(batch(&[None, Some(2), None])),
        ["show the one at 0", "result 2 ok with rows", "show the one at 2"]
    );
}

#[test]
fn what_was_missed_and_what_was_called_meanwhile_come_with_the_restoration() {
    let mut script = Script::member();
    for id in 1..=2 {
        script.client(call(id));
    }
    script.propose();
    assert_eq!(script.ok(), [""; 0]);
    let Item::Batch(missed) = batch(&[None]) else {
        panic!("no batch")
    };
    let restored = Item::Restored {
        missed: Some(missed),
        receipt: 1,
    };
    assert_eq!(script.feed(restored), ["show 1", "result 1 ok"]);
    assert_eq!(script.ok(), [""; 0]);
    assert_eq!(script.feed(batch(&[Some(2)])), ["result 2 ok with rows"]);
}

#[test]
fn calls_wait_for_subscriptions_and_subscriptions_for_calls() {
    let mut script = Script::sharing();
    assert_eq!(script.client(subscribe(1)), ["join 1"]);
    assert_eq!(script.client(call(1)), [""; 0]);
    assert_eq!(script.propose(), [0; 0]);
    script.feed(joined(1, SET));
    assert_eq!(script.propose(), [1]);
    assert_eq!(script.client(subscribe(2)), [""; 0]);
    assert_eq!(script.feed(batch(&[Some(1)])), [""; 0]);
    assert_eq!(script.ok(), ["result 1 ok with rows", "join 2"]);
}

#[test]
fn what_cannot_be_shared_takes_all_subscriptions_along() {
    let mut script = Script::member();
    let secret = client::subscribe(V2, &["SELECT * FROM secret"], 2, 2);
    assert_eq!(script.client(secret), ["move out"]);
    // Until it has left, the feed goes on.
    assert_eq!(script.feed(batch(&[None])), ["show 1"]);
    let shown = vec![(SET, rows())];
    assert_eq!(script.feed(Item::Moved { shown }), ["numbers []", "reopen"]);
    assert_eq!(
        script.step(Core::upstream_opened),
        ["forward receipts", "forward subscribe 1"]
    );
    assert_eq!(script.upstream(applied(u32::MAX)), [""; 0]);
    // The row that the client has is gone by now; and only then it is subscribed to the other.
    assert_eq!(script.upstream(applied(1)), ["update", "forward subscribe 2"]);
    assert_eq!(script.upstream(applied(2)), ["subscribed 2"]);
}

#[test]
fn what_the_feed_declines_is_asked_for_in_the_same_order() {
    let mut script = Script::sharing();
    for set in 1..=3 {
        assert_eq!(script.client(subscribe(set)), [format!("join {set}")]);
    }
    assert_eq!(script.client(call(1)), [""; 0]);
    assert_eq!(script.feed(Item::Declined { ticket: 2 }), [""; 0]);
    assert_eq!(script.feed(Item::Declined { ticket: 3 }), [""; 0]);
    assert_eq!(
        script.feed(joined(1, SET)),
        ["subscribed 1", "numbers [(40, 1)]", "move out"]
    );
    let shown = vec![(SET, rows())];
    assert_eq!(script.feed(Item::Moved { shown }), ["numbers []", "reopen"]);
    script.step(Core::upstream_opened);
    script.upstream(applied(u32::MAX));
    assert_eq!(
        script.upstream(applied(1)),
        ["update", "forward subscribe 2", "forward subscribe 3"]
    );
    assert_eq!(script.propose(), [0; 0]);
    script.upstream(applied(2));
    script.upstream(applied(3));
    assert_eq!(script.propose(), [1]);
}

#[test]
fn who_is_evicted_goes_on_alone_with_its_calls() {
    let mut script = Script::member();
    script.client(call(1));
    script.propose();
    assert_eq!(script.feed(Item::Evicted), ["move out"]);
    let shown = vec![(SET, rows())];
    assert_eq!(script.feed(Item::Moved { shown }), ["numbers []", "reopen"]);
    script.step(Core::upstream_opened);
    assert_eq!(script.ok(), [""; 0]);
    script.upstream(applied(u32::MAX));
    assert_eq!(script.upstream(applied(1)), ["update"]);
    assert_eq!(script.upstream(update(Some(1))), ["result 1 ok with rows"]);
}

#[test]
fn queries_by_the_way_have_an_upstream_without_receipts() {
    let mut script = Script::member();
    assert_eq!(script.client(one_off()), ["open"]);
    let forwarded = script.step(Core::upstream_opened);
    assert_eq!(forwarded.len(), 1, "{forwarded:?}");
    // It is asked again if the upstream is lost, and nobody else notices.
    assert_eq!(script.lost(), ["reopen"]);
    assert_eq!(script.step(Core::upstream_opened), forwarded);
    assert_eq!(script.feed(batch(&[None])), ["show 1"]);
}

#[test]
fn a_feed_that_ends_closes_the_client_behind_its_calls() {
    let mut script = Script::member();
    script.client(call(1));
    script.propose();
    assert_eq!(script.feed(Item::Closed(CloseReason::restart())), [""; 0]);
    assert_eq!(script.ok(), ["result 1 ok", "close 1012"]);
}

#[test]
fn who_is_evicted_while_something_is_due_leaves_as_soon_as_it_is_there() {
    let mut script = Script::member();
    assert_eq!(script.client(subscribe(2)), ["join 2"]);
    assert_eq!(script.feed(Item::Evicted), [""; 0]);
    assert_eq!(
        script.feed(joined(2, 41)),
        ["subscribed 2", "numbers [(40, 1), (41, 2)]", "move out"]
    );

    let mut script = Script::member();
    assert_eq!(script.client(one_off()), ["open"]);
    script.step(Core::upstream_opened);
    assert_eq!(script.feed(Item::Evicted), [""; 0]);
    let answer = [&[0, 5][..], &5u32.to_le_bytes(), &[0], &0u32.to_le_bytes()].concat();
    assert_eq!(script.upstream(answer.into()), ["message 5", "move out"]);
}

/// Bytes that tell when they are gone.
struct Watched(Vec<u8>, Arc<std::sync::atomic::AtomicBool>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_subscription_keeps_no_more_than_itself() {
    const V3: Subprotocol = Subprotocol::V3;
    let mut script = Script::sharing();
    let caller = script.core.caller.clone();
    let gauge = IntGauge::new("rows", "bytes").expect("a gauge");
    script.core = Core::new(V3, caller, gauge, true);
    // One frame: a subscription, and a call with large arguments.
    let frame = [&subscribe(1)[..], &call_named("nothing", &[0; 1 << 20], 1)].concat();
    let gone = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let frame = Bytes::from_owner(Watched(frame, gone.clone()));
    assert_eq!(script.client(frame), ["join 1"]);
    let before = script.core.bytes();
    script.feed(joined(1, SET));
    assert!(
        gone.load(std::sync::atomic::Ordering::Relaxed),
        "the frame is kept"
    );
    assert!(script.core.bytes() > 0 && before > 0, "what it keeps is counted");
}

#[test]
fn who_is_subscribed_to_more_than_is_shared_goes_on_alone() {
    let mut script = Script::sharing();
    let long = "x".repeat(40_000);
    let mut bytes = 0;
    for set in 1.. {
        let query = format!("SELECT * FROM counter WHERE name = '{set}{long}'");
        let asked = script.client(client::subscribe(V2, &[&query], set, set));
        if asked != [format!("join {set}")] {
            assert_eq!(asked, ["move out"]);
            break;
        }
        script.feed(joined(set, SET + set));
        bytes += query.len();
        assert!(script.core.bytes() >= bytes, "what it keeps is counted");
        assert!(
            bytes <= crate::limits::SUBSCRIPTIONS_BYTES_MAX,
            "{bytes} bytes are shared"
        );
    }
}

#[test]
fn who_was_shown_more_than_is_kept_goes_on_alone_too() {
    let mut script = Script::member();
    assert_eq!(
        script.client(client::subscribe(V2, &["SELECT * FROM other"], 2, 2)),
        ["join 2"]
    );
    script.feed(joined(2, 41));
    let row = vec![7; crate::limits::ROWS_BYTES_MAX * 3 / 4];
    let large = |table, row| {
        let rows = TableRows {
            table,
            table_id: 0,
            rows: vec![row],
        };
        applied_rows(V2, Direction::Come, Some(&[rows]))
    };
    let secret = client::subscribe(V2, &["SELECT * FROM secret"], 3, 3);
    assert_eq!(script.client(secret), ["move out"]);
    let shown = vec![(SET, large("counter", &row)), (41, large("other", &row))];
    assert_eq!(script.feed(Item::Moved { shown }), ["numbers []", "reopen"]);
    script.step(Core::upstream_opened);
    script.upstream(applied(u32::MAX));
    script.upstream(applied(1));
    let answer = |set: u32, body: &[u8]| -> Bytes {
        let head = rtdb_protocol::reply::applied_head(V2, Direction::Come, set, set);
        [&[0][..], &head, body].concat().into()
    };
    // What it was shown of 1 is gone; of 2 it is all there.
    assert_eq!(
        script.upstream(answer(2, &large("other", &row))),
        ["update", "forward subscribe 3"]
    );
    assert_eq!(script.upstream(applied(3)), ["subscribed 3"]);
}
