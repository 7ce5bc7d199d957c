//! The same script against a plain SpacetimeDB 1.2 and against the gateway before another: clients must not see a
//! difference. Passed over, with a word, on machines without a server.

#[path = "native/cluster.rs"]
mod cluster;

use bytes::BytesMut;
use cluster::Pair;
use futures::{SinkExt, StreamExt};
use rtdb_protocol::server::ServerMessage;
use rtdb_protocol::{Subprotocol, client, server};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

const V1: Subprotocol = Subprotocol::V1;
const SOON: Duration = Duration::from_secs(20);
const NAME: &str = "same";

async fn request(address: SocketAddr, request: &str, token: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
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

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn connect(address: SocketAddr, token: &str) -> Self {
        let url = format!("ws://{address}/v1/database/{NAME}/subscribe?compression=None");
        let mut request = url.into_client_request().expect("a request");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", V1.name().parse().expect("a header"));
        request.headers_mut().insert(
            "authorization",
            format!("Bearer {token}").parse().expect("a header"),
        );
        let stream = TcpStream::connect(address).await.expect("a connection");
        Self(client_async(request, stream).await.expect("a WebSocket").0)
    }

    async fn send(&mut self, frame: impl Into<bytes::Bytes>) {
        self.0.send(Message::Binary(frame.into())).await.expect("sent");
    }

    async fn call(&mut self, reducer: &str, args: &[u8], request_id: u32) {
        let mut frame = BytesMut::new();
        client::call_reducer(V1, &mut frame, reducer, &[args], request_id);
        self.send(frame).await;
    }

    async fn next(&mut self) -> ServerMessage {
        loop {
            let next = tokio::time::timeout(SOON, self.0.next()).await.expect("in time");
            match next.expect("a message").expect("a sound message") {
                Message::Binary(payload) => {
                    return server::split(V1, payload)
                        .next()
                        .expect("a message")
                        .expect("a sound message");
                }
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// What the client sees of the next message, without times and energy.
    async fn sees(&mut self) -> String {
        match self.next().await {
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
            } => {
                format!("reply {request_id:?} {query_set:?} {error} tag {}", raw[0])
            }
            ServerMessage::QueryReply { raw } => {
                format!("query {}", raw.windows(5).filter(|part| part == b"first").count())
            }
            ServerMessage::Update(update) => {
                let rows: Vec<_> = update
                    .changes()
                    .iter()
                    .map(|change| {
                        format!(
                            "{} +{} -{}",
                            change.table,
                            change.inserts.len(),
                            change.deletes.len()
                        )
                    })
                    .collect();
                match ServerMessage::Update(update).into_applied() {
                    Some(applied) => {
                        let outcome = format!("{:?}", applied.outcome);
                        let outcome = outcome.split(" {").next().unwrap_or_default();
                        format!("call {outcome} {rows:?}")
                    }
                    None => format!("light {rows:?}"),
                }
            }
            other => format!("{other:?}"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn add(name: &str, value: i64) -> Vec<u8> {
    [
        &(name.len() as u32).to_le_bytes()[..],
        name.as_bytes(),
        &value.to_le_bytes(),
    ]
    .concat()
}

/// What two clients see of a script.
async fn script(address: SocketAddr, tokens: [&str; 2]) -> Vec<String> {
    let mut seen = Vec::new();
    let mut writer = Client::connect(address, tokens[0]).await;
    seen.push(writer.sees().await);
    // Before it subscribes to anything: the results alone.
    writer.call("add", &add("first", 1), 1).await;
    seen.push(writer.sees().await);
    writer.call("add", &add("", 1), 2).await;
    seen.push(writer.sees().await);
    writer
        .send(client::subscribe(V1, &["SELECT * FROM counter"], 7, 3))
        .await;
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
    writer
        .send(client::subscribe(V1, &["SELECT * FROM nowhere"], 8, 11))
        .await;
    seen.push(writer.sees().await);
    // Other people's updates.
    let mut other = Client::connect(address, tokens[1]).await;
    seen.push(other.sees().await);
    other.call("add", &add("others", 3), 12).await;
    seen.push(other.sees().await);
    seen.push(writer.sees().await);
    // A call whose rows nobody sees is answered all the same.
    writer.call("keep_secret", &add("x", 0)[..5], 13).await;
    seen.push(writer.sees().await);
    seen
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
    let module = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../modules/counter-1x/counter-1x.wasm"
    ))
    .expect("the module");
    let publish = format!("PUT /v1/database/{NAME}");
    for address in [pair.plain, pair.gateway] {
        let (status, body) = request(address, &publish, &owner, &module).await;
        assert_eq!(status, 200, "{body}");
        assert!(
            body.starts_with(&format!(
                r#"{{"Success":{{"domain":"{NAME}","database_identity":"c200"#
            )),
            "{body}"
        );
        assert!(body.ends_with(r#","op":"created"}}"#), "{body}");
    }

    let plain = script(pair.plain, [&owner, &other]).await;
    let gateway = script(pair.gateway, [&owner, &other]).await;
    for (plain, gateway) in plain.iter().zip(&gateway) {
        println!("{plain}\n  {gateway}");
    }
    assert_eq!(plain, gateway);

    // HTTP: the same statuses and bodies.
    let calls = [
        ("add", r#"["http", 5]"#),
        ("add", r#"["", 5]"#),
        ("add", "[]"),
        ("nothing", "[]"),
        ("connected", "[]"),
    ];
    for (reducer, args) in calls {
        let call = format!("POST /v1/database/{NAME}/call/{reducer}");
        let plain = request(pair.plain, &call, &other, args.as_bytes()).await;
        let gateway = request(pair.gateway, &call, &other, args.as_bytes()).await;
        assert_eq!(plain.0, gateway.0, "{reducer} {args}: {plain:?} {gateway:?}");
        // What serde says of bad JSON is worded by the reader's version.
        let words = |body: &str| body.split(": ").next().map(str::to_owned);
        assert_eq!(words(&plain.1), words(&gateway.1), "{reducer} {args}");
    }
    let schema = format!("GET /v1/database/{NAME}/schema?version=9");
    let [plain, gateway] = [
        request(pair.plain, &schema, &owner, b"").await.1,
        request(pair.gateway, &schema, &owner, b"").await.1,
    ]
    .map(|schema| serde_json::from_str::<serde_json::Value>(&schema).expect("JSON"));
    assert_eq!(plain, gateway);
    let sql = format!("POST /v1/database/{NAME}/sql");
    let query = b"SELECT COUNT(*) AS n FROM presence";
    let (status, body) = request(pair.gateway, &sql, &owner, query).await;
    assert_eq!(status, 200, "{body}");
    pair.stop().await;
}
