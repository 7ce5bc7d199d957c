//! A database's log: its last lines, and those that come.

#![allow(unreachable_pub, reason = "a module of tests")]

use crate::cluster::Pair;
use crate::{SOON, request};
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A line without what differs from call to call.
fn timeless(line: &str) -> Value {
    let mut line: Value = serde_json::from_str(line).expect("JSON");
    let fields = line.as_object_mut().expect("an object");
    assert!(fields.remove("ts").is_some());
    fields.remove("trace");
    line
}

/// Follows the log from its last line on, while a call goes wrong. Gives that line, and the one that comes.
async fn followed(address: SocketAddr, database: &str, owner: &str) -> [Value; 2] {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "GET /v1/database/{database}/logs?num_lines=1&follow=true HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {owner}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut lines = BufReader::new(stream).lines();
    let mut next = async || loop {
        let line = tokio::time::timeout(SOON, lines.next_line())
            .await
            .expect("in time");
        let line = line.expect("a sound answer").expect("more of it");
        if line.starts_with('{') {
            return timeless(&line);
        }
    };
    let last = next().await;
    explode(address, database, owner).await;
    [last, next().await]
}

async fn explode(address: SocketAddr, database: &str, owner: &str) {
    let call = format!("POST /v1/database/{database}/call/explode");
    assert_eq!(request(address, &call, owner, b"[]").await.0, 530);
}

/// As on the plain server.
pub async fn lines_are_the_same(pair: &Pair, database: &str, owner: &str) {
    for address in [pair.plain, pair.gateway] {
        for _ in 0..3 {
            explode(address, database, owner).await;
        }
    }
    for lines in 0..=3 {
        let mut shown = Vec::new();
        for address in [pair.plain, pair.gateway] {
            let logs = format!("GET /v1/database/{database}/logs?num_lines={lines}");
            let (status, body) = request(address, &logs, owner, b"").await;
            assert_eq!(status, 200, "{body}");
            shown.push(
                body.lines()
                    .filter(|line| !line.is_empty())
                    .map(timeless)
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(shown[0], shown[1], "{lines}");
    }
    let plain = followed(pair.plain, database, owner).await;
    assert_eq!(followed(pair.gateway, database, owner).await, plain);
}
