//! Tokens of an outside issuer, on both.

#![allow(unreachable_pub, reason = "a module of tests")]

use crate::cluster::Pair;
use crate::http::Both;
use crate::{Client, SOON};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_gateway::NotVerified;
use rtdb_issuers::{Https, Shared, SharedIssuer};
use rtdb_testkit::issuer::{Issuer, KEY};
use serde_json::{Value, json};
use spacetimedb_lib::Identity;
use std::sync::Arc;
use tokio::sync::watch;

/// A node that is alone.
struct Alone(watch::Sender<u64>);

impl Shared for Alone {
    fn issuer(&self, _: &str) -> Option<SharedIssuer> {
        None
    }

    fn wanted(&self) -> Vec<SharedIssuer> {
        Vec::new()
    }

    fn tell(&self, _: &str, _: Option<Bytes>) -> bool {
        true
    }

    fn want(&self, _: &str) -> bool {
        false
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

struct Outside(rtdb_issuers::Issuers);

impl rtdb_gateway::Issuers for Outside {
    fn verify<'a>(&'a self, token: &'a str, issuer: &'a str) -> BoxFuture<'a, Result<(), NotVerified>> {
        let verified = self.0.verify(token, issuer);
        verified
            .map(|verified| verified.map_err(|error| NotVerified::Refused(error.to_string())))
            .boxed()
    }
}

/// Who is let in, who is not, and in which words.
pub async fn tokens_of_others_are_the_same(pair: &Pair, database: &str) {
    let issuer = Issuer::start().await.expect("an issuer");
    // Where nobody listens.
    let nowhere = "http://127.0.0.1:1";
    let policy = format!("{},{nowhere}", issuer.url()).parse().expect("a policy");
    let shared = Arc::new(Alone(watch::Sender::new(0)));
    let outside = rtdb_issuers::Issuers::new(policy, Arc::new(Https::default()), shared);
    pair.handle.set_issuers(Arc::new(Outside(outside)));

    let head = json!({ "alg": "ES256", "typ": "JWT", "kid": KEY });
    let says = issuer.says("bob");
    let with = |value: &Value, name: &str, new: Value| {
        let mut value = value.clone();
        match new {
            Value::Null => drop(value.as_object_mut().expect("an object").remove(name)),
            new => value[name] = new,
        }
        value
    };
    let identity = Identity::from_claims(issuer.url(), "bob").to_hex();
    let other = Identity::from_claims(issuer.url(), "ann").to_hex();
    let good = issuer.token("bob");
    let mut both = Both::new(pair);
    // Of whom it is, and good in other ways.
    for token in [
        &good,
        &issuer.sign(&with(&head, "kid", Value::Null), &says),
        &issuer.sign(&with(&head, "number", json!(7)), &says),
        &issuer.sign(&head, &with(&says, "exp", Value::Null)),
        &issuer.sign(&head, &with(&says, "aud", Value::Null)),
        &issuer.sign(&head, &with(&says, "roles", json!(["any", { "thing": 1 }]))),
        &issuer.sign(&head, &with(&says, "hex_identity", json!(identity.as_str()))),
    ] {
        let bearer = format!("authorization: Bearer {token}\r\n");
        both.ask(&format!("GET /v1/identity/{identity}/verify"), &bearer, b"")
            .await;
        both.ask(&format!("GET /v1/identity/{other}/verify"), &bearer, b"")
            .await;
        both.ask(&format!("GET /v1/database/{database}/names"), &bearer, b"")
            .await;
        both.ask("GET /v1/ping", &bearer, b"").await;
        let call = format!("POST /v1/database/{database}/call/add");
        let headers = format!("{bearer}content-type: application/json\r\n");
        both.ask(&call, &headers, br#"["others", 1]"#).await;
        both.ask(
            &format!("POST /v1/database/{database}/sql"),
            &bearer,
            b"SELECT id FROM account LIMIT 0",
        )
        .await;
    }
    // Not good, and in which words.
    let forged = |token: &str, alg: &str| {
        let (_, rest) = token.split_once('.').expect("a token");
        let head = issuer.sign(&with(&head, "alg", json!(alg)), &says);
        let (head, _) = head.split_once('.').expect("a token");
        format!("{head}.{rest}")
    };
    for token in [
        issuer.sign(&with(&head, "kid", json!("another")), &says),
        issuer.sign(&head, &with(&says, "exp", json!(1_700_000_000))),
        issuer.sign(&head, &with(&says, "iat", Value::Null)),
        issuer.sign(&head, &with(&says, "sub", Value::Null)),
        issuer.sign(&head, &with(&says, "iss", Value::Null)),
        issuer.sign(&head, &with(&says, "iss", json!(nowhere))),
        issuer.sign(&head, &with(&says, "iss", json!("localhost"))),
        good.replacen('.', ".e", 1),
        forged(&good, "none"),
        forged(&good, "ES384"),
        format!("{good}x"),
        good.rsplit_once('.')
            .map(|(rest, _)| format!("{rest}."))
            .expect("a token"),
        issuer.sign(&with(&head, "kid", json!(7)), &says),
    ] {
        let bearer = format!("authorization: Bearer {token}\r\n");
        both.ask(&format!("GET /v1/database/{database}/names"), &bearer, b"")
            .await;
        both.ask(&format!("GET /v1/identity/{identity}/verify"), &bearer, b"")
            .await;
        both.ask("POST /v1/identity/websocket-token", &bearer, b"").await;
    }
    both.check();
    // Over a WebSocket, with the token itself and with one in its place.
    let browsers = async |address| {
        let bearer = format!("authorization: Bearer {good}\r\n");
        let (status, body) = crate::http::asked(address, "POST /v1/identity/websocket-token", &bearer).await;
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["token"].as_str().expect("a token").to_owned()
    };
    let mut said = Vec::new();
    for address in [pair.plain, pair.gateway] {
        let stand_in = browsers(address).await;
        for token in [&good, &stand_in] {
            let mut client = Client::connect(address, database, pair.newest, token).await;
            let hello = tokio::time::timeout(SOON, client.sees()).await.expect("in time");
            let bytes = Identity::from_claims(issuer.url(), "bob").to_byte_array();
            assert_eq!(hello, format!("hello {} 16", crate::hex(&bytes)));
            client.subscribe(&["SELECT * FROM account"], 1, 1).await;
            assert!(client.sees().await.starts_with("reply"));
        }
        let mut payload = payload(&stand_in);
        for time in ["iat", "exp"] {
            payload[time] = Value::Null;
        }
        said.push(payload);
    }
    assert_eq!(said[0], said[1]);
}

/// A token's second part.
fn payload(token: &str) -> Value {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}
