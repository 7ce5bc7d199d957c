//! Orders of events at a feed, as short scripts.

use super::*;
use crate::limits::SHARED_ROWS_MAX;
use bytes::{BufMut, BytesMut};
use rtdb_protocol::reply::{Direction, TableRows, applied_head, applied_rows};
use rtdb_protocol::server::split;
use rtdb_protocol::sql::parse_query;
use tokio::sync::mpsc;

const V2: Subprotocol = Subprotocol::V2;

struct Script {
    core: Core,
}

impl Script {
    /// A feed that is open, with a member.
    fn open(session: u64) -> Self {
        let gauge = || IntGauge::new("rows", "bytes").expect("a gauge");
        let mut script = Self {
            core: Core::new(V2, gauge(), Budget::new(1 << 30, gauge())),
        };
        assert_eq!(script.enter(session), ["open"]);
        script.opened();
        assert_eq!(script.upstream(applied(u32::MAX, u32::MAX, &[])), [""; 0]);
        script
    }

    /// The same, with the member subscribed to `counter` with the row 7.
    fn subscribed(session: u64) -> Self {
        let mut script = Self::open(session);
        assert_eq!(script.join(session, 1, "counter"), ["count 1"]);
        assert_eq!(script.counted(1, Some(1)), ["subscribe 1"]);
        assert_eq!(
            script.upstream(applied(1, 1, &[7])),
            [format!("{session}: joined 1 with [7]")]
        );
        script
    }

    fn step(&mut self, step: impl FnOnce(&mut Core, &mut Vec<Action>)) -> Vec<String> {
        let mut actions = Vec::new();
        step(&mut self.core, &mut actions);
        actions.iter().map(describe).collect()
    }

    fn request(&mut self, request: Request) -> Vec<String> {
        self.step(|core, actions| core.request(request, actions))
    }

    fn enter(&mut self, session: u64) -> Vec<String> {
        let (items, _) = mpsc::channel(1);
        self.request(Request::Enter { session, items })
    }

    fn join(&mut self, session: u64, ticket: u32, table: &str) -> Vec<String> {
        let query = parse_query(&format!("SELECT * FROM {table}")).expect("a query");
        self.request(Request::Join {
            session,
            ticket,
            queries: vec![query],
        })
    }

    fn counted(&mut self, set: u32, rows: Option<u64>) -> Vec<String> {
        self.step(|core, actions| core.counted(set, rows, actions))
    }

    fn opened(&mut self) -> Vec<String> {
        self.step(|core, actions| core.opened(|_| true, actions))
    }

    fn lost(&mut self) -> Vec<String> {
        self.step(Core::lost)
    }

    fn upstream(&mut self, payload: Bytes) -> Vec<String> {
        self.upstream_all(vec![payload])
    }

    fn upstream_all(&mut self, payloads: Vec<Bytes>) -> Vec<String> {
        let messages = payloads.into_iter().flat_map(|payload| split(V2, payload));
        let messages: Vec<_> = messages.map(|message| message.expect("a message")).collect();
        self.step(|core, actions| core.upstream(messages, actions))
    }
}

