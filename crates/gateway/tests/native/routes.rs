//! Every route of the API, by every method: whether it is there, and what is said without a token, with one, and with a bad one.

#![allow(unreachable_pub, reason = "a module of tests")]

use crate::cluster::{self, Pair};
use crate::http::Both;
use crate::{fixture, publish_module};
use rtdb_protocol::Subprotocol;

const DATABASE: &str = "routes";
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

/// Those since 1.2.
const ROUTES: [&str; 27] = [
    "/",
    "/v1",
    "/v1/",
    "/v1/ping",
    "/v1/ping/",
    "/v1/health",
    "/v1/identity",
    "/v1/identity/",
    "/v1/identity/public-key",
    "/v1/identity/websocket-token",
    "/v1/identity/ID/verify",
    "/v1/identity/ID/databases",
    "/v1/identity/nonsense/verify",
    "/v1/identity/nonsense/databases",
    "/v1/energy",
    "/v1/energy/ID",
    "/v1/energy/nonsense",
    "/v1/database",
    "/v1/database/NAME",
    "/v1/database/NAME/names",
    "/v1/database/NAME/identity",
    "/v1/database/NAME/subscribe",
    "/v1/database/NAME/call/nothing",
    "/v1/database/NAME/call",
    "/v1/database/NAME/schema",
    "/v1/database/NAME/logs",
    "/v1/database/NAME/sql",
];
/// Those that have come since then.
const NEWER: [&str; 10] = [
    "/v1/database/NAME/unstable/timestamp",
    "/v1/database/NAME/pre_publish",
    "/v1/database/NAME/reset",
    "/v1/database/NAME/lock",
    "/v1/database/NAME/unlock",
    "/v1/database/NAME/mcp",
    "/v1/database/NAME/route",
    "/v1/database/NAME/route/",
    "/v1/database/NAME/route/nothing",
    "/v1/mcp",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_there_by_the_same_methods() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    let is_old = pair.newest == Subprotocol::V1;
    let owner = pair.tokens.fresh().expect("a token").token;
    let other = pair.tokens.fresh().expect("a token").token;
    let module = if is_old { "counter-1x" } else { "counter-2x" };
    publish_module(&pair, fixture(module), DATABASE, &owner).await;
    let newer = NEWER.iter().filter(|_| !is_old);
    let absent = "0".repeat(64);
    let mut both = Both::new(&pair);
    // 1.2.0 looks for the database last.
    let names = [DATABASE, "nosuch"];
    for name in &names[..if is_old { 1 } else { 2 }] {
        for route in ROUTES.iter().chain(newer.clone()) {
            let path = route.replace("NAME", name).replace("ID", &absent);
            for method in METHODS {
                // What makes tokens, and what makes or ends databases, are compared where they are looked at;
                // 1.2.0 answers 500 to who may not end one.
                let makes = (method == "POST" && route.starts_with("/v1/identity"))
                    || (["PUT", "POST"].contains(&method)
                        && ["/v1/database", "/v1/database/NAME"].contains(route))
                    || (method == "GET" && route.ends_with("/timestamp"))
                    || (method == "DELETE" && is_old);
                if makes {
                    continue;
                }
                for token in ["", "rubbish", &other] {
                    let headers = match token {
                        "" => String::new(),
                        token => format!("authorization: Bearer {token}\r\n"),
                    };
                    both.ask(&format!("{method} {path}"), &headers, b"").await;
                }
            }
        }
    }
    both.check();
    pair.stop().await;
}
