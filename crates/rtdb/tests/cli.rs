//! The binary against a stub of the admin API.

#![allow(clippy::unwrap_used, reason = "a test's failure is a panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

/// Answers one request with `status` and `body`, and returns what was asked: the request line and the body.
fn stub(status: &'static str, body: &'static str) -> (String, JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let asked = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_lowercase());
        }
        let len = head
            .iter()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        let mut asked = vec![0; len];
        reader.read_exact(&mut asked).unwrap();
        let len = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
        )
        .unwrap();
        (head.remove(0), String::from_utf8(asked).unwrap())
    });
    (addr, asked)
}

fn rtdb(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rtdb"))
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn init_asks_the_first_node() {
    let (addr, asked) = stub("200 OK", r#"{"cluster_id": "c0ffee"}"#);
    let output = rtdb(&[
        "init",
        "--nodes",
        &format!("1={addr}"),
        "2=node2:4001",
        "3=node3:4001",
    ]);
    let (line, body) = asked.join().unwrap();
    assert_eq!(line, "post /cluster/init http/1.1");
    assert_eq!(
        body,
        format!(r#"{{"nodes":{{"1":"{addr}","2":"node2:4001","3":"node3:4001"}}}}"#)
    );
    assert_eq!(text(&output.stdout), "Cluster c0ffee initialised with 3 nodes.\n");
    assert!(output.status.success());
}

#[test]
fn init_again_says_that_nothing_changed() {
    let (addr, _asked) = stub("200 OK", r#"{"cluster_id": "c0ffee", "already": true}"#);
    let output = rtdb(&["init", "--nodes", &format!("1={addr}")]);
    assert!(text(&output.stdout).contains("initialised already"));
    assert!(output.status.success());
}

#[test]
fn a_refusal_is_shown_with_its_reason() {
    let (addr, _asked) = stub(
        "409 Conflict",
        r#"{"error": "node 2 belongs to another cluster"}"#,
    );
    let output = rtdb(&["init", "--nodes", &format!("1={addr}")]);
    let expected = format!("rtdb: http://{addr} answered 409 Conflict: node 2 belongs to another cluster\n");
    assert_eq!(text(&output.stderr), expected);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn nobody_listening_says_what_to_check() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = rtdb(&["status", "--addr", &format!("http://{addr}")]);
    let error = text(&output.stderr);
    assert!(
        error.contains("no node answers") && error.contains("Is rafttimedb running"),
        "{error}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn something_else_listening_is_told_apart() {
    let (addr, _asked) = stub("200 OK", "hello");
    let output = rtdb(&["status", "--addr", &addr]);
    assert!(text(&output.stderr).contains("not a rafttimedb admin API"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn wrong_usage_is_status_2() {
    let output = rtdb(&["init", "--nodes", "node1:4001"]);
    assert!(text(&output.stderr).contains("ID=HOST:PORT"));
    assert_eq!(output.status.code(), Some(2));
}
