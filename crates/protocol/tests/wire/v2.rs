//! v2 and v3, against the types of 2.8.3.

use crate::model::{self, Row, Table, payload};
use crate::v1_new::row_list;
use bytes::{Bytes, BytesMut};
use messages_v2::websocket::v2 as ws;
use proptest::prelude::*;
use rtdb_protocol::Subprotocol::{V2, V3};
use rtdb_protocol::client::{self, CallProcedure, CallReducer, ClientMessage, Read, ReadKind, Refused};
use rtdb_protocol::reply::{self, CallReply, Outcome};
use rtdb_protocol::server::{self, ProcedureOutcome, ServerMessage, Update};
use rtdb_protocol::{RECEIPT_QUERY_SET, Subprotocol, sql};
use spacetimedb_lib::bsatn;
use spacetimedb_lib::{ConnectionId, Identity, TimeDuration, Timestamp};

const SENDER: [u8; 32] = [0xaa; 32];
const CONNECTION: [u8; 16] = [0xbb; 16];

fn encode(message: impl Into<ws::ServerMessage>) -> Vec<u8> {
    bsatn::to_vec(&message.into()).unwrap()
}

fn encode_client(message: &ws::ClientMessage) -> Vec<u8> {
    bsatn::to_vec(message).unwrap()
}

fn decode(raw: &[u8]) -> ws::ServerMessage {
    bsatn::from_slice(raw).unwrap()
}

fn client_messages(subprotocol: Subprotocol, messages: &[ws::ClientMessage]) -> Vec<ClientMessage> {
    let frame = messages.iter().flat_map(encode_client).collect::<Vec<_>>();
    client::split(subprotocol, frame.into())
        .collect::<Result<_, _>>()
        .unwrap()
}

fn server_message(message: impl Into<ws::ServerMessage>) -> ServerMessage {
    let mut messages = server::split(V2, payload(&[encode(message)]));
    let message = messages.next().unwrap().unwrap();
    assert!(messages.next().is_none());
    message
}

fn update(sets: &[(u32, Vec<Table>)]) -> Update {
    let ServerMessage::Update(update) = server_message(transaction_update(sets)) else {
        panic!("not an update")
    };
    update
}

/// Every third table is an event table.
fn transaction_update(sets: &[(u32, Vec<Table>)]) -> ws::TransactionUpdate {
    let table_update = |(at, table): (usize, &Table)| ws::TableUpdate {
        table_name: table.name.clone().into(),
        rows: table
            .updates
            .iter()
            .map(|(inserts, deletes)| match at % 3 {
                2 => ws::TableUpdateRows::EventTable(ws::EventTableRows {
                    events: row_list(inserts),
                }),
                _ => ws::TableUpdateRows::PersistentTable(ws::PersistentTableRows {
                    inserts: row_list(inserts),
                    deletes: row_list(deletes),
                }),
            })
            .collect(),
    };
    let query_set = |(id, tables): &(u32, Vec<Table>)| ws::QuerySetUpdate {
        query_set_id: ws::QuerySetId::new(*id),
        tables: tables.iter().enumerate().map(table_update).collect(),
    };
    ws::TransactionUpdate {
        query_sets: sets.iter().map(query_set).collect(),
    }
}

fn query_rows(tables: &[Table]) -> ws::QueryRows {
    let rows = |table: &Table| ws::SingleTableRows {
        table: table.name.clone().into(),
        rows: row_list(&table.updates.first().cloned().unwrap_or_default().0),
    };
    ws::QueryRows {
        tables: tables.iter().map(rows).collect(),
    }
}

/// What remains of the sets for a client. Tables come back in the order and with the kind they had.
fn visible(sets: &[(u32, Vec<Table>)]) -> Vec<(u32, Vec<Table>)> {
    let sets = sets.iter().filter(|(id, _)| *id != RECEIPT_QUERY_SET);
    let sets = sets.map(|(id, tables)| (*id, model::visible(tables)));
    sets.filter(|(_, tables)| !tables.is_empty()).collect()
}

