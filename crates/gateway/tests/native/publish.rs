//! Publications, refused ones too, and what databases begin with.

#![allow(unreachable_pub, reason = "a module of tests")]

use crate::cluster::Pair;
use crate::http::{Both, asked, closed, without_durations};
use crate::{Client, add, fixture, request};
use rtdb_protocol::Subprotocol;
use rtdb_testkit::variant;
use serde_json::Value;
use spacetimedb_lib::Identity;
use std::net::SocketAddr;

const NAME: &str = "begins";

/// A database on both servers: tokens speak of it.
const WIDER: &str = "c2000123456789abcdef0123456789abcdef0123456789abcdef0123456789ac";

/// What is said of a database, but for its identity, which is each server's own.
async fn info(address: SocketAddr, owner: &str) -> Value {
    let (status, body) = request(address, &format!("GET /v1/database/{NAME}"), owner, b"").await;
    assert_eq!(status, 200, "{body}");
    let mut info: Value = serde_json::from_str(&body).expect("JSON");
    info["database_identity"].take();
    info
}

/// Both say the same of it. Gives the hash of the module that it has begun with.
async fn begun(pair: &Pair, owner: &str) -> Value {
    let mut plain = info(pair.plain, owner).await;
    assert_eq!(info(pair.gateway, owner).await, plain);
    plain["initial_program"].take()
}

/// Like the plain server: who may publish what, and how; what a database begins with; how it begins anew.
pub async fn publications_are_the_same(pair: &Pair, [owner, other]: [&str; 2], module: &[u8]) {
    let is_old = pair.newest == Subprotocol::V1;
    let [own, others] = [owner, other].map(|token| format!("authorization: Bearer {token}\r\n"));
    let grown = variant::with_table(module, "dice", "die").expect("a variant");
    let another = fixture(if is_old { "walks-1x" } else { "walks-2x" });
    let failing = ["explode", "connected"].map(|reducer| variant::beginning_with(module, reducer));
    let mut both = Both::new(pair);
    let claims = pair.tokens.verify(owner).expect("a good token");
    let identity = Identity::from_byte_array(claims.identity).to_hex();

    // What is refused before anybody looks at the module.
    for query in ["clear=1", "num_replicas=x", "num_replicas=", "num_replicas=-1"] {
        both.ask(&format!("PUT /v1/database/{NAME}?{query}"), &own, b"")
            .await;
    }
    for query in [
        "num_replicas=256",
        "host_type=Python",
        "policy=Whatever",
        "policy=BreakClients",
        "policy=BreakClients&token=none",
        "parent=nosuch",
        "organization=nosuch",
        "org=nosuch",
        "parent=No_Name",
        "clear=true&parent=nosuch",
    ] {
        both.ask_newer(&format!("PUT /v1/database?{query}"), &own, b"")
            .await;
        both.ask_newer(&format!("POST /v1/database?{query}"), &own, b"")
            .await;
        both.ask_newer(&format!("PUT /v1/database/{NAME}?{query}"), &own, b"")
            .await;
    }
    both.ask("POST /v1/database?clear=true", &own, module).await;
    both.ask("POST /v1/database", &own, module).await;
    both.ask("POST /v1/database", "", module).await;
    // A module whose `init` fails makes no database.
    for module in failing {
        let module = module.expect("a variant");
        let publish = format!("PUT /v1/database/{NAME}");
        let plain = request(pair.plain, &publish, owner, &module).await;
        let gateway = request(pair.gateway, &publish, owner, &module).await;
        assert_eq!((plain.0, gateway.0), (500, 400), "{plain:?} {gateway:?}");
        assert!(is_old || plain.1 == gateway.1, "{plain:?} {gateway:?}");
        both.ask_newer(&format!("GET /v1/database/{NAME}"), &own, b"")
            .await;
    }
    let list = format!("GET /v1/identity/{identity}/databases");
    both.ask(&list, "", b"").await;

    both.ask(&format!("PUT /v1/database/{NAME}"), &own, module).await;
    let first = begun(pair, owner).await;
    both.ask(&format!("GET /v1/database/{NAME}"), &others, b"").await;
    // Neither an update nor what is refused is a beginning.
    both.ask(&format!("PUT /v1/database/{NAME}?num_replicas=3"), &own, &grown)
        .await;
    assert_eq!(begun(pair, owner).await, first);
    both.ask(
        &format!("PUT /v1/database/{NAME}?parent={NAME}&organization={identity}"),
        &own,
        &grown,
    )
    .await;
    for timeout in ["5s", "0s"] {
        let publish = format!("PUT /v1/database/{NAME}?update_confirmation_timeout={timeout}");
        both.ask_newer(&publish, &own, &grown).await;
    }
    let clear = format!("PUT /v1/database/{NAME}?clear=true");
    both.ask_newer(&format!("{clear}&parent={NAME}"), &own, &grown)
        .await;
    both.ask_newer(&clear, &others, &grown).await;
    // 1.2.0 deletes the database before it looks at the module.
    for address in [pair.gateway, pair.plain]
        .into_iter()
        .take(if is_old { 1 } else { 2 })
    {
        assert_ne!(request(address, &clear, owner, b"no module").await.0, 200);
    }
    assert_eq!(begun(pair, owner).await, first);
    both.ask(
        &format!("{clear}&organization=nosuch&policy=BreakClients"),
        &own,
        &another,
    )
    .await;
    let second = begun(pair, owner).await;
    assert_ne!(second, first);
    both.ask(&list, "", b"").await;
    both.ask("GET /v1/identity/nobody/databases", "", b"").await;
    both.ask(&format!("GET /v1/identity/{}/databases", "0".repeat(64)), "", b"")
        .await;
    if !is_old {
        columns_are_added_with_defaults(pair, owner, module).await;
        resets_are_the_same(pair, &mut both, [owner, other], [module, &another]).await;
    }
    both.check();
}

