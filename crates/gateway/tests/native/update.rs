//! Updates, and what they do to clients: as on the plain server.

use super::{Client, SOON, add, cluster, request};
use cluster::Pair;
use futures::StreamExt;
use rtdb_protocol::Subprotocol;
use rtdb_testkit::variant;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

/// The database on both servers: tokens speak of it.
const DATABASE: &str = "c2000123456789abcdef0123456789abcdef0123456789abcdef0123456789ab";

fn fixture(name: &str) -> Vec<u8> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules");
    std::fs::read(modules.join(name).join(name).with_extension("wasm")).expect("the module")
}

/// One of the servers, as the database's owner sees it.
struct Server {
    address: SocketAddr,
    owner: String,
}

impl Server {
    async fn send(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let line = format!("{method} /v1/database/{DATABASE}{path}");
        request(self.address, &line, &self.owner, body).await
    }

    /// Who is there, as a client is told that has just come.
    async fn present(&self, subprotocol: Subprotocol) -> String {
        let mut client = Client::connect(self.address, DATABASE, subprotocol, &self.owner).await;
        client.sees().await;
        client.subscribe(&["SELECT * FROM presence"], 1, 1).await;
        client.sees().await
    }

    async fn client(&self, subprotocol: Subprotocol, queries: &[&str]) -> Client {
        let mut client = Client::connect(self.address, DATABASE, subprotocol, &self.owner).await;
        client.sees().await;
        client.subscribe(queries, 1, 1).await;
        client.sees().await;
        client
    }
}

/// What both servers answer.
async fn both(servers: &[Server; 2], method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let [plain, gateway] = servers;
    let native = plain.send(method, path, body).await;
    assert_eq!(gateway.send(method, path, body).await, native, "{method} {path}");
    native
}

/// The way that a client is closed.
async fn closed(client: &mut Client) -> Option<(u16, String)> {
    let end = async {
        loop {
            match client.socket.next().await {
                Some(Ok(Message::Close(frame))) => {
                    return frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    tokio::time::timeout(SOON, end).await.expect("it is closed")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_does_to_clients_what_it_does_natively() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    let owner = pair.tokens.fresh().expect("a token").token;
    let servers = [pair.plain, pair.gateway].map(|address| Server {
        address,
        owner: owner.clone(),
    });
    let is_old = pair.newest == Subprotocol::V1;
    let module = fixture(if is_old { "counter-1x" } else { "counter-2x" });
    let grown = variant::with_table(&module, "dice", "die").expect("a variant");
    both(&servers, "PUT", "", &module).await;

    // Nobody is closed by what is compatible. Those who asked for all tables are not told of the new one.
    let mut clients = Vec::new();
    for server in &servers {
        clients.push(server.client(pair.newest, &["SELECT * FROM *"]).await);
    }
    let policy = if is_old {
        "?policy=Compatible".to_owned()
    } else {
        format!(
            "?policy=BreakClients&token={}",
            token(&servers, &grown, false).await
        )
    };
    assert_eq!(both(&servers, "PUT", &policy, &grown).await.0, 200);
    let mut seen = Vec::new();
    for client in &mut clients {
        // Behind the gateway its rows may come before its result, while what it was shown is restored.
        client.call("add", &add("kept", 1), 2).await;
        while !client.sees().await.starts_with("call 2 Ok") {}
        seen.push(client.answered("roll", &super::text(b"kept"), 3).await);
    }
    assert_eq!(seen[0], seen[1]);

    // Nor does it grow when what it was shown is restored once more.
    pair.kill_server();
    clients[1].call("add", &add("again", 1), 4).await;
    while !clients[1].sees().await.starts_with("call 4 Ok") {}

    if is_old {
        let [_, gateway] = &servers;
        let breaking = format!("?policy=BreakClients&token={:#x}", 7);
        assert_eq!(gateway.send("PUT", &breaking, &module).await.0, 501);
    } else {
        breaking(&servers, &grown, clients, pair.newest).await;
    }
    pair.stop().await;
}

/// The token for an update, whose plan is the same on both servers.
async fn token(servers: &[Server; 2], module: &[u8], breaks: bool) -> String {
    both(servers, "POST", "/pre_publish?style=NoColor", module).await;
    let (status, plan) = both(servers, "POST", "/pre_publish", module).await;
    assert_eq!(status, 200, "{plan}");
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(plan["AutoMigrate"]["break_clients"], json!(breaks), "{plan}");
    plan["AutoMigrate"]["token"].as_str().expect("a token").to_owned()
}

async fn breaking(servers: &[Server; 2], grown: &[u8], mut clients: Vec<Client>, newest: Subprotocol) {
    let ruled = variant::with_rule(grown, "SELECT * FROM dice").expect("a variant");
    let ruled_more = variant::with_rule(grown, "SELECT * FROM note").expect("a variant");
    let good = token(servers, &ruled, true).await;
    // What the preparation takes out of definitions stands in the plan, in its place among the rest.
    let without = variant::without_numbers(&ruled, "note").expect("a variant");
    let without = variant::with_table(&without, "dice", "more_dice").expect("a variant");
    token(servers, &without, true).await;
    let other = token(servers, &ruled_more, true).await;
    for refused in [
        "".to_owned(),
        "?policy=Compatible".to_owned(),
        "?policy=BreakClients".to_owned(),
        format!("?policy=BreakClients&token={other}"),
    ] {
        let (status, body) = both(servers, "PUT", &refused, &ruled).await;
        assert_eq!(status, 400, "{body}");
    }
    // They are still there.
    for client in &mut clients {
        client.call("add", &add("there", 1), 5).await;
        while !client.sees().await.starts_with("call 5 Ok") {}
    }
    let taken = format!("?policy=BreakClients&token={good}");
    assert_eq!(both(servers, "PUT", &taken, &ruled).await.0, 200);
    let mut ends = Vec::new();
    for client in &mut clients {
        ends.push(closed(client).await);
    }
    assert_eq!(ends[0], Some((1001, "module exited".to_owned())));
    assert_eq!(ends[1], ends[0]);
    // `client_disconnected` has run: whoever comes finds nobody else.
    let alone = servers[0].present(newest).await;
    let gone = async {
        while servers[1].present(newest).await != alone {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("nobody is there");
    for server in servers {
        let (status, logs) = server.send("GET", "/logs", b"").await;
        assert_eq!(status, 200);
        assert_eq!(logs.matches("Disconnecting all users").count(), 1, "{logs}");
    }
    // What runs already needs no token; a token of before is good no more.
    assert_eq!(both(servers, "PUT", &taken, &ruled).await.0, 200);
    let outdated = format!("?policy=BreakClients&token={other}");
    assert_eq!(both(servers, "PUT", &outdated, &ruled_more).await.0, 400);
    // Those who came after the update stay.
    for server in servers {
        let mut client = server.client(newest, &["SELECT * FROM counter"]).await;
        client.call("add", &add("new", 1), 2).await;
        assert!(client.sees().await.contains("Ok"));
    }
}
