//! HTTP handlers, against a plain server: the same answers, head and body, and the same rows.

use super::cluster::{self, Pair};
use super::{SOON, fixture, publish_module, request, unordered};
use rtdb_protocol::Subprotocol;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MODULE: &str = "handlers-2x";
const DATABASE: &str = "handled";

/// A request: its method, what follows the database in its path, its headers, and its body.
type Ask<'a> = (&'a str, &'a str, &'a str, &'a [u8]);

/// What is asked, one after the other.
const ASKS: &[Ask<'_>] = &[
    ("GET", "/route", "", b""),
    ("DELETE", "/route", "", b""),
    ("GET", "/route/", "", b""),
    ("POST", "/route/", "", b""),
    ("GET", "/route//", "", b""),
    ("GET", "/route/hello", "", b""),
    ("GET", "/route/hello/", "", b""),
    ("GET", "/route//hello", "", b""),
    ("GET", "/route/hello?x=1", "", b""),
    ("HEAD", "/route/hello", "", b""),
    ("POST", "/route/hello", "", b"x"),
    ("GET", "/route/Hello", "", b""),
    ("GET", "/route/h%65llo", "", b""),
    ("GET", "/route/hello%2f", "", b""),
    ("GET", "/route/%ff", "", b""),
    ("GET", "/route/deep/down-here_~", "", b""),
    ("GET", "/route/deep", "", b""),
    ("GET", "/route/nothing", "", b""),
    // What is in the way of others, and whatever a token may be.
    ("GET", "/route/hello", "authorization: Bearer rubbish\r\n", b""),
    ("GET", "/route/hello", "authorization: Basic eA==\r\n", b""),
    ("GET", "/route/hello?token=rubbish", "", b""),
    // What handlers see.
    (
        "GET",
        "/route/echo?a=1&b=%20",
        "x-a: 1\r\nx-a: 2\r\nX-B:  x y \r\n",
        b"",
    ),
    ("POST", "/route/echo", "content-type: text/plain\r\n", b"body"),
    ("BREW", "/route/echo", "", b""),
    (
        "PATCH",
        "/route/echo",
        "authorization: Bearer rubbish\r\n",
        b"\0\xff",
    ),
    (
        "GET",
        "/route/echo",
        "x-forwarded-proto: https, http\r\nx-forwarded-host: a.example , b\r\n",
        b"",
    ),
    ("GET", "/route/echo", "x-forwarded-host: no host\r\n", b""),
    ("GET", "/route/echo", "x-bytes: ä\r\n", b""),
    ("HEAD", "/route/echo", "", b""),
    ("POST", "/route/reverse", "", b"abc"),
    ("POST", "/route/reverse", "", b""),
    // Browsers.
    ("OPTIONS", "/route/echo", "", b""),
    ("OPTIONS", "/route/hello", "", b""),
    (
        "OPTIONS",
        "/route/echo",
        "origin: https://a.example\r\naccess-control-request-method: POST\r\n",
        b"",
    ),
    ("GET", "/route/hello", "origin: https://a.example\r\n", b""),
    // Transactions.
    ("POST", "/route/item", "", b"a"),
    ("POST", "/route/item", "", b"\xff"),
    ("PUT", "/route/item", "", b"b"),
    ("DELETE", "/route/item", "", b""),
    ("GET", "/route/explode", "", b""),
    ("GET", "/route/item", "", b""),
    // Answers of every kind.
    ("GET", "/route/teapot", "", b""),
    ("GET", "/route/teapot?status=204", "", b""),
    ("GET", "/route/teapot?status=304", "", b""),
    ("GET", "/route/teapot?status=500", "", b""),
    ("GET", "/route/teapot?status=999", "", b""),
    ("GET", "/route/teapot?version=1.0", "", b""),
    ("GET", "/route/teapot?version=2", "", b""),
    ("GET", "/route/large?bytes=0", "", b""),
    ("GET", "/route/large?bytes=3000000", "", b""),
];

