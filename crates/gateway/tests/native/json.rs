//! v1 in JSON, on both.

#![allow(unreachable_pub, reason = "a module of tests")]

use crate::cluster::Pair;
use crate::{SOON, fixture, publish_module};
use futures::{SinkExt, StreamExt};
use rtdb_protocol::Subprotocol;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

const NAME: &str = "v1.json.spacetimedb";

const VIEWS: &str = "json-views";
const PROCEDURES: &str = "json-procedures";

/// What differs from server to server, and from time to time.
const BLANK: [&str; 6] = [
    "__time_duration_micros__\":",
    "total_host_execution_duration_micros\":",
    "quanta\":",
    "table_id\":",
    // Of a call that failed before, the plain server has used a number up.
    "\\\"id\\\":",
    "__connection_id__\\\":",
];

/// A number of so many digits is a time, a connection, or chance.
const DIGITS_MIN: usize = 10;

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn connect(address: SocketAddr, database: &str, token: &str, parameters: &str) -> Self {
        let url = format!("ws://{address}/v1/database/{database}/subscribe?{parameters}");
        let mut request = url.into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", NAME.parse().expect("a header"));
        headers.insert(
            "authorization",
            format!("Bearer {token}").parse().expect("a header"),
        );
        let stream = TcpStream::connect(address).await.expect("a connection");
        let (socket, answer) = client_async(request, stream).await.expect("a WebSocket");
        assert_eq!(answer.headers()["sec-websocket-protocol"], NAME);
        Self(socket)
    }

    /// The next message, or how the connection ends.
    async fn hears(&mut self) -> String {
        loop {
            let next = tokio::time::timeout(SOON, self.0.next()).await.expect("in time");
            return match next {
                Some(Ok(Message::Text(text))) => text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(Some(frame)))) => format!("closed: {}", u16::from(frame.code)),
                // The plain server has more to say than there is room for.
                Some(Err(Error::Protocol(ProtocolError::ControlFrameTooBig))) => "closed: 1011".to_owned(),
                other => panic!("{other:?}"),
            };
        }
    }

    async fn says(&mut self, message: impl ToString) {
        let text = Message::text(message.to_string());
        self.0.send(text).await.expect("sent");
    }
}

/// The rows of a query, in an order of their own.
pub async fn rows(address: SocketAddr, database: &str, token: &str, query: &str) -> Vec<String> {
    let mut client = Client::connect(address, database, token, "").await;
    client.hears().await;
    client
        .says(json!({"OneOffQuery": {"message_id": "00", "query_string": query}}))
        .await;
    let answer: Value = serde_json::from_str(&client.hears().await).expect("JSON");
    let rows = &answer["OneOffQueryResponse"]["tables"][0]["rows"];
    let rows = rows.as_array().expect("rows").iter();
    // How the exponent of a number is written is up to the library.
    let row = |row: &Value| serde_json::from_str::<Value>(row.as_str().expect("a text")).expect("JSON");
    let mut rows: Vec<_> = rows.map(|it| row(it).to_string()).collect();
    rows.sort();
    rows
}

/// Without what differs.
fn blanked(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            kept.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let blank = digits >= DIGITS_MIN || BLANK.iter().any(|name| kept.ends_with(name));
        kept.push_str(if blank { "#" } else { &rest[..digits] });
        rest = &rest[digits..];
    }
    kept
}

