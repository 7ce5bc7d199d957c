//! kill -9 of SpacetimeDB under clients with subscriptions: they notice a pause, no more. Passed over, with a word, on
//! machines without a server.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

#[path = "native/cluster.rs"]
mod cluster;

use bytes::{BufMut, Bytes, BytesMut};
use cluster::Pair;
use futures::{SinkExt, StreamExt};
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::{Changes, ServerMessage};
use rtdb_protocol::{Subprotocol, client, server};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

const V1: Subprotocol = Subprotocol::V1;
/// How long a server may take to come back, and a client to hear of it.
const SOON: Duration = Duration::from_secs(90);
const NAME: &str = "restored";
const CALLS: u32 = 300;
/// After so many calls the server is killed.
const KILLS: [u32; 2] = [100, 200];

/// Rows as an SDK keeps them, with a count of each.
type Cache = BTreeMap<Bytes, u32>;

struct Client {
    socket: WebSocketStream<TcpStream>,
    rows: Cache,
    /// No row may be there more often.
    copies_max: u32,
}

impl Client {
    async fn connect(address: SocketAddr, token: &str, copies_max: u32) -> Self {
        let url = format!("ws://{address}/v1/database/{NAME}/subscribe?compression=None");
        let mut request = url.into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", V1.name().parse().expect("a header"));
        let bearer = format!("Bearer {token}");
        headers.insert("authorization", bearer.parse().expect("a header"));
        let stream = TcpStream::connect(address).await.expect("a connection");
        let (socket, _) = client_async(request, stream).await.expect("a WebSocket");
        let rows = Cache::new();
        Self {
            socket,
            rows,
            copies_max,
        }
    }

    async fn send(&mut self, frame: impl Into<Bytes>) {
        self.socket
            .send(Message::Binary(frame.into()))
            .await
            .expect("sent");
    }

    /// The next message; its rows are in the cache by then.
    async fn next(&mut self) -> ServerMessage {
        loop {
            let next = self.socket.next().await.expect("no end").expect("no error");
            let payload = match next {
                Message::Binary(payload) => payload,
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => continue,
            };
            let message = server::split(V1, payload).next().expect("one").expect("sound");
            match &message {
                ServerMessage::Update(update) => self.play(update.changes()),
                ServerMessage::SubscribeReply { error, changes, .. } => {
                    assert!(!error, "a subscription was refused");
                    self.play(changes);
                }
                _ => {}
            }
            return message;
        }
    }

    fn play(&mut self, changes: &Changes) {
        for change in changes.iter() {
            assert!(!change.table.starts_with("rtdb_"), "hidden rows show");
            for row in change.inserts.iter() {
                *self.rows.entry(row).or_default() += 1;
            }
        }
        for change in changes.iter() {
            for row in change.deletes.iter() {
                let count = self.rows.get_mut(&row).expect("a row that the client has");
                *count -= 1;
                if *count == 0 {
                    self.rows.remove(&row);
                }
            }
        }
        let most = self.rows.values().max().copied().unwrap_or(0);
        assert!(most <= self.copies_max, "a row came twice");
    }

    async fn subscribe(&mut self, query: &str, id: u32) {
        self.send(client::subscribe(V1, &[query], id, id)).await;
    }

    /// Reads until the rows are those of `truth`, once there is one.
    async fn settle(mut self, mut truth: watch::Receiver<Option<Cache>>) {
        let settled = async {
            while truth.borrow_and_update().as_ref() != Some(&self.rows) {
                tokio::select! {
                    _ = self.next() => {}
                    _ = truth.changed() => {}
                }
            }
        };
        let settled = tokio::time::timeout(SOON * 2, settled).await;
        assert!(settled.is_ok(), "the rows differ: {} here", self.rows.len());
    }
}

/// v1 `Subscribe`, the one that replaces all.
fn legacy(query: &str) -> Bytes {
    let mut frame = BytesMut::from(&[1][..]);
    frame.put_u32_le(1);
    frame.put_u32_le(query.len() as u32);
    frame.put_slice(query.as_bytes());
    frame.put_u32_le(1);
    frame.freeze()
}

fn add(name: &str, value: i64, request_id: u32) -> Bytes {
    let mut frame = BytesMut::new();
    let length = (name.len() as u32).to_le_bytes();
    let args = [&length, name.as_bytes(), &value.to_le_bytes()[..]];
    client::call_reducer(V1, &mut frame, "add", &args, request_id);
    frame.freeze()
}

fn remove(id: u64, request_id: u32) -> Bytes {
    let mut frame = BytesMut::new();
    client::call_reducer(V1, &mut frame, "remove", &[&id.to_le_bytes()], request_id);
    frame.freeze()
}