fn describe(action: &Action) -> String {
    let number =
        |bytes: &Bytes, at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    match action {
        Action::Open => "open".into(),
        Action::Forward(message) => {
            let what = ["subscribe", "unsubscribe"][usize::from(message[0])];
            match number(message, 5) {
                RECEIPT_QUERY_SET => format!("{what} receipts"),
                FENCE_QUERY_SET if message[0] == 0 => format!("fence {}", number(message, 1)),
                FENCE_QUERY_SET => "end of fence".into(),
                set => format!("{what} {set}"),
            }
        }
        Action::Count(set, _) => format!("count {set}"),
        Action::Broadcast(batch, sessions) => format!("{} updates to {sessions:?}", batch.len()),
        Action::Tell(session, item) => {
            let what = match item {
                Item::Joined { ticket, rows, .. } => format!("joined {ticket} with {:?}", told(rows)),
                Item::Declined { ticket } => format!("declined {ticket}"),
                Item::Left { ticket, .. } => format!("left {ticket}"),
                Item::Batch(_) => "batch".into(),
                Item::Restored { missed, receipt } => {
                    let missed = missed.as_ref().map(|batch| {
                        let changes: Vec<_> = batch.update(0).expect("an update").changes().iter().collect();
                        let rows = |rows: &rtdb_protocol::server::RowList| {
                            rows.iter().map(|row| row[0]).collect::<Vec<_>>()
                        };
                        (rows(&changes[0].inserts), rows(&changes[0].deletes))
                    });
                    format!("restored {missed:?} to {receipt}")
                }
                Item::Evicted => "evicted".into(),
                Item::Moved { shown } => {
                    let shown: Vec<_> = shown.iter().map(|(set, rows)| (*set, told(rows))).collect();
                    format!("moved {shown:?}")
                }
                Item::Closed(reason) => format!("closed {}", reason.code),
            };
            format!("{session}: {what}")
        }
    }
}

/// The first bytes of the rows of an answer.
fn told(rows: &Bytes) -> Vec<u8> {
    let head = applied_head(V2, Direction::Come, 0, 0);
    let payload = [&[0][..], &head, rows].concat();
    match split(V2, payload.into()).next() {
        Some(Ok(ServerMessage::SubscribeReply { changes, .. })) => {
            let rows = changes.iter().flat_map(|change| {
                let rows: Vec<_> = change.inserts.iter().map(|row| row[0]).collect();
                rows
            });
            rows.collect()
        }
        _ => panic!("no rows"),
    }
}

/// `SubscribeApplied`, with rows of `counter`.
fn applied(request_id: u32, set: u32, rows: &[u8]) -> Bytes {
    let rows = TableRows {
        table: "counter",
        table_id: 0,
        rows: rows.iter().map(std::slice::from_ref).collect(),
    };
    let head = applied_head(V2, Direction::Come, request_id, set);
    [&[0][..], &head, &applied_rows(V2, Direction::Come, Some(&[rows]))]
        .concat()
        .into()
}

fn error(request_id: u32, set: u32) -> Bytes {
    let mut payload = BytesMut::from(&[0, 3, 0][..]);
    payload.put_u32_le(request_id);
    payload.put_u32_le(set);
    payload.put_u32_le(0);
    payload.freeze()
}

/// `TransactionUpdate`: a row comes to a set.
fn update(set: u32, row: u8) -> Bytes {
    let difference = rtdb_protocol::server::TableDifference {
        query_set: set,
        table: "counter",
        table_id: 0,
        inserts: vec![std::slice::from_ref(&row)],
        deletes: vec![],
    };
    let message = rtdb_protocol::server::put_difference(V2, &[difference]);
    [&[0][..], &message].concat().into()
}

#[test]
fn a_query_is_subscribed_to_once_and_later_members_wait_for_a_fence() {
    let mut script = Script::subscribed(1);
    script.enter(2);
    script.enter(3);
    assert_eq!(script.join(2, 9, "counter"), ["fence 1", "end of fence"]);
    // This one asks when the fence is on its way already.
    assert_eq!(script.join(3, 9, "counter"), [""; 0]);
    let all = vec![update(1, 8), applied(1, FENCE_QUERY_SET, &[]), update(1, 9)];
    assert_eq!(
        script.upstream_all(all),
        [
            "1 updates to [1]",
            "2: joined 9 with [7, 8]",
            "fence 2",
            "end of fence",
            "1 updates to [1, 2]",
        ]
    );
    assert_eq!(
        script.upstream(applied(2, FENCE_QUERY_SET, &[])),
        ["3: joined 9 with [7, 8, 9]"]
    );
}

