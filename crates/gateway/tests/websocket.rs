//! The WebSocket over fakes: handshakes, sessions without an upstream, bad frames, the end.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod fake;

use bytes::{Bytes, BytesMut};
use fake::{Fixture, NAME, Settings, identity_of, until};
use futures::{SinkExt, StreamExt};
use rtdb_consensus::command::Body;
use rtdb_consensus::{Position, Refusal, Unapplied};
use rtdb_gateway::limits::{CALLS_MAX, ENTERING_MAX};
use rtdb_gateway::{ClientLimits, Quotas, Slowed};
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::ServerMessage;
use rtdb_protocol::{Subprotocol, client, server};
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

type Client = WebSocketStream<TcpStream>;

/// How long anything here may take.
const SOON: Duration = Duration::from_secs(10);

async fn connect(
    gateway: &Fixture,
    protocols: &str,
    query: &str,
    token: Option<&str>,
) -> Result<Client, u16> {
    let url = format!("ws://{}/v1/database/{query}", gateway.address);
    let mut request = url.into_client_request().expect("a request");
    if !protocols.is_empty() {
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocols.parse().expect("a header"));
    }
    if let Some(token) = token {
        request.headers_mut().insert(
            "authorization",
            format!("Bearer {token}").parse().expect("a header"),
        );
    }
    let stream = TcpStream::connect(gateway.address).await.expect("a connection");
    match client_async(request, stream).await {
        Ok((client, _)) => Ok(client),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn connect_as_bob(gateway: &Fixture) -> Client {
    connect_as(gateway, "good-bob").await
}

async fn connect_as(gateway: &Fixture, token: &str) -> Client {
    let query = format!("{NAME}/subscribe?compression=None");
    connect(gateway, "v2.bsatn.spacetimedb", &query, Some(token))
        .await
        .expect("let in")
}

async fn next(client: &mut Client) -> Message {
    let next = tokio::time::timeout(SOON, client.next()).await.expect("in time");
    next.expect("a message").expect("a sound message")
}

async fn next_server(client: &mut Client) -> ServerMessage {
    let Message::Binary(payload) = next(client).await else {
        panic!("not binary")
    };
    server::split(Subprotocol::V2, payload)
        .next()
        .expect("a message")
        .expect("a sound message")
}

/// The close frame that comes after any other messages.
async fn closed(client: &mut Client) -> (u16, String) {
    loop {
        if let Message::Close(frame) = next(client).await {
            let frame = frame.expect("a reason");
            return (frame.code.into(), frame.reason.to_string());
        }
    }
}

/// Without a word, as natively: a client takes a close frame for an end that is as it should be.
async fn dropped(client: &mut Client) {
    let end = tokio::time::timeout(SOON, client.next()).await.expect("in time");
    assert!(matches!(end, None | Some(Err(_))), "{end:?}");
}

fn call(request_id: u32) -> Message {
    let mut frame = BytesMut::new();
    client::call_reducer(
        Subprotocol::V2,
        &mut frame,
        "add",
        &[&9u64.to_le_bytes()],
        request_id,
    );
    Message::Binary(frame.freeze())
}

#[tokio::test]
async fn handshakes_that_can_not_be_are_refused_as_the_server_refuses_them() {
    let gateway = Fixture::start(Settings::default()).await;
    let refused =
        async |protocols, query: &str, token| connect(&gateway, protocols, query, token).await.err();
    let v1 = "v1.bsatn.spacetimedb";
    let path = format!("{NAME}/subscribe");
    assert_eq!(refused("", &path, None).await, Some(400));
    assert_eq!(refused("v9.bsatn.spacetimedb", &path, None).await, Some(400));
    let zero = format!("{path}?connection_id={}", "0".repeat(32));
    assert_eq!(refused(v1, &zero, None).await, Some(400));
    assert_eq!(refused(v1, &path, Some("rubbish")).await, Some(401));
    assert_eq!(refused(v1, &path, Some("expired-bob")).await, Some(401));
    assert_eq!(refused(v1, "nobody/subscribe", None).await, Some(404));
    assert_eq!(gateway.log.kinds(), [""; 0]);
}

#[tokio::test]
async fn an_old_server_limits_the_subprotocol() {
    let gateway = Fixture::start(Settings {
        newest: Subprotocol::V1,
        ..Settings::default()
    })
    .await;
    let path = format!("{NAME}/subscribe");
    let both = "v2.bsatn.spacetimedb, v1.bsatn.spacetimedb";
    assert!(connect(&gateway, both, &path, None).await.is_ok());
    assert_eq!(
        connect(&gateway, "v2.bsatn.spacetimedb", &path, None).await.err(),
        Some(400)
    );
}

#[tokio::test]
async fn a_client_is_greeted_calls_and_leaves() {
    let gateway = Fixture::start(Settings::default()).await;
    let mut client = connect_as_bob(&gateway).await;
    let ServerMessage::Hello { identity, token, .. } = next_server(&mut client).await else {
        panic!("no hello")
    };
    assert_eq!(identity, identity_of("bob").to_byte_array());
    assert_eq!(&*token, "good-bob");
    assert_eq!(gateway.metrics.sessions.get(), 1);
    for id in 1..=100 {
        client.feed(call(id)).await.expect("sent");
    }
    client.flush().await.expect("sent");
    for id in 1..=100 {
        let ServerMessage::CallResult(result) = next_server(&mut client).await else {
            panic!("no result")
        };
        assert_eq!((result.request_id, result.timestamp_us), (id, 5));
        assert!(matches!(result.outcome, Outcome::Ok { .. }));
    }
    client.close(None).await.expect("closed");
    gateway.log.wait_for("disconnect").await;
    let commands = gateway.log.commands.lock();
    assert!(matches!(&commands[1], Body::Call(call) if call.session == 1));
    assert!(matches!(commands.last(), Some(Body::Disconnect(command)) if command.session == 1));
}

#[tokio::test]
async fn a_full_log_means_waiting_not_errors() {
    let gateway = Fixture::start(Settings::default()).await;
    let mut client = connect_as_bob(&gateway).await;
    next(&mut client).await;
    gateway.log.full.store(true, std::sync::atomic::Ordering::Relaxed);
    client.send(call(1)).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(gateway.log.kinds(), ["connect"]);
    gateway
        .log
        .full
        .store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(
        next_server(&mut client).await,
        ServerMessage::CallResult(_)
    ));
    // A departure waits for room too.
    gateway.log.full.store(true, std::sync::atomic::Ordering::Relaxed);
    drop(client);
    tokio::time::sleep(Duration::from_millis(50)).await;
    gateway
        .log
        .full
        .store(false, std::sync::atomic::Ordering::Relaxed);
    gateway.log.wait_for("disconnect").await;
}

