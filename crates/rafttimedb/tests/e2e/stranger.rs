//! A stranger with a fresh token tries everything: nobody else notices.

use anyhow::{Context, Result, bail, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::Api;
use rtdb_testkit::clients::Clients;
use rtdb_testkit::poison_module::{self, DRAIN, EAT, FAIL, NOTHING, crafted};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, answered, run, until};

/// Calls of others that are answered between two of the stranger's doings.
const SOME: u64 = 30;

/// The stranger's own database.
const OWN: &str = "own";

/// What a stranger's request is answered with, whatever it is.
async fn answer(
    api: &Api,
    method: Method,
    path: &str,
    body: impl Into<bytes::Bytes>,
) -> Result<(StatusCode, String)> {
    let answer = api.send(method, path, body).await?;
    Ok((answer.status, answer.text()))
}

/// Takes what is somebody else's.
async fn reach_for_what_is_others(api: &Api) -> Result<()> {
    let database = format!("/v1/database/{DATABASE}");
    let module = poison_module::wasm()?;
    for (method, path, body) in [
        (Method::PUT, database.clone(), module.clone()),
        (Method::PUT, format!("{database}?clear=true"), module),
        (Method::DELETE, database.clone(), Vec::new()),
        (Method::POST, format!("{database}/names"), b"\"mine\"".to_vec()),
        (Method::PUT, format!("{database}/names"), b"[\"mine\"]".to_vec()),
        (
            Method::POST,
            format!("{database}/sql"),
            b"DELETE FROM counter".to_vec(),
        ),
        (
            Method::POST,
            format!("{database}/sql"),
            b"SELECT * FROM rtdb_state".to_vec(),
        ),
        (
            Method::POST,
            format!("{database}/sql"),
            b"SELECT * FROM secret".to_vec(),
        ),
        (Method::GET, format!("{database}/logs"), Vec::new()),
    ] {
        let (status, text) = answer(api, method.clone(), &path, body).await?;
        ensure!(
            status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED,
            "{method} {path}: {status} {text}"
        );
    }
    Ok(())
}

/// Calls that can't be, of a database that anybody may call.
async fn call_nonsense(api: &Api) -> Result<()> {
    let call = format!("/v1/database/{DATABASE}/call");
    for (reducer, args) in [
        ("rtdb_mark", json!([0, 0, 0, 0, 0, true])),
        ("rtdb_load", json!(["counter", []])),
        ("init", json!([])),
        ("client_connected", json!([])),
        ("no_such_reducer", json!([])),
        ("add", json!([])),
        ("add", json!([1, 2, 3])),
        ("add", json!({ "name": "x" })),
    ] {
        let answer = api.post_json(&format!("{call}/{reducer}"), &args).await?;
        ensure!(
            answer.status.is_client_error(),
            "{reducer}: {} {}",
            answer.status,
            answer.text()
        );
    }
    let deep = "[".repeat(100_000);
    let large = format!("[\"{}\", 1]", "x".repeat(40 << 20));
    for body in [deep, large, "\u{0}".repeat(1_000)] {
        let path = format!("{call}/add");
        // It may be cut off while it still sends.
        if let Ok((status, text)) = answer(api, Method::POST, &path, body).await {
            ensure!(
                status.is_client_error(),
                "{status} {}",
                &text[..text.len().min(200)]
            );
        }
    }
    Ok(())
}

/// Speaks another protocol than HTTP, or stops in the middle of it.
async fn babble(addr: &str) -> Result<()> {
    let upgrade = format!(
        "GET /v1/database/{DATABASE}/subscribe HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: v2.bsatn.spacetimedb\r\n\r\n"
    );
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
        b"GET / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        [upgrade.as_bytes(), b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff"].concat(),
        [upgrade.as_bytes(), b"\x82\x85\0\0\0\0\xff\xff\xff\xff\xff"].concat(),
    ] {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        let mut heard = Vec::new();
        // What it is answered, and whether, does not matter; that it ends does.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut heard))
            .await
            .context("it goes on")?;
    }
    Ok(())
}

#[test]
fn a_stranger_stops_nobody() {
    run(async {
        let scene = Scene::with(3, |config| {
            let arguments = ["--call-time-max-s", "2", "--stdb-memory-max", "700"];
            config.arguments = arguments.map(str::to_owned).into();
        })
        .await?;
        let clients = Clients::start(scene.loads(0, 1));
        answered(&clients, SOME).await?;
        let node = scene.cluster.node(2);
        let stranger = node.api().with_token(node.api().new_token().await?);

        reach_for_what_is_others(&stranger).await?;
        call_nonsense(&stranger).await?;
        babble(node.client_addr()).await?;
        answered(&clients, SOME).await?;
        for (what, module) in crafted()? {
            let path = format!("/v1/database/{OWN}");
            let (status, text) = answer(&stranger, Method::PUT, &path, module).await?;
            ensure!(status.is_client_error(), "{what}: {status} {text}");
            answered(&clients, SOME).await?;
        }
        stranger.publish(OWN, poison_module::wasm()?).await?;
        for (reducer, args, expected) in [
            (FAIL, json!([]), 530),
            (DRAIN, json!([]), 530),
            (EAT, json!([]), 530),
            (NOTHING, json!([]), 200),
        ] {
            let path = format!("/v1/database/{OWN}/call/{reducer}");
            let answer = stranger.post_json(&path, &args).await?;
            ensure!(
                answer.status.as_u16() == expected,
                "{reducer}: {} {}",
                answer.status,
                answer.text()
            );
            answered(&clients, SOME).await?;
        }

        let histories = clients.stop().await?;
        scene.settled(&histories).await?;
        for node in scene.cluster.nodes() {
            let status: Value = node.admin().get("/cluster/status").await?;
            ensure!(status["ready"] == true, "{status}");
            for database in status["databases"].as_array().into_iter().flatten() {
                let phase = database["phase"].as_str().unwrap_or_default();
                ensure!(["applying", "absent", ""].contains(&phase), "{database}");
            }
        }
        scene.end().await
    });
}

#[test]
fn a_strangers_slow_calls_leave_the_node_ready_for_others() {
    run(async {
        let scene = Scene::with(1, |config| {
            config.arguments = ["--ready-lag-max-ms", "300"].map(str::to_owned).to_vec();
        })
        .await?;
        let node = scene.cluster.node(1);
        let stranger = node.api().with_token(node.api().new_token().await?);
        stranger.publish(OWN, poison_module::wasm()?).await?;
        let path = format!("/v1/database/{OWN}/call/{}", poison_module::ENDLESS[0]);
        let args = json!([]);
        let looking = until("the node is behind with the call", async || {
            let status: Value = node.admin().get("/cluster/status").await?;
            ensure!(status["lag_ms"].as_u64() > Some(300), "{}", status["lag_ms"]);
            Ok(())
        });
        tokio::select! {
            answered = stranger.post_json(&path, &args) => bail!("an endless call was answered: {answered:?}"),
            looked = looking => looked?,
        }
        let ready = node.admin().send(Method::GET, "/cluster/ready", "").await?;
        ensure!(ready.status == StatusCode::OK, "{}", ready.text());
        for (wanted, status) in [("60000", StatusCode::OK), ("soon", StatusCode::BAD_REQUEST)] {
            let path = format!("/cluster/ready?max_lag_ms={wanted}");
            let ready = node.admin().send(Method::GET, &path, "").await?;
            ensure!(ready.status == status, "{wanted}: {}", ready.text());
        }
        scene.end().await
    });
}