#[test]
fn the_last_member_ends_the_subscription() {
    let mut script = Script::subscribed(1);
    script.enter(2);
    script.join(2, 9, "counter");
    script.upstream(applied(1, FENCE_QUERY_SET, &[]));
    let leave = Request::Leave {
        session: 1,
        ticket: 5,
        set: 1,
        rows: true,
    };
    assert_eq!(script.request(leave), ["1: left 5"]);
    assert_eq!(script.upstream(update(1, 8)), ["1 updates to [2]"]);
    assert_eq!(script.request(Request::Gone { session: 2 }), ["unsubscribe 1"]);
    assert!(!script.core.is_idle());
    assert_eq!(script.request(Request::Gone { session: 1 }), [""; 0]);
    assert!(script.core.is_idle());
}

#[test]
fn what_is_large_or_refused_is_declined() {
    let mut script = Script::open(1);
    script.join(1, 1, "counter");
    assert_eq!(script.counted(1, Some(SHARED_ROWS_MAX + 1)), ["1: declined 1"]);
    assert_eq!(script.join(1, 2, "counter"), ["1: declined 2"]);
    script.join(1, 3, "other");
    assert_eq!(script.counted(2, None), ["1: declined 3"]);
    script.join(1, 4, "other");
    assert_eq!(script.counted(3, Some(0)), ["subscribe 3"]);
    assert_eq!(script.upstream(error(3, 3)), ["1: declined 4"]);
    assert_eq!(script.join(1, 5, "other"), ["count 4"]);
}

#[test]
fn what_came_meanwhile_is_told_when_all_is_restored() {
    let mut script = Script::subscribed(1);
    script.enter(2);
    script.join(2, 9, "counter");
    assert_eq!(script.lost(), ["open"]);
    assert_eq!(script.opened(), ["subscribe receipts", "subscribe 1"]);
    assert_eq!(script.upstream(applied(u32::MAX, u32::MAX, &[])), [""; 0]);
    // The row 7 is gone, 8 has come; who waits to join is told after a fence.
    assert_eq!(
        script.upstream(applied(1, 1, &[8])),
        ["1: restored Some(([8], [7])) to 0", "fence 2", "end of fence",]
    );
    assert_eq!(
        script.upstream(applied(2, FENCE_QUERY_SET, &[])),
        ["2: joined 9 with [8]"]
    );
}

#[test]
fn what_may_have_brought_the_server_down_is_not_asked_again() {
    let mut script = Script::subscribed(1);
    script.enter(2);
    script.join(2, 9, "other");
    assert_eq!(script.counted(2, Some(0)), ["subscribe 2"]);
    assert_eq!(script.lost(), ["2: declined 9", "open"]);
    assert_eq!(script.opened(), ["subscribe receipts", "subscribe 1"]);
}

#[test]
fn who_cannot_share_any_more_goes_on_with_what_it_was_shown() {
    let mut script = Script::subscribed(1);
    script.lost();
    let opened = script.step(|core, actions| core.opened(|_| false, actions));
    assert_eq!(opened, ["1: evicted", "subscribe receipts"]);
    assert_eq!(
        script.upstream(applied(u32::MAX, u32::MAX, &[])),
        ["1: restored None to 0"]
    );
    assert_eq!(
        script.request(Request::MoveOut { session: 1 }),
        ["1: moved [(1, [7])]"]
    );
    assert!(script.core.is_idle());
}

#[test]
fn a_feed_that_is_lost_again_and_again_ends() {
    let mut script = Script::subscribed(1);
    for _ in 0..crate::limits::RESTORATIONS_MAX {
        assert_eq!(script.lost(), ["open"]);
        script.opened();
    }
    assert_eq!(script.lost(), ["1: closed 1012"]);
    assert!(script.core.is_idle());
}

#[test]
fn a_query_set_that_ends_while_all_is_restored_holds_nobody_up() {
    let mut script = Script::subscribed(1);
    script.enter(2);
    script.join(2, 9, "other");
    script.counted(2, Some(0));
    script.upstream(applied(2, 2, &[]));
    script.lost();
    assert_eq!(
        script.opened(),
        ["subscribe receipts", "subscribe 1", "subscribe 2"]
    );
    assert_eq!(script.request(Request::Gone { session: 2 }), ["unsubscribe 2"]);
    script.upstream(applied(u32::MAX, u32::MAX, &[]));
    script.upstream(applied(1, 1, &[7]));
    assert_eq!(script.upstream(applied(2, 2, &[])), ["1: restored None to 0"]);
    assert_eq!(script.upstream(update(1, 8)), ["1 updates to [1]"]);
}

