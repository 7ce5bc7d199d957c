//! Procedures, against a plain server: the same answers, updates and rows.

use super::cluster::{self, Pair};
use super::{Client, SOON, fixture, hex, publish_module, request, rows, unordered};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client;
use rtdb_protocol::server::{ProcedureOutcome, ServerMessage};
use serde_json::{Value, json};
use spacetimedb_lib::bsatn;
use spacetimedb_sats::{SumValue, product};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MODULE: &str = "procedures-2x";
const DATABASE: &str = "procedures";

fn put(key: i32, team: u8, text: &str) -> Value {
    json!({"put": [0, key, team, text]})
}

/// What is called over HTTP, one after the other.
fn calls() -> Vec<(&'static str, Value)> {
    let mixed = json!([
        put(1, 1, "one"),
        put(2, 1, "two"),
        put(2, 2, "taken"),
        {"change": [0, 1, 3, "changed"]},
        {"put": [9, 3, 3, "given"]},
        {"write": "a"},
        {"write": "a"},
        {"write": "b"},
        {"erase": "b"},
        {"ping": 7},
    ]);
    vec![
        ("run", json!([mixed])),
        ("count", json!([])),
        ("reduce", json!([[put(4, 4, "by a reducer")]])),
        (
            "run_twice",
            json!([[put(5, 5, "x")], 20, [put(6, 5, "y"), {"disband": 3}]]),
        ),
        ("roll_back", json!([[put(7, 7, "never"), {"eraseAll": []}]])),
        ("roll_back", json!([[]])),
        ("run", json!([[{"remove": 1}, {"remove": 99}]])),
        ("run", json!([[]])),
        ("explode", json!([[put(8, 8, "once")]])),
        ("run", json!([[put(10, 1, "after")]])),
        ("caller", json!([])),
        ("nothing", json!([])),
        ("run", json!([])),
        ("run", json!([[put(11, 1, "z")], 5])),
        ("fetch", json!(["http://foo.invalid/"])),
        ("fetch", json!(["http://127.0.0.1:1/"])),
        ("fetch", json!(["no url"])),
    ]
}

async fn call(address: SocketAddr, token: &str, name: &str, args: &[u8]) -> (u16, String) {
    let path = format!("POST /v1/database/{DATABASE}/call/{name}");
    let (status, body) = request(address, &path, token, args).await;
    (status, without_addresses(&body))
}

/// A trap's text, without the addresses in the module: the prepared one has others.
fn without_addresses(text: &str) -> String {
    text.split("\n    0:").next().unwrap_or_default().to_owned()
}

/// All rows but for generated numbers: natively, what fails or is rolled back uses numbers up.
async fn all_rows(address: SocketAddr, token: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (table, columns) in [("item", "key, team, text"), ("note", "text")] {
        let path = format!("POST /v1/database/{DATABASE}/sql");
        let query = format!("SELECT {columns} FROM {table}");
        let (status, body) = request(address, &path, token, query.as_bytes()).await;
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        let rows = answer[0]["rows"].as_array().expect("rows").iter();
        all.extend(rows.map(|row| format!("{table} {row}")));
    }
    all.sort();
    all
}

fn put_bsatn(key: i32) -> SumValue {
    SumValue::new(0, product![0_u64, key, 9_u8, format!("of {key}")])
}

fn ops(ops: &[SumValue]) -> Vec<u8> {
    let mut args = (ops.len() as u32).to_le_bytes().to_vec();
    ops.iter()
        .for_each(|op| args.extend(bsatn::to_vec(op).expect("it encodes")));
    args
}

/// What a client that has subscribed sees of procedures and calls, in order.
async fn script(address: SocketAddr, subprotocol: Subprotocol, token: &str, from: i32) -> Vec<String> {
    let mut client = Client::connect(address, DATABASE, subprotocol, token).await;
    client.sees().await;
    let procedure = |name: &str, args: &[u8], id: u32| client::call_procedure(subprotocol, name, &[args], id);
    let mut seen = Vec::new();
    // Before there is a subscription.
    client.send(procedure("run", &ops(&[put_bsatn(from)]), 1)).await;
    seen.push(see(&mut client).await);
    client
        .subscribe(&["SELECT * FROM item", "SELECT * FROM note"], 7, 2)
        .await;
    client.next().await;
    for (id, args) in [(3, ops(&[put_bsatn(from + 1)])), (4, ops(&[])), (5, vec![1])] {
        client.send(procedure("run", &args, id)).await;
        seen.push(see(&mut client).await);
        if id == 3 {
            seen.push(see(&mut client).await);
        }
    }
    // Its own calls before and behind: the order is that in which they were made.
    client.call("reduce", &ops(&[put_bsatn(from + 2)]), 6).await;
    client.send(procedure("count", &[], 7)).await;
    for _ in 0..2 {
        seen.push(see(&mut client).await);
    }
    let pause = 50_u64.to_le_bytes();
    let twice = [
        &ops(&[put_bsatn(from + 3)])[..],
        &pause,
        &ops(&[put_bsatn(from + 4)]),
    ]
    .concat();
    client.send(procedure("run_twice", &twice, 8)).await;
    for _ in 0..3 {
        seen.push(see(&mut client).await);
    }
    client
        .send(procedure("explode", &ops(&[put_bsatn(from + 5)]), 9))
        .await;
    for _ in 0..2 {
        seen.push(see(&mut client).await);
    }
    client.send(procedure("reduce", &ops(&[]), 10)).await;
    seen.push(see(&mut client).await);
    seen
}