async fn next_outcome(client: &mut Client) -> (u32, Outcome) {
    match next_server(client).await {
        ServerMessage::CallResult(result) => (result.request_id, result.outcome),
        _ => panic!("no result"),
    }
}

/// Many connections of one identity, one of another: both have their turn.
#[tokio::test]
async fn a_slowed_database_s_callers_take_turns() {
    let gateway = Fixture::start(Settings::default()).await;
    let slow = |calls| {
        gateway.gateway.slow(&[Slowed {
            database: identity_of("database"),
            calls,
        }]);
    };
    slow(0);
    let mut crowd = Vec::new();
    for _ in 0..10 {
        let mut client = connect_as(&gateway, "good-alice").await;
        next(&mut client).await;
        for id in 1..=3 {
            client.send(call(id)).await.expect("sent");
        }
        crowd.push(client);
    }
    let waits = async |callers| {
        let all = async {
            while gateway.metrics.held_calls.get() < callers {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, all).await.expect("in time");
    };
    waits(10).await;
    let mut bob = connect_as_bob(&gateway).await;
    next(&mut bob).await;
    bob.send(call(7)).await.expect("sent");
    waits(11).await;
    let calls = || gateway.log.kinds().iter().filter(|kind| **kind == "call").count();
    assert_eq!(calls(), 0);
    slow(2);
    assert_eq!(next_outcome(&mut bob).await.0, 7);
    waits(12).await;
    assert_eq!(calls(), 2);
    gateway.gateway.slow(&[]);
    for client in &mut crowd {
        for id in 1..=3 {
            let (answered, outcome) = next_outcome(client).await;
            assert_eq!(answered, id);
            assert!(matches!(outcome, Outcome::Ok { .. }));
        }
    }
    assert_eq!(calls(), 31);
}

#[tokio::test]
async fn a_call_beyond_a_quota_is_refused_and_the_client_stays() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.gateway.set_quotas(Quotas {
        identity: NonZeroU32::new(1),
        ..Quotas::default()
    });
    let mut client = connect_as_bob(&gateway).await;
    next(&mut client).await;
    client.feed(call(1)).await.expect("sent");
    client.feed(call(2)).await.expect("sent");
    client.flush().await.expect("sent");
    assert!(matches!(next_outcome(&mut client).await, (1, Outcome::Ok { .. })));
    let (id, outcome) = next_outcome(&mut client).await;
    assert_eq!(id, 2);
    assert!(format!("{outcome:?}").contains("1 calls a second"), "{outcome:?}");
    let mut other = connect_as(&gateway, "good-alice").await;
    next(&mut other).await;
    other.send(call(3)).await.expect("sent");
    assert!(matches!(next_outcome(&mut other).await, (3, Outcome::Ok { .. })));
    assert_eq!(gateway.log.kinds(), ["connect", "call", "connect", "call"]);
}