#[test]
fn who_comes_when_a_feed_has_been_closed_begins_it_anew() {
    let mut script = Script::subscribed(1);
    for _ in 0..crate::limits::RESTORATIONS_MAX {
        script.lost();
        script.opened();
    }
    assert_eq!(script.lost(), ["1: closed 1012"]);
    // Its request was there before the feed could end.
    assert_eq!(script.enter(2), ["open"]);
    assert_eq!(script.join(2, 1, "counter"), ["count 2"]);
    script.opened();
    assert_eq!(script.counted(2, Some(1)), [""; 0]);
    assert_eq!(script.upstream(applied(u32::MAX, u32::MAX, &[])), ["subscribe 2"]);
    assert_eq!(script.upstream(applied(2, 2, &[7])), ["2: joined 1 with [7]"]);
    assert_eq!(script.lost(), ["open"]);
}

#[test]
fn memory_that_others_use_up_ends_no_subscription() {
    let mut script = Script::subscribed(1);
    let others = crate::limits::ROWS_TOTAL_BYTES_MAX as i64;
    script.core.row_bytes.add(others);
    assert_eq!(script.upstream(update(1, 8)), ["1 updates to [1]"]);
}

#[test]
fn v1_updates_of_what_was_let_go_of_are_not_the_next_one_s() {
    const V1: Subprotocol = Subprotocol::V1;
    let gauge = || IntGauge::new("rows", "bytes").expect("a gauge");
    let mut script = Script {
        core: Core::new(V1, gauge(), Budget::new(1 << 30, gauge())),
    };
    let read = |payload: Bytes| split(V1, payload).map(|message| message.expect("a message"));
    let counter = |row: &'static [u8]| TableRows {
        table: "counter",
        table_id: 4096,
        rows: vec![row],
    };
    let applied = |set: u32, rows: &[TableRows<'_>]| -> Bytes {
        let head = applied_head(V1, Direction::Come, set, set);
        [&[0][..], &head, &applied_rows(V1, Direction::Come, Some(rows))]
            .concat()
            .into()
    };
    // Was on its way when the first was let go of.
    let difference = rtdb_protocol::server::TableDifference {
        query_set: 0,
        table: "counter",
        table_id: 4096,
        inserts: vec![&[7]],
        deletes: vec![],
    };
    let late = rtdb_protocol::server::put_difference(V1, &[difference]);
    let late: Bytes = [&[0][..], &late].concat().into();
    let mut actions = Vec::new();
    let join = |session, ticket| Request::Join {
        session,
        ticket,
        queries: vec![parse_query("SELECT * FROM counter").expect("a query")],
    };
    let enter = |session| Request::Enter {
        session,
        items: mpsc::channel(1).0,
    };
    let leave = Request::Leave {
        session: 1,
        ticket: 2,
        set: 1,
        rows: true,
    };
    script.core.request(enter(1), &mut actions);
    script.core.opened(|_| true, &mut actions);
    for set in [RECEIPT_QUERY_SET, FOLLOWED_QUERY_SETS + 1] {
        script.core.upstream(read(applied(set, &[])), &mut actions);
    }
    script.core.request(join(1, 1), &mut actions);
    script.core.counted(1, Some(0), &mut actions);
    script.core.upstream(read(applied(1, &[])), &mut actions);
    script.core.request(leave, &mut actions);
    script.core.request(enter(2), &mut actions);
    script.core.request(join(2, 1), &mut actions);
    script.core.counted(2, Some(0), &mut actions);
    script.core.upstream(read(late), &mut actions);
    actions.clear();
    script
        .core
        .upstream(read(applied(2, &[counter(&[7])])), &mut actions);
    let [Action::Tell(2, Item::Joined { rows, .. })] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    let head = applied_head(V1, Direction::Come, 0, 0);
    let payload: Bytes = [&[0][..], &head, rows].concat().into();
    let Some(ServerMessage::SubscribeReply { changes, .. }) = read(payload).next() else {
        panic!("no answer")
    };
    assert_eq!(
        changes.iter().map(|change| change.inserts.len()).sum::<usize>(),
        1
    );
}

