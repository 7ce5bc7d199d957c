//! HTTP, request by request, on both.

#![allow(unreachable_pub, reason = "a module of tests")]

use crate::cluster::Pair;
use crate::{Client, SOON, unordered};
use futures::StreamExt;
use rtdb_protocol::Subprotocol;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Between two attempts at what takes a moment.
const LOOK: Duration = Duration::from_millis(20);

/// A request: its line, its headers, and its body.
struct Ask<'a> {
    line: String,
    headers: String,
    body: &'a [u8],
}

/// A status and a body; of a refused WebSocket also what it asks to be upgraded to.
async fn answer(address: SocketAddr, ask: &Ask<'_>) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "{} HTTP/1.0\r\nhost: x\r\nconnection: close\r\n{}content-length: {}\r\n\r\n",
        ask.line,
        ask.headers,
        ask.body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(ask.body).await.expect("written");
    let mut answer = Vec::new();
    tokio::time::timeout(SOON * 3, stream.read_to_end(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    let upgrade = head
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("upgrade:"));
    let body = upgrade.map_or(body.to_owned(), |upgrade| format!("{body} {upgrade}"));
    (status.parse().expect("a number"), body)
}

/// The same of a request without a body.
pub async fn asked(address: SocketAddr, line: &str, headers: &str) -> (u16, String) {
    let ask = Ask {
        line: line.to_owned(),
        headers: headers.to_owned(),
        body: b"",
    };
    answer(address, &ask).await
}

/// Asks both and notes where they differ. A database's identity is each one's own.
pub struct Both<'a> {
    pair: &'a Pair,
    differences: Vec<String>,
}

impl<'a> Both<'a> {
    pub fn new(pair: &'a Pair) -> Self {
        Self {
            pair,
            differences: Vec::new(),
        }
    }

    /// Fails if they differed.
    pub fn check(&self) {
        let differences = self.differences.join("\n");
        assert!(self.differences.is_empty(), "{differences}");
    }

    pub async fn ask(&mut self, line: &str, headers: &str, body: &[u8]) {
        let ask = Ask {
            line: line.to_owned(),
            headers: headers.to_owned(),
            body,
        };
        let mut plain = answer(self.pair.plain, &ask).await;
        let gateway = answer(self.pair.gateway, &ask).await;
        // 1.2.0 shows how it is made inside rather than words: 2.8.3's are followed.
        if self.pair.newest == Subprotocol::V1 && plain.0 == 401 {
            plain.1.clone_from(&gateway.1);
        }
        let comparable = |body: &str| without_durations(&without_identities(body));
        if plain.0 != gateway.0 || comparable(&plain.1) != comparable(&gateway.1) {
            let headers = headers.replace("\r\n", " ");
            self.differences
                .push(format!("{line} {headers}\n  {plain:?}\n  {gateway:?}"));
        }
    }

    /// The same of what 1.2.0 answers otherwise than 2.x, which is followed.
    pub async fn ask_newer(&mut self, line: &str, headers: &str, body: &[u8]) {
        if self.pair.newest > Subprotocol::V1 {
            self.ask(line, headers, body).await;
        }
    }
}

/// With what says how long a statement took left out.
pub fn without_durations(text: &str) -> String {
    let mut parts = text.split("total_duration_micros");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| {
        kept + part.trim_start_matches(|c: char| c != ',')
    })
}

/// With each run of 64 hexadecimal digits left out.
fn without_identities(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits == 64 {
            kept.push('#');
            rest = &rest[64..];
        } else {
            let length = digits.max(first.len_utf8());
            kept.push_str(&rest[..length]);
            rest = &rest[length..];
        }
    }
    kept
}

/// The identity of a name.
async fn identity(address: SocketAddr, name: &str) -> String {
    let ask = Ask {
        line: format!("GET /v1/database/{name}/identity"),
        headers: String::new(),
        body: b"",
    };
    answer(address, &ask).await.1
}

