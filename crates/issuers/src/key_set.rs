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
    #[error("there are more than {KEYS_MAX}, or they have more than {KEY_SET_BYTES_MAX} bytes")]
    TooLarge,
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
                    n: number(&self.n)?,
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
    /// Reads what an issuer, or another node, says. With it comes what is worth keeping: the keys that were understood.
    pub(crate) fn parse(document: &[u8]) -> Result<(Self, Vec<u8>), KeySetError> {
        let Document { keys } = serde_json::from_slice(document)?;
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
        if known.is_empty() {
            return Err(KeySetError::None);
        }
        // In an order of ours, so that what the issuer says in another one is the same.
        let kept: Vec<Jwk> = kept.into_values().collect();
        let kept = serde_json::to_vec(&serde_json::json!({ "keys": kept }))?;
        match known.len() <= KEYS_MAX && kept.len() <= KEY_SET_BYTES_MAX {
            true => Ok((Self(known), kept)),
            false => Err(KeySetError::TooLarge),
        }
    }

    /// Whether one of the keys has signed a token: the one that it names, or any if it names none.
    pub(crate) fn verify(&self, token: &Token<'_>) -> Result<(), BadSignature> {
        if let Some(name) = &token.key {
            return self.0.get(name).ok_or(BadSignature::UnknownKey)?.verify(token);
        }
        let mut verified = Err(BadSignature::Signature);
        for key in self.0.values() {
            verified = key.verify(token);
            if verified.is_ok() {
                break;
            }
        }
        verified
    }
}

impl Key {
    /// What a key may be used for is for its kind to say, and not for the token.
    fn verify(&self, token: &Token<'_>) -> Result<(), BadSignature> {
        let verified = match (self, token.algorithm.as_str()) {
            (Self::Rsa { n, e }, "RS256") => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                token.message,
                &token.signature,
            ),
            (Self::P256(point), "ES256") => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(token.message, &token.signature),
            _ => return Err(BadSignature::Algorithm),
        };
        verified.map_err(|_| BadSignature::Signature)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use p256::elliptic_curve::sec1::ToEncodedPoint;
    use p256::pkcs8::{EncodePrivateKey, LineEnding};
    use serde_json::json;

    /// An issuer's own half of a key.
    pub(crate) struct Signer {
        secret: p256::SecretKey,
        name: String,
    }

    impl Signer {
        /// The same number makes the same key.
        pub(crate) fn new(name: &str, number: u8) -> Self {
            Self {
                secret: p256::SecretKey::from_slice(&[number; 32]).unwrap(),
                name: name.to_owned(),
            }
        }

        pub(crate) fn jwk(&self) -> serde_json::Value {
            let point = self.secret.public_key().to_encoded_point(false);
            json!({
                "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.name,
                "x": URL_SAFE_NO_PAD.encode(point.x().unwrap()),
                "y": URL_SAFE_NO_PAD.encode(point.y().unwrap()),
            })
        }

        pub(crate) fn sign(&self, issuer: &str) -> String {
            self.sign_as(Some(&self.name), issuer)
        }

        pub(crate) fn sign_as(&self, name: Option<&str>, issuer: &str) -> String {
            let header = Header {
                kid: name.map(str::to_owned),
                ..Header::new(Algorithm::ES256)
            };
            let pem = self.secret.to_pkcs8_pem(LineEnding::LF).unwrap();
            let key = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
            jsonwebtoken::encode(&header, &json!({"iss": issuer, "sub": "bob", "iat": 1}), &key).unwrap()
        }
    }

    pub(crate) fn document(signers: &[&Signer]) -> Vec<u8> {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        json!({ "keys": keys }).to_string().into_bytes()
    }

    fn verify(keys: &KeySet, token: &str) -> Result<(), BadSignature> {
        keys.verify(&Token::parse(token).unwrap())
    }