/// A column that is added breaks clients, and has its default in the rows that are there.
async fn columns_are_added_with_defaults(pair: &Pair, owner: &str, module: &[u8]) {
    let both = async |method: &str, path: &str, body: &[u8]| {
        let line = format!("{method} /v1/database/{WIDER}{path}");
        let plain = request(pair.plain, &line, owner, body).await;
        let gateway = request(pair.gateway, &line, owner, body).await;
        assert_eq!(
            without_durations(&gateway.1),
            without_durations(&plain.1),
            "{line}"
        );
        assert_eq!((plain.0, gateway.0), (200, 200), "{line}: {plain:?}");
        plain.1
    };
    let wider = variant::with_column(module, "counter", "more", 7).expect("a variant");
    both("PUT", "", module).await;
    let plan: Value = serde_json::from_str(&both("POST", "/pre_publish", &wider).await).expect("JSON");
    let token = plan["AutoMigrate"]["token"].as_str().expect("a token");
    both("PUT", &format!("?policy=BreakClients&token={token}"), &wider).await;
    let rows = both("POST", "/sql", b"SELECT id, name, more FROM counter").await;
    assert!(rows.contains(r#"[1,"init",7]"#), "{rows}");
}

async fn resets_are_the_same(
    pair: &Pair,
    both: &mut Both<'_>,
    [owner, other]: [&str; 2],
    [module, another]: [&[u8]; 2],
) {
    let [own, others] = [owner, other].map(|token| format!("authorization: Bearer {token}\r\n"));
    let reset = format!("PUT /v1/database/{NAME}/reset");
    let before = begun(pair, owner).await;
    for name in ["nosuch", &"0".repeat(64), "No_Name"] {
        both.ask(&format!("PUT /v1/database/{name}/reset"), &own, module)
            .await;
    }
    for query in ["num_replicas=256", "num_replicas=x", "host_type=Python"] {
        both.ask(&format!("{reset}?{query}"), &own, module).await;
    }
    both.ask(&format!("POST /v1/database/{NAME}/reset"), &own, module)
        .await;
    both.ask(&reset, &others, module).await;
    both.ask(&reset, "", module).await;
    both.ask(&format!("POST /v1/database/{NAME}/lock"), &own, b"")
        .await;
    both.ask(&reset, &own, module).await;
    both.ask(&reset, &others, module).await;
    both.ask(&format!("POST /v1/database/{NAME}/unlock"), &own, b"")
        .await;
    // Without a module, and with what is none, all stays as it was.
    for none in [&b""[..], b"no module"] {
        for address in [pair.plain, pair.gateway] {
            assert_ne!(request(address, &reset, owner, none).await.0, 200);
        }
    }
    assert_eq!(begun(pair, owner).await, before);

    both.ask(
        &format!("{reset}?num_replicas=3&policy=BreakClients"),
        &own,
        module,
    )
    .await;
    let sql = format!("POST /v1/database/{NAME}/sql");
    let count = b"SELECT COUNT(*) AS n FROM counter";
    let mut ends = Vec::new();
    for address in [pair.plain, pair.gateway] {
        let mut client = Client::connect(address, NAME, pair.newest, other).await;
        client.sees().await;
        let called = client.answered("add", &add("gone", 1), 1).await;
        assert!(called.contains("Ok"), "{called}");
        let (_, before) = request(address, &sql, owner, count).await;
        let answer = request(address, &reset, owner, module).await;
        assert_eq!(answer.0, 200, "{answer:?}");
        assert!(answer.1.ends_with(r#","op":"updated"}}"#), "{answer:?}");
        ends.push(closed(&mut client).await);
        let (_, after) = request(address, &sql, owner, count).await;
        assert!(
            before.contains("[[2]]") && after.contains("[[1]]"),
            "{before} {after}"
        );
    }
    assert_eq!(ends, [Some((1001, "module exited".to_owned())), ends[0].clone()]);
    assert_ne!(begun(pair, owner).await, before);
    both.ask(&reset, &own, another).await;
    assert_eq!(begun(pair, owner).await, before);
    let (_, names) = asked(pair.gateway, &format!("GET /v1/database/{NAME}/names"), &own).await;
    assert_eq!(names, format!(r#"{{"names":["{NAME}"]}}"#));
}