#[test]
fn rows_that_are_let_go_of_are_counted() {
    let gauge = || IntGauge::new("rows", "bytes").expect("a gauge");
    let bytes = gauge();
    let mut script = Script::subscribed(1);
    script.core.budget = Budget::new(1 << 30, bytes.clone());
    script.enter(2);
    script.join(2, 9, "counter");
    let joined = script.upstream(applied(1, FENCE_QUERY_SET, &[]));
    assert_eq!(joined, ["2: joined 9 with [7]"]);
    let before = bytes.get();
    let leave = Request::Leave {
        session: 1,
        ticket: 5,
        set: 1,
        rows: true,
    };
    let mut actions = Vec::new();
    script.core.request(leave, &mut actions);
    assert!(bytes.get() > before);
}

#[test]
fn who_wants_much_lets_others_go_between() {
    let mut script = Script::open(1);
    script.enter(2);
    for (set, table) in [(1, "a"), (2, "b"), (3, "c")] {
        script.join(1, set, table);
    }
    script.join(2, 1, "d");
    let large = Some(SHARED_ROWS_MAX);
    assert_eq!(script.counted(1, large), ["subscribe 1"]);
    for set in 2..=4 {
        assert_eq!(script.counted(set, large), [""; 0]);
    }
    assert_eq!(
        script.upstream(applied(1, 1, &[7])),
        ["1: joined 1 with [7]", "subscribe 4"]
    );
    // It may have brought the server down; the others wait for a new upstream.
    assert_eq!(script.lost(), ["2: declined 1", "open"]);
    script.opened();
    script.upstream(applied(u32::MAX, u32::MAX, &[]));
    assert_eq!(
        script.upstream(applied(1, 1, &[7])),
        ["1: restored None to 0", "subscribe 2"]
    );
    assert_eq!(script.upstream(error(2, 2)), ["1: declined 2", "subscribe 3"]);
}

#[test]
fn what_has_grown_too_large_goes_on_without_newcomers() {
    let mut script = Script::subscribed(1);
    script.enter(2);
    script
        .core
        .row_bytes
        .add(crate::limits::ROWS_TOTAL_BYTES_MAX as i64);
    assert_eq!(script.upstream(update(1, 8)), ["1 updates to [1]"]);
    assert_eq!(script.join(2, 1, "counter"), ["2: declined 1"]);
    assert_eq!(script.upstream(update(1, 9)), ["1 updates to [1]"]);
    let left = Request::MoveOut { session: 1 };
    assert_eq!(script.request(left), ["1: closed 1013", "unsubscribe 1"]);

    let mut script = Script::subscribed(1);
    script
        .core
        .row_bytes
        .add(crate::limits::ROWS_TOTAL_BYTES_MAX as i64);
    script.upstream(update(1, 8));
    assert_eq!(script.lost(), ["1: closed 1013", "open"]);
}