/// Query sets as the server sends them (none is empty), hidden tables only at the end so that the kinds above stay.
fn query_sets() -> impl Strategy<Value = Vec<(u32, Vec<Table>)>> {
    let tables = model::tables().prop_filter_map("an empty query set", |mut tables| {
        tables.sort_by_key(|table| !table.is_visible());
        (!tables.is_empty()).then_some(tables)
    });
    prop::collection::btree_map(prop_oneof![0u32..4, Just(RECEIPT_QUERY_SET)], tables, 0..4)
        .prop_map(|sets| sets.into_iter().collect())
}

fn reply(outcome: &Outcome) -> CallReply<'_> {
    CallReply {
        request_id: 77,
        timestamp_us: 1_700_000_000_000_001,
        sender: &SENDER,
        connection: &CONNECTION,
        reducer: "add",
        reducer_id: 5,
        args: b"own",
        no_success_notify: false,
        outcome,
    }
}

fn ok(return_value: &[u8]) -> Outcome {
    Outcome::Ok {
        return_value: Bytes::copy_from_slice(return_value),
        execution_us: 0,
        energy: 0,
    }
}

fn failed() -> Outcome {
    Outcome::Failed {
        message: "no".into(),
        execution_us: 0,
        energy: 0,
    }
}

fn reducer_result(result: ws::ReducerOutcome) -> ws::ReducerResult {
    let timestamp = Timestamp::from_micros_since_unix_epoch(1_700_000_000_000_001);
    ws::ReducerResult {
        request_id: 77,
        timestamp,
        result,
    }
}

fn reducer_ok(return_value: &[u8], sets: &[(u32, Vec<Table>)]) -> ws::ReducerResult {
    let ret_value = Bytes::copy_from_slice(return_value);
    reducer_result(ws::ReducerOutcome::Ok(ws::ReducerOk {
        ret_value,
        transaction_update: transaction_update(sets),
    }))
}

fn call(request_id: u32) -> ws::ClientMessage {
    ws::ClientMessage::CallReducer(ws::CallReducer {
        request_id,
        flags: ws::CallReducerFlags::Default,
        reducer: "add".into(),
        args: Bytes::from(vec![7; request_id as usize]),
    })
}

fn subscribe(request_id: u32, query_set: u32, queries: &[&str]) -> ws::ClientMessage {
    ws::ClientMessage::Subscribe(ws::Subscribe {
        request_id,
        query_set_id: ws::QuerySetId::new(query_set),
        query_strings: queries.iter().map(|query| (*query).into()).collect(),
    })
}

fn unsubscribe(request_id: u32, flags: ws::UnsubscribeFlags) -> ws::ClientMessage {
    ws::ClientMessage::Unsubscribe(ws::Unsubscribe {
        request_id,
        query_set_id: ws::QuerySetId::new(8),
        flags,
    })
}

fn one_off(request_id: u32) -> ws::ClientMessage {
    ws::ClientMessage::OneOffQuery(ws::OneOffQuery {
        request_id,
        query_string: "SELECT * FROM a".into(),
    })
}