/// Waits for the close frame.
pub async fn closed(client: &mut Client) -> Option<(u16, String)> {
    loop {
        let next = tokio::time::timeout(SOON, client.socket.next())
            .await
            .expect("in time");
        match next {
            Some(Ok(Message::Close(frame))) => {
                return frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

/// What a database's log says, sorted: the server makes tables in another order at each start. `init` is a call like others
/// behind the gateway, and the server does not tell of it.
async fn logged(address: SocketAddr, name: &str, headers: &str) -> Vec<String> {
    let ask = Ask {
        line: format!("GET /v1/database/{name}/logs"),
        headers: headers.to_owned(),
        body: b"",
    };
    let (status, body) = answer(address, &ask).await;
    assert_eq!(status, 200, "{body}");
    let lines = body.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["message"].as_str().expect("a message").to_owned()
    });
    let mut lines: Vec<_> = lines.filter(|line| !line.contains("`init`")).collect();
    lines.sort();
    lines
}

/// A connection id is one client's at a time, on 2.x; on a server of 1.x it is one of each identity.
pub async fn connection_ids_are_unique(pair: &Pair, database: &str, token: &str) {
    if pair.newest == Subprotocol::V1 {
        return;
    }
    let id = format!("&connection_id={}", "ab".repeat(16));
    for address in [pair.plain, pair.gateway] {
        let connect = || Client::connect_with(address, database, pair.newest, token, &id);
        let mut first = connect().await;
        first.sees().await;
        let mut second = connect().await;
        // Neither says anything when it drops a client.
        assert_eq!(closed(&mut second).await, None);
        first.socket.close(None).await.expect("closed");
        let let_in = async {
            while !connect().await.let_in().await {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(SOON, let_in)
            .await
            .expect("the id is free again");
    }
}

/// Like the plain server: for what is not there, is named badly, comes with a bad token, and for a database's life with its
/// names.
pub async fn answers_are_the_same(pair: &Pair, database: &str, [owner, other]: [&str; 2], module: &[u8]) {
    let is_old = pair.newest == Subprotocol::V1;
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let (own, others) = (bearer(owner), bearer(other));
    let json = "content-type: application/json\r\n";
    let absent = "0".repeat(64);
    let mut both = Both::new(pair);

    for name in ["nosuch", &absent, "No_Name", "-a"] {
        // 1.2.0 has other words for a name that is not there.
        if is_old && !name.starts_with('0') {
            continue;
        }
        both.ask(&format!("GET /v1/database/{name}"), &own, b"").await;
        both.ask(&format!("GET /v1/database/{name}/identity"), &own, b"")
            .await;
        both.ask_newer(&format!("GET /v1/database/{name}/names"), &own, b"")
            .await;
        both.ask(&format!("GET /v1/database/{name}/logs"), &own, b"")
            .await;
        both.ask(&format!("DELETE /v1/database/{name}"), &own, b"").await;
        let call = format!("POST /v1/database/{name}/call/add");
        both.ask(&call, &format!("{own}{json}"), b"[]").await;
        both.ask(&format!("POST /v1/database/{name}/sql"), &own, b"SELECT 1")
            .await;
        both.ask(&format!("GET /v1/database/{name}/subscribe"), &own, b"")
            .await;
    }
    for (line, headers) in [
        ("GET /v1/ping", String::new()),
        ("GET /v1/health", String::new()),
        ("GET /v1/identity/public-key", String::new()),
        ("POST /v1/health", String::new()),
        ("GET /v1/nothing", String::new()),
        (&format!("GET /v1/database/{database}/nothing"), own.clone()),
        (&format!("GET /v1/database/{database}"), own.clone()),
        (&format!("GET /v1/database/{database}/logs"), others.clone()),
        (
            &format!("GET /v1/database/{database}/logs?num_lines=x"),
            own.clone(),
        ),
        ("GET /v1/ping", bearer("rubbish")),
        ("GET /v1/ping", "authorization: Basic x\r\n".to_owned()),
        ("GET /v1/ping?token=rubbish", String::new()),
        (&format!("GET /v1/database/{database}/names"), bearer("rubbish")),
        (&format!("GET /v1/database/{database}/names"), bearer("a.b.c")),
        (&format!("GET /v1/database/{database}/names"), bearer("")),
        (&format!("GET /v1/energy/{absent}"), own.clone()),
        (&format!("PUT /v1/energy/{absent}"), own.clone()),
        (&format!("GET /v1/identity/{absent}/verify"), String::new()),
        (&format!("GET /v1/database/{database}/subscribe"), own.clone()),
        (
            &format!("GET /v1/database/{database}/subscribe"),
            format!("{own}upgrade: websocket\r\n"),
        ),
    ] {
        both.ask(line, &headers, b"").await;
    }
    for (line, headers) in [
        (format!("POST /v1/energy/{absent}"), ""),
        (format!("POST /v1/energy/{absent}"), &own[..]),
        (format!("POST /v1/energy/{absent}?amount=x"), &own),
        (format!("POST /v1/energy/{absent}?amount=-1"), &own),
        // It is the caller's, whatever identity stands there.
        (format!("POST /v1/energy/{absent}?amount=5"), &own),
        ("POST /v1/energy/nobody?amount=7".to_owned(), &own),
        (format!("POST /v1/energy/{absent}?amount={}", u128::MAX), &own),
        (format!("GET /v1/energy/{absent}"), &own),
        (format!("PUT /v1/energy/{absent}?balance=5"), &own),
    ] {
        both.ask(&line, headers, b"").await;
    }
    let timestamp = format!("GET /v1/database/{database}/unstable/timestamp");
    let mut times = Vec::new();
    for address in [pair.plain, pair.gateway] {
        let (status, body) = asked(address, &timestamp, &own).await;
        assert_eq!(status, 200, "{body}");
        let time: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(time.as_object().map(serde_json::Map::len), Some(1), "{body}");
        let time = time["__timestamp_micros_since_unix_epoch__"].as_u64();
        times.push(time.expect("a time"));
    }
    assert!(times[0] < times[1], "{times:?}");
    // They are about one server.
    for path in ["/v1/metrics", "/v1/prometheus/sd_config", "/internal/heap"] {
        assert_eq!(asked(pair.gateway, &format!("GET {path}"), "").await.0, 404);
    }
    let call = format!("POST /v1/database/{database}/call/add");
    // 2 MiB, and a byte more.
    for bytes in [2 << 20, (2 << 20) + 1] {
        let long = format!(r#"["{}", 1]"#, "x".repeat(bytes - r#"["", 1]"#.len()));
        both.ask(&call, &format!("{others}{json}"), long.as_bytes()).await;
        both.ask(
            &format!("POST /v1/database/{database}/sql"),
            &own,
            long.as_bytes(),
        )
        .await;
    }
    for kind in [
        "application/json; charset=utf-8",
        "text/plain",
        "APPLICATION/JSON",
    ] {
        let headers = format!("{others}content-type: {kind}\r\n");
        both.ask(&call, &headers, br#"["kinds", 1]"#).await;
    }
    if !is_old {
        let tool = |name: &str, arguments: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}"#
            )
        };
        for (headers, request) in [
            (&own, tool("ping", "{}")),
            (&own, tool("ping", r#"{"message":"x"}"#)),
            (&own, tool("list_databases", "{}")),
            (&others, tool("list_databases", "{}")),
            (&own, tool("nothing", "{}")),
            (&own, tool("sql", "{}")),
            (&own, tool("call", r#"{"args":[]}"#)),
            (&own, tool("call", r#"{"reducer":"add","args":{}}"#)),
            (&own, r#"{"id":5,"method":"tools/call"}"#.to_owned()),
            (&own, r#"{"id":5,"method":"tools/call","params":{}}"#.to_owned()),
            (&own, r#"{"method":"tools/call","params":{}}"#.to_owned()),
        ] {
            let headers = format!("{headers}{json}");
            both.ask("POST /v1/mcp", &headers, request.as_bytes()).await;
            let path = format!("POST /v1/database/{database}/mcp");
            both.ask(&path, &headers, request.as_bytes()).await;
        }
        let get_schema = tool("get_schema", "{}");
        both.ask("POST /v1/mcp", &format!("{own}{json}"), get_schema.as_bytes())
            .await;
        let schema = async |address| {
            let ask = Ask {
                line: format!("POST /v1/database/{database}/mcp"),
                headers: format!("{others}{json}"),
                body: get_schema.as_bytes(),
            };
            let answer: Value = serde_json::from_str(&answer(address, &ask).await.1).expect("JSON");
            let text = answer["result"]["content"][0]["text"].as_str().expect("a text");
            unordered(serde_json::from_str(text).expect("JSON"))
        };
        assert_eq!(schema(pair.plain).await, schema(pair.gateway).await);
        for (headers, name, arguments) in [
            (&own, "sql", r#""sql":"SELECT id FROM account LIMIT 0""#),
            (
                &own,
                "sql",
                r#""sql":"SELECT COUNT(*) AS n FROM account","confirmed":true"#,
            ),
            (&own, "sql", r#""sql":"SELECT nothing""#),
            (&others, "sql", r#""sql":"DELETE FROM account""#),
            (&others, "call", r#""reducer":"add","args":["kinds",1]"#),
            (&others, "call", r#""reducer":"add","args":["kinds"]"#),
            (&others, "call", r#""reducer":"add""#),
            (&others, "call", r#""reducer":"nothing""#),
        ] {
            let headers = format!("{headers}{json}");
            let path = format!("POST /v1/database/{database}/mcp");
            both.ask(
                &path,
                &headers,
                tool(name, &format!("{{{arguments}}}")).as_bytes(),
            )
            .await;
            for target in [database, "nosuch", "No_Name"] {
                let arguments = format!(r#"{{"database":"{target}",{arguments}}}"#);
                both.ask("POST /v1/mcp", &headers, tool(name, &arguments).as_bytes())
                    .await;
            }
        }
        for request in [
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#,
            r#"{"jsonrpc":"2.0","id":3,"method":"nothing"}"#,
        ] {
            let headers = format!("{own}{json}");
            both.ask("POST /v1/mcp", &headers, request.as_bytes()).await;
            let path = format!("POST /v1/database/{database}/mcp");
            both.ask(&path, &headers, request.as_bytes()).await;
        }
    }

    // A life: names come and go, the database ends, and is published again by its name.
    let name = "lives";
    let publish = format!("PUT /v1/database/{name}");
    let names = format!("/v1/database/{name}/names");
    both.ask(&publish, &own, module).await;
    let [plain, gateway] = [pair.plain, pair.gateway].map(|address| logged(address, name, &own));
    assert_eq!(plain.await, gateway.await);
    both.ask(&format!("POST {names}"), &own, b"alive").await;
    both.ask(&format!("POST {names}"), &own, b"No_Name").await;
    both.ask(&format!("GET {names}"), &own, b"").await;
    let body = format!(r#"["{name}"]"#);
    both.ask(&format!("PUT {names}"), &format!("{own}{json}"), body.as_bytes())
        .await;
    both.ask(
        &format!("PUT {names}"),
        &format!("{own}{json}"),
        br#"["No_Name"]"#,
    )
    .await;
    both.ask(
        &format!("PUT {names}"),
        &format!("{others}{json}"),
        br#"["mine"]"#,
    )
    .await;
    both.ask_newer(&format!("DELETE /v1/database/{name}"), &others, b"")
        .await;
    let mut ends = Vec::new();
    let mut identities = Vec::new();
    for address in [pair.plain, pair.gateway] {
        let mut client = Client::connect(address, name, pair.newest, other).await;
        client.sees().await;
        let delete = Ask {
            line: format!("DELETE /v1/database/{name}"),
            headers: own.clone(),
            body: b"",
        };
        assert_eq!(answer(address, &delete).await, (200, String::new()));
        ends.push(closed(&mut client).await);
        identities.push(identity(address, name).await);
    }
    assert_eq!(ends[0], ends[1]);
    both.ask_newer(&format!("GET {names}"), &own, b"").await;
    for line in [
        format!("GET /v1/database/{name}"),
        format!("GET /v1/database/{name}/identity"),
        format!("DELETE /v1/database/{name}"),
        "DELETE /v1/database/alive".to_owned(),
    ] {
        both.ask(&line, &own, b"").await;
    }
    // The names are nobody else's, and whoever publishes under one of them gets the identity.
    let taken = format!("PUT /v1/database/{database}/names");
    both.ask(&taken, &format!("{own}{json}"), br#"["alive"]"#).await;
    both.ask("PUT /v1/database/alive", &others, module).await;
    both.ask(&format!("GET {names}"), &own, b"").await;
    for (address, before) in [pair.plain, pair.gateway].into_iter().zip(&identities) {
        assert_eq!(identity(address, name).await, *before);
    }
    both.ask_newer(&format!("DELETE /v1/database/{name}"), &own, b"")
        .await;
    both.ask(&format!("DELETE /v1/database/{name}"), &others, b"")
        .await;
    // Nobody has to have a token to publish.
    both.ask("PUT /v1/database/anybodys", "", module).await;

    both.check();
}