/// Without a call's arguments: the plain server repeats them letter by letter, the gateway as they were understood.
fn without_args(text: &str) -> String {
    let [before, after] = [r#""args":"#, r#","request_id":"#].map(|name| text.find(name));
    match (before, after) {
        (Some(before), Some(after)) if before < after => [&text[..before], &text[after..]].concat(),
        _ => text.to_owned(),
    }
}

fn call(reducer: &str, args: &str, request_id: u32) -> Value {
    json!({"CallReducer": {"reducer": reducer, "args": args, "request_id": request_id, "flags": 0}})
}

async fn script(address: SocketAddr, database: &str, token: &str, parameters: &str) -> Vec<String> {
    let mut client = Client::connect(address, database, token, parameters).await;
    let mut heard = vec![client.hears().await];
    let many = |queries: &[&str], set: u32| json!({"SubscribeMulti": {"query_strings": queries, "request_id": 10 + set, "query_id": {"id": set}}});
    let single = |query: &str, set: u32| json!({"SubscribeSingle": {"query": query, "request_id": 20 + set, "query_id": {"id": set}}});
    let once = |query: &str| json!({"OneOffQuery": {"message_id": "00ff", "query_string": query}});
    let name = format!("n{parameters}").replace('=', "-");
    for message in [
        call("add", &format!(r#"["{name}","-3"]"#), 1),
        call("add", &format!(r#"["{name}",-3]"#), 2),
        call("nothing", "[]", 3),
        call("add", "[", 4),
        call("fail", r#"["as \"it\" should"]"#, 5),
        once("SELECT * FROM counter WHERE value = -3"),
        many(&["SELECT * FROM note"], 1),
        call("write_note", &format!(r#"["{name}",["a","ü"],true]"#), 6),
        call(
            "write_note",
            &format!(r#"{{"text":"{name}-2","tags":[],"signed":false}}"#),
            7,
        ),
        single("SELECT * FROM note", 2),
        single("SELECT * FROM nothing", 3),
        once("SELECT * FROM note WHERE text = 'none'"),
        once("SELECT * FROM note"),
        once("SELECT"),
        json!({"OneOffQuery": {"message_id": [0, 255], "query_string": "SELECT * FROM ban"}}),
        json!({"Unsubscribe": {"request_id": 30, "query_id": {"id": 2}}}),
        json!({"UnsubscribeMulti": {"request_id": 31, "query_id": {"id": 1}}}),
        json!({"Subscribe": {"query_strings": ["SELECT * FROM note"], "request_id": 32}}),
        call("write_note", &format!(r#"["{name}-3",[],true]"#), 8),
    ] {
        client.says(&message).await;
        heard.push(client.hears().await);
    }
    let mut other = Client::connect(address, database, token, parameters).await;
    heard.push(other.hears().await);
    other
        .says(call("write_note", &format!(r#"["{name}-4",["x"],true]"#), 9))
        .await;
    heard.push(other.hears().await);
    heard.push(client.hears().await);
    client.says(json!({"Nothing": {}})).await;
    heard.push(client.hears().await);
    heard.iter().map(|text| without_args(&blanked(text))).collect()
}

/// What views show and procedures return.
async fn of_2x(address: SocketAddr, token: &str) -> Vec<String> {
    let mut heard = Vec::new();
    let mut client = Client::connect(address, VIEWS, token, "").await;
    client.hears().await;
    client.says(call("join", r#"["ann"]"#, 1)).await;
    client.hears().await;
    client.says(call("write", r#"["a note"]"#, 2)).await;
    client.hears().await;
    for (view, set) in [("team", 1), ("my_score", 2), ("notes", 3)] {
        let query = format!("SELECT * FROM {view}");
        let subscribe = json!({"query_strings": [query], "request_id": set, "query_id": {"id": set}});
        client.says(json!({ "SubscribeMulti": subscribe })).await;
        heard.push(client.hears().await);
    }
    let mut client = Client::connect(address, PROCEDURES, token, "").await;
    client.hears().await;
    let procedure = |name: &str, args: &str, id: u32| json!({"CallProcedure": {"procedure": name, "args": args, "request_id": id, "flags": 0}});
    for call in [
        procedure("count", "[]", 1),
        procedure("caller", "[]", 2),
        procedure("run", "[[]]", 3),
        procedure("run", "[7]", 4),
        procedure("nothing", "[]", 5),
    ] {
        client.says(call).await;
        heard.push(client.hears().await);
    }
    // Two with the same number at one time.
    client.says(procedure("count", "[]", 6)).await;
    client.says(procedure("caller", "[]", 6)).await;
    let mut both = [client.hears().await, client.hears().await];
    both.sort();
    heard.extend(both);
    heard.iter().map(|text| blanked(text)).collect()
}

/// A subscriber outlives the server, and is told what has come meanwhile.
async fn outlives(pair: &Pair, database: &str, token: &str) {
    let mut client = Client::connect(pair.gateway, database, token, "").await;
    client.hears().await;
    let subscribe = json!({"query_strings": ["SELECT * FROM note"], "request_id": 1, "query_id": {"id": 1}});
    client.says(json!({ "SubscribeMulti": subscribe })).await;
    client.hears().await;
    pair.kill_server();
    client
        .says(call("write_note", r#"["after all",[],true]"#, 2))
        .await;
    while !client.hears().await.contains("after all") {}
}

/// Message by message.
pub async fn messages_are_the_same(pair: &Pair, database: &str, token: &str) {
    let mut differences = Vec::new();
    for parameters in ["light=false", "light=true"] {
        let plain = script(pair.plain, database, token, parameters).await;
        let gateway = script(pair.gateway, database, token, parameters).await;
        for (plain, gateway) in plain.iter().zip(&gateway) {
            if !same(plain, gateway, pair.newest) {
                differences.push(format!("{parameters}\n  {plain}\n  {gateway}"));
            }
        }
    }
    if pair.newest > Subprotocol::V1 {
        publish_module(pair, fixture("views-2x"), VIEWS, token).await;
        publish_module(pair, fixture("procedures-2x"), PROCEDURES, token).await;
        let plain = of_2x(pair.plain, token).await;
        let gateway = of_2x(pair.gateway, token).await;
        for (plain, gateway) in plain
            .iter()
            .zip(&gateway)
            .filter(|(plain, gateway)| plain != gateway)
        {
            differences.push(format!("2.x\n  {plain}\n  {gateway}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    outlives(pair, database, token).await;
}

/// 1.2.0 says less of what is wrong with arguments, as in BSATN, and 0 for the number of a call that fails.
fn same(plain: &str, gateway: &str, newest: Subprotocol) -> bool {
    let is_failure = newest == Subprotocol::V1 && plain.contains(r#"{"Failed":"#);
    plain == gateway || is_failure && gateway.contains(r#"{"Failed":"#)
}