async fn publish(address: SocketAddr, token: &str, module: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "PUT /v1/database/{NAME} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n",
        module.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(module).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

fn module() -> Vec<u8> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../modules/counter-1x/counter-1x.wasm"
    );
    std::fs::read(path).expect("the module")
}

/// Calls, some of which fail, one in the window's every place when the server dies. Each is answered in its turn, and
/// what it wrote is there by then.
async fn write(mut writer: Client, pair: &Pair, token: &str) -> Client {
    let mut answered = 0;
    for id in 1..=CALLS {
        match id % 10 {
            0 => writer.send(add("", 0, id)).await,
            // A row that was there when the server died, or was written before.
            5 => writer.send(remove(u64::from(id) / 2, id)).await,
            _ => writer.send(add(&format!("<{id}>"), i64::from(id), id)).await,
        }
        if KILLS.contains(&id) {
            pair.kill_server();
        }
        if id == CALLS / 2 {
            // Another module, the same in fact: everybody is moved to it.
            let published = publish(pair.gateway, token, &module()).await;
            assert!(published.starts_with("HTTP/1.1 200"), "{published}");
        }
        // Some calls are always under way.
        while id - answered > 20 || (id == CALLS && answered < CALLS) {
            let next = tokio::time::timeout(SOON, writer.next()).await.expect("in time");
            let Some(applied) = next.into_applied() else {
                continue;
            };
            answered += 1;
            match applied.outcome {
                Outcome::Ok { .. } => {
                    assert_eq!(applied.request_id, answered);
                    assert_ne!(answered % 10, 0);
                    let name = format!("<{answered}>");
                    let has_it = |row: &Bytes| row.windows(name.len()).any(|part| part == name.as_bytes());
                    let seen = writer.rows.keys().any(has_it);
                    assert!(
                        seen || answered % 10 == 5,
                        "call {answered} is answered before its row"
                    );
                }
                Outcome::Failed { .. } => assert!(answered % 5 == 0, "call {answered} failed"),
                other => panic!("{other:?}"),
            }
        }
    }
    writer
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_outlive_the_server() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    let token = pair.tokens.fresh().expect("a token").token;
    let published = publish(pair.gateway, &token, &module()).await;
    assert!(published.starts_with("HTTP/1.1 200"), "{published}");
    let connect = async |copies| Client::connect(pair.gateway, &token, copies).await;

    let (truth, heard) = watch::channel(None);
    let (doubled, heard_doubled) = watch::channel(None);
    let mut readers = Vec::new();
    // One query; the oldest kind; one beside another that ends; two that share rows.
    let mut one = connect(1).await;
    one.subscribe("SELECT * FROM counter", 1).await;
    readers.push(tokio::spawn(one.settle(heard.clone())));
    let mut old = connect(1).await;
    old.send(legacy("SELECT * FROM counter")).await;
    readers.push(tokio::spawn(old.settle(heard.clone())));
    let mut left = connect(1).await;
    left.subscribe("SELECT * FROM dice", 1).await;
    left.subscribe("SELECT * FROM counter", 2).await;
    // UnsubscribeMulti of the first.
    left.send([&[6][..], &3u32.to_le_bytes(), &1u32.to_le_bytes()].concat())
        .await;
    readers.push(tokio::spawn(left.settle(heard.clone())));
    let mut two = connect(2).await;
    two.subscribe("SELECT * FROM counter", 1).await;
    two.subscribe("SELECT * FROM counter WHERE value > 150", 2).await;
    readers.push(tokio::spawn(two.settle(heard_doubled.clone())));

    let mut writer = connect(1).await;
    writer.subscribe("SELECT * FROM counter", 1).await;
    let writer = write(writer, &pair, &token).await;

    let mut fresh = connect(2).await;
    fresh.subscribe("SELECT * FROM counter", 1).await;
    while !matches!(fresh.next().await, ServerMessage::SubscribeReply { .. }) {}
    assert!(fresh.rows.len() > CALLS as usize / 2);
    assert_eq!(writer.rows, fresh.rows, "the writer's rows");
    truth.send_replace(Some(fresh.rows.clone()));
    fresh
        .subscribe("SELECT * FROM counter WHERE value > 150", 2)
        .await;
    while !matches!(fresh.next().await, ServerMessage::SubscribeReply { .. }) {}
    doubled.send_replace(Some(fresh.rows.clone()));
    for reader in readers {
        reader.await.expect("a reader that agrees");
    }
    // Four readers and the writer, two kills and a publication; less if these came at once.
    let restorations = pair.metrics.restorations.get();
    assert!(restorations >= 10, "{restorations} restorations");
    pair.stop().await;
    drop((truth, doubled));
}