/// An answer: the status, the headers but for the time and what says where the body ends, and the body.
async fn ask(address: SocketAddr, database: &str, (method, path, headers, body): Ask<'_>) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let length = match (method, body.len()) {
        ("GET" | "HEAD", 0) => String::new(),
        (_, bytes) => format!("content-length: {bytes}\r\n"),
    };
    let head = format!(
        "{method} /v1/database/{database}{path} HTTP/1.1\r\nhost: a.host\r\nconnection: close\r\n{headers}{length}\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(body).await.expect("written");
    let mut answer = Vec::new();
    tokio::time::timeout(SOON * 3, stream.read_to_end(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return answer;
    };
    let (status, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let body = match headers.contains("transfer-encoding: chunked") {
        true => dechunked(body),
        false => body.to_owned(),
    };
    let passed_over = ["date:", "content-length:", "transfer-encoding:"];
    let headers = headers
        .lines()
        .filter(|line| !passed_over.iter().any(|it| line.starts_with(it)));
    let mut headers: Vec<_> = headers.collect();
    headers.sort_unstable();
    let body = match body.len() {
        ..2_000 => without_addresses(&body),
        bytes => format!("{bytes} bytes"),
    };
    format!("{status} {headers:?} {body}")
}

/// A body that came in chunks.
fn dechunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((bytes, after)) = rest.split_once("\r\n") {
        let bytes = usize::from_str_radix(bytes, 16).expect("a length");
        let Some((chunk, after)) = after.split_at_checked(bytes) else {
            panic!("a chunk ends in the middle");
        };
        body += chunk;
        rest = after.trim_start_matches("\r\n");
    }
    body
}

/// A trap's text, without the addresses in the module: the prepared one has others.
fn without_addresses(text: &str) -> String {
    text.split("\n    0:").next().unwrap_or_default().to_owned()
}

async fn items(address: SocketAddr, token: &str) -> String {
    let path = format!("POST /v1/database/{DATABASE}/sql");
    let (status, body) = request(address, &path, token, b"SELECT text FROM item").await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    unordered(answer[0]["rows"].clone()).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_answer_as_they_do_natively() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    if pair.newest == Subprotocol::V1 {
        eprintln!("passed over: this SpacetimeDB has no HTTP handlers");
        return pair.stop().await;
    }
    let owner = pair.tokens.fresh().expect("a token").token;
    publish_module(&pair, fixture(MODULE), DATABASE, &owner).await;
    let mut differences = Vec::new();
    let mut compare = async |database: &str, asked: Ask<'_>| {
        let plain = ask(pair.plain, database, asked).await;
        let gateway = ask(pair.gateway, database, asked).await;
        if plain != gateway {
            let (method, path, headers, _) = asked;
            differences.push(format!("{method} {path} {headers:?}\n  {plain}\n  {gateway}"));
        }
    };
    for asked in ASKS {
        compare(DATABASE, *asked).await;
    }
    let absent = "0".repeat(64);
    for database in ["nosuch", &absent, "No_Name", "-a"] {
        compare(database, ("POST", "/route/hello", "", b"x")).await;
        compare(database, ("GET", "/route", "authorization: Bearer x\r\n", b"")).await;
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(items(pair.plain, &owner).await, items(pair.gateway, &owner).await);
    for version in [9, 10] {
        let schema = format!("GET /v1/database/{DATABASE}/schema?version={version}");
        let [plain, gateway] = [pair.plain, pair.gateway].map(|at| request(at, &schema, &owner, b""));
        let read = |schema: &str| unordered(serde_json::from_str(schema).expect("JSON"));
        assert_eq!(read(&plain.await.1), read(&gateway.await.1), "{version}");
    }

    let plan = async |address| {
        let path = format!("POST /v1/database/{DATABASE}/pre_publish?style=NoColor");
        let (status, plan) = request(address, &path, &owner, &fixture("procedures-2x")).await;
        assert_eq!(status, 200, "{plan}");
        let mut plan: Value = serde_json::from_str(&plan).expect("JSON");
        plan["AutoMigrate"]["token"].take();
        plan
    };
    assert_eq!(plan(pair.plain).await, plan(pair.gateway).await);

    // What is not the client's to call, and what is too much.
    let call = format!("POST /v1/database/{DATABASE}/call/rtdb_handle");
    let (status, body) = request(pair.gateway, &call, &owner, b"[0, 0, [], []]").await;
    assert_eq!((status, body.as_str()), (404, "No such procedure"));
    let large = vec![b'x'; (16 << 20) + 1];
    let refused = ask(pair.gateway, DATABASE, ("POST", "/route/reverse", "", &large)).await;
    assert!(
        refused.starts_with("HTTP/1.1 413") && refused.ends_with("16 MiB at most"),
        "{refused}"
    );
    let reversed = ask(
        pair.gateway,
        DATABASE,
        ("POST", "/route/reverse", "", &large[1..]),
    )
    .await;
    assert!(reversed.ends_with("16777216 bytes"), "{reversed}");

    answers_end_where_they_end(&pair).await;

    // All at once, among calls: each item is there once.
    let post = |nth: usize| async move {
        let body = format!("item {nth}");
        ask(
            pair.gateway,
            DATABASE,
            ("POST", "/route/item", "", body.as_bytes()),
        )
        .await
    };
    let add = |nth: usize| {
        let (owner, args) = (owner.clone(), format!("[\"item {nth}\"]"));
        async move {
            let path = format!("POST /v1/database/{DATABASE}/call/add");
            request(pair.gateway, &path, &owner, args.as_bytes()).await
        }
    };
    let posts = futures::future::join_all((0..16).map(post));
    let (posted, added) = futures::join!(posts, futures::future::join_all((16..32).map(add)));
    for answer in posted {
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    for (status, body) in added {
        assert_eq!(status, 200, "{body}");
    }
    let there = items(pair.gateway, &owner).await;
    for nth in 0..32 {
        assert_eq!(there.matches(&format!("\"item {nth}\"")).count(), 1, "{there}");
    }
    routes_follow_the_module(&pair, &owner).await;
    pair.stop().await;
}

/// Whatever a handler says of its answer's length, the next answer on the connection is read as it is. (A plain server cuts the
/// body, or the connection.)
async fn answers_end_where_they_end(pair: &Pair) {
    let lies = [
        "content-length: 1",
        "content-length: 100",
        "content-length: x",
        "content-length: 3\ncontent-length: 4",
        "transfer-encoding: chunked",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked\ncontent-length: 1",
    ];
    for (lie, status) in lies.iter().flat_map(|lie| [(lie, 200), (lie, 304)]) {
        let mut stream = TcpStream::connect(pair.gateway).await.expect("a connection");
        let asked = format!(
            "POST /v1/database/{DATABASE}/route/answer?status={status} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{lie}\
             GET /v1/database/{DATABASE}/route/hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            lie.len()
        );
        stream.write_all(asked.as_bytes()).await.expect("written");
        let mut answers = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut answers))
            .await
            .expect("in time")
            .expect("answers");
        let answers = String::from_utf8_lossy(&answers).into_owned();
        let body = if status == 200 { "\r\n\r\ntea" } else { "\r\n\r\n" };
        let next = format!("{body}HTTP/1.1 200 OK\r\n");
        assert!(
            answers.starts_with(&format!("HTTP/1.1 {status}"))
                && answers.contains(&next)
                && answers.ends_with("hello")
                && !answers.contains("transfer-encoding"),
            "{lie} {answers}"
        );
        if status == 200 {
            assert!(answers.contains("content-length: 3\r\n"), "{lie} {answers}");
        }
    }
}

/// An update takes routes away, and another brings them back.
async fn routes_follow_the_module(pair: &Pair, owner: &str) {
    let hello = async || ask(pair.gateway, DATABASE, ("GET", "/route/hello", "", b"")).await;
    let deadline = tokio::time::Instant::now() + SOON;
    for (module, status) in [("procedures-2x", "HTTP/1.1 404"), (MODULE, "HTTP/1.1 200")] {
        let publish = format!("PUT /v1/database/{DATABASE}?clear=true");
        let (published, body) = request(pair.gateway, &publish, owner, &fixture(module)).await;
        assert_eq!(published, 200, "{body}");
        while !hello().await.starts_with(status) {
            assert!(tokio::time::Instant::now() < deadline, "{module}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
