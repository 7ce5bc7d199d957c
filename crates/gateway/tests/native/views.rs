//! What clients of every subprotocol see of views.

#![allow(unreachable_pub, reason = "a module of tests")]

use crate::cluster::Pair;
use crate::{Client, fixture, publish_module, request, text};
use rtdb_protocol::Subprotocol;
use rtdb_testkit::variant;

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
