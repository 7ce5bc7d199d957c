//! The same script against a plain SpacetimeDB and against the gateway before another: clients must not see a
//! difference. Passed over, with a word, on machines without a server.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

#[path = "native/cluster.rs"]
mod cluster;
#[path = "native/handlers.rs"]
mod handlers;
#[path = "native/http.rs"]
mod http;
#[path = "native/issuers.rs"]
mod issuers;
#[path = "native/json.rs"]
mod json;
#[path = "native/logs.rs"]
mod logs;
#[path = "native/procedures.rs"]
mod procedures;
#[path = "native/publish.rs"]
mod publish;
#[path = "native/routes.rs"]
mod routes;
#[path = "native/sql.rs"]
mod sql;
#[path = "native/types.rs"]
mod types;
#[path = "native/update.rs"]
mod update;
#[path = "native/views.rs"]
mod views;
#[path = "native/write.rs"]
mod write;

use bytes::{Bytes, BytesMut};
use cluster::Pair;
use futures::{SinkExt, StreamExt};
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::{Changes, RowList, ServerMessage};
use rtdb_protocol::{Subprotocol, client, server};
use serde_json::Value;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

const SOON: Duration = Duration::from_secs(20);
const NAME: &str = "same";

async fn request(address: SocketAddr, request: &str, token: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "{request} HTTP/1.0\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(body).await.expect("written");
    let mut answer = Vec::new();
    tokio::time::timeout(SOON * 3, stream.read_to_end(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    (status, body.to_owned())
}

struct Client {
    socket: WebSocketStream<TcpStream>,
    subprotocol: Subprotocol,
    /// The rest of a v3 frame.
    ready: VecDeque<ServerMessage>,
}

impl Client {
    async fn connect(address: SocketAddr, database: &str, subprotocol: Subprotocol, token: &str) -> Self {
        Self::connect_with(address, database, subprotocol, token, "").await
    }

    /// The same, with more query parameters.
    async fn connect_with(
        address: SocketAddr,
        database: &str,
        subprotocol: Subprotocol,
        token: &str,
        parameters: &str,
    ) -> Self {
        let url = format!("ws://{address}/v1/database/{database}/subscribe?compression=None{parameters}");
        let mut request = url.into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert(
            "sec-websocket-protocol",
            subprotocol.name().parse().expect("a header"),
        );
        headers.insert(
            "authorization",
            format!("Bearer {token}").parse().expect("a header"),
        );
        let stream = TcpStream::connect(address).await.expect("a connection");
        Self {
            socket: client_async(request, stream).await.expect("a WebSocket").0,
            subprotocol,
            ready: VecDeque::new(),
        }
    }

    /// Whether the server greets the client, rather than end the connection.
    async fn let_in(mut self) -> bool {
        let next = tokio::time::timeout(SOON, self.socket.next()).await;
        matches!(next.expect("in time"), Some(Ok(Message::Binary(_))))
    }

    async fn send(&mut self, frame: impl Into<Bytes>) {
        self.socket
            .send(Message::Binary(frame.into()))
            .await
            .expect("sent");
    }

    async fn call(&mut self, reducer: &str, args: &[u8], request_id: u32) {
        let mut frame = BytesMut::new();
        client::call_reducer(self.subprotocol, &mut frame, reducer, &[args], request_id);
        self.send(frame).await;
    }

    async fn subscribe(&mut self, queries: &[&str], query_set: u32, request_id: u32) {
        self.send(client::subscribe(
            self.subprotocol,
            queries,
            query_set,
            request_id,
        ))
        .await;
    }

    /// v1 `UnsubscribeMulti`, v2 `Unsubscribe` that asks for the rows.
    async fn unsubscribe(&mut self, query_set: u32, request_id: u32) {
        let (tag, flags): (u8, &[u8]) = match self.subprotocol {
            Subprotocol::V1 => (6, &[]),
            _ => (1, &[1]),
        };
        let (request_id, query_set) = (request_id.to_le_bytes(), query_set.to_le_bytes());
        self.send([&[tag], &request_id[..], &query_set, flags].concat())
            .await;
    }

    async fn query(&mut self, query: &str, request_id: u32) {
        let request_id = request_id.to_le_bytes();
        let request_id = match self.subprotocol {
            Subprotocol::V1 => text(&request_id),
            _ => request_id.to_vec(),
        };
        self.send([&[2], &request_id[..], &text(query.as_bytes())].concat())
            .await;
    }

    /// Calls, and says what the next message is.
    async fn answered(&mut self, reducer: &str, args: &[u8], request_id: u32) -> String {
        self.call(reducer, args, request_id).await;
        self.sees().await
    }

    async fn next(&mut self) -> ServerMessage {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return message;
            }
            let next = tokio::time::timeout(SOON, self.socket.next())
                .await
                .expect("in time");
            match next.expect("a message").expect("a sound message") {
                Message::Binary(payload) => self.ready.extend(
                    server::split(self.subprotocol, payload).map(|message| message.expect("a sound message")),
                ),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// What the client sees of the next message, without times, energy and generated ids.
    async fn sees(&mut self) -> String {
        let message = self.next().await;
        let rows = match &message {
            ServerMessage::Update(update) => rows(update.changes()),
            ServerMessage::CallResult(result) => rows(&result.changes),
            _ => Vec::new(),
        };
        let light = matches!(message, ServerMessage::Update(_));
        match message {
            ServerMessage::Hello {
                identity, connection, ..
            } => {
                format!("hello {} {}", hex(&identity), connection.len())
            }
            ServerMessage::SubscribeReply {
                request_id,
                query_set,
                error,
                raw,
                ..
            } => {
                let length = raw.len();
                format!(
                    "reply {request_id:?} {query_set:?} {error} tag {} length {length}",
                    raw[0]
                )
            }
            ServerMessage::QueryReply { raw, .. } => {
                let found = raw.windows(5).filter(|part| part == b"first").count();
                format!("query {found} length {}", raw.len())
            }
            message => match message.into_applied() {
                Some(applied) => {
                    let outcome = match applied.outcome {
                        Outcome::Ok { return_value, .. } => format!("Ok {return_value:?}"),
                        Outcome::Failed { message, .. } => format!("Failed {message:?}"),
                        outcome => format!("{outcome:?}"),
                    };
                    format!("call {} {outcome} {rows:?}", applied.request_id)
                }
                None if light => format!("light {rows:?}"),
                None => "something else".to_owned(),
            },
        }
    }
}

/// Tables with the numbers of rows and the rows' bytes.
fn rows(changes: &Changes) -> Vec<String> {
    let count = |rows: &RowList| format!("{} of {} bytes", rows.len(), rows.iter().flatten().count());
    let mut rows: Vec<_> = changes
        .iter()
        .map(|change| {
            let (set, table) = (change.query_set, change.table);
            format!(
                "{set:?} {table} +{} -{}",
                count(&change.inserts),
                count(&change.deletes)
            )
        })
        .collect();
    rows.sort();
    rows
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes()[..], text].concat()
}

fn add(name: &str, value: i64) -> Vec<u8> {
    [&text(name.as_bytes())[..], &value.to_le_bytes()].concat()
}

/// What two clients see of a script.
async fn script(
    address: SocketAddr,
    database: &str,
    subprotocol: Subprotocol,
    tokens: [&str; 2],
) -> Vec<String> {
    let mut seen = Vec::new();
    let mut writer = Client::connect(address, database, subprotocol, tokens[0]).await;
    seen.push(writer.sees().await);
    // Before it subscribes to anything: the results alone.
    writer.call("add", &add("first", 1), 1).await;
    seen.push(writer.sees().await);
    writer.call("add", &add("", 1), 2).await;
    seen.push(writer.sees().await);
    writer.subscribe(&["SELECT * FROM counter"], 7, 3).await;
    seen.push(writer.sees().await);
    // Its own rows come with its results, failures between them.
    for (id, name) in [(4, "a"), (5, ""), (6, "b")] {
        writer.call("add", &add(name, 2), id).await;
    }
    for _ in 0..3 {
        seen.push(writer.sees().await);
    }
    writer.call("nothing", &[], 8).await;
    seen.push(writer.sees().await);
    writer.call("add", &[1], 9).await;
    seen.push(writer.sees().await);
    writer.call("connected", &[], 10).await;
    seen.push(writer.sees().await);
    writer.subscribe(&["SELECT * FROM nowhere"], 8, 11).await;
    seen.push(writer.sees().await);
    // Other people's updates.
    let mut other = Client::connect(address, database, subprotocol, tokens[1]).await;
    seen.push(other.sees().await);
    other.call("add", &add("others", 3), 12).await;
    seen.push(other.sees().await);
    seen.push(writer.sees().await);
    // A call whose rows nobody sees is answered all the same.
    writer.call("keep_secret", &text(b"x"), 13).await;
    seen.push(writer.sees().await);

    // Several query sets, a join among them; the same rows may come to more than one.
    let queries = [
        "SELECT * FROM account",
        "SELECT * FROM note",
        "SELECT counter.* FROM counter JOIN account ON counter.by = account.owner",
        "SELECT * FROM dice",
    ];
    writer.subscribe(&queries[..2], 20, 20).await;
    seen.push(writer.sees().await);
    writer.subscribe(&queries[2..3], 21, 21).await;
    seen.push(writer.sees().await);
    writer.subscribe(&queries[3..], 22, 22).await;
    seen.push(writer.sees().await);
    let note = [&text(b"written")[..], &1u32.to_le_bytes(), &text(b"tag"), &[1]].concat();
    let calls: [(&str, Vec<u8>); 8] = [
        ("open_account", text(b"one")),
        // The owner has an account; then another's name.
        ("open_account", text(b"two")),
        ("deposit", 5i64.to_le_bytes().into()),
        ("deposit", i64::MAX.to_le_bytes().into()),
        ("write_note", note),
        ("explode", Vec::new()),
        ("roll", text(b"dice")),
        ("add", add("joined", 4)),
    ];
    for (id, (reducer, args)) in (30..).zip(calls) {
        writer.call(reducer, &args, id).await;
        seen.push(format!("{reducer}: {}", writer.sees().await));
    }
    seen.push(other.answered("open_account", &text(b"one"), 50).await);

    // Queries, and what is left after the end of a subscription.
    for (id, query) in [
        (60, "SELECT * FROM counter WHERE name = 'first'"),
        (61, "SELECT * FROM nowhere"),
        (62, "SELEKT"),
    ] {
        writer.query(query, id).await;
        seen.push(format!("{query}: {}", writer.sees().await));
    }
    for (id, query_set) in [(70, 7), (71, 99), (72, 21)] {
        writer.unsubscribe(query_set, id).await;
        seen.push(format!("unsubscribe {query_set}: {}", writer.sees().await));
    }
    seen.push(writer.answered("add", &add("unseen", 5), 80).await);
    seen.push(writer.answered("deposit", &1i64.to_le_bytes(), 81).await);
    seen
}

/// A schema with its lists sorted: the server lists tables and constraints in another order at each start.
fn unordered(schema: Value) -> Value {
    match schema {
        Value::Array(list) => {
            let mut list: Vec<_> = list.into_iter().map(unordered).collect();
            list.sort_by_cached_key(Value::to_string);
            list.into()
        }
        Value::Object(fields) => {
            let ordered = ["elements", "variants", "columns", "types"];
            let fields = fields.into_iter().map(|(name, value)| {
                let value = if ordered.contains(&name.as_str()) {
                    value
                } else {
                    unordered(value)
                };
                (name, value)
            });
            fields.collect()
        }
        value => value,
    }
}

/// The counter's module, for the server.
fn module(pair: &Pair) -> Vec<u8> {
    fixture(if pair.newest == Subprotocol::V1 {
        "counter-1x"
    } else {
        "counter-2x"
    })
}

fn fixture(fixture: &str) -> Vec<u8> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules");
    std::fs::read(modules.join(fixture).join(fixture).with_extension("wasm")).expect("the module")
}

/// Publishes it to both.
async fn publish(pair: &Pair, database: &str, owner: &str) {
    publish_module(pair, module(pair), database, owner).await;
}

async fn publish_module(pair: &Pair, module: Vec<u8>, database: &str, owner: &str) {
    for address in [pair.plain, pair.gateway] {
        let publish = format!("PUT /v1/database/{database}");
        let (status, body) = request(address, &publish, owner, &module).await;
        assert_eq!(status, 200, "{body}");
        assert!(
            body.starts_with(&format!(
                r#"{{"Success":{{"domain":"{database}","database_identity":"c200"#
            )),
            "{body}"
        );
        assert!(body.ends_with(r#","op":"created"}}"#), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_what_the_native_server_shows() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    let owner = pair.tokens.fresh().expect("a token").token;
    let other = pair.tokens.fresh().expect("a token").token;
    let subprotocols = Subprotocol::ALL.into_iter();
    let subprotocols = subprotocols.filter(|subprotocol| *subprotocol <= pair.newest);

    let mut differences = Vec::new();
    for subprotocol in subprotocols {
        let database = &format!("{NAME}-{}", subprotocol.name().replace('.', "-"));
        publish(&pair, database, &owner).await;
        let plain = script(pair.plain, database, subprotocol, [&owner, &other]).await;
        let gateway = script(pair.gateway, database, subprotocol, [&owner, &other]).await;
        assert_eq!(plain.len(), gateway.len());
        for (plain, gateway) in plain.iter().zip(&gateway) {
            if !same(plain, gateway, pair.newest) {
                differences.push(format!("{subprotocol}\n  {plain}\n  {gateway}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let newest = format!("{NAME}-{}", pair.newest.name().replace('.', "-"));
    http_is_the_same(&pair, &newest, [&owner, &other]).await;
    http::connection_ids_are_unique(&pair, &newest, &other).await;
    http::answers_are_the_same(&pair, &newest, [&owner, &other], &module(&pair)).await;
    publish::publications_are_the_same(&pair, [&owner, &other], &module(&pair)).await;
    issuers::tokens_of_others_are_the_same(&pair, &newest).await;
    logs::lines_are_the_same(&pair, &newest, &owner).await;
    if pair.newest > Subprotocol::V1 {
        views::views_are_the_same(&pair, &owner).await;
    }
    json::messages_are_the_same(&pair, &newest, &owner).await;
    pair.stop().await;
}

/// Where 1.2.0 and 2.8.3 differ on v1, the gateway follows 2.8.3: 1.2.0 says 0 for the number of a call that fails, and
/// less of what is wrong with arguments.
fn same(plain: &str, gateway: &str, newest: Subprotocol) -> bool {
    if newest > Subprotocol::V1 || !plain.contains("call 0 ") {
        return plain == gateway;
    }
    let said_by_both = |seen: &str| {
        let words = seen.split(' ').filter(|word| word.parse::<u32>().is_err());
        let words = words.collect::<Vec<_>>().join(" ");
        let place = words.find("invalid arguments").map_or(words.len(), |at| at + 40);
        words[..place.min(words.len())].to_owned()
    };
    said_by_both(plain) == said_by_both(gateway)
}

async fn http_is_the_same(pair: &Pair, database: &str, [owner, other]: [&str; 2]) {
    // HTTP: the same statuses and bodies.
    let calls = [
        ("add", r#"["http", 5]"#),
        ("add", r#"["", 5]"#),
        ("add", "[]"),
        ("add", r#"["http", "5"]"#),
        ("add", r#"["http", 5, 6]"#),
        ("add", "{"),
        ("add", r#"["http", 5] 6"#),
        ("add", r#"["http", 5],"#),
        ("add", r#"{"name": "http", "name": "again", "value": 5}"#),
        ("add", r#"{"name": "http", "value": 5, "more": 6}"#),
        ("add", r#"{"name": "http"}"#),
        ("add", r#"{"naïve\n": "http"}"#),
        ("add", r#"["http", 1e400]"#),
        ("add", r#"["http", 9223372036854775808]"#),
        ("add", r#"["http", 5.5]"#),
        ("add", r#"["\ud800", 5]"#),
        ("add", r#"[null, 5]"#),
        ("add", r#"[{"a":[1]}, 5]"#),
        ("add", r#""text""#),
        ("add", ""),
        ("add", "null"),
        ("write_note", r#"["n", 7, ["t", 5], true]"#),
        ("write_note", r#"{"text": "n", "tags": [[[[7]]]]}"#),
        ("nothing", "{"),
        ("connected", "{"),
        ("nothing", "[]"),
        ("connected", "[]"),
    ];
    for (reducer, args) in calls {
        let call = format!("POST /v1/database/{database}/call/{reducer}");
        let plain = request(pair.plain, &call, other, args.as_bytes()).await;
        let gateway = request(pair.gateway, &call, other, args.as_bytes()).await;
        assert_eq!(plain.0, gateway.0, "{reducer} {args}: {plain:?} {gateway:?}");
        // 1.2.0 says less of what is wrong with arguments.
        let said = if pair.newest == Subprotocol::V1 {
            1
        } else {
            usize::MAX
        };
        let words = |body: &str| body.split(": ").take(said).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&plain.1), words(&gateway.1), "{reducer} {args}");
    }
    for reducer in ["add", "nothing", "connected"] {
        let call = format!("POST /v1/database/{database}/call/{reducer}");
        let plain = request(pair.plain, &call, other, b"[\"\xff\", 5]").await;
        let gateway = request(pair.gateway, &call, other, b"[\"\xff\", 5]").await;
        assert_eq!(plain, gateway, "{reducer}");
    }
    if pair.newest > Subprotocol::V1 {
        for absent in ["nosuch", &"0".repeat(64)] {
            let schema = format!("GET /v1/database/{absent}/schema?version=9");
            let plain = request(pair.plain, &schema, owner, b"").await;
            assert_eq!(plain, request(pair.gateway, &schema, owner, b"").await);
        }
    }
    let versions = if pair.newest == Subprotocol::V1 {
        9..=9
    } else {
        9..=10
    };
    for version in versions {
        let schema = format!("GET /v1/database/{database}/schema?version={version}");
        let [plain, gateway] = [
            request(pair.plain, &schema, owner, b"").await.1,
            request(pair.gateway, &schema, owner, b"").await.1,
        ]
        .map(|schema| unordered(serde_json::from_str(&schema).expect("JSON")));
        assert_eq!(plain, gateway, "version {version}");
    }
    let sql = format!("POST /v1/database/{database}/sql");
    let query = b"SELECT COUNT(*) AS n FROM presence";
    let (status, body) = request(pair.gateway, &sql, owner, query).await;
    assert_eq!(status, 200, "{body}");
}
