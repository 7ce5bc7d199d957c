//! The HTTP API over fakes: statuses, bodies, and what is proposed.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod fake;

use fake::{Fixture, NAME, PUBLISHED, Settings, identity_of};
use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_consensus::command::{Body, Timer};
use rtdb_consensus::{KEY_KEPT_US_MAX, Position, Refusal, Unapplied};
use rtdb_determinism::header::CallHeader;
use rtdb_gateway::{ClientLimits, Issuers, NotVerified, Publishers, Quotas, Scheduled, Slowed};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const BOB: &str = "authorization: Bearer good-bob\r\n";
const OWNER: &str = "authorization: Bearer good-owner\r\n";

fn failed(message: &str) -> Unapplied {
    Unapplied::Reducer {
        position: Position(77),
        timestamp_us: 1,
        trapped: false,
        message: message.into(),
        execution_us: 0,
        energy: 0,
    }
}

#[tokio::test]
async fn ping_answers_and_browsers_may_ask() {
    let gateway = Fixture::start(Settings::default()).await;
    let (status, head, _) = gateway.get("/v1/ping").await;
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: *"));
    let preflight = "access-control-request-method: POST\r\norigin: http://a\r\n";
    let (status, head, _) = gateway
        .request("OPTIONS /v1/database/x/call/y", preflight, b"")
        .await;
    assert_eq!(status, 200);
    assert!(
        head.contains("access-control-allow-headers: authorization,accept,content-type,idempotency-key"),
        "{head}"
    );
}

#[tokio::test]
async fn before_the_cluster_is_initialised_the_answer_says_what_to_do() {
    let gateway = Fixture::start(Settings {
        ready: false,
        ..Settings::default()
    })
    .await;
    let (status, head, body) = gateway.get(&format!("/v1/database/{NAME}")).await;
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: 1"), "{head}");
    assert!(body.contains("rtdb init"), "{body}");
    assert_eq!(gateway.request("POST /v1/identity", "", b"").await.0, 503);
}

