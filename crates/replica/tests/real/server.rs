//! The managed server, for real: its keys, its tokens, its restarts.

use crate::support::{Node, TIMEOUT, program, start_server};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use rtdb_replica::{Keys, LocalServer, ServerConfig, ServerError, ServerState, Tokens};
use spacetimedb_lib::Identity;
use std::time::Duration;

fn payload(token: &str) -> String {
    let payload = token.split('.').nth(1).unwrap();
    let bits: Vec<u8> = payload
        .bytes()
        .map(|c| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' => 62,
            _ => 63,
        })
        .collect();
    let bytes: Vec<u8> = bits
        .chunks(4)
        .flat_map(|chunk| {
            let word =
                chunk.iter().fold(0_u32, |word, six| word << 6 | u32::from(*six)) << (6 * (4 - chunk.len()));
            word.to_be_bytes()[1..chunk.len()].to_vec()
        })
        .collect();
    String::from_utf8(bytes).unwrap()
}

/// The claims' names, in the order in which they stand.
fn claims(token: &str) -> Vec<String> {
    payload(token)
        .split(['{', ','])
        .filter_map(|part| Some(part.split_once(':')?.0.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_and_we_take_each_others_tokens() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    node.server.check(&node.keys).await.unwrap();
    assert!(node.server.version().is_some());

    // Theirs is good for us, and ours looks the same.
    let request = Request::post("/v1/identity").body(Empty::<Bytes>::new()).unwrap();
    let response = node.server.http().forward(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let theirs: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let token = theirs["token"].as_str().unwrap();
    let verified = node.tokens.verify(token).unwrap();
    let hex = Identity::from_byte_array(verified.identity).to_hex().to_string();
    assert_eq!(theirs["identity"].as_str(), Some(hex.as_str()));
    let fresh = node.tokens.fresh().unwrap();
    assert_eq!(claims(token), claims(&fresh.token));
    assert!(payload(&fresh.token).contains(r#""aud":["spacetimedb"]"#));
    assert!(payload(token).contains(r#""exp":null"#) && payload(&fresh.token).contains(r#""exp":null"#));

    // Ours is good for them, and an owner of another issuer is that owner.
    for minted in [
        fresh,
        node.tokens
            .mint("https://issuer.example", "me", Some(TIMEOUT))
            .unwrap(),
    ] {
        let hex = Identity::from_byte_array(minted.identity).to_hex();
        let request = Request::get(format!("/v1/identity/{hex}/verify"))
            .header("authorization", format!("Bearer {}", minted.token))
            .body(Empty::<Bytes>::new())
            .unwrap();
        assert_eq!(node.server.http().forward(request).await.unwrap().status(), 204);
    }

    // Another cluster's key is noticed, on an external server too.
    let others = Keys::generate().unwrap();
    assert!(matches!(
        node.server.check(&others).await,
        Err(ServerError::OtherKey { .. })
    ));
    let external = LocalServer::start(
        ServerConfig::External {
            url: node.server.url(),
        },
        &others,
    )
    .await
    .unwrap();
    tokio::time::timeout(TIMEOUT, external.up()).await.unwrap();
    assert!(matches!(
        external.check(&others).await,
        Err(ServerError::OtherKey { .. })
    ));
    external.check(&node.keys).await.unwrap();
    assert_eq!(external.version(), node.server.version());
    external.stop().await;
    assert!(Tokens::new(&others).unwrap().verify(token).is_err());
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_started_again_and_stops_with_us() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let mut state = node.server.state();
    for _ in 0..2 {
        let before = node.pid();
        node.kill_server();
        let down = state.wait_for(|state| matches!(state, ServerState::Down { .. }));
        tokio::time::timeout(TIMEOUT, down).await.unwrap().unwrap();
        tokio::time::timeout(TIMEOUT, node.server.up()).await.unwrap();
        assert_ne!(node.pid(), before);
        node.server.check(&node.keys).await.unwrap();
    }
    let pid = node.pid().unwrap();
    tokio::time::timeout(TIMEOUT, node.server.stop()).await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(node.pid(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_left_behind_is_ended_by_the_next_start() {
    let Some(program) = program() else { return };
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::generate().unwrap();
    let root = folder.path().join("spacetimedb");
    std::fs::create_dir_all(root.join("data")).unwrap();
    let files = keys.write(&root).unwrap();
    let mut left = std::process::Command::new(&program)
        .arg("start")
        .args(["--data-dir".as_ref(), root.join("data").as_os_str()])
        .args(["--listen-addr", "127.0.0.1:0"])
        .args(["--jwt-pub-key-path".as_ref(), files.public.as_os_str()])
        .args(["--jwt-priv-key-path".as_ref(), files.private.as_os_str()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::fs::write(root.join("pid"), left.id().to_string()).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;

    let server = start_server(&program, folder.path(), &keys).await;
    assert!(!left.wait().unwrap().success());
    server.check(&keys).await.unwrap();
    server.stop().await;
}