#[test]
fn v1_feeds_hear_of_their_own_members_calls_alone() {
    const V1: Subprotocol = Subprotocol::V1;
    let gauge = || IntGauge::new("rows", "bytes").expect("a gauge");
    let mut core = Core::new(V1, gauge(), Budget::new(1 << 30, gauge()));
    let mut act = |act: &mut dyn FnMut(&mut Core, &mut Vec<Action>)| {
        let mut actions = Vec::new();
        act(&mut core, &mut actions);
        let forwarded = actions.into_iter().filter_map(|action| match action {
            Action::Forward(message) => Some(String::from_utf8_lossy(&message).into_owned()),
            _ => None,
        });
        forwarded.collect::<Vec<_>>()
    };
    let enter = |session| {
        move |core: &mut Core, actions: &mut Vec<Action>| {
            let (items, _) = mpsc::channel(1);
            core.request(Request::Enter { session, items }, actions);
        }
    };
    assert_eq!(act(&mut enter(11)), [""; 0]);
    let opened = act(&mut |core, actions| core.opened(|_| true, actions));
    assert_eq!(opened.len(), 2);
    assert!(opened[1].contains("session = 11"));
    let applied = |set: u32| -> Bytes {
        let head = applied_head(V1, Direction::Come, set, set);
        [&[0][..], &head, &applied_rows(V1, Direction::Come, Some(&[]))]
            .concat()
            .into()
    };
    let later = act(&mut enter(12));
    assert_eq!(later.len(), 1);
    assert!(later[0].contains("session = 12"));
    for set in [
        RECEIPT_QUERY_SET,
        FOLLOWED_QUERY_SETS + 1,
        FOLLOWED_QUERY_SETS + 2,
    ] {
        act(&mut |core, actions| {
            assert!(matches!(core.upstream, Upstream::Restoring { .. }));
            let messages = split(V1, applied(set)).map(|message| message.expect("a message"));
            core.upstream(messages, actions);
        });
    }
    let gone = act(&mut |core, actions| {
        assert_eq!(core.upstream, Upstream::Open);
        core.request(Request::Gone { session: 11 }, actions);
    });
    assert_eq!(gone.len(), 1);
}

#[test]
fn large_query_sets_let_updates_go_between_who_joins() {
    let mut script = Script::open(1);
    let large = |set: u32| -> Bytes {
        let row = vec![set as u8; crate::limits::ADMITTED_BYTES_MAX];
        let rows = TableRows {
            table: "counter",
            table_id: 0,
            rows: vec![&row],
        };
        let head = applied_head(V2, Direction::Come, set, set);
        [&[0][..], &head, &applied_rows(V2, Direction::Come, Some(&[rows]))]
            .concat()
            .into()
    };
    for (set, table) in [(1, "a"), (2, "b")] {
        script.join(1, set, table);
        script.counted(set, Some(1));
        script.upstream(large(set));
        script.upstream(update(set, 9));
    }
    script.enter(2);
    script.enter(3);
    assert_eq!(script.join(2, 1, "a"), ["fence 1", "end of fence"]);
    script.join(2, 2, "b");
    script.join(3, 1, "a");
    script.upstream(applied(1, FENCE_QUERY_SET, &[]));
    script.upstream(update(1, 8));
    assert_eq!(
        script.upstream(applied(2, FENCE_QUERY_SET, &[])),
        ["2: joined 2 with [2, 9]", "fence 3", "end of fence"]
    );
    assert_eq!(
        script.upstream(applied(3, FENCE_QUERY_SET, &[])),
        ["3: joined 1 with [1, 9, 8]"]
    );
}

#[test]
fn a_few_query_sets_are_counted_at_a_time_and_sessions_take_turns() {
    let mut script = Script::open(1);
    script.enter(2);
    let max = crate::limits::FEED_COUNTS_MAX as u32;
    for set in 1..=max + 2 {
        let counts = script.join(1, set, &format!("t{set}"));
        assert_eq!(counts.len(), usize::from(set <= max));
    }
    assert_eq!(script.join(2, 1, "other"), [""; 0]);
    let next = script.counted(1, None);
    assert_eq!(next, [format!("count {}", max + 3), "1: declined 1".into()]);
}

#[test]
fn what_members_are_told_first_is_not_kept_while_memory_is_short() {
    for (max, kept) in [(1 << 30, true), (64, false)] {
        let bytes = IntGauge::new("bytes", "bytes").expect("a gauge");
        let mut script = Script::open(1);
        script.core.budget = Budget::new(max, bytes.clone());
        script.join(1, 1, "counter");
        script.counted(1, Some(1));
        assert_eq!(script.upstream(applied(1, 1, &[7])), ["1: joined 1 with [7]"]);
        assert_eq!(bytes.get() > 0, kept);
    }
}
