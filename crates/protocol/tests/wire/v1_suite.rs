//! One suite for both versions of the v1 types; the parent module says which.

use super::{EnergyQuanta, lib, row_list, ws};
use crate::model::{self, Row, Table, header, payload, visible};
use bytes::{Bytes, BytesMut};
use lib::bsatn;
use proptest::prelude::*;
use rtdb_protocol::Subprotocol::V1;
use rtdb_protocol::client::{self, CallReducer, ClientMessage, Read, ReadKind};
use rtdb_protocol::reply::{self, CallReply, Outcome};
use rtdb_protocol::server::{self, ServerMessage, Update};

type Message = ws::ServerMessage<ws::BsatnFormat>;

fn encode(message: impl Into<Message>) -> Vec<u8> {
    bsatn::to_vec(&message.into()).unwrap()
}

fn client_message(message: &ws::ClientMessage<Box<[u8]>>) -> ClientMessage {
    let mut messages = client::split(V1, bsatn::to_vec(message).unwrap().into());
    let message = messages.next().unwrap().unwrap();
    assert!(messages.next().is_none());
    message
}

fn read(message: &ws::ClientMessage<Box<[u8]>>) -> Read {
    let ClientMessage::Read(read) = client_message(message) else {
        panic!("not a read")
    };
    if read.refused.is_none() {
        assert_eq!(read.raw, bsatn::to_vec(message).unwrap());
    }
    read
}

fn server_message(message: impl Into<Message>) -> ServerMessage {
    let mut messages = server::split(V1, payload(&[encode(message)]));
    let message = messages.next().unwrap().unwrap();
    assert!(messages.next().is_none());
    message
}

fn update(message: impl Into<Message>) -> Update {
    let ServerMessage::Update(update) = server_message(message) else {
        panic!("not an update")
    };
    update
}

fn decode(raw: &[u8]) -> Message {
    bsatn::from_slice(raw).unwrap()
}

fn table_update(table: &Table) -> ws::TableUpdate<ws::BsatnFormat> {
    let query_update = |(inserts, deletes): &(Vec<Row>, Vec<Row>)| {
        let (inserts, deletes) = (row_list(inserts), row_list(deletes));
        ws::CompressableQueryUpdate::Uncompressed(ws::QueryUpdate { deletes, inserts })
    };
    ws::TableUpdate {
        table_id: 4097.into(),
        table_name: table.name.clone().into(),
        num_rows: table
            .updates
            .iter()
            .map(|(inserts, deletes)| inserts.len() + deletes.len())
            .sum::<usize>() as u64,
        updates: table.updates.iter().map(query_update).collect(),
    }
}

fn database_update(tables: &[Table]) -> ws::DatabaseUpdate<ws::BsatnFormat> {
    tables.iter().map(table_update).collect()
}

/// Frames and payloads for the tests of damaged ones.
#[cfg_attr(test, allow(dead_code, reason = "one version's are enough"))]
pub(crate) fn seeds() -> Vec<Bytes> {
    let tables = [Table::new("player", &[b"row", b"other"]), Table::receipt(7, 50)];
    let args = [header(SENDER, CONNECTION, 5, 50, 7), b"own".to_vec()].concat();
    let table_rows = table_update(&tables[0]);
    let rows = ws::SubscribeRows {
        table_id: 4097.into(),
        table_name: "player".to_owned().into(),
        table_rows,
    };
    let query_id = ws::QueryId::new(8);
    let messages: [Message; 7] = [
        full(committed(&tables), OWNER, APPLIER, 1, &args).into(),
        full(ws::UpdateStatus::Failed("no".into()), OWNER, APPLIER, 1, &args).into(),
        ws::TransactionUpdateLight {
            request_id: 1,
            update: database_update(&tables),
        }
        .into(),
        ws::InitialSubscription {
            database_update: database_update(&tables),
            request_id: 3,
            total_host_execution_duration: lib::TimeDuration::from_micros(9),
        }
        .into(),
        ws::SubscribeApplied {
            request_id: 3,
            total_host_execution_duration_micros: 9,
            query_id,
            rows,
        }
        .into(),
        ws::SubscriptionError {
            total_host_execution_duration_micros: 9,
            request_id: Some(3),
            query_id: Some(8),
            table_id: None,
            error: "bad".into(),
        }
        .into(),
        ws::OneOffQueryResponse {
            message_id: [1, 2].into(),
            error: Some("bad".into()),
            tables: [ws::OneOffTable {
                table_name: "player".to_owned().into(),
                rows: row_list(&[vec![1]]),
            }]
            .into(),
            total_host_execution_duration: lib::TimeDuration::from_micros(9),
        }
        .into(),
    ];
    let mut seeds: Vec<_> = messages
        .into_iter()
        .map(|message| payload(&[encode(message)]))
        .collect();
    seeds.push(client::subscribe_receipts(V1, 7, false));
    seeds.push(payload(&[
        reply::hello(V1, &SENDER, "token", &CONNECTION).to_vec()
    ]));
    let query = ws::OneOffQuery {
        message_id: [1, 2].into(),
        query_string: "SELECT * FROM a".into(),
    };
    let query: ws::ClientMessage<Box<[u8]>> = ws::ClientMessage::OneOffQuery(query);
    seeds.push(bsatn::to_vec(&query).unwrap().into());
    seeds
}