    #[test]
    fn a_token_is_verified_by_the_key_that_it_names_or_by_any() {
        let (one, two) = (Signer::new("one", 1), Signer::new("two", 2));
        let (keys, kept) = KeySet::parse(&document(&[&one, &two])).unwrap();
        let (again, same) = KeySet::parse(&kept).unwrap();
        assert_eq!(kept, same);
        for keys in [keys, again] {
            assert_eq!(verify(&keys, &one.sign("i")), Ok(()));
            assert_eq!(verify(&keys, &two.sign("i")), Ok(()));
            assert_eq!(verify(&keys, &two.sign_as(None, "i")), Ok(()));
            assert_eq!(
                verify(&keys, &two.sign_as(Some("one"), "i")),
                Err(BadSignature::Signature)
            );
            assert_eq!(
                verify(&keys, &one.sign_as(Some("none"), "i")),
                Err(BadSignature::UnknownKey)
            );
            let stranger = Signer::new("one", 3);
            assert_eq!(verify(&keys, &stranger.sign("i")), Err(BadSignature::Signature));
            assert_eq!(
                verify(&keys, &stranger.sign_as(None, "i")),
                Err(BadSignature::Signature)
            );
        }
    }

    #[test]
    fn a_token_does_not_choose_how_it_is_verified() {
        let one = Signer::new("one", 1);
        let (keys, _) = KeySet::parse(&document(&[&one])).unwrap();
        let token = one.sign("i");
        let (_, payload) = token.split_once('.').unwrap();
        let (payload, signature) = payload.split_once('.').unwrap();
        let header = |alg: &str| {
            let header = json!({"alg": alg, "kid": "one"}).to_string();
            URL_SAFE_NO_PAD.encode(header)
        };
        for alg in ["none", "None", "RS256", "ES384", "HS256", "PS256", ""] {
            for signature in [signature, ""] {
                let forged = format!("{}.{payload}.{signature}", header(alg));
                assert_eq!(verify(&keys, &forged), Err(BadSignature::Algorithm), "{alg}");
            }
        }
        // With the public key as a secret.
        let Some(Key::P256(point)) = keys.0.get("one") else {
            panic!("no key")
        };
        let message = format!("{}.{payload}", header("HS256"));
        let hmac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, point);
        let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&hmac, message.as_bytes()));
        let forged = format!("{message}.{signature}");
        assert_eq!(verify(&keys, &forged), Err(BadSignature::Algorithm));
    }

    /// From RFC 7515, A.2.
    #[test]
    fn rsa_keys_are_understood() {
        let jwk = json!({
            "kty": "RSA",
            "kid": "rsa",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-\
                  SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS\
                  -UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2\
                  ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
            "e": "AQAB",
        });
        let (keys, _) = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb2\
                     90Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2\
                     Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7\
                     K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY\
                     9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        assert_eq!(verify(&keys, token), Ok(()));
        let other = token.replacen("fQ.cC4h", "fQ.cC4i", 1);
        assert_eq!(verify(&keys, &other), Err(BadSignature::Signature));
    }

    #[test]
    fn what_can_not_be_used_is_passed_over_and_too_much_is_refused() {
        let one = Signer::new("one", 1);
        let with = |more: serde_json::Value| {
            let mut jwk = one.jwk();
            for (name, value) in more.as_object().unwrap() {
                jwk[name] = value.clone();
            }
            jwk
        };
        let unusable = [
            json!(null),
            json!({}),
            json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}),
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "AAAA"}),
            with(json!({"use": "enc"})),
            with(json!({"alg": "ES384"})),
            with(json!({"crv": "P-384"})),
            with(json!({"x": "AAAA"})),
            with(json!({"kid": null})),
            with(json!({"kid": "k".repeat(KEY_NAME_BYTES_MAX + 1)})),
        ];
        let none = json!({ "keys": unusable }).to_string();
        assert!(matches!(KeySet::parse(none.as_bytes()), Err(KeySetError::None)));
        let mut keys = unusable.to_vec();
        keys.push(one.jwk());
        let (known, kept) = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        assert_eq!(known.0.len(), 1);
        assert_eq!(kept, KeySet::parse(&document(&[&one])).unwrap().1);

        let many: Vec<_> = (0..=KEYS_MAX)
            .map(|number| with(json!({"kid": number.to_string()})))
            .collect();
        let many = json!({ "keys": many }).to_string();
        assert!(matches!(
            KeySet::parse(many.as_bytes()),
            Err(KeySetError::TooLarge)
        ));
        for garbage in [&b""[..], b"[]", b"{}", b"<html>", br#"{"keys":{}}"#] {
            assert!(matches!(KeySet::parse(garbage), Err(KeySetError::Malformed(_))));
        }
    }
}
