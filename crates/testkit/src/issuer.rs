//! An OpenID provider on loopback, whose tokens outlive it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use axum::Router;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The name of its one key.
pub const KEY: &str = "the-one";

/// Answers at an address of its own, until it is stopped or dropped.
pub struct Issuer {
    url: String,
    key: SigningKey,
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Issuer {
    /// Begins to answer.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let key = SigningKey::from_slice(&[7; 32])?;
        let point = key.verifying_key().to_encoded_point(false);
        let coordinate =
            |bytes: Option<&_>| bytes.map(|bytes: &p256::FieldBytes| URL_SAFE_NO_PAD.encode(bytes));
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY,
            "x": coordinate(point.x()), "y": coordinate(point.y()),
        });
        let configuration = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }).to_string();
        let keys = json!({ "keys": [jwk] }).to_string();
        let asked: Arc<AtomicUsize> = Arc::default();
        let counted = asked.clone();
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(move || async move { configuration }),
            )
            .route(
                "/keys",
                get(move || async move {
                    counted.fetch_add(1, Ordering::SeqCst);
                    keys
                }),
            );
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            url,
            key,
            asked,
            serving,
        })
    }

    /// Its name: where it is asked.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Answers nobody any more.
    pub async fn stop(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    /// A token for somebody, good for an hour.
    pub fn token(&self, subject: &str) -> String {
        self.sign(
            &json!({ "alg": "ES256", "typ": "JWT", "kid": KEY }),
            &self.says(subject),
        )
    }

    /// What such a token says.
    pub fn says(&self, subject: &str) -> Value {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        json!({ "iss": self.url, "sub": subject, "aud": "somebody", "iat": now, "exp": now + 3600 })
    }

    /// Any token, signed with its key.
    pub fn sign(&self, head: &Value, payload: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(head), part(payload));
        let signature: Signature = self.key.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
