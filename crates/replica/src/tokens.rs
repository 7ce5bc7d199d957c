//! Tokens: who a client is, and tokens of our own making.
//!
//! SpacetimeDB accepts any token that its own key has signed, whatever its issuer, and asks the issuer's OIDC keys
//! about all others. Every server of the cluster has the cluster's key, so a token made here is good on all of them.

mod verified;

use crate::keys::Keys;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rtdb_consensus::command::Owner;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spacetimedb_lib::Identity;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use verified::Verified;

/// The issuer of the tokens that SpacetimeDB itself hands out.
pub const LOCAL_ISSUER: &str = "localhost";

/// The audience of the tokens that SpacetimeDB itself hands out.
const AUDIENCE: &str = "spacetimedb";

/// The longest issuer and subject that SpacetimeDB takes, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// How long after its end a token is still taken, in seconds, because clocks differ; SpacetimeDB does the same.
const LEEWAY_S: u64 = 60;

/// Makes and verifies tokens with the cluster's key.
#[derive(Clone)]
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    verified: Arc<Verified>,
}

/// What a token of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The identity, 32 bytes as in BSATN (little endian).
    pub identity: [u8; 32],
    /// Who vouches for the subject.
    pub issuer: String,
    /// The subject.
    pub subject: String,
    /// When the token ends, in seconds since the Unix epoch; `None` for never.
    pub expires_s: Option<u64>,
}

/// A token just made, and the identity it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minted {
    /// The identity, 32 bytes as in BSATN (little endian).
    pub identity: [u8; 32],
    /// The token.
    pub token: String,
}

/// Why a token was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The cluster's key signed it, and its time is over.
    #[error("the token has expired")]
    Expired,
    /// It is well formed, but not signed with the cluster's key: its issuer has to be asked. What it claims is not proven.
    #[error("the token of issuer `{}` is not signed with this cluster's key", .0.issuer)]
    Foreign(Claims),
    /// It is no token, or says what a token must not say.
    #[error("the token is not taken: {0}")]
    Malformed(String),
    /// Signing failed.
    #[error("no token can be made: {0}")]
    Signing(String),
}

/// The claims in the order in which SpacetimeDB writes them.
#[derive(Serialize)]
struct Outgoing<'a> {
    hex_identity: &'a str,
    sub: &'a str,
    iss: &'a str,
    aud: &'a [&'a str],
    iat: u64,
    exp: Option<u64>,
}

#[derive(Deserialize)]
struct Incoming {
    hex_identity: Option<String>,
    sub: String,
    iss: String,
    /// Not looked at, but SpacetimeDB takes no token without it.
    #[serde(rename = "iat")]
    _issued_s: i64,
    exp: Option<u64>,
}

/// A token's head, whatever else is in it.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "alg")]
    _algorithm: Algorithm,
    #[serde(rename = "kid")]
    _key: Option<String>,
}

impl Tokens {
    /// Signs and verifies with `keys`.
    ///
    /// # Errors
    /// [`TokenError::Signing`] if the keys are not ES256 keys.
    pub fn new(keys: &Keys) -> Result<Self, TokenError> {
        let unusable = |e: jsonwebtoken::errors::Error| TokenError::Signing(e.to_string());
        Ok(Self {
            encoding: EncodingKey::from_ec_pem(keys.private_pem().as_bytes()).map_err(unusable)?,
            decoding: DecodingKey::from_ec_pem(keys.public_pem().as_bytes()).map_err(unusable)?,
            validation: validation(),
            verified: Arc::default(),
        })
    }

