//! Orders of events, as short scripts: what goes in, and what the session wants done.

mod procedures;
mod refreshes;
mod sharing;
mod views;

use super::*;
use crate::limits::CALLS_MAX;
use bytes::{BufMut, BytesMut};
use rtdb_consensus::{Position, Reply, command};
use rtdb_determinism::Module;
use rtdb_protocol::RECEIPT_QUERY_SET;
use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawModuleDefV9Builder, TableAccess};
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_sats::{AlgebraicType, ProductType};

const V2: Subprotocol = Subprotocol::V2;
const SESSION: u64 = 7;
const NOW_US: i64 = 1_000;

/// A session on a v2 connection, to a module with `add(u64)` and `client_connected`.
struct Script {
    core: Core,
    module: Module,
    /// Positions of the calls proposed so far.
    position: u64,
}

impl Script {
    fn new() -> Self {
        let caller = Caller {
            session: SESSION,
            database: Bytes::from_static(&[1; 32]),
            identity: [2; 32],
            connection: [3; 16],
            is_owner: false,
            server: V2,
            freshness: Freshness::default(),
        };
        Self {
            core: Core::new(
                V2,
                caller,
                IntGauge::new("rows", "bytes").expect("a gauge"),
                false,
            ),
            module: module(&[]),
            position: 0,
        }
    }

    /// A session whose client has subscribed, and whose receipts arrive.
    fn subscribed() -> Self {
        let mut script = Self::new();
        assert_eq!(script.client(subscribe(1)), ["open"]);
        assert_eq!(
            script.step(Core::upstream_opened),
            ["forward receipts", "forward subscribe 1"]
        );
        assert_eq!(script.upstream(applied(u32::MAX)), [""; 0]);
        assert_eq!(script.upstream(applied(1)), ["subscribed 1"]);
        script
    }

