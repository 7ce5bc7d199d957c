//! An issuer's keys.

use crate::token::Token;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Keys of one issuer.
const KEYS_MAX: usize = 64;

/// Bytes of one key's name.
const KEY_NAME_BYTES_MAX: usize = 256;

/// Bytes of an issuer's keys, as they are kept.
pub(crate) const KEY_SET_BYTES_MAX: usize = 32 << 10;

/// The same of an issuer that the operator has not named: anybody may have it kept by all nodes.
pub(crate) const PUBLIC_KEY_SET_BYTES_MAX: usize = 8 << 10;

/// Bits of an RSA key: what a larger one has signed takes long to verify.
const RSA_BITS_MAX: usize = 4_096;

/// Keys that are tried with a token that names none.
const TRIES_MAX: usize = 8;

/// Bytes of a coordinate of P-256.
const COORDINATE_BYTES: usize = 32;

/// The keys of an issuer with which SpacetimeDB takes signatures: RSA and P-256. A key that is shared with whoever can read
/// it, as a symmetric one is, proves nothing.
#[derive(Debug)]
pub(crate) struct KeySet(BTreeMap<String, Key>);

#[derive(Debug)]
enum Key {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
}

/// Why an issuer's keys are not taken.
#[derive(Debug, Error)]
pub(crate) enum KeySetError {
    #[error("they are no JSON Web Key Set: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("none of them is an RSA or P-256 key for signatures with a `kid`")]
    None,
    #[error("there are more than {KEYS_MAX}, or they have more than {0} bytes")]
    TooLarge(usize),
}

/// Why a token is not taken. In SpacetimeDB's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadSignature {
    #[error("Specified key ID not found in JWKs")]
    UnknownKey,
    #[error("Invalid token: InvalidAlgorithm")]
    Algorithm,
    #[error("Invalid token: InvalidSignature")]
    Signature,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

/// A key, as issuers write it. What else they say of it is passed over.
#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
}

impl Jwk {
    /// `None` for what nothing can be verified with here.
    fn key(&self) -> Option<Key> {
        let said = |what: &Option<String>, known: &str| what.as_deref().is_none_or(|it| it == known);
        if !said(&self.purpose, "sig") || self.kid.len() > KEY_NAME_BYTES_MAX {
            return None;
        }
        let number = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        match self.kty.as_str() {
            "RSA" if said(&self.alg, "RS256") => {
                // Whatever stands before a number, it is the same number.
                let number = |text| {
                    let bytes = number(text)?;
                    let first = bytes.iter().position(|byte| *byte != 0)?;
                    Some(bytes[first..].to_vec())
                };
                Some(Key::Rsa {
                    n: number(&self.n).filter(|n| n.len() <= RSA_BITS_MAX / 8)?,
                    e: number(&self.e)?,
                })
            }
            "EC" if said(&self.alg, "ES256") && self.crv.as_deref() == Some("P-256") => {
                let coordinate = |text| number(text).filter(|bytes| bytes.len() == COORDINATE_BYTES);
                let (x, y) = (coordinate(&self.x)?, coordinate(&self.y)?);
                Some(Key::P256([vec![4], x, y].concat()))
            }
            _ => None,
        }
    }
}

impl KeySet {
    /// Reads what an issuer, or another node, says. With it comes what is worth keeping: the keys that were understood. It may
    /// have none any more.
    pub(crate) fn parse(document: &[u8]) -> Result<(Self, Vec<u8>), KeySetError> {
        let Document { keys } = serde_json::from_slice(document)?;
        let has_none = keys.is_empty();
        let mut known = BTreeMap::new();
        let mut kept = BTreeMap::new();
        for key in keys {
            let Ok(jwk) = serde_json::from_value::<Jwk>(key) else {
                continue;
            };
            if let Some(key) = jwk.key() {
                known.insert(jwk.kid.clone(), key);
                kept.insert(jwk.kid.clone(), jwk);
            }
        }
        if known.is_empty() && !has_none {
            return Err(KeySetError::None);
        }
        // In an order of ours, so that what the issuer says in another one is the same.
        let kept: Vec<Jwk> = kept.into_values().collect();
        let kept = serde_json::to_vec(&serde_json::json!({ "keys": kept }))?;
        match known.len() <= KEYS_MAX && kept.len() <= KEY_SET_BYTES_MAX {
            true => Ok((Self(known), kept)),
            false => Err(KeySetError::TooLarge(KEY_SET_BYTES_MAX)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the keys has signed a token: the one that it names, or any of the first that may be if it names none.
    pub(crate) fn verify(&self, token: &Token<'_>) -> Result<(), BadSignature> {
        if let Some(name) = &token.key {
            return self.0.get(name).ok_or(BadSignature::UnknownKey)?.verify(token);
        }
        let of_kind = || self.0.values().filter(|key| key.is_for(token));
        if of_kind().next().is_none() {
            return Err(match self.is_empty() {
                true => BadSignature::UnknownKey,
                false => BadSignature::Algorithm,
            });
        }
        let mut tried = of_kind().filter(|key| key.fits(token)).take(TRIES_MAX);
        match tried.any(|key| key.verify(token).is_ok()) {
            true => Ok(()),
            false => Err(BadSignature::Signature),
        }
    }
}

impl Key {
    /// Whether it is of the kind with which a token says it was signed.
    fn is_for(&self, token: &Token<'_>) -> bool {
        let algorithm = match self {
            Self::Rsa { .. } => "RS256",
            Self::P256(_) => "ES256",
        };
        token.algorithm == algorithm
    }

    /// Whether its signatures are as long as a token's.
    fn fits(&self, token: &Token<'_>) -> bool {
        let bytes = match self {
            Self::Rsa { n, .. } => n.len(),
            Self::P256(_) => 2 * COORDINATE_BYTES,
        };
        token.signature.len() == bytes
    }

    /// What a key may be used for is for its kind to say, and not for the token.
    fn verify(&self, token: &Token<'_>) -> Result<(), BadSignature> {
        if !self.is_for(token) {
            return Err(BadSignature::Algorithm);
        }
        let verified = match self {
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                token.message,
                &token.signature,
            ),
            Self::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(token.message, &token.signature),
        };
        verified.map_err(|_| BadSignature::Signature)
    }
}

#[cfg(test)]
pub(crate) mod tests;