#[test]
fn a_one_off_query_is_asked_and_its_rows_are_read() {
    let mut asked = BytesMut::new();
    client::one_off_query(V2, &mut asked, "SELECT * FROM a");
    assert_eq!(asked[..], encode_client(&one_off(0))[..]);
    let reply = |result| {
        let sent = encode(ws::OneOffQueryResult {
            request_id: 0,
            result,
        });
        match server::split(V2, payload(&[sent])).next().unwrap().unwrap() {
            ServerMessage::QueryReply { error, changes, .. } => {
                let rows = changes
                    .iter()
                    .flat_map(|change| change.inserts.iter().collect::<Vec<_>>());
                (error.map(|error| error.to_string()), rows.collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        }
    };
    let rows = query_rows(&[Table::new("a", &[b"row", b"other"])]);
    assert_eq!(reply(Ok(rows)), (None, vec!["row".into(), "other".into()]));
    assert_eq!(reply(Err("bad".into())), (Some("bad".to_owned()), vec![]));
}

/// Frames and payloads for the tests of damaged ones.
pub(crate) fn seeds() -> Vec<Bytes> {
    let tables = vec![
        Table::new("player", &[b"row", b"other"]),
        Table::receipt(7, 50),
        Table::new("hit", &[b"x"]),
    ];
    let sets = [
        (1, tables.clone()),
        (RECEIPT_QUERY_SET, vec![Table::receipt(7, 50)]),
    ];
    let query_set_id = ws::QuerySetId::new(8);
    let messages = [
        encode(transaction_update(&sets)),
        encode(reducer_ok(b"value", &sets)),
        encode(ws::SubscribeApplied {
            request_id: 3,
            query_set_id,
            rows: query_rows(&tables),
        }),
        encode(ws::UnsubscribeApplied {
            request_id: 3,
            query_set_id,
            rows: Some(query_rows(&tables)),
        }),
        encode(ws::OneOffQueryResult {
            request_id: 3,
            result: Ok(query_rows(&tables)),
        }),
        encode(ws::SubscriptionError {
            request_id: Some(3),
            query_set_id,
            error: "bad".into(),
        }),
        reply::hello(V2, &SENDER, "token", &CONNECTION).to_vec(),
        batch_applied(&tables),
    ];
    let frame =
        [call(5), one_off(4), unsubscribe(2, ws::UnsubscribeFlags::Default)].map(|one| encode_client(&one));
    let mut seeds = vec![
        payload(&messages),
        frame.concat().into(),
        client::subscribe_receipts(V2, 7, false),
        batch().into(),
    ];
    seeds.extend(messages.map(|message| payload(&[message])));
    seeds
}

/// 2.14's `SubscribeBatch`, by hand: these types are 2.8.3's.
fn batch() -> Vec<u8> {
    let mut frame = vec![5, 3, 0, 0, 0, 2, 0, 0, 0];
    for query_set in [8u8, 255] {
        frame.extend([query_set; 4]);
        frame.extend(bsatn::to_vec(&vec!["SELECT * FROM a".to_owned()]).unwrap());
    }
    frame
}

/// 2.14's `SubscribeBatchApplied`: one set that failed, and two with `tables`.
fn batch_applied(tables: &[Table]) -> Vec<u8> {
    let rows = bsatn::to_vec(&query_rows(tables)).unwrap();
    let mut message = vec![8, 3, 0, 0, 0, 3, 0, 0, 0];
    message.extend([&[8, 0, 0, 0, 0], &rows[..], &[9, 0, 0, 0, 1, 2, 0, 0, 0], b"no"].concat());
    message.extend([&[10, 0, 0, 0, 0], &rows[..]].concat());
    message
}

#[test]
fn a_batch_of_subscriptions_is_one_read_with_one_answer() {
    let frame = Bytes::from(batch());
    let messages = client::split(V3, frame.clone())
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let [ClientMessage::Read(read)] = &messages[..] else {
        panic!("not a read")
    };
    assert_eq!((read.kind, read.request_id), (ReadKind::SubscribeBatch, Some(3)));
    assert_eq!(read.query_sets, [0x0808_0808, u32::MAX]);
    assert_eq!(read.refused, Some(Refused::QuerySet));

    let tables = [Table::receipt(7, 50), Table::new("player", &[b"row"])];
    let sent = payload(&[batch_applied(&tables)]);
    let message = server::split(V3, sent).next().unwrap().unwrap();
    let ServerMessage::SubscribeReply {
        request_id,
        query_set,
        error,
        raw,
        ..
    } = message
    else {
        panic!("{message:?}")
    };
    assert_eq!((request_id, query_set, error), (Some(3), Some(8), false));
    assert_eq!(raw, batch_applied(&tables[1..]));
}

#[test]
fn client_messages_are_told_apart() {
    let procedure = ws::ClientMessage::CallProcedure(ws::CallProcedure {
        request_id: 6,
        flags: ws::CallProcedureFlags::Default,
        procedure: "p".into(),
        args: Bytes::from_static(b"args"),
    });
    let messages = [
        subscribe(1, 8, &["SELECT * FROM a", "SELECT * FROM b"]),
        unsubscribe(2, ws::UnsubscribeFlags::Default),
        unsubscribe(3, ws::UnsubscribeFlags::SendDroppedRows),
        one_off(4),
        call(5),
        procedure,
    ];
    let read = |kind, at: usize, query_sets: &[u32], queries: &[&str]| {
        ClientMessage::Read(Read {
            raw: encode_client(&messages[at]).into(),
            kind,
            request_id: Some(at as u32 + 1),
            query_sets: query_sets.to_vec(),
            queries: queries
                .iter()
                .map(|query| sql::parse_query(query).unwrap())
                .collect(),
            message_id: Bytes::new(),
            refused: None,
        })
    };
    let expected = [
        read(
            ReadKind::SubscribeMulti,
            0,
            &[8],
            &["SELECT * FROM a", "SELECT * FROM b"],
        ),
        read(ReadKind::UnsubscribeMulti, 1, &[8], &[]),
        read(ReadKind::UnsubscribeMulti, 2, &[8], &[]),
        read(ReadKind::OneOffQuery, 3, &[], &["SELECT * FROM a"]),
        ClientMessage::Call(CallReducer {
            reducer: "add".into(),
            args: Bytes::from_static(&[7; 5]),
            request_id: 5,
            no_success_notify: false,
        }),
        ClientMessage::Procedure(CallProcedure {
            procedure: "p".into(),
            args: Bytes::from_static(b"args"),
            request_id: 6,
        }),
    ];
    for (message, expected) in messages.iter().zip(&expected) {
        let frame = Bytes::from(encode_client(message));
        let split = client::split(V2, frame).collect::<Vec<_>>();
        assert_eq!(split, [Ok(expected.clone())]);
    }
    assert_eq!(client_messages(V3, &messages), expected);
}

#[test]
fn our_calls_and_subscriptions_are_theirs() {
    let mut frame = BytesMut::new();
    client::call_reducer(V3, &mut frame, "add", &[&[7; 72], b"own"], 1);
    client::call_reducer(V3, &mut frame, "sub", &[], 2);
    let mut rest = &frame[..];
    let mut next = || match bsatn::from_reader(&mut rest).unwrap() {
        ws::ClientMessage::CallReducer(call) => (call.request_id, call.reducer, call.args),
        _ => panic!("another message"),
    };
    assert_eq!(
        next(),
        (1, "add".into(), Bytes::from([&[7; 72][..], b"own"].concat()))
    );
    assert_eq!(next(), (2, "sub".into(), Bytes::new()));
    assert!(rest.is_empty());

    let ours = client::subscribe_receipts(V2, 7, false);
    assert_eq!(
        ours,
        encode_client(&subscribe(
            u32::MAX,
            u32::MAX,
            &["SELECT * FROM rtdb_session WHERE session = 7"]
        ))
    );
    let [ClientMessage::Read(read)] = &client::split(V2, ours).map(Result::unwrap).collect::<Vec<_>>()[..]
    else {
        panic!("not a read")
    };
    assert_eq!(read.refused, Some(Refused::QuerySet));
}

#[test]
fn queries_are_forwarded_as_they_were_understood() {
    let texts = ["select*from a;", "SELECT * FROM b", "SELECT * /* ' */ FROM *"];
    let ours = ["SELECT * FROM a", "SELECT * FROM b", "SELECT * FROM *"];
    let only_read = |frame: Vec<u8>| match client::split(V3, frame.into()).next() {
        Some(Ok(ClientMessage::Read(read))) => read,
        other => panic!("not a read: {other:?}"),
    };
    // The comment makes it something else than `SELECT * FROM *`, which is no SQL.
    let read = only_read(encode_client(&subscribe(3, 8, &texts)));
    assert!(matches!(read.refused, Some(Refused::Sql { .. })) && read.raw.is_empty());
    let texts = [texts[0], texts[1], " Select *\tFrom * "];
    let read = only_read(encode_client(&subscribe(3, 8, &texts)));
    assert_eq!(read.raw, encode_client(&subscribe(3, 8, &ours)));
    // The same in the second of two sets.
    let ours: Vec<u8> = batch().iter().map(|byte| *byte & 0x7f).collect();
    let before = ours.len() - "SELECT * FROM a".len() - 4;
    let theirs = bsatn::to_vec(&"SELECT * FROM  a ".to_owned()).unwrap();
    let read = only_read([&ours[..before], &theirs].concat());
    assert_eq!((read.refused, read.raw), (None, ours.into()));

    let hidden = only_read(encode_client(&subscribe(
        3,
        8,
        &["SELECT * FROM/*'*/rtdb_session"],
    )));
    assert!(matches!(hidden.refused, Some(Refused::Hidden { table, .. }) if table == "rtdb_session"));
    let many = vec!["SELECT * FROM a"; client::QUERIES_MAX + 1];
    let read = only_read(encode_client(&subscribe(3, 8, &many)));
    assert_eq!(read.refused, Some(Refused::Queries));
    let long = format!("SELECT * FROM a{}", " ".repeat(client::QUERIES_BYTES_MAX));
    let read = only_read(encode_client(&subscribe(3, 8, &[&long])));
    assert_eq!(read.refused, Some(Refused::Bytes));
}

#[test]
fn refused_reads_are_answered_as_bad_queries_are() {
    let refuse = |message: &ws::ClientMessage| {
        let messages = client_messages(V2, std::slice::from_ref(message));
        let [ClientMessage::Read(read)] = &messages[..] else {
            panic!("not a read")
        };
        reply::read_refused(V2, read, &SENDER, &CONNECTION, 5, "no such table")
    };
    let error = ws::SubscriptionError {
        request_id: Some(3),
        query_set_id: ws::QuerySetId::new(8),
        error: "no such table".into(),
    };
    assert_eq!(refuse(&subscribe(3, 8, &[])), encode(error));
    let error = ws::SubscriptionError {
        request_id: Some(3),
        query_set_id: ws::QuerySetId::new(8),
        error: "no such table".into(),
    };
    assert_eq!(
        refuse(&unsubscribe(3, ws::UnsubscribeFlags::Default)),
        encode(error)
    );
    let error = ws::OneOffQueryResult {
        request_id: 3,
        result: Err("no such table".into()),
    };
    assert_eq!(refuse(&one_off(3)), encode(error));
}

#[test]
fn a_refused_procedure_is_what_the_server_would_say() {
    let result = ws::ProcedureResult {
        status: ws::ProcedureStatus::InternalError("not served".into()),
        timestamp: Timestamp::UNIX_EPOCH,
        total_host_execution_duration: TimeDuration::ZERO,
        request_id: 9,
    };
    let expected = encode(result);
    assert_eq!(reply::procedure_refused(V3, 9, "not served"), expected);
    let message = server_message(decode(&expected));
    let ServerMessage::Procedure(result) = message else {
        panic!("another message")
    };
    assert_eq!((result.request_id, &result.raw[..]), (9, &expected[..]));
    assert_eq!(result.outcome, ProcedureOutcome::Internal("not served".into()));
}

#[test]
fn the_greeting_goes_both_ways() {
    let theirs = ws::InitialConnection {
        identity: Identity::from_byte_array(SENDER),
        connection_id: ConnectionId::from_le_byte_array(CONNECTION),
        token: "token".into(),
    };
    let raw = encode(theirs);
    assert_eq!(reply::hello(V2, &SENDER, "token", &CONNECTION), raw);
    let ServerMessage::Hello {
        identity,
        token,
        connection,
    } = server_message(decode(&raw))
    else {
        panic!()
    };
    assert_eq!((identity, &*token, connection), (SENDER, "token", CONNECTION));
}

#[test]
fn the_receipt_counts_only_in_its_query_set() {
    let theirs = (1, vec![Table::new("player", &[b"row"]), Table::receipt(7, 40)]);
    let ours = (RECEIPT_QUERY_SET, vec![Table::receipt(7, 50)]);
    assert_eq!(update(std::slice::from_ref(&theirs)).receipt(7), None);
    let update = update(&[theirs, ours]);
    assert_eq!([7, 8].map(|session| update.receipt(session)), [Some(50), None]);
}

#[test]
fn the_applier_learns_what_became_of_its_call() {
    let error = Bytes::from(bsatn::to_vec("no").unwrap());
    let cases = [
        (reducer_ok(b"value", &[]), ok(b"value")),
        (reducer_result(ws::ReducerOutcome::OkEmpty), ok(b"")),
        (reducer_result(ws::ReducerOutcome::Err(error)), failed()),
        (
            reducer_result(ws::ReducerOutcome::InternalError("no".into())),
            Outcome::Internal("no".into()),
        ),
    ];
    for (sent, expected) in cases {
        let call = server_message(sent).into_applied().unwrap();
        assert_eq!((call.request_id, call.index, call.outcome), (77, None, expected));
    }
    let sets = [(1, vec![Table::new("timer", &[b"row"])])];
    let ServerMessage::CallResult(result) = server_message(reducer_ok(b"", &sets)) else {
        panic!("not a result")
    };
    let tables: Vec<_> = result
        .changes
        .iter()
        .map(|change| (change.query_set, change.table))
        .collect();
    assert_eq!(tables, [(Some(1), "timer".into())]);
}

#[test]
fn results_without_rows_are_what_the_server_would_say() {
    let internal = |error: &str| ws::ReducerOutcome::InternalError(error.into());
    let cases = [
        (ok(b"value"), reducer_ok(b"value", &[])),
        (ok(b""), reducer_ok(b"", &[])),
        (
            failed(),
            reducer_result(ws::ReducerOutcome::Err(bsatn::to_vec("no").unwrap().into())),
        ),
        (Outcome::Internal("no".into()), reducer_result(internal("no"))),
        (
            Outcome::Rejected("no such reducer".into()),
            reducer_result(internal("no such reducer")),
        ),
        (
            Outcome::OutOfEnergy,
            reducer_result(internal("reducer ran out of energy")),
        ),
    ];
    for (outcome, expected) in cases {
        assert_eq!(
            reply::call_result(V3, &reply(&outcome)).unwrap(),
            encode(expected)
        );
    }
}

#[test]
fn answers_to_reads_are_told_from_lost_subscriptions() {
    let error = |request_id| ws::SubscriptionError {
        request_id,
        query_set_id: ws::QuerySetId::new(8),
        error: "bad".into(),
    };
    let message = server_message(error(Some(3)));
    assert!(message.answers_read());
    assert!(matches!(
        message,
        ServerMessage::SubscribeReply {
            request_id: Some(3),
            query_set: Some(8),
            error: true,
            ..
        }
    ));
    let message = server_message(error(None));
    assert!(!message.answers_read());
    assert!(matches!(
        message,
        ServerMessage::SubscriptionLost {
            query_set: Some(8),
            ..
        }
    ));
}

proptest! {
    #[test]
    fn v3_frames_come_apart_as_they_were_put_together(requests in prop::collection::vec(0u32..50, 1..20)) {
        let message = |request: &u32| match request % 4 {
            0 => call(*request),
            1 => one_off(*request),
            2 => unsubscribe(*request, ws::UnsubscribeFlags::SendDroppedRows),
            _ => subscribe(*request, 1, &["SELECT * FROM a"]),
        };
        let messages: Vec<_> = requests.iter().map(message).collect();
        let apart: Vec<_> = messages.iter().flat_map(|one| client_messages(V2, std::slice::from_ref(one))).collect();
        prop_assert_eq!(client_messages(V3, &messages), apart);
    }

    #[test]
    fn v3_payloads_come_apart_as_they_were_put_together(all in prop::collection::vec(query_sets(), 1..6)) {
        let messages: Vec<_> = all.iter().map(|sets| encode(transaction_update(sets))).collect();
        let mut updates = server::split(V3, payload(&messages));
        for sets in &all {
            let ServerMessage::Update(update) = updates.next().unwrap().unwrap() else { panic!() };
            let left = visible(sets);
            let expected = (!left.is_empty()).then(|| encode(transaction_update(&left)));
            prop_assert_eq!(update.into_other().map(Vec::from), expected);
        }
        prop_assert!(updates.next().is_none());
    }

    #[test]
    fn the_caller_gets_its_rows_and_no_hidden_table(mut sets in query_sets(), value: Vec<u8>) {
        sets.retain(|(id, _)| *id != RECEIPT_QUERY_SET);
        sets.push((RECEIPT_QUERY_SET, vec![Table::receipt(7, 50)]));
        let update = update(&sets);
        prop_assert_eq!(update.receipt(7), Some(50));
        let outcome = ok(&value);
        prop_assert_eq!(update.into_result(&reply(&outcome)).unwrap(), encode(reducer_ok(&value, &visible(&sets))));
    }

    #[test]
    fn hidden_tables_are_stripped_from_replies_and_nothing_else(tables in model::tables()) {
        let query_set_id = ws::QuerySetId::new(8);
        let applied = |tables: &[Table]| {
            encode(ws::SubscribeApplied { request_id: 3, query_set_id, rows: query_rows(tables) })
        };
        let unsubscribed = |tables: &[Table]| {
            encode(ws::UnsubscribeApplied { request_id: 3, query_set_id, rows: Some(query_rows(tables)) })
        };
        let one_off = |tables: &[Table]| {
            encode(ws::OneOffQueryResult { request_id: 3, result: Ok(query_rows(tables)) })
        };
        let left = model::visible(&tables);
        let bare = || encode(ws::UnsubscribeApplied { request_id: 3, query_set_id, rows: None });
        let failed = || encode(ws::OneOffQueryResult { request_id: 3, result: Err("bad".into()) });
        let cases = [
            (applied(&tables), applied(&left)),
            (unsubscribed(&tables), unsubscribed(&left)),
            (bare(), bare()),
            (one_off(&tables), one_off(&left)),
            (failed(), failed()),
        ];
        for (sent, expected) in cases {
            match server::split(V2, payload(&[sent])).next().unwrap().unwrap() {
                ServerMessage::SubscribeReply { request_id, query_set, error, raw, .. } => {
                    prop_assert_eq!((request_id, query_set, error), (Some(3), Some(8), false));
                    prop_assert_eq!(raw, expected);
                }
                ServerMessage::QueryReply { raw, .. } => prop_assert_eq!(raw, expected),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written(sets in query_sets()) {
        let update = update(&sets);
        let rows = |list: &server::RowList| list.iter().map(Vec::from).collect::<Vec<Row>>();
        let read = update.changes().iter().map(|change| {
            (change.query_set, change.table.to_string(), rows(&change.inserts), rows(&change.deletes))
        });
        let written = sets.iter().flat_map(|(id, tables)| tables.iter().enumerate().flat_map(move |(at, table)| {
            table.updates.iter().map(move |(inserts, deletes)| {
                let deletes = if at % 3 == 2 { vec![] } else { deletes.clone() };
                (Some(*id), table.name.clone(), inserts.clone(), deletes)
            })
        }));
        prop_assert_eq!(read.collect::<Vec<_>>(), written.collect::<Vec<_>>());
    }
}
