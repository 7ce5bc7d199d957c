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
fn a_token_without_a_key_is_tried_against_few_that_may_have_signed_it() {
    let rsa = |kid: &str, bytes: usize| {
        let n = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        json!({"kty": "RSA", "kid": kid, "n": n, "e": "AQAB"})
    };
    let last = Signer::new("zz", 1);
    let set = |others: usize| {
        let others = (0..others).map(|number| Signer::new(&number.to_string(), 2).jwk());
        let larger = ["a", "b"].map(|kid| rsa(kid, 256));
        let keys: Vec<_> = others.chain(larger).chain([last.jwk()]).collect();
        let keys = json!({ "keys": keys }).to_string();
        KeySet::parse(keys.as_bytes()).unwrap().0
    };
    let token = last.sign_as(None, "i");
    assert_eq!(verify(&set(TRIES_MAX - 1), &token), Ok(()));
    assert_eq!(verify(&set(TRIES_MAX), &token), Err(BadSignature::Signature));
    for (bytes, is_taken) in [(512, true), (513, false)] {
        let keys = json!({"keys": [rsa("a", bytes)]}).to_string();
        assert_eq!(KeySet::parse(keys.as_bytes()).is_ok(), is_taken, "{bytes}");
    }
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
        Err(KeySetError::TooLarge(_))
    ));
    for garbage in [&b""[..], b"[]", b"{}", b"<html>", br#"{"keys":{}}"#] {
        assert!(matches!(KeySet::parse(garbage), Err(KeySetError::Malformed(_))));
    }
}