#[tokio::test]
async fn a_client_that_the_database_rejects_is_turned_away() {
    let gateway = Fixture::start(Settings {
        lifecycle: true,
        ..Settings::default()
    })
    .await;
    gateway.log.answer(|body| {
        let rejected = Unapplied::Reducer {
            position: Position(1),
            timestamp_us: 1,
            trapped: false,
            message: "banned".into(),
            execution_us: 0,
            energy: 0,
        };
        matches!(body, Body::Connect(_)).then_some(Err(rejected))
    });
    let mut client = connect_as_bob(&gateway).await;
    dropped(&mut client).await;
    gateway.log.wait_for("disconnect refused").await;
}

#[tokio::test]
async fn a_client_with_anothers_connection_id_is_turned_away() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.log.answer(|body| match body {
        Body::Connect(connect) if connect.unique => Some(Err(Unapplied::Refused(Refusal::ConnectionTaken))),
        _ => None,
    });
    let mut client = connect_as_bob(&gateway).await;
    dropped(&mut client).await;
    assert_eq!(gateway.log.kinds(), ["connect"]);
}

#[tokio::test]
async fn clients_of_a_deleted_database_are_closed_at_once() {
    let gateway = Fixture::start(Settings::default()).await;
    let mut client = connect_as_bob(&gateway).await;
    next_server(&mut client).await;
    gateway.deleted.send_replace(1);
    let (code, reason) = closed(&mut client).await;
    assert_eq!((code, reason.as_str()), (1001, "module exited"));
}

#[tokio::test]
async fn a_client_whose_database_is_deleted_as_it_comes_does_not_stay_for_the_next_one() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.log.holds.store(true, Ordering::Relaxed);
    let mut client = connect_as_bob(&gateway).await;
    gateway.log.wait_for("connect").await;
    gateway.deleted.send_replace(1);
    gateway.log.release();
    let (code, reason) = closed(&mut client).await;
    assert_eq!((code, reason.as_str()), (1001, "module exited"));
}

/// What keeps them from being let in may last, and the log would keep them all.
#[tokio::test]
async fn who_comes_and_goes_before_it_is_let_in_does_not_fill_the_log() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.log.holds.store(true, Ordering::Relaxed);
    let connects = || {
        gateway
            .log
            .kinds()
            .iter()
            .filter(|kind| **kind == "connect")
            .count()
    };
    for _ in 0..ENTERING_MAX {
        drop(connect_as_bob(&gateway).await);
    }
    until("all are proposed", || connects() == ENTERING_MAX).await;
    let mut last = connect_as_bob(&gateway).await;
    for _ in 0..20 {
        let gone = connect_as_bob(&gateway).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(gone);
    }
    assert_eq!(connects(), ENTERING_MAX);
    gateway.log.release();
    assert!(matches!(
        next_server(&mut last).await,
        ServerMessage::Hello { .. }
    ));
    until("those who have left have left", || {
        let left = gateway
            .log
            .kinds()
            .iter()
            .filter(|kind| **kind == "disconnect")
            .count();
        left + 1 == connects()
    })
    .await;
}