    /// Verifies a client's token.
    ///
    /// # Errors
    /// [`TokenError`], of which [`TokenError::Foreign`] leaves the decision to the issuer's keys.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if let Some(claims) = self.verified.get(token) {
            return in_time(claims);
        }
        match jsonwebtoken::decode::<Incoming>(token, &self.decoding, &self.validation) {
            Ok(data) => {
                let claims = claims(data.claims)?;
                self.verified.put(token, claims.clone());
                Ok(claims)
            }
            Err(e) => Err(match e.kind() {
                ErrorKind::InvalidSignature
                | ErrorKind::InvalidAlgorithm
                | ErrorKind::InvalidAlgorithmName
                // The library takes no head with numbers in it, which others' tokens may have.
                | ErrorKind::Json(_) => foreign(token).unwrap_or_else(|error| error),
                _ => TokenError::Malformed(e.to_string()),
            }),
        }
    }

    /// Makes a token for a known issuer and subject, for instance a database's owner.
    ///
    /// # Errors
    /// [`TokenError::Signing`].
    pub fn mint(
        &self,
        issuer: &str,
        subject: &str,
        lifetime: Option<Duration>,
    ) -> Result<Minted, TokenError> {
        let identity = Identity::from_claims(issuer, subject);
        let hex_identity = identity.to_hex();
        let iat = now_s();
        let outgoing = Outgoing {
            hex_identity: hex_identity.as_str(),
            sub: subject,
            iss: issuer,
            aud: &[AUDIENCE],
            iat,
            exp: lifetime.map(|l| iat.saturating_add(l.as_secs())),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &outgoing, &self.encoding)
            .map_err(|e| TokenError::Signing(e.to_string()))?;
        Ok(Minted {
            identity: identity.to_byte_array(),
            token,
        })
    }

    /// Makes a token that says what another one does, with another end, as SpacetimeDB does for browsers' WebSockets.
    ///
    /// # Errors
    /// [`TokenError::Signing`].
    pub fn mint_as(&self, payload: &str, lifetime: Duration) -> Result<Minted, TokenError> {
        let unusable = |e: &dyn std::fmt::Display| TokenError::Signing(e.to_string());
        let mut says: serde_json::Map<String, Value> =
            serde_json::from_str(payload).map_err(|e| unusable(&e))?;
        let text = |name: &str| says.get(name).and_then(Value::as_str).unwrap_or_default();
        let identity = Identity::from_claims(text("iss"), text("sub"));
        let now = now_s();
        says.insert("hex_identity".to_owned(), identity.to_hex().as_str().into());
        says.insert("iat".to_owned(), now.into());
        says.insert("exp".to_owned(), now.saturating_add(lifetime.as_secs()).into());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &says, &self.encoding);
        Ok(Minted {
            identity: identity.to_byte_array(),
            token: token.map_err(|e| unusable(&e))?,
        })
    }

    /// Makes a fresh identity with its token, as SpacetimeDB does for a client that has none.
    ///
    /// # Errors
    /// [`TokenError::Signing`].
    pub fn fresh(&self) -> Result<Minted, TokenError> {
        let subject = uuid::Builder::from_random_bytes(rtdb_runtime::random_bytes()).into_uuid();
        self.mint(LOCAL_ISSUER, &subject.to_string(), None)
    }
}

/// Whom a token stands for, as it says itself; `None` if it is none. Whoever it is shown to has to look whether that is so.
pub(crate) fn unverified(token: &str) -> Option<Owner> {
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let says: Value = serde_json::from_slice(&payload).ok()?;
    let text = |name: &str| says.get(name).and_then(Value::as_str);
    let (issuer, subject) = (text("iss")?, text("sub")?);
    Some(Owner {
        identity: Identity::from_claims(issuer, subject)
            .to_byte_array()
            .to_vec()
            .into(),
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
    })
}

/// What a token that another key has signed says of its issuer.
fn foreign(token: &str) -> Result<TokenError, TokenError> {
    let malformed = |error: String| TokenError::Malformed(error);
    let parts: Vec<&str> = token.splitn(4, '.').collect();
    let [head, payload, _] = parts[..] else {
        return Err(malformed("InvalidToken".to_owned()));
    };
    let decode = |part| {
        let decoded = URL_SAFE_NO_PAD.decode(part);
        decoded.map_err(|e| malformed(format!("Base64 error: {e}")))
    };
    let unreadable = |e: serde_json::Error| malformed(format!("JSON error: {e}"));
    let _: Head = serde_json::from_slice(&decode(head)?).map_err(unreadable)?;
    let claims = claims(serde_json::from_slice(&decode(payload)?).map_err(unreadable)?)?;
    // Whose key we have.
    match claims.issuer.as_str() {
        LOCAL_ISSUER => Err(malformed("InvalidSignature".to_owned())),
        _ => Ok(TokenError::Foreign(claims)),
    }
}

/// What SpacetimeDB checks: the signature, and that issuer and subject are there. The time is checked in [`claims`].
fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_required_spec_claims(&["sub", "iss"]);
    validation.validate_aud = false;
    // The library takes `"exp": null`, which SpacetimeDB writes into its own tokens, for a malformed time.
    validation.validate_exp = false;
    validation
}

fn claims(incoming: Incoming) -> Result<Claims, TokenError> {
    let Incoming {
        hex_identity,
        sub: subject,
        iss: issuer,
        exp: expires_s,
        ..
    } = incoming;
    for (what, text) in [("issuer", &issuer), ("subject", &subject)] {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(TokenError::Malformed(format!(
                "its {what} must have 1 to {NAME_BYTES_MAX} bytes"
            )));
        }
    }
    let identity = Identity::from_claims(&issuer, &subject);
    if hex_identity.is_some_and(|hex| Identity::from_hex(&hex) != Ok(identity)) {
        return Err(TokenError::Malformed(
            "its identity is not that of its issuer and subject".into(),
        ));
    }
    in_time(Claims {
        identity: identity.to_byte_array(),
        issuer,
        subject,
        expires_s,
    })
}

fn in_time(claims: Claims) -> Result<Claims, TokenError> {
    match claims.expires_s {
        Some(expires_s) if expires_s.saturating_add(LEEWAY_S) < now_s() => Err(TokenError::Expired),
        _ => Ok(claims),
    }
}

fn now_s() -> u64 {
    rtdb_runtime::wall_us() / 1_000_000
}

#[cfg(test)]
mod tests;