async fn see(client: &mut Client) -> String {
    let message = client.next().await;
    match message {
        ServerMessage::Procedure(result) => {
            let outcome = match result.outcome {
                ProcedureOutcome::Returned(value) => hex(&value),
                ProcedureOutcome::Internal(why) => without_addresses(&why),
                other => format!("{other:?}"),
            };
            format!("procedure {} {outcome}", result.request_id)
        }
        ServerMessage::Update(update) => format!("update {:?}", rows(update.changes())),
        ServerMessage::CallResult(result) => {
            format!("call {} {:?}", result.request_id, rows(&result.changes))
        }
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn procedures_do_what_they_do_natively() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    if pair.newest == Subprotocol::V1 {
        eprintln!("passed over: this SpacetimeDB has no procedures");
        return pair.stop().await;
    }
    let owner = pair.tokens.fresh().expect("a token").token;
    let other = pair.tokens.fresh().expect("a token").token;
    publish_module(&pair, fixture(MODULE), DATABASE, &owner).await;
    let mut differences = Vec::new();
    for (name, args) in calls() {
        let plain = call(pair.plain, &other, name, args.to_string().as_bytes()).await;
        let args = args.to_string();
        let gateway = call(pair.gateway, &other, name, args.as_bytes()).await;
        if plain != gateway {
            differences.push(format!("{name} {args}\n  {plain:?}\n  {gateway:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(
        all_rows(pair.plain, &owner).await,
        all_rows(pair.gateway, &owner).await
    );

    for (subprotocol, from) in Subprotocol::ALL.into_iter().zip((100..).step_by(10)) {
        let [plain, gateway] = [pair.plain, pair.gateway].map(|at| script(at, subprotocol, &other, from));
        assert_eq!(plain.await, gateway.await, "{subprotocol}");
    }
    assert_eq!(
        all_rows(pair.plain, &owner).await,
        all_rows(pair.gateway, &owner).await
    );
    for version in [9, 10] {
        let schema = format!("GET /v1/database/{DATABASE}/schema?version={version}");
        let [plain, gateway] = [pair.plain, pair.gateway].map(|at| request(at, &schema, &owner, b""));
        let read = |schema: &str| unordered(serde_json::from_str(schema).expect("JSON"));
        assert_eq!(read(&plain.await.1), read(&gateway.await.1), "{version}");
    }

    // What a plain server's database would not survive, and what never ends.
    let (status, body) = call(pair.gateway, &other, "hold", b"[]").await;
    assert_eq!(status, 500, "{body}");
    let (status, _) = call(pair.gateway, &other, "run", b"[[]]").await;
    assert_eq!(status, 200);
    pair.stop().await;
}

/// Calls that come between run a transaction once more; a server that dies takes procedures along, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn procedures_take_their_place_among_calls_and_die_with_their_server() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    if pair.newest == Subprotocol::V1 {
        eprintln!("passed over: this SpacetimeDB has no procedures");
        return pair.stop().await;
    }
    let owner = pair.tokens.fresh().expect("a token").token;
    publish_module(&pair, fixture(MODULE), DATABASE, &owner).await;
    let run = |key: i32| {
        let (owner, args) = (owner.clone(), json!([[put(key, 1, "x")]]).to_string());
        let at = pair.gateway;
        async move { call(at, &owner, "run", args.as_bytes()).await }
    };
    // All at once, among calls: those that come between run again, in a turn of their own.
    let reduce = |key: i32| {
        let (owner, args) = (owner.clone(), json!([[put(key, 2, "y")]]).to_string());
        let at = pair.gateway;
        async move { call(at, &owner, "reduce", args.as_bytes()).await }
    };
    let calls = futures::future::join_all((20..40).map(reduce));
    let (ran, called) = futures::join!(futures::future::join_all((0..16).map(run)), calls);
    for (status, body) in ran.into_iter().chain(called) {
        assert_eq!(status, 200, "{body}");
    }
    let keys = async || {
        let rows = all_rows(pair.gateway, &owner).await;
        let key = |row: &String| {
            let columns = row.strip_prefix("item [")?;
            columns.split(',').next()?.parse::<i32>().ok()
        };
        let mut keys: Vec<_> = rows.iter().filter_map(key).collect();
        keys.sort_unstable();
        keys
    };
    let all: Vec<_> = (0..16).chain(20..40).collect();
    assert_eq!(keys().await, all);

    // Whose module is updated meanwhile can't go on.
    let overtaken = {
        let (at, owner) = (pair.gateway, owner.clone());
        let args = json!([[put(70, 1, "x")], 1_500, [put(71, 1, "x")]]).to_string();
        tokio::spawn(async move { call(at, &owner, "run_twice", args.as_bytes()).await })
    };
    let deadline = tokio::time::Instant::now() + SOON;
    while !keys().await.contains(&70) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "its first transaction comes"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let another = [&fixture(MODULE)[..], &[0, 6, 5], b"build"].concat();
    let publish = format!("PUT /v1/database/{DATABASE}");
    let (status, body) = request(pair.gateway, &publish, &owner, &another).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = overtaken.await.expect("an answer");
    assert!((500..=503).contains(&status), "{status} {body}");
    assert_eq!(run(72).await.0, 200);
    let now = keys().await;
    assert!(
        now.contains(&70) && now.contains(&72) && !now.contains(&71),
        "{now:?}"
    );

    let sleeping = {
        let (at, owner) = (pair.gateway, owner.clone());
        let args = json!([[put(50, 1, "x")], 600_000, [put(51, 1, "x")]]).to_string();
        tokio::spawn(async move { call(at, &owner, "run_twice", args.as_bytes()).await })
    };
    let deadline = tokio::time::Instant::now() + SOON;
    while !keys().await.contains(&50) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "its first transaction comes"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    pair.kill_server();
    let (status, body) = sleeping.await.expect("an answer");
    assert_eq!(status, 503, "{body}");
    let mut again = run(60).await;
    while again.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline + SOON, "{again:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        again = run(60).await;
    }
    let now = keys().await;
    assert!(
        now.contains(&50) && now.contains(&60) && !now.contains(&51),
        "{now:?}"
    );
    pair.stop().await;
}

/// Natively it holds its database until the server ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_procedure_that_never_ends_holds_nobody_up() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    if pair.newest == Subprotocol::V1 {
        eprintln!("passed over: this SpacetimeDB has no procedures");
        return pair.stop().await;
    }
    let owner = pair.tokens.fresh().expect("a token").token;
    publish_module(&pair, fixture(MODULE), DATABASE, &owner).await;
    let at = pair.gateway;
    let calls = async |keys: std::ops::Range<i32>| {
        for key in keys {
            let args = json!([[put(key, 2, "y")]]).to_string();
            let (status, body) = call(at, &owner, "reduce", args.as_bytes()).await;
            assert_eq!(status, 200, "{body}");
        }
    };
    // With a transaction open it can't let others go first, and is ended soon.
    let (within, ()) = futures::join!(call(at, &owner, "spin_within", b"[]"), calls(0..2));
    assert_eq!(within.0, 500, "{within:?}");
    let logs = format!("GET /v1/database/{DATABASE}/logs?num_lines=100");
    let (_, said) = request(at, &logs, &owner, b"").await;
    assert!(said.contains("100000000000 units"), "{said}");
    assert!(said.contains("10000000000 in a transaction"), "{said}");

    // As many calls as it would take long to make if they had to wait for it.
    let owner_too = owner.clone();
    let mut endless = std::pin::pin!(call(at, &owner_too, "spin", b"[]"));
    tokio::select! {
        ended = &mut endless => panic!("it goes on meanwhile: {ended:?}"),
        () = calls(2..50) => {}
    }
    pair.stop().await;
}