#[tokio::test]
async fn bad_frames_close_their_client_and_nobody_else() {
    let gateway = Fixture::start(Settings::default()).await;
    let mut other = connect_as_bob(&gateway).await;
    next(&mut other).await;
    let garbage = Message::Binary(Bytes::from_static(&[250, 1, 2, 3]));
    let truncated = Message::Binary(Bytes::from_static(&[3, 1]));
    for (frame, code) in [(garbage, 1011), (truncated, 1011), (Message::text("hello"), 1003)] {
        let mut client = connect_as_bob(&gateway).await;
        client.send(frame).await.expect("sent");
        let (got, reason) = closed(&mut client).await;
        assert_eq!(got, code, "{reason}");
        assert!(!reason.is_empty());
    }
    let client = connect_as_bob(&gateway).await;
    let (mut sink, mut stream) = client.split();
    let flood = tokio::spawn(async move { sink.send(Message::Binary(vec![3; 40 << 20].into())).await });
    loop {
        match tokio::time::timeout(SOON, stream.next())
            .await
            .expect("in time")
            .expect("a message")
        {
            Ok(Message::Close(Some(frame))) => {
                assert_eq!(u16::from(frame.code), 1009, "{}", frame.reason);
                break;
            }
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let _ = flood.await;
    other.send(call(1)).await.expect("sent");
    assert!(matches!(
        next_server(&mut other).await,
        ServerMessage::CallResult(_)
    ));
}

/// What is no WebSocket, and what should be text.
#[tokio::test]
async fn frames_that_can_not_be_close_their_client() {
    let gateway = Fixture::start(Settings::default()).await;
    // All are masked with zeros: a reserved kind of frame, one without a mask, a continuation of nothing, and text that is none.
    let frames: [(&[u8], u16); 4] = [
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),
        (&[0x82, 0x01, 7], 1002),
        (&[0x80, 0x80, 0, 0, 0, 0], 1002),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
    ];
    for (frame, code) in frames {
        let mut client = connect_as_bob(&gateway).await;
        client.get_mut().write_all(frame).await.expect("sent");
        let (got, reason) = closed(&mut client).await;
        assert_eq!(got, code, "{frame:?}: {reason}");
        assert!(!reason.is_empty());
    }
}

#[tokio::test]
async fn who_offers_nothing_but_json_is_spoken_to_in_json() {
    let gateway = Fixture::start(Settings::default()).await;
    let path = format!("{NAME}/subscribe");
    let mut both = connect(
        &gateway,
        "v1.json.spacetimedb, v1.bsatn.spacetimedb",
        &path,
        Some("good-bob"),
    )
    .await
    .expect("let in");
    assert!(matches!(next(&mut both).await, Message::Binary(_)));
    let mut client = connect(&gateway, "v1.json.spacetimedb", &path, Some("good-bob"))
        .await
        .expect("let in");
    let hello = next(&mut client).await.into_text().expect("text");
    assert!(hello.starts_with(r#"{"IdentityToken":{"identity":"#), "{hello}");
    for (args, expected) in [
        ("[9]", r#"{"Committed":"#),
        ("[-1]", r#"{"Failed":"invalid arguments"#),
    ] {
        let call = serde_json::json!({"reducer": "add", "args": args, "request_id": 1, "flags": 0});
        let call = serde_json::json!({ "CallReducer": call }).to_string();
        client.send(Message::text(call)).await.expect("sent");
        let answer = next(&mut client).await.into_text().expect("text");
        assert!(answer.contains(expected), "{answer}");
    }
    assert_eq!(gateway.log.kinds(), ["connect", "connect", "call"]);
    for (message, code) in [
        (Message::text("{}"), 1011),
        (Message::text(" ".repeat((2 << 20) + 1)), 1009),
        (Message::Binary(Bytes::from_static(&[1])), 1003),
    ] {
        let mut client = connect(&gateway, "v1.json.spacetimedb", &path, Some("good-bob"))
            .await
            .expect("let in");
        client.send(message).await.expect("sent");
        let (got, reason) = closed(&mut client).await;
        assert_eq!(got, code, "{reason}");
    }
}

#[tokio::test]
async fn the_node_says_where_to_go_when_it_stops() {
    let gateway = Fixture::start(Settings::default()).await;
    let mut client = connect_as_bob(&gateway).await;
    next(&mut client).await;
    let stopping = gateway.gateway.clone();
    let stopped = tokio::spawn(async move { stopping.shutdown("leader=2:10.0.0.2:3001".into()).await });
    assert_eq!(closed(&mut client).await, (1001, "leader=2:10.0.0.2:3001".into()));
    tokio::time::timeout(SOON, stopped)
        .await
        .expect("in time")
        .expect("stopped");
    assert_eq!(gateway.metrics.sessions.get(), 0);
    assert!(
        TcpStream::connect(gateway.address).await.is_err(),
        "nobody listens"
    );
}

#[tokio::test]
async fn an_expired_epoch_closes_the_clients_of_now_only() {
    let gateway = Fixture::start(Settings::default()).await;
    let mut client = connect_as_bob(&gateway).await;
    next(&mut client).await;
    gateway
        .gateway
        .close_sessions(rtdb_gateway::CloseReason::restart());
    assert_eq!(closed(&mut client).await.0, 1012);
    let mut again = connect_as_bob(&gateway).await;
    assert!(matches!(
        next_server(&mut again).await,
        ServerMessage::Hello { .. }
    ));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_others_go_on() {
    let gateway = Fixture::start(Settings {
        limits: ClientLimits {
            connections_max: 2,
            ..ClientLimits::default()
        },
        ..Settings::default()
    })
    .await;
    let mut first = connect_as_bob(&gateway).await;
    let second = connect_as_bob(&gateway).await;
    next(&mut first).await;
    for _ in 0..3 {
        let (status, head, body) = gateway.get("/v1/ping").await;
        assert_eq!(status, 503);
        assert!(
            head.contains("retry-after") && body.contains("2 connections"),
            "{head} {body}"
        );
    }
    assert_eq!(gateway.metrics.refused_connections.get(), 3);
    first.send(call(1)).await.expect("sent");
    assert!(matches!(
        next_server(&mut first).await,
        ServerMessage::CallResult(_)
    ));
    drop(second);
    until("there is room again", || gateway.metrics.connections.get() == 1).await;
    assert_eq!(gateway.get("/v1/ping").await.0, 200);
}

#[tokio::test]
async fn a_client_that_leaves_before_it_is_let_in_frees_its_place_and_ends_its_session() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.log.holds.store(true, Ordering::Relaxed);
    let mut gone = connect_as_bob(&gateway).await;
    gone.send(call(1)).await.expect("sent");
    let mut stays = connect_as_bob(&gateway).await;
    stays.send(call(2)).await.expect("sent");
    until("both are on their way", || gateway.log.kinds().len() == 2).await;
    gone.close(None).await.expect("closed");
    drop(gone);
    until("one is gone", || gateway.metrics.connections.get() == 1).await;
    gateway.log.release();
    gateway.log.wait_for("disconnect").await;
    next(&mut stays).await;
    let ServerMessage::CallResult(result) = next_server(&mut stays).await else {
        panic!("what was sent early is lost")
    };
    assert_eq!(result.request_id, 2);
    assert_eq!(
        gateway.log.kinds().iter().filter(|kind| **kind == "call").count(),
        1
    );
}

#[tokio::test]
async fn a_session_that_may_have_begun_is_ended() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.log.answer(|body| {
        let unknown = Unapplied::Unknown {
            why: "nobody knows",
            position: Some(Position(9)),
        };
        matches!(body, Body::Connect(_)).then_some(Err(unknown))
    });
    let mut client = connect_as_bob(&gateway).await;
    assert_eq!(closed(&mut client).await.0, 1012);
    gateway.log.wait_for("disconnect").await;
    let commands = gateway.log.commands.lock();
    assert!(matches!(commands.last(), Some(Body::Disconnect(command)) if command.session == 9));
}

#[tokio::test]
async fn a_node_that_stops_answers_the_calls_under_way() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.log.holds.store(true, Ordering::Relaxed);
    let idle = TcpStream::connect(gateway.address).await.expect("a connection");
    let stopping = gateway.gateway.clone();
    let stop = async {
        gateway.log.wait_for("call").await;
        let stopped = tokio::spawn(async move { stopping.shutdown("shutting down".into()).await });
        let mut idle = idle;
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.expect("the idle one is closed");
        gateway.log.release();
        stopped.await.expect("stopped");
    };
    let ((status, ..), ()) = tokio::join!(gateway.call("add", "[1]"), stop);
    assert_eq!(status, 200);
}

#[tokio::test]
async fn memory_that_is_used_up_ends_those_who_ask_for_more() {
    let gateway = Fixture::start(Settings {
        limits: ClientLimits {
            bytes_max: 1 << 20,
            ..ClientLimits::default()
        },
        ..Settings::default()
    })
    .await;
    let mut client = connect_as_bob(&gateway).await;
    next(&mut client).await;
    let (status, _, body) = gateway.call("add", &format!("[{}1]", " ".repeat(1 << 20))).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("memory"), "{body}");
    assert_eq!(gateway.call("add", "[1]").await.0, 200);

    // Half of a large message.
    let head = [
        &[0x82, 0xff][..],
        &(16u64 << 20).to_be_bytes(),
        &[0; 4],
        &vec![0; 1 << 20],
    ]
    .concat();
    tokio::io::AsyncWriteExt::write_all(client.get_mut(), &head)
        .await
        .expect("sent");
    let (code, reason) = closed(&mut client).await;
    assert_eq!(code, 1013, "{reason}");
    assert!(reason.contains("memory"), "{reason}");
}

#[tokio::test]
async fn memory_is_counted_before_a_client_is_let_in() {
    let gateway = Fixture::start(Settings {
        limits: ClientLimits {
            bytes_max: 4 << 20,
            ..ClientLimits::default()
        },
        ..Settings::default()
    })
    .await;
    gateway.log.holds.store(true, Ordering::Relaxed);
    let mut client = connect_as_bob(&gateway).await;
    client
        .send(Message::Binary(vec![0; 1 << 20].into()))
        .await
        .expect("sent");
    until("it is counted", || gateway.metrics.client_bytes.get() >= 1 << 20).await;
    let mut greedy = connect_as_bob(&gateway).await;
    let _ = greedy.send(Message::Binary(vec![0; 5 << 20].into())).await;
    let (code, reason) = closed(&mut greedy).await;
    assert_eq!(code, 1013, "{reason}");
    until("it is given back", || {
        gateway.metrics.client_bytes.get() < 4 << 20
    })
    .await;
}

#[tokio::test]
async fn calls_that_a_client_sent_before_it_closed_take_effect() {
    let gateway = Fixture::start(Settings::default()).await;
    let mut client = connect_as_bob(&gateway).await;
    next(&mut client).await;
    gateway.log.holds.store(true, Ordering::Relaxed);
    let all = CALLS_MAX + 50;
    for id in 0..all {
        client.feed(call(id as u32)).await.expect("sent");
    }
    client.close(None).await.expect("closed");
    let calls = || gateway.log.kinds().iter().filter(|kind| **kind == "call").count();
    until("there is no room for more", || calls() == CALLS_MAX).await;
    // The close is read meanwhile.
    tokio::time::sleep(Duration::from_millis(100)).await;
    gateway.log.release();
    until("all are proposed", || calls() == all).await;
    gateway.log.wait_for("disconnect").await;
}