    fn step(&mut self, step: impl FnOnce(&mut Core, &Context<'_>, &mut Vec<Action>)) -> Vec<String> {
        let mut actions = Vec::new();
        step(
            &mut self.core,
            &Context {
                module: &self.module,
                now_us: NOW_US,
            },
            &mut actions,
        );
        actions.iter().map(describe).collect()
    }

    fn client(&mut self, frame: Bytes) -> Vec<String> {
        self.step(|core, context, actions| core.client(frame, context, actions))
    }

    fn upstream(&mut self, payload: Bytes) -> Vec<String> {
        let messages: Vec<_> = rtdb_protocol::server::split(V2, payload).collect();
        self.step(|core, context, actions| {
            for message in messages {
                core.upstream(message.expect("a message"), context, actions);
            }
        })
    }

    /// Proposes all that is to be proposed; the calls' request ids.
    fn propose(&mut self) -> Vec<u32> {
        let mut proposed = Vec::new();
        while let Some(command) = self.core.proposal() {
            let Some(command::Body::Call(call)) = command.body else {
                panic!("no call")
            };
            proposed.push(call.request_id);
            self.core.proposed();
        }
        proposed
    }

    /// The next call is applied, at the next position.
    fn ok(&mut self) -> Vec<String> {
        self.position += 1;
        let reply = Reply::Call {
            return_value: Bytes::new(),
            execution_us: 1,
            energy: 1,
        };
        let applied = Applied {
            position: Position(self.position),
            timestamp_us: 5,
            reply,
        };
        self.outcome(Ok(applied))
    }

    /// The next call fails, at the next position.
    fn fails(&mut self) -> Vec<String> {
        self.position += 1;
        let position = Position(self.position);
        self.outcome(Err(Unapplied::Reducer {
            position,
            timestamp_us: 5,
            trapped: false,
            message: "no".into(),
            execution_us: 0,
            energy: 0,
        }))
    }

    fn outcome(&mut self, outcome: Outcome) -> Vec<String> {
        assert!(self.core.wants_outcome());
        self.step(|core, context, actions| core.outcome(outcome, context, actions))
    }

    fn lost(&mut self) -> Vec<String> {
        self.step(|core, context, actions| core.upstream_lost(CloseReason::restart(), context, actions))
    }
}

/// A module with `add(u64)`, `client_connected` and some public tables.
fn module(tables: &[&'static str]) -> Module {
    let mut def = RawModuleDefV9Builder::new();
    def.add_reducer("add", ProductType::from([("n", AlgebraicType::U64)]), None);
    def.add_reducer("hello", ProductType::unit(), Some(Lifecycle::OnConnect));
    for table in tables {
        let row = ProductType::from([("id", AlgebraicType::U64)]);
        let table = def.build_table_with_new_type(*table, row, true);
        table.with_access(TableAccess::Public).finish();
    }
    let def = bsatn::to_vec(&RawModuleDef::V9(def.finish())).expect("a definition");
    Module::from_def(&def).expect("a module")
}

fn describe(action: &Action) -> String {
    let number =
        |bytes: &Bytes, at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    match action {
        Action::OpenUpstream => "open".into(),
        Action::ReopenUpstream => "reopen".into(),
        Action::Prepare(_, wanted) if wanted.is_empty() => "wait".into(),
        Action::Prepare(_, wanted) => format!("prepare {}", wanted[0].view),
        Action::Close(reason) => format!("close {}", reason.code),
        Action::CallProcedure(call) => format!("run {} for {}", call.procedure, call.receipts),
        Action::SendParts(head, _) if head[0] == 2 => format!("unsubscribed {}", number(head, 5)),
        Action::SendParts(head, _) => format!("subscribed {}", number(head, 5)),
        Action::Join(ticket, _) => format!("join {ticket}"),
        Action::Leave(ticket, set, _) => format!("leave {ticket} {set}"),
        Action::MoveOut => "move out".into(),
        Action::Subscribed(numbers) => format!("numbers {numbers:?}"),
        Action::Show(batch) => format!("show {}", batch.len()),
        Action::ShowOne(_, at) => format!("show the one at {at}"),
        Action::Forward(message) if message[0] == 1 => {
            format!("forward unsubscribe {}", number(message, 5))
        }
        Action::Forward(message) if number(message, 5) == u32::MAX => "forward receipts".into(),
        Action::Forward(message) => format!("forward subscribe {}", number(message, 5)),
        Action::Send(message) => match message[0] {
            1 => format!("subscribed {}", number(message, 5)),
            3 if message[1] == 1 => format!("subscription lost {}", number(message, 2)),
            3 => format!("subscription error {}", number(message, 6)),
            4 => "update".into(),
            6 => {
                let outcome = ["ok", "ok", "err", "internal"][usize::from(message[13])];
                let rows = if message.windows(7).any(|part| part == b"counter") {
                    " with rows"
                } else {
                    ""
                };
                assert!(
                    !message.windows(5).any(|part| part == b"rtdb_"),
                    "the receipt shows"
                );
                format!("result {} {outcome}{rows}", number(message, 1))
            }
            7 => format!("procedure {}", ["returned", "failed"][usize::from(message[1])]),
            tag => format!("message {tag}"),
        },
    }
}

fn call_named(reducer: &str, args: &[u8], request_id: u32) -> Bytes {
    let mut frame = BytesMut::new();
    client::call_reducer(V2, &mut frame, reducer, &[args], request_id);
    frame.freeze()
}

fn call(request_id: u32) -> Bytes {
    call_named("add", &9u64.to_le_bytes(), request_id)
}

fn subscribe(query_set: u32) -> Bytes {
    client::subscribe(V2, &["SELECT * FROM counter"], query_set, query_set)
}

/// `SubscribeApplied` without rows.
fn applied(query_set: u32) -> Bytes {
    let mut payload = BytesMut::from(&[0, 1][..]);
    payload.put_u32_le(query_set);
    payload.put_u32_le(query_set);
    payload.put_u32_le(0);
    payload.freeze()
}

/// `TransactionUpdate` with a row of `counter`, and the session's receipt for the call at `receipt`.
fn update(receipt: Option<u64>) -> Bytes {
    let mut payload = BytesMut::from(&[0, 4][..]);
    payload.put_u32_le(1 + u32::from(receipt.is_some()));
    put_set(&mut payload, 1, "counter", &[0xAA]);
    if let Some(index) = receipt {
        put_set(
            &mut payload,
            RECEIPT_QUERY_SET,
            "rtdb_session",
            &[SESSION.to_le_bytes(), index.to_le_bytes()].concat(),
        );
    }
    payload.freeze()
}

fn put_set(out: &mut BytesMut, query_set: u32, table: &str, row: &[u8]) {
    out.put_u32_le(query_set);
    out.put_u32_le(1);
    out.put_u32_le(table.len() as u32);
    out.put_slice(table.as_bytes());
    out.put_u32_le(1);
    out.put_u8(0);
    for rows in [row, &[]] {
        out.put_u8(0);
        out.put_u16_le(row.len() as u16);
        out.put_u32_le(rows.len() as u32);
        out.put_slice(rows);
    }
}

#[test]
fn without_an_upstream_the_outcomes_are_the_results_in_order() {
    let mut script = Script::new();
    for id in 1..=3 {
        assert_eq!(script.client(call(id)), [""; 0]);
    }
    assert_eq!(script.propose(), [1, 2, 3]);
    assert_eq!(script.ok(), ["result 1 ok"]);
    assert_eq!(script.fails(), ["result 2 err"]);
    assert_eq!(script.ok(), ["result 3 ok"]);
    assert!(!script.core.is_busy());
}

#[test]
fn a_call_is_proposed_behind_its_header() {
    let mut script = Script::subscribed();
    script.client(call(1));
    let Some(command::Body::Call(call)) = script.core.proposal().expect("a proposal").body else {
        panic!("no call")
    };
    let header = rtdb_determinism::header::CallHeader::decode(&call.args).expect("a header");
    assert_eq!(
        (header.sender, header.connection, header.session),
        ([2; 32], [3; 16], SESSION)
    );
    assert_eq!((header.timestamp_us, header.index), (0, 0));
    assert_eq!(&call.args[72..], 9u64.to_le_bytes());
    assert_eq!((call.session, call.reducer.as_str()), (SESSION, "add"));
}

#[test]
fn the_update_with_the_receipt_is_the_result() {
    let mut script = Script::subscribed();
    script.client(call(1));
    script.propose();
    assert_eq!(script.ok(), [""; 0], "the rows are still to come");
    assert_eq!(script.upstream(update(Some(1))), ["result 1 ok with rows"]);
}

#[test]
fn a_receipt_waits_for_its_outcome_and_others_wait_behind_it() {
    let mut script = Script::subscribed();
    script.client(call(1));
    script.propose();
    assert_eq!(script.upstream(update(None)), ["update"]);
    assert_eq!(script.upstream(update(Some(1))), [""; 0]);
    assert!(!script.core.wants_upstream());
    assert_eq!(script.upstream(update(None)), [""; 0]);
    assert_eq!(script.ok(), ["result 1 ok with rows", "update"]);
    assert!(script.core.wants_upstream());
}

#[test]
fn failures_stand_between_the_successes() {
    let mut script = Script::subscribed();
    for id in 1..=3 {
        script.client(call(id));
    }
    script.propose();
    assert_eq!(script.upstream(update(Some(1))), [""; 0]);
    assert_eq!(script.ok(), ["result 1 ok with rows"]);
    assert_eq!(script.upstream(update(Some(3))), [""; 0]);
    assert_eq!(script.fails(), ["result 2 err"]);
    assert_eq!(script.ok(), ["result 3 ok with rows"]);
}

#[test]
fn outcomes_are_taken_one_at_a_time() {
    let mut script = Script::subscribed();
    script.client(call(1));
    script.client(call(2));
    script.propose();
    script.ok();
    assert!(
        !script.core.wants_outcome(),
        "the second call's outcome would overtake the first call's rows"
    );
    script.upstream(update(Some(1)));
    assert!(script.core.wants_outcome());
}

#[test]
fn a_receipt_that_was_passed_over_is_not_waited_for() {
    let mut script = Script::subscribed();
    script.client(call(1));
    script.client(call(2));
    script.propose();
    script.upstream(update(Some(2)));
    assert_eq!(script.ok(), ["result 1 ok"]);
    assert_eq!(script.ok(), ["result 2 ok with rows"]);
}

#[test]
fn calls_wait_for_reads_and_reads_for_calls() {
    let mut script = Script::subscribed();
    script.client(call(1));
    assert_eq!(script.propose(), [1]);
    assert_eq!(script.client(subscribe(2)), [""; 0]);
    assert!(!script.core.wants_client());
    script.ok();
    let actions = script.upstream(update(Some(1)));
    assert_eq!(actions, ["result 1 ok with rows", "forward subscribe 2"]);
    script.client(call(2));
    assert_eq!(script.propose(), [0; 0]);
    assert_eq!(script.upstream(applied(2)), ["subscribed 2"]);
    assert_eq!(script.propose(), [2]);
}

#[test]
fn what_the_server_would_refuse_is_refused_in_its_place() {
    let mut script = Script::new();
    assert_eq!(
        script.client(call_named("nothing", &[], 1)),
        ["result 1 internal"]
    );
    assert_eq!(script.client(call_named("hello", &[], 2)), ["result 2 internal"]);
    assert_eq!(
        script.client(call_named("add", &[1, 2], 3)),
        ["result 3 internal"]
    );
    assert_eq!(
        script.client(call_named("rtdb_mark", &[1], 4)),
        ["result 4 internal"]
    );
    script.client(call(5));
    assert_eq!(
        script.client(call_named("nothing", &[], 6)),
        [""; 0],
        "the result before it is still to come"
    );
    assert_eq!(script.propose(), [5]);
    assert_eq!(script.ok(), ["result 5 ok", "result 6 internal"]);
}

#[test]
fn the_clusters_own_names_are_refused_in_queries() {
    let mut script = Script::new();
    let hidden = client::subscribe(V2, &["SELECT * FROM rtdb_session"], 1, 1);
    assert_eq!(script.client(hidden), ["subscription error 1"]);
    let reserved = client::subscribe(V2, &["SELECT * FROM counter"], RECEIPT_QUERY_SET, 2);
    assert_eq!(
        script.client(reserved),
        [format!("subscription error {}", u32::MAX)]
    );
}

#[test]
fn the_window_is_bounded() {
    let mut script = Script::new();
    for id in 0..CALLS_MAX as u32 {
        assert!(script.core.wants_client());
        script.client(call(id));
    }
    assert!(!script.core.wants_client());
    script.propose();
    script.ok();
    assert!(script.core.wants_client());
}

/// `SubscribeApplied` with rows of one byte each.
fn applied_with(query_set: u32, table: &str, rows: &[&[u8]]) -> Bytes {
    let mut payload = BytesMut::from(&[0, 1][..]);
    payload.put_u32_le(query_set);
    payload.put_u32_le(query_set);
    payload.put_u32_le(1);
    payload.put_u32_le(table.len() as u32);
    payload.put_slice(table.as_bytes());
    payload.put_u8(0);
    payload.put_u16_le(rows.first().map_or(1, |row| row.len()) as u16);
    payload.put_u32_le(rows.concat().len() as u32);
    payload.put_slice(&rows.concat());
    payload.freeze()
}

/// The answer to the subscription to receipts, with the receipt for the call at `index`.
fn receipts_to(index: u64) -> Bytes {
    let row = [SESSION.to_le_bytes(), index.to_le_bytes()].concat();
    applied_with(RECEIPT_QUERY_SET, "rtdb_session", &[&row])
}

#[test]
fn a_subscriber_that_loses_its_upstream_hears_what_it_missed() {
    let mut script = Script::subscribed();
    assert_eq!(script.upstream(update(None)), ["update"]);
    script.client(call(1));
    script.client(call(2));
    script.client(call(3));
    script.propose();
    assert_eq!(script.lost(), ["reopen"]);
    assert_eq!(script.ok(), [""; 0], "its rows are still to come");
    assert_eq!(
        script.step(Core::upstream_opened),
        ["forward receipts", "forward subscribe 1"]
    );
    assert_eq!(script.upstream(receipts_to(1)), [""; 0]);
    // 0xAA is shown already, and comes twice before all is told.
    assert_eq!(script.upstream(update(None)), [""; 0]);
    assert_eq!(
        script.upstream(applied_with(1, "counter", &[&[0xAB]])),
        ["update", "result 1 ok"]
    );
    // What follows has receipts as ever.
    assert_eq!(script.ok(), [""; 0]);
    assert_eq!(script.upstream(update(Some(2))), ["result 2 ok with rows"]);
    assert_eq!(script.fails(), ["result 3 err"]);
    assert!(script.core.wants_client());
}

#[test]
fn a_subscriber_that_missed_nothing_hears_nothing() {
    let mut script = Script::subscribed();
    assert_eq!(script.upstream(update(None)), ["update"]);
    assert_eq!(script.lost(), ["reopen"]);
    script.step(Core::upstream_opened);
    // Lost again before it has told of everything.
    assert_eq!(script.upstream(applied(1)), [""; 0]);
    assert_eq!(script.lost(), ["reopen"]);
    script.step(Core::upstream_opened);
    assert_eq!(script.upstream(applied(u32::MAX)), [""; 0]);
    assert_eq!(script.upstream(applied_with(1, "counter", &[&[0xAA]])), [""; 0]);
    assert_eq!(script.upstream(update(None)), ["update"]);
}

#[test]
fn a_held_receipt_is_lost_with_its_upstream_and_its_rows_come_again() {
    let mut script = Script::subscribed();
    script.client(call(1));
    script.propose();
    assert_eq!(script.upstream(update(Some(1))), [""; 0]);
    assert_eq!(script.lost(), ["reopen"]);
    script.step(Core::upstream_opened);
    assert_eq!(script.upstream(receipts_to(1)), [""; 0]);
    assert_eq!(
        script.upstream(applied_with(1, "counter", &[&[0xAA]])),
        ["update"]
    );
    assert_eq!(script.ok(), ["result 1 ok"]);
}

#[test]
fn calls_go_on_while_the_upstream_is_away() {
    let mut script = Script::subscribed();
    script.lost();
    script.client(call(1));
    assert_eq!(script.propose(), [1]);
    assert_eq!(script.ok(), [""; 0]);
    script.step(Core::upstream_opened);
    assert_eq!(script.upstream(applied(u32::MAX)), [""; 0]);
    // Its update comes before everything is told: its rows are in the difference.
    assert_eq!(script.upstream(applied_with(1, "counter", &[&[1]])), ["update"]);
    assert_eq!(script.upstream(update(Some(1))), ["result 1 ok with rows"]);
}

#[test]
fn what_was_read_from_queries_is_counted() {
    let mut script = Script::subscribed();
    let before = script.core.bytes();
    let queries = vec!["SELECT * FROM a"; 1_000];
    script.client(client::subscribe(V2, &queries, 2, 2));
    assert!(script.core.bytes() - before > 1_000 * 200);
    script.upstream(applied(2));
    assert_eq!(script.core.bytes(), before);
}

#[test]
fn reads_without_a_reply_are_sent_again() {
    let mut script = Script::subscribed();
    assert_eq!(script.client(subscribe(2)), ["forward subscribe 2"]);
    assert_eq!(script.lost(), ["reopen"]);
    assert_eq!(script.client(subscribe(3)), [""; 0], "it waits for the upstream");
    assert_eq!(
        script.step(Core::upstream_opened),
        ["forward receipts", "forward subscribe 1"]
    );
    script.upstream(applied(u32::MAX));
    assert_eq!(
        script.upstream(applied(1)),
        ["forward subscribe 2", "forward subscribe 3"]
    );
    assert_eq!(script.upstream(applied(2)), ["subscribed 2"]);
    assert_eq!(script.upstream(applied(3)), ["subscribed 3"]);
}

#[test]
fn a_subscriber_whose_upstream_does_not_come_back_is_closed_after_its_results() {
    let mut script = Script::subscribed();
    script.client(call(1));
    script.client(call(2));
    script.propose();
    assert_eq!(script.lost(), ["reopen"]);
    assert_eq!(script.lost(), [""; 0]);
    assert!(!script.core.wants_client());
    assert_eq!(script.ok(), ["result 1 ok"]);
    assert_eq!(script.fails(), ["result 2 err", "close 1012"]);
}

#[test]
fn an_upstream_that_is_lost_again_and_again_is_given_up() {
    let mut script = Script::subscribed();
    for _ in 0..crate::limits::RESTORATIONS_MAX {
        assert_eq!(script.lost(), ["reopen"]);
        script.step(Core::upstream_opened);
    }
    assert_eq!(script.lost(), ["close 1012"]);
}

#[test]
fn the_nodes_end_waits_for_the_calls_under_way() {
    let mut script = Script::new();
    script.client(call(1));
    script.propose();
    script.client(call(2));
    let away = CloseReason::new(CloseReason::AWAY, "leader=2:b");
    assert_eq!(
        script.step(|core, _, actions| core.close_when_idle(away, actions)),
        [""; 0]
    );
    assert!(!script.core.wants_client());
    assert_eq!(script.ok(), ["result 1 ok"]);
    assert_eq!(script.propose(), [2]);
    assert_eq!(script.fails(), ["result 2 err", "close 1001"]);
}

#[test]
fn an_unknown_outcome_closes_the_client() {
    let mut script = Script::new();
    script.client(call(1));
    script.propose();
    assert_eq!(
        script.outcome(Err(Unapplied::unknown("the node is stopping"))),
        ["close 1012"]
    );
}

#[test]
fn garbage_closes_the_client_after_its_results() {
    let mut script = Script::new();
    script.client(call(1));
    script.propose();
    assert_eq!(script.client(Bytes::from_static(&[250, 1, 2])), [""; 0]);
    assert_eq!(script.ok(), ["result 1 ok", "close 1011"]);
}

#[test]
fn a_subscription_to_all_tables_does_not_grow_with_the_module() {
    let mut script = Script::new();
    script.module = module(&["a", "b"]);
    script.client(client::subscribe(V2, &["SELECT  *\nFROM * "], 1, 1));
    script.step(Core::upstream_opened);
    script.upstream(applied(u32::MAX));
    assert_eq!(script.upstream(applied(1)), ["subscribed 1"]);
    let mut repeated = |module: Module| {
        script.module = module;
        assert_eq!(script.lost(), ["reopen"]);
        let mut actions = Vec::new();
        let context = Context {
            module: &script.module,
            now_us: NOW_US,
        };
        script.core.upstream_opened(&context, &mut actions);
        script.upstream(applied(u32::MAX));
        script.upstream(applied(1));
        match actions.pop() {
            Some(Action::Forward(request)) => request,
            other => panic!("{other:?}"),
        }
    };
    let all = client::subscribe(V2, &["SELECT * FROM *"], 1, 1);
    let each = ["SELECT * FROM \"a\"", "SELECT * FROM \"b\""];
    let each = client::subscribe(V2, &each, 1, 1);
    assert_eq!(repeated(module(&["a", "b"])), all);
    assert_eq!(repeated(module(&["a", "b", "c"])), each);
    assert_eq!(repeated(module(&["a", "b"])), all);
}