const SENDER: [u8; 32] = [0xaa; 32];
const CONNECTION: [u8; 16] = [0xbb; 16];
const OWNER: [u8; 32] = [0x11; 32];
const APPLIER: [u8; 16] = [0x22; 16];

/// A `TransactionUpdate` of the reducer `add`, called by `sender`.
fn full(
    status: ws::UpdateStatus<ws::BsatnFormat>,
    sender: [u8; 32],
    connection: [u8; 16],
    timestamp_us: i64,
    args: &[u8],
) -> ws::TransactionUpdate<ws::BsatnFormat> {
    ws::TransactionUpdate {
        status,
        timestamp: lib::Timestamp::from_micros_since_unix_epoch(timestamp_us),
        caller_identity: lib::Identity::from_byte_array(sender),
        caller_connection_id: lib::ConnectionId::from_le_byte_array(connection),
        reducer_call: ws::ReducerCallInfo {
            reducer_name: "add".to_owned().into(),
            reducer_id: 5,
            args: args.into(),
            request_id: 77,
        },
        energy_quanta_used: EnergyQuanta::new(1234),
        total_host_execution_duration: lib::TimeDuration::from_micros(321),
    }
}

fn committed(tables: &[Table]) -> ws::UpdateStatus<ws::BsatnFormat> {
    ws::UpdateStatus::Committed(database_update(tables))
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

fn ok() -> Outcome {
    Outcome::Ok {
        return_value: Bytes::new(),
        execution_us: 321,
        energy: 1234,
    }
}

fn failed() -> Outcome {
    Outcome::Failed {
        message: "no".into(),
        execution_us: 321,
        energy: 1234,
    }
}

#[test]
fn calls_are_read() {
    for (flags, no_success_notify) in [
        (ws::CallReducerFlags::FullUpdate, false),
        (ws::CallReducerFlags::NoSuccessNotify, true),
    ] {
        let message = ws::ClientMessage::CallReducer(ws::CallReducer {
            reducer: "add".to_owned().into(),
            args: b"args".as_slice().into(),
            request_id: 9,
            flags,
        });
        let expected = CallReducer {
            reducer: "add".into(),
            args: Bytes::from_static(b"args"),
            request_id: 9,
            no_success_notify,
        };
        assert_eq!(client_message(&message), ClientMessage::Call(expected));
    }
}

#[test]
fn our_calls_and_subscriptions_are_theirs() {
    let mut frame = BytesMut::new();
    client::call_reducer(V1, &mut frame, "add", &[b"header", b"own"], 9);
    let ws::ClientMessage::CallReducer(call) =
        bsatn::from_slice::<ws::ClientMessage<Box<[u8]>>>(&frame).unwrap()
    else {
        panic!("another message")
    };
    assert_eq!(
        (&*call.reducer, &*call.args, call.request_id),
        ("add", &b"headerown"[..], 9)
    );
    assert!(call.flags == ws::CallReducerFlags::FullUpdate);

    let frame = client::subscribe_receipts(V1, 7, false);
    let ws::ClientMessage::SubscribeMulti(subscribe) =
        bsatn::from_slice::<ws::ClientMessage<Box<[u8]>>>(&frame).unwrap()
    else {
        panic!("another message")
    };
    assert_eq!(
        *subscribe.query_strings,
        ["SELECT * FROM rtdb_session WHERE session = 7".into()]
    );
    assert_eq!(
        (subscribe.request_id, subscribe.query_id.id),
        (u32::MAX, u32::MAX)
    );
}

#[test]
fn reads_are_told_apart() {
    let queries = || ["SELECT * FROM a".into(), "SELECT * FROM b".into()].into();
    let id = ws::QueryId::new;
    let (request_id, query_id) = (3, id(8));
    let one = || "SELECT * FROM a".into();
    let cases = [
        (
            ws::ClientMessage::Subscribe(ws::Subscribe {
                query_strings: queries(),
                request_id,
            }),
            ReadKind::SubscribeLegacy,
            (Some(3), vec![], 2),
        ),
        (
            ws::ClientMessage::SubscribeSingle(ws::SubscribeSingle {
                query: one(),
                request_id,
                query_id,
            }),
            ReadKind::SubscribeSingle,
            (Some(3), vec![8], 1),
        ),
        (
            ws::ClientMessage::SubscribeMulti(ws::SubscribeMulti {
                query_strings: queries(),
                request_id,
                query_id,
            }),
            ReadKind::SubscribeMulti,
            (Some(3), vec![8], 2),
        ),
        (
            ws::ClientMessage::Unsubscribe(ws::Unsubscribe { request_id, query_id }),
            ReadKind::UnsubscribeSingle,
            (Some(3), vec![8], 0),
        ),
        (
            ws::ClientMessage::UnsubscribeMulti(ws::UnsubscribeMulti { request_id, query_id }),
            ReadKind::UnsubscribeMulti,
            (Some(3), vec![8], 0),
        ),
        (
            ws::ClientMessage::OneOffQuery(ws::OneOffQuery {
                message_id: [1, 2].into(),
                query_string: one(),
            }),
            ReadKind::OneOffQuery,
            (None, vec![], 1),
        ),
    ];
    for (message, kind, expected) in cases {
        let read = read(&message);
        assert_eq!(read.kind, kind);
        assert_eq!(
            (read.request_id, read.query_sets.clone(), read.queries.len()),
            expected
        );
        assert!(
            read.queries
                .first()
                .is_none_or(|query| query.text() == "SELECT * FROM a")
        );
        assert_eq!(read.refused, None);
    }
}

#[test]
fn refused_reads_are_answered_as_bad_queries_are() {
    let refuse = |message: &ws::ClientMessage<Box<[u8]>>| {
        let read = read(message);
        assert!(read.refused.is_some() && read.raw.is_empty());
        decode(&reply::read_refused(
            V1,
            &read,
            &SENDER,
            &CONNECTION,
            5,
            "no such table",
        ))
    };
    let query: Box<str> = "SELECT * FROM rtdb_session".into();
    let query_id = ws::QueryId::new(u32::MAX);

    let subscribe = ws::Subscribe {
        query_strings: [query.clone()].into(),
        request_id: 3,
    };
    let Message::TransactionUpdate(update) = refuse(&ws::ClientMessage::Subscribe(subscribe)) else {
        panic!()
    };
    assert!(matches!(update.status, ws::UpdateStatus::Failed(error) if &*error == "no such table"));
    assert_eq!(&*update.reducer_call.reducer_name, "<none>");

    let subscribe = ws::SubscribeMulti {
        query_strings: [].into(),
        request_id: 3,
        query_id,
    };
    let Message::SubscriptionError(error) = refuse(&ws::ClientMessage::SubscribeMulti(subscribe)) else {
        panic!()
    };
    assert_eq!(
        (error.request_id, error.query_id, error.table_id),
        (Some(3), Some(u32::MAX), None)
    );
    assert_eq!(&*error.error, "no such table");

    let query = ws::OneOffQuery {
        message_id: [1, 2].into(),
        query_string: query,
    };
    let Message::OneOffQueryResponse(response) = refuse(&ws::ClientMessage::OneOffQuery(query)) else {
        panic!()
    };
    assert_eq!(
        (&*response.message_id, response.error.as_deref()),
        (&[1u8, 2][..], Some("no such table"))
    );
    assert!(response.tables.is_empty());
}

#[test]
fn the_greeting_goes_both_ways() {
    let raw = reply::hello(V1, &SENDER, "token", &CONNECTION);
    let Message::IdentityToken(theirs) = decode(&raw) else {
        panic!("another message")
    };
    assert_eq!(theirs.identity, lib::Identity::from_byte_array(SENDER));
    assert_eq!(
        theirs.connection_id,
        lib::ConnectionId::from_le_byte_array(CONNECTION)
    );
    assert_eq!(&*theirs.token, "token");
    let ServerMessage::Hello {
        identity,
        token,
        connection,
    } = server_message(theirs)
    else {
        panic!()
    };
    assert_eq!((identity, &*token, connection), (SENDER, "token", CONNECTION));
}

#[test]
fn answers_to_reads_are_told_from_lost_subscriptions() {
    let error = |request_id, query_id| ws::SubscriptionError {
        total_host_execution_duration_micros: 1,
        request_id,
        query_id,
        table_id: Some(4097.into()),
        error: "bad".into(),
    };
    let message = server_message(error(Some(3), Some(8)));
    assert!(message.answers_read());
    let ServerMessage::SubscribeReply {
        request_id: Some(3),
        query_set: Some(8),
        error: true,
        raw,
        ..
    } = message
    else {
        panic!("{message:?}")
    };
    assert_eq!(raw, encode(error(Some(3), Some(8))));

    let message = server_message(error(None, None));
    assert!(!message.answers_read());
    assert!(
        matches!(message, ServerMessage::SubscriptionLost { query_set: None, .. }),
        "{message:?}"
    );

    // What 1.2.0 and 2.8.3 say when a read could not even start.
    for name in ["<none>", ""] {
        let mut answer = full(ws::UpdateStatus::Failed("bad".into()), SENDER, CONNECTION, 1, &[]);
        answer.reducer_call.reducer_name = name.to_owned().into();
        let message = server_message(answer);
        assert!(message.answers_read());
        assert!(
            matches!(message, ServerMessage::SubscribeReply { error: true, .. }),
            "{message:?}"
        );
    }
}

#[test]
fn the_receipt_is_found_by_its_session() {
    let tables = [
        Table::new("player", &[b"row"]),
        Table::receipt(3, 40),
        Table::receipt(7, 50),
    ];
    let light = ws::TransactionUpdateLight {
        request_id: 1,
        update: database_update(&tables),
    };
    let update = update(light);
    assert_eq!(
        [3, 7, 8].map(|session| update.receipt(session)),
        [Some(40), Some(50), None]
    );
}

#[test]
fn the_applier_learns_what_became_of_its_call() {
    let args = [header(SENDER, CONNECTION, 5, 999, 7), b"own".to_vec()].concat();
    let applied = |status, args: &[u8]| {
        server_message(full(status, OWNER, APPLIER, 1, args))
            .into_applied()
            .unwrap()
    };

    let call = applied(committed(&[]), &args);
    assert_eq!((call.request_id, call.index, call.outcome), (77, Some(999), ok()));
    let call = applied(ws::UpdateStatus::Failed("no".into()), &args);
    assert_eq!((call.index, call.outcome), (Some(999), failed()));
    let call = applied(ws::UpdateStatus::OutOfEnergy, &args);
    assert_eq!((call.index, call.outcome), (Some(999), Outcome::OutOfEnergy));
    let call = applied(ws::UpdateStatus::Failed("no such reducer".into()), &[]);
    assert_eq!(
        (call.index, call.outcome),
        (None, Outcome::Rejected("no such reducer".into()))
    );
}

#[test]
fn results_without_rows_are_what_the_server_would_say() {
    let result = |outcome| reply::call_result(V1, &reply(&outcome)).unwrap();
    let expected = |status, energy: u128, us| {
        let mut update = full(status, SENDER, CONNECTION, 1_700_000_000_000_001, b"own");
        update.energy_quanta_used = EnergyQuanta::new(energy);
        update.total_host_execution_duration = lib::TimeDuration::from_micros(us);
        update
    };
    assert_eq!(result(ok()), encode(expected(committed(&[]), 1234, 321)));
    for (outcome, energy, us) in [(failed(), 1234, 321), (Outcome::Internal("no".into()), 0, 0)] {
        assert_eq!(
            result(outcome),
            encode(expected(ws::UpdateStatus::Failed("no".into()), energy, us))
        );
    }
    assert_eq!(
        result(Outcome::OutOfEnergy),
        encode(expected(ws::UpdateStatus::OutOfEnergy, 0, 0))
    );

    let mut rejected = expected(ws::UpdateStatus::Failed("no".into()), 0, 0);
    (rejected.reducer_call.args, rejected.reducer_call.request_id) = ([].into(), 0);
    assert_eq!(result(Outcome::Rejected("no".into())), encode(rejected));
}

#[test]
fn a_caller_that_wants_no_success_hears_only_of_rejection_and_of_its_rows() {
    let outcomes = [ok(), failed(), Outcome::OutOfEnergy];
    for outcome in &outcomes {
        assert_eq!(
            reply::call_result(
                V1,
                &CallReply {
                    no_success_notify: true,
                    ..reply(outcome)
                }
            ),
            None
        );
    }
    let rejected = Outcome::Rejected("no".into());
    assert!(
        reply::call_result(
            V1,
            &CallReply {
                no_success_notify: true,
                ..reply(&rejected)
            }
        )
        .is_some()
    );

    let ok = ok();
    let quiet = CallReply {
        no_success_notify: true,
        ..reply(&ok)
    };
    let light = |tables: &[Table]| ws::TransactionUpdateLight {
        request_id: 77,
        update: database_update(tables),
    };
    assert_eq!(update(light(&[Table::receipt(7, 50)])).into_result(&quiet), None);
    let player = Table::new("player", &[b"row"]);
    let result = update(light(&[player.clone(), Table::receipt(7, 50)])).into_result(&quiet);
    assert_eq!(result.unwrap(), encode(light(&[player])));
}

#[test]
fn what_a_hidden_reducer_did_is_shown_without_its_name() {
    let player = [Table::new("player", &[b"row"])];
    let mut sent = full(
        committed(&player),
        OWNER,
        APPLIER,
        1,
        &header(SENDER, CONNECTION, 5, 50, 0),
    );
    sent.reducer_call.reducer_name = "rtdb_load".to_owned().into();
    let expected = ws::TransactionUpdateLight {
        request_id: 0,
        update: database_update(&player),
    };
    assert_eq!(update(sent).into_other().unwrap(), encode(expected));
}

#[test]
fn compressed_rows_are_refused() {
    let mut update = database_update(&[Table::new("player", &[b"row"])]);
    update.tables[0].updates[0] = ws::CompressableQueryUpdate::Gzip(Bytes::from_static(b"zzzz"));
    let raw = encode(ws::TransactionUpdateLight {
        request_id: 1,
        update,
    });
    let error = server::split(V1, payload(&[raw])).next().unwrap().unwrap_err();
    assert_eq!(error, rtdb_protocol::FrameError::Compressed { scheme: 2 });
}

proptest! {
    #[test]
    fn hidden_tables_are_stripped_from_replies_and_nothing_else(tables in model::tables()) {
        let initial = |tables: &[Table]| ws::InitialSubscription {
            database_update: database_update(tables),
            request_id: 3,
            total_host_execution_duration: lib::TimeDuration::from_micros(9),
        };
        let multi = |tables: &[Table]| ws::SubscribeMultiApplied {
            request_id: 3,
            total_host_execution_duration_micros: 9,
            query_id: ws::QueryId::new(8),
            update: database_update(tables),
        };
        let unsubscribed = |tables: &[Table]| ws::UnsubscribeMultiApplied {
            request_id: 3,
            total_host_execution_duration_micros: 9,
            query_id: ws::QueryId::new(8),
            update: database_update(tables),
        };
        let one_off = |tables: &[Table]| ws::OneOffQueryResponse {
            message_id: [1, 2].into(),
            error: None,
            tables: tables.iter().map(|table| ws::OneOffTable {
                table_name: table.name.clone().into(),
                rows: row_list(&table.updates.first().cloned().unwrap_or_default().0),
            }).collect(),
            total_host_execution_duration: lib::TimeDuration::from_micros(9),
        };
        let left = visible(&tables);
        let cases: [(Vec<u8>, Vec<u8>, Option<u32>); 4] = [
            (encode(initial(&tables)), encode(initial(&left)), None),
            (encode(multi(&tables)), encode(multi(&left)), Some(8)),
            (encode(unsubscribed(&tables)), encode(unsubscribed(&left)), Some(8)),
            (encode(one_off(&tables)), encode(one_off(&left)), None),
        ];
        for (sent, expected, set) in cases {
            match server::split(V1, payload(&[sent])).next().unwrap().unwrap() {
                ServerMessage::SubscribeReply { request_id, query_set, error, raw, .. } => {
                    prop_assert_eq!((request_id, query_set, error), (Some(3), set, false));
                    prop_assert_eq!(raw, expected);
                }
                ServerMessage::QueryReply { raw, .. } => prop_assert_eq!(raw, expected),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn a_one_off_query_is_asked_and_its_rows_are_read(rows in model::rows(), bad: bool) {
        let mut asked = BytesMut::new();
        client::one_off_query(V1, &mut asked, "SELECT * FROM a");
        let query = ws::OneOffQuery { message_id: [].into(), query_string: "SELECT * FROM a".into() };
        let query: ws::ClientMessage<Box<[u8]>> = ws::ClientMessage::OneOffQuery(query);
        prop_assert_eq!(&asked[..], &lib::bsatn::to_vec(&query).unwrap()[..]);
        let sent = encode(ws::OneOffQueryResponse {
            message_id: [].into(),
            error: bad.then(|| "bad".into()),
            tables: [ws::OneOffTable { table_name: "a".to_owned().into(), rows: row_list(&rows) }].into(),
            total_host_execution_duration: lib::TimeDuration::from_micros(9),
        });
        match server::split(V1, payload(&[sent])).next().unwrap().unwrap() {
            ServerMessage::QueryReply { error, changes, .. } => {
                prop_assert_eq!(error.map(|error| error.to_string()), bad.then(|| "bad".to_owned()));
                let read = changes.iter().flat_map(|change| change.inserts.iter().map(Vec::from).collect::<Vec<_>>());
                prop_assert_eq!(read.collect::<Vec<_>>(), rows);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn single_replies_pass_as_they_are(tables in model::tables()) {
        for table in &tables {
            let rows = || ws::SubscribeRows {
                table_id: 4097.into(),
                table_name: table.name.clone().into(),
                table_rows: table_update(table),
            };
            let (request_id, query_id, us) = (3, ws::QueryId::new(8), 9);
            let applied = ws::SubscribeApplied {
                request_id, total_host_execution_duration_micros: us, query_id, rows: rows(),
            };
            let unsubscribed = ws::UnsubscribeApplied {
                request_id, total_host_execution_duration_micros: us, query_id, rows: rows(),
            };
            for sent in [encode(applied), encode(unsubscribed)] {
                let message = server::split(V1, payload(std::slice::from_ref(&sent))).next().unwrap().unwrap();
                let ServerMessage::SubscribeReply { request_id, query_set, raw, .. } = message else { panic!() };
                prop_assert_eq!((request_id, query_set), (Some(3), Some(8)));
                prop_assert_eq!(raw, sent);
            }
        }
    }

    #[test]
    fn others_see_the_true_caller_and_no_hidden_table(
        tables in model::tables(), sender: [u8; 32], connection: [u8; 16], timestamp_us: i64, own: Vec<u8>,
    ) {
        let args = [header(sender, connection, timestamp_us, 50, 7), own.clone()].concat();
        let sent = full(committed(&tables), OWNER, APPLIER, 1, &args);
        let left = visible(&tables);
        let expected = full(committed(&left), sender, connection, timestamp_us, &own);
        let expected = (!left.is_empty()).then(|| encode(expected));
        prop_assert_eq!(update(sent).into_other().map(Vec::from), expected);

        let light = |tables: &[Table]| ws::TransactionUpdateLight { request_id: 1, update: database_update(tables) };
        let expected = (!left.is_empty()).then(|| encode(light(&left)));
        prop_assert_eq!(update(light(&tables)).into_other().map(Vec::from), expected);
    }

    #[test]
    fn the_caller_gets_its_rows_in_full(mut tables in model::tables(), at: prop::sample::Index) {
        tables.insert(at.index(tables.len() + 1), Table::receipt(7, 50));
        let ok = ok();
        let expected = encode(full(committed(&visible(&tables)), SENDER, CONNECTION, 1_700_000_000_000_001, b"own"));
        let light = ws::TransactionUpdateLight { request_id: 1, update: database_update(&tables) };
        let full = full(committed(&tables), OWNER, APPLIER, 1, &header(SENDER, CONNECTION, 5, 50, 7));
        for sent in [update(light), update(full)] {
            prop_assert_eq!(sent.receipt(7), Some(50));
            prop_assert_eq!(&sent.into_result(&reply(&ok)).unwrap(), &expected);
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written(tables in model::tables()) {
        let light = ws::TransactionUpdateLight { request_id: 1, update: database_update(&tables) };
        let update = update(light);
        let read = update.changes().iter().map(|change| {
            let rows = |list: &server::RowList| list.iter().map(Vec::from).collect::<Vec<_>>();
            (change.table.to_string(), rows(&change.inserts), rows(&change.deletes))
        });
        let written = tables.iter().flat_map(|table| {
            table.updates.iter().map(|(inserts, deletes)| (table.name.clone(), inserts.clone(), deletes.clone()))
        });
        prop_assert_eq!(read.collect::<Vec<_>>(), written.collect::<Vec<_>>());
    }
}