#[tokio::test]
async fn a_database_is_known_by_name_and_identity() {
    let gateway = Fixture::start(Settings::default()).await;
    let identity = identity_of("database").to_hex();
    let (status, head, body) = gateway
        .request(&format!("GET /v1/database/{NAME}/identity"), BOB, b"")
        .await;
    assert_eq!((status, body.as_str()), (200, identity.as_str()));
    assert!(
        head.contains(&format!("spacetime-identity: {}", identity_of("bob").to_hex())),
        "{head}"
    );
    assert!(head.contains("spacetime-identity-token: good-bob"), "{head}");
    let (status, _, body) = gateway.get(&format!("/v1/database/{identity}/names")).await;
    assert_eq!((status, body.as_str()), (200, r#"{"names":["counter"]}"#));
    for path in [
        "/v1/database/nobody",
        "/v1/database/nobody/schema?version=9",
        "/v1/database/nobody/names",
    ] {
        assert_eq!(gateway.get(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_call_beyond_a_quota_is_refused_before_it_is_proposed() {
    let gateway = Fixture::start(Settings {
        lifecycle: true,
        ..Settings::default()
    })
    .await;
    gateway.gateway.set_quotas(Quotas {
        database: NonZeroU32::new(1),
        ..Quotas::default()
    });
    assert_eq!(gateway.call("add", "[1]").await.0, 200);
    let (status, head, body) = gateway.call("add", "[1]").await;
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: 1"), "{head}");
    assert!(body.contains("1 calls a second to one database"), "{body}");
    assert_eq!(gateway.log.kinds(), ["connect", "call", "disconnect"]);
}

#[tokio::test]
async fn a_call_to_a_slowed_database_waits_for_its_turn() {
    let gateway = Fixture::start(Settings::default()).await;
    let slow = |calls| {
        gateway.gateway.slow(&[Slowed {
            database: identity_of("database"),
            calls,
        }]);
    };
    slow(1);
    assert_eq!(gateway.call("add", "[1]").await.0, 200);
    let (answer, ()) = tokio::join!(gateway.call("add", "[2]"), async {
        while gateway.metrics.held_calls.get() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(gateway.log.kinds(), ["call"]);
        slow(1);
    });
    assert_eq!(answer.0, 200);
    assert_eq!(gateway.log.kinds(), ["call", "call"]);
}

#[tokio::test]
async fn a_call_is_proposed_with_its_header_and_answered() {
    let gateway = Fixture::start(Settings::default()).await;
    let (status, head, body) = gateway.call("add", "[9]").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("spacetime-energy-used: 22"), "{head}");
    assert!(head.contains("spacetime-execution-duration-micros: 11"), "{head}");
    assert_eq!(gateway.log.kinds(), ["call"]);
    let commands = gateway.log.commands.lock();
    let Body::Call(call) = &commands[0] else {
        panic!("no call")
    };
    assert_eq!((call.session, call.reducer.as_str()), (0, "add"));
    let header = CallHeader::decode(&call.args).expect("a header");
    assert_eq!(header.sender, identity_of("bob").to_byte_array());
    assert_eq!(&call.args[72..], 9u64.to_le_bytes());
}

/// Bob, and a key.
fn keyed(key: &str) -> String {
    format!("{BOB}content-type: application/json\r\nidempotency-key: {key}\r\n")
}

#[tokio::test]
async fn a_call_with_a_key_is_made_once_and_answered_again() {
    let gateway = Fixture::start(Settings::default()).await;
    let path = |reducer| format!("POST /v1/database/{NAME}/call/{reducer}");
    let call =
        async |headers: &str, args: &str| gateway.request(&path("add"), headers, args.as_bytes()).await;
    assert_eq!(call(&keyed("a"), "[9]").await.0, 200);
    assert_eq!(gateway.log.kinds(), ["call"]);

    // Nobody says what came of it before somebody is asked.
    let quoted = keyed("\"a\"");
    let again = call(&quoted, "[9]");
    let said = async {
        gateway.log.wait_for("asked").await;
        *gateway.log.known.lock() = Some(Err(failed("too large")));
    };
    let (again, ()) = tokio::join!(again, said);
    assert_eq!((again.0, again.2.as_str()), (530, "too large"));
    assert_eq!(call(&keyed("a"), "[9]").await.2, "too large");
    for other in ["[8]", "[9 ]"] {
        let (status, _, body) = call(&keyed("a"), other).await;
        assert_eq!(status, 422, "{body}");
    }
    let (status, _, body) = gateway.request(&path("reset"), &keyed("a"), b"[9]").await;
    assert_eq!(status, 422, "{body}");
    let calls = |kinds: Vec<&str>| kinds.iter().filter(|kind| **kind == "call").count();
    assert_eq!(calls(gateway.log.kinds()), 1);
    assert_eq!(call(&keyed("b"), "[9]").await.0, 200);
    assert_eq!(calls(gateway.log.kinds()), 2);
    // Its time is over.
    gateway
        .log
        .age_us
        .store(KEY_KEPT_US_MAX + 1_000_000, Ordering::Relaxed);
    assert_eq!(call(&keyed("a"), "[8]").await.0, 200);
    assert_eq!(calls(gateway.log.kinds()), 3);
}

#[tokio::test]
async fn the_log_has_the_last_word_on_a_key() {
    let gateway = Fixture::start(Settings::default()).await;
    for (refusal, expected) in [
        (Refusal::KeyTaken, 422),
        (Refusal::TooManyKeys { whose: "a test has" }, 429),
    ] {
        gateway
            .log
            .answer(move |_| Some(Err(Unapplied::Refused(refusal.clone()))));
        let path = format!("POST /v1/database/{NAME}/call/add");
        let (status, _, body) = gateway
            .request(&path, &keyed(&expected.to_string()), b"[9]")
            .await;
        assert_eq!(status, expected, "{body}");
    }
    // It was made through another node, which this one did not know yet.
    let known = gateway.log.clone();
    gateway.log.answer(move |_| {
        *known.known.lock() = Some(Err(failed("no")));
        Some(Err(Unapplied::Refused(Refusal::Repeated)))
    });
    let sql = format!("POST /v1/database/{NAME}/sql");
    let headers = format!("{OWNER}idempotency-key: c\r\n");
    let (status, _, body) = gateway
        .request(&sql, &headers, b"INSERT INTO counter (n) VALUES (7)")
        .await;
    assert_eq!((status, body.as_str()), (400, "no"));
}

#[tokio::test]
async fn a_key_that_is_no_good_is_refused() {
    let gateway = Fixture::start(Settings::default()).await;
    let path = format!("POST /v1/database/{NAME}/call/add");
    let nobody = "content-type: application/json\r\nidempotency-key: a\r\n";
    for (headers, why) in [
        (keyed(""), "must be one key"),
        (keyed("a,b"), "must be one key"),
        (keyed(&"k".repeat(256)), "must be one key"),
        (keyed("a\r\nidempotency-key: b"), "must be one key"),
        (nobody.to_owned(), "needs a token"),
    ] {
        let (status, _, body) = gateway.request(&path, &headers, b"[9]").await;
        assert_eq!(status, 400, "{headers}: {body}");
        assert!(body.contains(why), "{headers}: {body}");
    }
    assert!(gateway.log.kinds().is_empty());
}

#[tokio::test]
async fn what_became_of_a_call_is_asked_by_connection_and_number() {
    let gateway = Fixture::start(Settings::default()).await;
    let get = async |query: &str| {
        let path = format!("GET /v1/database/{NAME}/outcome?{query}");
        gateway.request(&path, BOB, b"").await
    };
    let connection = "connection_id=0123456789abcdef0123456789abcdef";
    let (status, head, body) = get(&format!("{connection}&request_id=7")).await;
    assert_eq!((status, body.as_str()), (200, r#"{"outcome":"unknown"}"#));
    assert!(head.contains("content-type: application/json"), "{head}");
    for bad in [
        "",
        connection,
        "connection_id=x&request_id=7",
        &format!("{connection}&request_id=-1"),
    ] {
        assert_eq!(get(bad).await.0, 400, "{bad}");
    }
    gateway.log.has_leader.store(false, Ordering::Relaxed);
    assert_eq!(get(&format!("{connection}&request_id=7")).await.0, 503);
}

/// The claims in the commands proposed so far.
fn claims(gateway: &Fixture) -> Vec<String> {
    let commands = gateway.log.commands.lock();
    let claims = commands.iter().filter_map(|body| match body {
        Body::Call(call) => Some(call.claims.clone()),
        Body::Connect(connect) => Some(connect.claims.clone()),
        _ => None,
    });
    claims.collect()
}

#[tokio::test]
async fn what_the_token_says_is_proposed_once() {
    let bob = r#"{"iss":"test","sub":"bob"}"#;
    for (lifecycle, takes_claims, proposed) in [
        (false, true, &[bob][..]),
        (true, true, &[bob, ""]),
        (true, false, &["", ""]),
    ] {
        let gateway = Fixture::start(Settings {
            lifecycle,
            takes_claims,
            ..Settings::default()
        })
        .await;
        assert_eq!(gateway.call("add", "[1]").await.0, 200);
        assert_eq!(claims(&gateway), proposed);
    }
    // Nobody came with a token: the one that is made for the call counts.
    let gateway = Fixture::start(Settings::default()).await;
    let request = format!("POST /v1/database/{NAME}/call/add");
    let json = "content-type: application/json\r\n";
    assert_eq!(gateway.request(&request, json, b"[1]").await.0, 200);
    assert_eq!(claims(&gateway), [r#"{"iss":"test","sub":"fresh"}"#]);
}

#[tokio::test]
async fn a_token_that_says_too_much_is_refused() {
    let gateway = Fixture::start(Settings::default()).await;
    let request = format!("POST /v1/database/{NAME}/call/add");
    let user = "x".repeat(rtdb_gateway::limits::CLAIMS_BYTES_MAX);
    let headers = format!("authorization: Bearer good-{user}\r\ncontent-type: application/json\r\n");
    let (status, _, body) = gateway.request(&request, &headers, b"[1]").await;
    assert_eq!(status, 431);
    assert!(body.contains("the cluster takes 16384"), "{body}");
    assert_eq!(gateway.log.kinds(), [""; 0]);
}

#[tokio::test]
async fn calls_that_can_not_be_are_refused_without_the_log() {
    let gateway = Fixture::start(Settings {
        lifecycle: true,
        ..Settings::default()
    })
    .await;
    let (status, _, body) = gateway.call("nothing", "[]").await;
    assert_eq!((status, body.as_str()), (404, "No such procedure"));
    let (status, _, body) = gateway.call("hello", "[]").await;
    assert_eq!(
        (status, body.as_str()),
        (400, "can't directly call special OnConnect lifecycle reducer")
    );
    for args in ["[]", "[\"nine\"]", "[1,2]", "{", "[1] x"] {
        let (status, _, body) = gateway.call("add", args).await;
        assert_eq!(status, 400, "{args}");
        assert!(body.starts_with("invalid arguments for reducer add: "), "{body}");
    }
    let request = format!("POST /v1/database/{NAME}/call/add");
    assert_eq!(
        gateway
            .request(&request, "content-type: text/plain\r\n", b"[1]")
            .await
            .0,
        415
    );
    assert_eq!(gateway.request(&request, "", b"[1]").await.0, 400);
    assert_eq!(gateway.log.kinds(), [""; 0]);
}

#[tokio::test]
async fn a_large_answer_is_counted_until_it_is_taken() {
    let gateway = Fixture::start(Settings::default()).await;
    // An unknown argument's name comes back, several times.
    let args = format!(r#"{{"{}": 1}}"#, "x".repeat(2_000_000));
    let head = format!(
        "POST /v1/database/{NAME}/call/add HTTP/1.0\r\nhost: x\r\nauthorization: Bearer good-bob\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        args.len()
    );
    let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(args.as_bytes()).await.expect("written");
    let held = gateway.metrics.client_bytes.clone();
    fake::until("the answer waits", || held.get() > 6_000_000).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    assert!(answer.len() > 6_000_000, "{}", answer.len());
    fake::until("it is taken", || held.get() == 0).await;
}

#[tokio::test]
async fn a_failing_reducer_and_a_full_log_have_their_statuses() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.log.answer(|_| Some(Err(failed("name required"))));
    let (status, _, body) = gateway.call("add", "[1]").await;
    assert_eq!((status, body.as_str()), (530, "name required"));
    gateway
        .log
        .answer(|_| Some(Err(Unapplied::unknown("the node is stopping"))));
    assert_eq!(gateway.call("add", "[1]").await.0, 504);
    gateway.log.full.store(true, std::sync::atomic::Ordering::Relaxed);
    let (status, head, body) = gateway.call("add", "[1]").await;
    assert_eq!(status, 503);
    assert!(
        head.contains("retry-after: 1") && body.contains("overloaded"),
        "{head} {body}"
    );
}

#[tokio::test]
async fn a_call_of_a_module_with_lifecycle_reducers_connects_and_disconnects() {
    let gateway = Fixture::start(Settings {
        lifecycle: true,
        ..Settings::default()
    })
    .await;
    assert_eq!(gateway.call("add", "[1]").await.0, 200);
    assert_eq!(gateway.log.kinds(), ["connect", "call", "disconnect"]);
    gateway.log.commands.lock().clear();
    gateway
        .log
        .answer(|body| matches!(body, Body::Connect(_)).then(|| Err(failed("banned"))));
    let (status, _, body) = gateway.call("add", "[1]").await;
    assert_eq!((status, body.as_str()), (403, "banned"));
    assert_eq!(gateway.log.kinds(), ["connect", "disconnect refused"]);
}

#[tokio::test]
async fn who_is_answered_has_been_disconnected() {
    let gateway = Fixture::start(Settings {
        lifecycle: true,
        ..Settings::default()
    })
    .await;
    // Whether it is well or not.
    let requests = [
        ("call/add", &b"[1]"[..], 200),
        ("call/add", b"[1]", 530),
        ("sql", b"SELECT", 400),
    ];
    for (path, body, status) in requests {
        if status == 530 {
            let fails = |body: &Body| matches!(body, Body::Call(_)).then(|| Err(failed("no")));
            gateway.log.answer(fails);
        }
        gateway.log.commands.lock().clear();
        gateway
            .log
            .holds_ends
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let request = format!("POST /v1/database/{NAME}/{path}");
        let headers = format!("{OWNER}content-type: application/json\r\n");
        let mut answer = std::pin::pin!(gateway.request(&request, &headers, body));
        tokio::select! {
            (status, ..) = &mut answer => panic!("{path} was answered with {status}"),
            () = gateway.log.wait_for("disconnect") => {}
        }
        assert!(futures::poll!(&mut answer).is_pending(), "{path}");
        gateway.log.release();
        assert_eq!(answer.await.0, status, "{path}");
        let ends = gateway
            .log
            .kinds()
            .into_iter()
            .filter(|kind| *kind == "disconnect");
        assert_eq!(ends.count(), 1, "{path}");
    }
}

#[tokio::test]
async fn a_read_waits_for_what_its_caller_wants_to_see() {
    let gateway = Fixture::start(Settings::default()).await;
    let sql = |wanted: &str| format!("POST /v1/database/{NAME}/sql?{wanted}");
    let query = b"SELECT * FROM counter";
    let (status, head, _) = gateway.call("add", "[1]").await;
    assert_eq!(status, 200);
    let position = head
        .lines()
        .find_map(|line| line.strip_prefix("rafttimedb-position: "))
        .expect("a position")
        .to_owned();
    let after = sql(&format!("after={}", Position::new(1, 0).0));
    assert_eq!(position, "1", "the fake log's first");
    for wanted in [sql("consistency=linearizable"), after] {
        gateway.applied.send_replace(0);
        let mut answer = std::pin::pin!(gateway.request(&wanted, OWNER, query));
        tokio::select! {
            (status, ..) = &mut answer => panic!("{wanted} was answered with {status}"),
            () = fake::until("it waits", || gateway.applied.receiver_count() > 0) => {}
        }
        gateway.applied.send_replace(1);
        // There is no SpacetimeDB.
        assert_eq!(answer.await.0, 503, "{wanted}");
    }
    gateway.applied.send_replace(0);
    assert_eq!(
        gateway.request(&sql("consistency=local"), OWNER, query).await.0,
        503
    );
    let (status, _, body) = gateway.request(&sql("consistency=strong"), OWNER, query).await;
    assert!(
        status == 400 && body.contains("`linearizable`"),
        "{status} {body}"
    );
    gateway
        .log
        .has_leader
        .store(false, std::sync::atomic::Ordering::Relaxed);
    let linearizable = sql("consistency=linearizable");
    let (status, _, body) = gateway.request(&linearizable, OWNER, query).await;
    assert!(status == 503 && body.contains("no leader"), "{status} {body}");
}

#[tokio::test]
async fn settings_are_not_written_by_sql_and_hidden_tables_are_not_there() {
    let gateway = Fixture::start(Settings::default()).await;
    let sql = format!("POST /v1/database/{NAME}/sql");
    let (status, _, body) = gateway.request(&sql, OWNER, b"SET row_limit = 5").await;
    assert_eq!(status, 501);
    assert!(body.contains("`SET`"), "{body}");
    let (status, _, body) = gateway
        .request(&sql, OWNER, b"select 1; DELETE FROM counter")
        .await;
    assert_eq!(
        (status, body.as_str()),
        (400, "Multiple SQL statements are not supported")
    );
    let (status, _, body) = gateway.request(&sql, OWNER, b"SELECT * FROM rtdb_state").await;
    assert_eq!(status, 400);
    assert!(body.starts_with("no such table: `rtdb_state`"), "{body}");
    assert_eq!(
        gateway.request(&sql, OWNER, b"SELECT * FROM counter").await.0,
        503,
        "there is no SpacetimeDB"
    );
}

#[tokio::test]
async fn sql_of_the_owner_s_writes_through_the_log() {
    let gateway = Fixture::start(Settings::default()).await;
    let sql = format!("POST /v1/database/{NAME}/sql");
    let insert = b"INSERT INTO counter (n) VALUES (7)";
    let (status, head, body) = gateway.request(&sql, OWNER, insert).await;
    assert_eq!(status, 200);
    assert!(head.contains("spacetime-execution-duration-micros: "), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let stats = serde_json::json!({ "rows_inserted": 1, "rows_deleted": 2, "rows_updated": 3 });
    assert_eq!(answer[0]["stats"], stats);
    let Body::Write(write) = gateway.log.commands.lock()[0].clone() else {
        panic!("no write");
    };
    assert_eq!(
        (write.sender.len(), write.program.len(), write.table),
        (32, 32, 0)
    );
    for bad in [
        "INSERT INTO counter (n) VALUES ('x')",
        "INSERT INTO counter (n) VALUES (7, 8)",
    ] {
        assert_eq!(gateway.request(&sql, OWNER, bad.as_bytes()).await.0, 400, "{bad}");
    }
    let (status, _, body) = gateway.request(&sql, BOB, insert).await;
    assert_eq!(status, 400);
    assert!(
        body.ends_with("is not authorized to run SQL DML statements"),
        "{body}"
    );
    // Whether the server takes the condition is not known.
    assert_eq!(gateway.request(&sql, OWNER, b"DELETE FROM counter").await.0, 503);
    assert_eq!(gateway.log.kinds(), ["write"]);

    let outcomes = [
        (
            failed("rtdb_taken"),
            400,
            "Unique constraint violation in table 'counter'",
        ),
        (failed("try again"), 400, "try again"),
        (Unapplied::Refused(Refusal::Split), 503, ""),
        (Unapplied::Refused(Refusal::OtherModule), 503, "another module"),
        (Unapplied::unknown("the node stops"), 504, "unknown"),
    ];
    for (outcome, expected, words) in outcomes {
        gateway.log.answer(move |_| Some(Err(outcome.clone())));
        let (status, _, body) = gateway.request(&sql, OWNER, insert).await;
        assert_eq!(status, expected, "{body}");
        assert!(body.contains(words), "{body}");
    }
}

/// 1.2 knows no signs in conditions, for one.
#[tokio::test]
async fn conditions_are_not_for_servers_of_different_versions() {
    let gateway = Fixture::start(Settings {
        mixed_servers: true,
        ..Settings::default()
    })
    .await;
    let sql = format!("POST /v1/database/{NAME}/sql");
    let insert = b"INSERT INTO counter (n) VALUES (7)";
    assert_eq!(gateway.request(&sql, OWNER, insert).await.0, 200);
    let (status, head, body) = gateway
        .request(&sql, OWNER, b"DELETE FROM counter WHERE n > 7")
        .await;
    assert_eq!(status, 503);
    assert!(head.contains("retry-after"), "{head}");
    assert!(body.contains("different versions"), "{body}");
    assert_eq!(gateway.log.kinds(), ["write"]);
}

#[tokio::test]
async fn publishing_is_for_owners_and_modules() {
    let gateway = Fixture::start(Settings::default()).await;
    let named = format!("PUT /v1/database/{NAME}");
    assert_eq!(gateway.request(&named, "", b"\0asm").await.0, 403);
    assert_eq!(gateway.request(&named, BOB, b"\0asm").await.0, 403);
    let (status, _, body) = gateway.request(&named, OWNER, b"\x7fELF\xff").await;
    assert_eq!(status, 400);
    assert!(body.contains("not a WebAssembly module"), "{body}");
    assert_eq!(gateway.request("PUT /v1/database/No_Name", BOB, b"").await.0, 400);
    for (query, status) in [
        ("parent=x", 404),
        ("organization=x", 404),
        ("parent=No_Name", 400),
        ("policy=BreakClients", 400),
        ("policy=Whatever", 400),
        ("policy=BreakClients&token=none", 400),
        ("num_replicas=256", 400),
        ("host_type=Js", 400),
    ] {
        assert_eq!(
            gateway.request(&format!("{named}?{query}"), OWNER, b"").await.0,
            status,
            "{query}"
        );
    }
    assert_eq!(gateway.log.kinds(), [""; 0]);
}

#[tokio::test]
async fn who_may_create_databases_is_the_operators_to_say() {
    let wasm = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../modules/counter-1x/counter-1x.wasm"
    ))
    .unwrap();
    let gateway = Fixture::start(Settings::default()).await;
    let bob = Publishers::from_str(&identity_of("bob").to_hex()).unwrap();
    gateway.gateway.set_publishers(bob);
    let stranger = "authorization: Bearer good-stranger\r\n";
    for (request, caller, status) in [
        ("PUT /v1/database/mine".to_owned(), stranger, 403),
        ("POST /v1/database".to_owned(), stranger, 403),
        (
            format!("PUT /v1/database/{}", identity_of("free").to_hex()),
            OWNER,
            403,
        ),
        // Others' databases are no more theirs than before, and the owner's no less.
        (format!("PUT /v1/database/{NAME}"), BOB, 403),
        (format!("PUT /v1/database/{NAME}"), OWNER, 200),
        (format!("PUT /v1/database/{NAME}?clear=true"), OWNER, 200),
    ] {
        let before = gateway.log.commands.lock().len();
        let (got, _, body) = gateway.request(&request, caller, &wasm).await;
        assert_eq!(got, status, "{request}: {body}");
        assert_eq!(
            gateway.log.commands.lock().len() > before,
            status == 200,
            "{request}"
        );
    }
    let (status, _, body) = gateway.request("PUT /v1/database/mine", stranger, &wasm).await;
    assert_eq!((status, body.contains("--publishers")), (403, true), "{body}");
    // What becomes of his is the log's to say, which knows no such answer here.
    let (status, ..) = gateway.request("PUT /v1/database/mine", BOB, &wasm).await;
    assert_ne!(status, 403);
}

#[tokio::test]
async fn who_has_a_plan_may_break_clients() {
    let wasm = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../modules/counter-1x/counter-1x.wasm"
    ))
    .unwrap();
    let token = spacetimedb_lib::hash_bytes("a plan");
    let breaking = format!(
        "PUT /v1/database/{NAME}?policy=BreakClients&token={:#x}",
        token.to_u256()
    );
    let gateway = Fixture::start(Settings::default()).await;
    let without = format!("PUT /v1/database/{NAME}?policy=BreakClients");
    let (status, _, body) = gateway.request(&without, OWNER, &wasm).await;
    assert_eq!(status, 400);
    assert!(body.ends_with("but no migration token was provided."), "{body}");
    assert_eq!(gateway.request(&breaking, BOB, &wasm).await.0, 403);
    let compatible = format!("PUT /v1/database/{NAME}?policy=Compatible");
    // What is cleared has no clients to be broken.
    let clear = format!("{breaking}&clear=true");
    for request in [&breaking, &compatible, &clear] {
        assert_eq!(gateway.request(request, OWNER, &wasm).await.0, 200, "{request}");
    }
    let commands = std::mem::take(&mut *gateway.log.commands.lock());
    let published = commands.iter().filter_map(|body| match body {
        Body::Publish(publish) => Some((publish.program.to_vec(), publish.token.to_vec())),
        _ => None,
    });
    let program = spacetimedb_lib::hash_bytes(&wasm).data.to_vec();
    let tokens = [token.data.to_vec(), Vec::new(), Vec::new()];
    assert!(published.eq(tokens.map(|token| (program.clone(), token))));

    let old = Fixture::start(Settings {
        plans_updates: false,
        ..Settings::default()
    })
    .await;
    assert_eq!(old.request(&breaking, OWNER, &wasm).await.0, 501);
    assert_eq!(old.log.kinds(), [""; 0]);
}

#[tokio::test]
async fn a_locked_database_stays_as_it_is() {
    let gateway = Fixture::start(Settings::default()).await;
    for path in ["lock", "unlock"] {
        let request = format!("POST /v1/database/{NAME}/{path}");
        assert_eq!(gateway.request(&request, BOB, b"").await.0, 403);
        assert_eq!(gateway.request(&request, OWNER, b"").await.0, 200);
        let nobody = format!("POST /v1/database/nobody/{path}");
        assert_eq!(gateway.request(&nobody, OWNER, b"").await.0, 404);
    }
    let locks = gateway.meta.commands.lock().clone();
    let locks = locks.iter().map(|body| match body {
        Body::SetLock(lock) => lock.locked,
        _ => panic!("no lock"),
    });
    assert!(locks.eq([true, false]));

    let locked = Fixture::start(Settings {
        locked: true,
        ..Settings::default()
    })
    .await;
    for (method, path, does) in [
        ("DELETE", "", "deleted"),
        ("PUT", "?clear=true", "reset"),
        ("PUT", "/reset", "reset"),
    ] {
        let request = format!("{method} /v1/database/{NAME}{path}");
        let (status, _, body) = locked.request(&request, OWNER, b"\0asm").await;
        assert_eq!(status, 403);
        assert!(
            body.contains(does) && body.contains("`spacetime unlock`"),
            "{body}"
        );
    }
    assert_eq!(locked.log.kinds(), [""; 0]);
    assert_eq!(locked.meta.kinds(), [""; 0]);
}

#[tokio::test]
async fn a_reset_clears_what_is_there_and_makes_nothing() {
    let wasm = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../modules/counter-1x/counter-1x.wasm"
    ))
    .unwrap();
    let gateway = Fixture::start(Settings::default()).await;
    let reset = format!("PUT /v1/database/{NAME}/reset");
    assert_eq!(gateway.request(&reset, BOB, &wasm).await.0, 403);
    assert_eq!(gateway.request(&reset, OWNER, b"").await.0, 400);
    let nothing = "PUT /v1/database/nothing/reset";
    assert_eq!(gateway.request(nothing, OWNER, &wasm).await.0, 404);
    assert_eq!(gateway.log.kinds(), [""; 0]);
    assert_eq!(gateway.meta.kinds(), [""; 0]);

    // Larger than other bodies may be.
    let large = [&wasm[..], &padding(3 << 20)].concat();
    for module in [&wasm, &large] {
        let (status, _, body) = gateway.request(&reset, OWNER, module).await;
        assert_eq!(status, 200, "{body}");
        assert!(body.ends_with(r#","op":"updated"}}"#), "{body}");
    }
    let commands = gateway.log.commands.lock().clone();
    let published = commands.iter().filter_map(|body| match body {
        Body::Publish(publish) => Some((publish.clear, publish.program.to_vec())),
        _ => None,
    });
    let programs = [&wasm, &large].map(|module| spacetimedb_lib::hash_bytes(module).data.to_vec());
    assert!(published.eq(programs.map(|program| (true, program))));
}

/// A section of so many bytes that says nothing.
fn padding(bytes: u32) -> Vec<u8> {
    let leb = |mut number: u32| {
        let mut leb = Vec::new();
        while number >= 0x80 {
            leb.push(number as u8 | 0x80);
            number >>= 7;
        }
        leb.push(number as u8);
        leb
    };
    // Its name has no letters.
    [&[0][..], &leb(bytes + 1), &[0], &vec![0; bytes as usize]].concat()
}

#[tokio::test]
async fn a_module_has_one_nan_where_processors_differ() {
    let wasm = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../modules/walks-1x/walks-1x.wasm"
    ))
    .unwrap();
    let mut published = Vec::new();
    for mixed_processors in [false, true] {
        // A cluster that has just begun: what its nodes know of is waited for.
        let gateway = Fixture::start(Settings {
            mixed_processors,
            unheard: 3,
            ..Settings::default()
        })
        .await;
        let named = format!("PUT /v1/database/{NAME}");
        assert_eq!(gateway.request(&named, OWNER, &wasm).await.0, 200);
        let commands = gateway.log.commands.lock();
        let modules = commands.iter().filter_map(|body| match body {
            Body::Publish(publish) => Some(publish.module.clone()),
            _ => None,
        });
        published.extend(modules);
    }
    let options = rtdb_determinism::Options {
        canonical_nan: true,
        calls_at_once: true,
        ..Default::default()
    };
    let canonical = rtdb_determinism::prepare_with(&wasm, &options).unwrap().wasm;
    assert_eq!(published.len(), 2);
    assert_ne!(published[0], published[1]);
    assert_eq!(published[1], canonical);
}

#[tokio::test]
async fn names_and_the_end_of_a_database_are_the_owners() {
    let gateway = Fixture::start(Settings::default()).await;
    let names = format!("PUT /v1/database/{NAME}/names");
    let json = "content-type: application/json\r\n";
    assert_eq!(
        gateway
            .request(&names, &format!("{BOB}{json}"), b"[\"b\"]")
            .await
            .0,
        401
    );
    let (status, _, body) = gateway
        .request(&names, &format!("{OWNER}{json}"), b"[\"b\"]")
        .await;
    assert_eq!((status, body.as_str()), (200, "\"Success\""));
    gateway
        .meta
        .answer(|_| Some(Err(Unapplied::Refused(Refusal::NameTaken("b".into())))));
    assert_eq!(
        gateway
            .request(&names, &format!("{OWNER}{json}"), b"[\"b\"]")
            .await
            .0,
        400
    );
    gateway.meta.answer(|_| None);
    assert_eq!(
        gateway
            .request(&format!("DELETE /v1/database/{NAME}"), BOB, b"")
            .await
            .0,
        403
    );
    assert_eq!(
        gateway
            .request(&format!("DELETE /v1/database/{NAME}"), OWNER, b"")
            .await
            .0,
        200
    );
    assert_eq!(gateway.log.kinds(), ["delete"]);
    assert_eq!(gateway.meta.kinds(), ["names", "names", "end"]);
}

#[tokio::test]
async fn a_database_ends_for_good_before_it_is_deleted() {
    let gateway = Fixture::start(Settings::default()).await;
    let delete = format!("DELETE /v1/database/{NAME}");
    assert_eq!(gateway.request(&delete, OWNER, b"").await.0, 200);
    assert!(matches!(&gateway.meta.commands.lock()[..], [Body::EndDatabase(end)] if end.born == 7));
    assert!(matches!(&gateway.log.commands.lock()[..], [Body::Delete(delete)] if delete.before == 8));
    // Somebody else was faster; or the shard takes nothing now: it is decided all the same.
    let gone = |_: &Body| Some(Err(Unapplied::Refused(Refusal::NoSuchDatabase)));
    gateway.meta.answer(gone);
    gateway.log.answer(gone);
    assert_eq!(gateway.request(&delete, OWNER, b"").await.0, 200);
    gateway.log.full.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(gateway.request(&delete, OWNER, b"").await.0, 200);
    gateway
        .meta
        .full
        .store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(gateway.request(&delete, OWNER, b"").await.0, 503);
    let absent = format!("DELETE /v1/database/{}", identity_of("nobody").to_hex());
    assert_eq!(gateway.request(&absent, BOB, b"").await.0, 200);
    assert_eq!(
        gateway.request("DELETE /v1/database/nobody", BOB, b"").await.0,
        404
    );
}

#[tokio::test]
async fn a_cluster_with_old_nodes_deletes_as_it_did() {
    let gateway = Fixture::start(Settings {
        ends: false,
        ..Settings::default()
    })
    .await;
    let delete = format!("DELETE /v1/database/{NAME}");
    assert_eq!(gateway.request(&delete, OWNER, b"").await.0, 200);
    assert_eq!(gateway.meta.kinds(), ["names"]);
    assert!(matches!(&gateway.log.commands.lock()[..], [Body::Delete(delete)] if delete.before == 0));
}

#[tokio::test]
async fn names_are_added_to_those_that_are_there() {
    let gateway = Fixture::start(Settings::default()).await;
    let names = format!("/v1/database/{NAME}/names");
    let attempts = std::sync::atomic::AtomicUsize::new(0);
    gateway.meta.answer(move |_| {
        let is_first = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        is_first.then_some(Err(Unapplied::Refused(Refusal::NamesChanged)))
    });
    let (status, _, body) = gateway.request(&format!("POST {names}"), OWNER, b"more").await;
    assert_eq!(status, 200, "{body}");
    for body in gateway.meta.commands.lock().iter() {
        let Body::SetNames(set) = body else {
            panic!("{body:?}")
        };
        let replaced = set.replaced.as_ref().expect("what is replaced");
        assert_eq!((replaced.born, &replaced.names[..]), (7, &[NAME.to_owned()][..]));
        assert_eq!(set.names, [NAME, "more"]);
    }
    assert_eq!(gateway.meta.kinds(), ["names", "names"]);
    // Others change them all the time.
    gateway
        .meta
        .answer(|_| Some(Err(Unapplied::Refused(Refusal::NamesChanged))));
    assert_eq!(
        gateway.request(&format!("POST {names}"), OWNER, b"more").await.0,
        503
    );
    // A name that it has already is in use, as natively.
    let json = format!("{OWNER}content-type: application/json\r\n");
    let body = format!(r#"["{NAME}"]"#);
    let (status, _, body) = gateway
        .request(&format!("PUT {names}"), &json, body.as_bytes())
        .await;
    assert_eq!(status, 400);
    assert!(body.contains("already is in use"), "{body}");
}

#[tokio::test]
async fn a_database_has_no_more_names_than_may_be_read_with_each_request() {
    let gateway = Fixture::start(Settings::default()).await;
    let names = format!("/v1/database/{NAME}/names");
    let json = format!("{OWNER}content-type: application/json\r\n");
    let set = async |names_to_set: Vec<String>| {
        let body = serde_json::to_vec(&names_to_set).expect("JSON");
        gateway.request(&format!("PUT {names}"), &json, &body).await
    };
    let many = |count: usize| (0..count).map(|n| format!("n{n}")).collect();
    assert_eq!(set(many(1_024)).await.0, 200);
    let (status, _, body) = set(many(1_025)).await;
    assert!(status == 400 && body.contains("1024 names"), "{body}");
    assert_eq!(set(vec!["n".repeat(70_000)]).await.0, 400);
    let long = "n".repeat(70_000);
    let add = format!("POST {names}");
    assert_eq!(gateway.request(&add, OWNER, long.as_bytes()).await.0, 400);
    assert_eq!(gateway.meta.kinds(), ["names"]);
}

#[tokio::test]
async fn a_body_in_many_small_pieces_counts_as_what_it_takes() {
    let gateway = Fixture::start(Settings {
        limits: ClientLimits {
            bytes_max: 1 << 20,
            ..ClientLimits::default()
        },
        ..Settings::default()
    })
    .await;
    let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
    let head = format!("POST /v1/database/{NAME}/call/add HTTP/1.1\r\nhost: x\r\n{OWNER}");
    let head = format!("{head}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("written");
    let (mut reads, mut writes) = stream.split();
    let pieces = "1\r\n \r\n".repeat(1 << 20 >> 4);
    let (sent, answer) = tokio::join!(writes.write_all(pieces.as_bytes()), async {
        let mut answer = [0; 12];
        reads.read_exact(&mut answer).await.map(|_| answer)
    });
    drop(sent);
    assert_eq!(&answer.expect("an answer"), b"HTTP/1.1 503");
}

#[tokio::test]
async fn what_there_is_not_is_not_found() {
    let gateway = Fixture::start(Settings::default()).await;
    assert_eq!(gateway.get(&format!("/v1/database/{NAME}/nothing")).await.0, 404);
    assert_eq!(gateway.get("/v1/nothing").await.0, 404);
}

#[tokio::test]
async fn bad_tokens_are_refused() {
    let gateway = Fixture::start(Settings::default()).await;
    for (token, expected) in [("rubbish", 401), ("expired-bob", 401), ("foreign-bob", 401)] {
        let header = format!("authorization: Bearer {token}\r\n");
        let (status, _, _) = gateway
            .request(&format!("GET /v1/database/{NAME}/names"), &header, b"")
            .await;
        assert_eq!(status, expected, "{token}");
    }
    assert_eq!(
        gateway
            .request(
                &format!("GET /v1/database/{NAME}/names"),
                "authorization: Basic x\r\n",
                b""
            )
            .await
            .0,
        400
    );
}

/// Takes the tokens of bob alone.
struct OfBob;

impl Issuers for OfBob {
    fn verify<'a>(&'a self, token: &'a str, issuer: &'a str) -> BoxFuture<'a, Result<(), NotVerified>> {
        assert_eq!(issuer, "test");
        std::future::ready(match token {
            "foreign-bob" => Ok(()),
            "foreign-ann" => Err(NotVerified::Busy("too many".to_owned())),
            _ => Err(NotVerified::Refused("not good".to_owned())),
        })
        .boxed()
    }
}

#[tokio::test]
async fn tokens_of_others_are_for_their_issuers_to_judge() {
    let gateway = Fixture::start(Settings::default()).await;
    gateway.gateway.set_issuers(Arc::new(OfBob));
    let names = format!("GET /v1/database/{NAME}/names");
    for (user, status, told) in [
        ("bob", 200, "counter"),
        ("ann", 503, "too many"),
        ("eve", 401, "not good"),
    ] {
        let header = format!("authorization: Bearer foreign-{user}\r\n");
        let answer = gateway.request(&names, &header, b"").await;
        assert_eq!(answer.0, status, "{user}");
        assert!(answer.2.contains(told), "{}", answer.2);
        if status == 200 {
            let identity = identity_of(user).to_hex();
            assert!(answer.1.contains(identity.as_str()), "{}", answer.1);
            assert!(
                answer.1.contains("spacetime-identity-token: foreign-bob"),
                "{}",
                answer.1
            );
        }
        // Where nobody is let in, too.
        let verify = format!("GET /v1/identity/{}/verify", identity_of(user).to_hex());
        let answer = gateway.request(&verify, &header, b"").await;
        assert_eq!(answer.0, if user == "bob" { 503 } else { status }, "{}", answer.2);
    }
}

#[tokio::test]
async fn a_row_is_not_looked_for_in_another_module_than_it_was_due_in() {
    let gateway = Fixture::start(Settings::default()).await;
    let turns = Arc::new(Semaphore::new(1));
    for (module, expected) in [(PUBLISHED.0, "not served"), (PUBLISHED.0 - 1, "updated")] {
        let timer = Timer {
            database: identity_of("database").to_byte_array().to_vec().into(),
            module,
            ..Timer::default()
        };
        let turn = turns.clone().try_acquire_owned().expect("nobody has it");
        let Scheduled::NotRun(why) = gateway.gateway.run_scheduled(timer, turn).await else {
            panic!("there is no server")
        };
        assert!(why.contains(expected), "{why}");
    }
}