/// The server asks no address of this machine or its network, but through a proxy any that there is a name for: so these run
/// once more with one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_procedure_fetches_is_found_as_natively() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = proxy.local_addr().expect("an address");
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = proxy.accept().await.expect("a connection");
            tokio::spawn(found(stream));
        }
    });
    let this = std::env::current_exe().expect("this program");
    let again = tokio::process::Command::new(this)
        .args(["--exact", "procedures::fetched", "--ignored", "--nocapture"])
        .env("http_proxy", format!("http://{address}"))
        .env("HTTP_PROXY", format!("http://{address}"))
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .output();
    let output = again.await.expect("it runs");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    serving.abort();
}

/// Answers a request with what was asked for.
async fn found(mut stream: TcpStream) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => asked.push(byte),
            Err(_) => return,
        }
    }
    let asked = String::from_utf8_lossy(&asked).into_owned();
    let body = format!("found: {}", asked.lines().next().unwrap_or_default());
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by what_a_procedure_fetches_is_found_as_natively, with a proxy"]
async fn fetched() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    if pair.newest == Subprotocol::V1 {
        eprintln!("passed over: this SpacetimeDB has no procedures");
        return pair.stop().await;
    }
    let owner = pair.tokens.fresh().expect("a token").token;
    publish_module(&pair, fixture(MODULE), DATABASE, &owner).await;
    for address in [pair.plain, pair.gateway] {
        let args = json!(["http://somewhere.example/a?b=c"]).to_string();
        let answer = call(address, &owner, "fetch", args.as_bytes()).await;
        let found = r#"[0,"found: GET http://somewhere.example/a?b=c HTTP/1.1"]"#;
        assert_eq!(answer, (200, found.to_owned()));
    }
    pair.stop().await;
}
