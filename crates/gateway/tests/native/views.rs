//! What clients of every subprotocol see of views.

#![allow(unreachable_pub, reason = "a module of tests")]

use crate::cluster::{self, Pair};
use crate::{Client, fixture, publish_module, request, text};
use rtdb_protocol::Subprotocol;
use rtdb_testkit::demo_module::another_build;
use rtdb_testkit::variant;
use serde_json::Value;

const NAME: &str = "seen";

/// As on the plain server: views by code and by query, of a sender and of all, and one whose rows have a key.
pub async fn views_are_the_same(pair: &Pair, owner: &str) {
    let module = variant::with_view_key(&fixture("views-2x"), "team", "identity").expect("a variant");
    publish_module(pair, module, NAME, owner).await;
    let mut seen = Vec::new();
    for address in [pair.plain, pair.gateway] {
        for (reducer, args) in [
            ("join", r#"["ann"]"#),
            ("score", "[5]"),
            ("write", r#"["first"]"#),
        ] {
            let call = format!("POST /v1/database/{NAME}/call/{reducer}");
            let answer = request(address, &call, owner, args.as_bytes()).await;
            assert_eq!(answer.0, 200, "{answer:?}");
        }
        let mut shown = Vec::new();
        for subprotocol in Subprotocol::ALL {
            let mut client = Client::connect(address, NAME, subprotocol, owner).await;
            client.sees().await;
            for (set, view) in (1..).zip(["team", "my_score", "notes", "nothing"]) {
                let query = format!("SELECT * FROM {view}");
                client.subscribe(&[&query], set, set).await;
                shown.push(format!("{subprotocol} {view}: {}", client.sees().await));
                client.query(&query, 100 + set).await;
                shown.push(format!("{subprotocol} {view}: {}", client.sees().await));
            }
        }
        // What a view shows of a row that is changed: what was, and what is.
        let mut client = Client::connect(address, NAME, pair.newest, owner).await;
        client.sees().await;
        client.subscribe(&["SELECT * FROM team"], 1, 1).await;
        client.sees().await;
        for (id, (reducer, args)) in (2..).zip([
            ("score", 7i64.to_le_bytes().to_vec()),
            ("write", text(b"second")),
            ("leave", Vec::new()),
        ]) {
            shown.push(format!(
                "{reducer}: {}",
                client.answered(reducer, &args, id).await
            ));
        }
        seen.push(shown);
    }
    assert_eq!(seen[0], seen[1]);
}

/// What there are of views, but for numbers that each server gives.
const LISTED: &[&str] = &[
    "SELECT view_name, is_public, is_anonymous FROM st_view",
    "SELECT view_name FROM st_view WHERE is_anonymous = true",
    "SELECT view_name FROM st_view WHERE view_name = 'team' OR view_name = 'rtdb_state'",
    "SELECT COUNT(*) AS n FROM st_view",
    "SELECT col_pos, col_name FROM st_view_column",
    "SELECT COUNT(*) AS n FROM st_view_column WHERE col_name = 'identity'",
    "SELECT COUNT(*) AS n FROM st_view_param",
    "SELECT nope FROM st_view",
];

/// A body without durations, its rows in order.
fn sorted(body: &str) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(body) else {
        return body.to_owned();
    };
    if let Some(statement) = answer.get_mut(0).and_then(Value::as_object_mut) {
        statement.remove("total_duration_micros");
        if let Some(rows) = statement.get_mut("rows").and_then(Value::as_array_mut) {
            rows.sort_by_key(Value::to_string);
        }
    }
    answer.to_string()
}

/// Views are listed as natively; and a module one of whose views fails with the rows that there are is published, as an update and
/// as what is there. Whoever asks for it is told, where natively its rows are as they were.
#[tokio::test(flavor = "multi_thread")]
async fn views_are_listed_and_fail_as_natively() {
    const NAME: &str = "breaks";
    /// The view `broken` fails from there on.
    const BROKEN: &str = "[2]";
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    if pair.newest == Subprotocol::V1 {
        eprintln!("passed over: this SpacetimeDB has no views");
        return pair.stop().await;
    }
    let owner = &pair.tokens.fresh().expect("a token").token;
    let module = fixture("views-2x");
    publish_module(&pair, module.clone(), NAME, owner).await;
    for query in LISTED {
        let path = format!("POST /v1/database/{NAME}/sql");
        let [plain, gateway] =
            [pair.plain, pair.gateway].map(|at| request(at, &path, owner, query.as_bytes()));
        let read = |(status, body): (u16, String)| (status, sorted(&body));
        assert_eq!(read(plain.await), read(gateway.await), "{query}");
    }
    let mut said = Vec::new();
    for address in [pair.plain, pair.gateway] {
        let ask = async |line: &str, body: &[u8]| {
            let (status, body) = request(address, line, owner, body).await;
            (
                status,
                sorted(&body).split("\n").next().unwrap_or_default().to_owned(),
            )
        };
        let call = |reducer: &str| format!("POST /v1/database/{NAME}/call/{reducer}");
        let sql = format!("POST /v1/database/{NAME}/sql");
        let publish = format!("PUT /v1/database/{NAME}");
        let mut answers = vec![ask(&call("switch_on"), BROKEN.as_bytes()).await];
        for build in 1..3 {
            let status = ask(&publish, &another_build(&module, build)).await.0;
            answers.push((status, String::new()));
            answers.push(ask(&sql, b"SELECT * FROM team").await);
            let broken = ask(&sql, b"SELECT * FROM broken").await.0;
            assert_eq!(broken, if address == pair.gateway { 400 } else { 200 });
            answers.push(ask(&call("write"), br#"["still"]"#).await);
        }
        said.push(answers);
        // After such an update 2.8.3 knows no arguments of the view any more, and fails the calls that change what it reads.
        if address == pair.gateway {
            assert_eq!(ask(&call("switch_off"), BROKEN.as_bytes()).await.0, 200);
            let (status, rows) = ask(&sql, b"SELECT * FROM broken").await;
            assert_eq!(status, 200, "{rows}");
            assert!(rows.contains(r#""rows":[[0]]"#), "{rows}");
        }
    }
    assert_eq!(said[0], said[1]);
    pair.stop().await;
}
