use super::*;

fn tokens() -> Tokens {
    Tokens::new(&Keys::generate().unwrap()).unwrap()
}

#[test]
fn a_fresh_token_is_verified_as_its_identity() {
    let tokens = tokens();
    let fresh = tokens.fresh().unwrap();
    let claims = tokens.verify(&fresh.token).unwrap();
    assert_eq!(claims.identity, fresh.identity);
    assert_eq!(claims.issuer, LOCAL_ISSUER);
    assert_eq!(claims.expires_s, None);
    assert_ne!(tokens.fresh().unwrap().identity, fresh.identity);
}

#[test]
fn a_token_for_an_owner_of_any_issuer_is_ours() {
    let tokens = tokens();
    let minted = tokens
        .mint(
            "https://issuer.example",
            "somebody",
            Some(Duration::from_secs(300)),
        )
        .unwrap();
    let claims = tokens.verify(&minted.token).unwrap();
    assert_eq!(
        (claims.issuer.as_str(), claims.subject.as_str()),
        ("https://issuer.example", "somebody")
    );
    assert!(claims.expires_s.is_some());
    assert_eq!(
        claims.identity,
        Identity::from_claims("https://issuer.example", "somebody").to_byte_array()
    );
}

#[test]
fn an_expired_token_is_told_from_a_foreign_one_and_from_garbage() {
    let (ours, theirs) = (tokens(), tokens());
    let identity = Identity::from_claims("b", "a").to_hex();
    let old = Outgoing {
        hex_identity: &identity,
        sub: "a",
        iss: "b",
        aud: &[],
        iat: 1,
        exp: Some(2),
    };
    let old = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &old, &ours.encoding).unwrap();
    assert_eq!(ours.verify(&old), Err(TokenError::Expired));

    let foreign = theirs.mint("https://issuer.example", "x", None).unwrap().token;
    assert!(
        matches!(ours.verify(&foreign), Err(TokenError::Foreign(of)) if of.issuer == "https://issuer.example")
    );
    let hmac_identity = Identity::from_claims("hmac", "a").to_hex();
    let hmac = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &Outgoing {
            hex_identity: hmac_identity.as_str(),
            sub: "a",
            iss: "hmac",
            aud: &[],
            iat: 1,
            exp: None,
        },
        &EncodingKey::from_secret(b"secret"),
    );
    assert!(matches!(ours.verify(&hmac.unwrap()), Err(TokenError::Foreign(of)) if of.issuer == "hmac"));

    for garbage in ["", "a.b.c", "...", "Bearer"] {
        assert!(
            matches!(ours.verify(garbage), Err(TokenError::Malformed(_))),
            "{garbage}"
        );
    }
}

#[test]
fn a_token_that_claims_another_identity_or_no_subject_is_malformed() {
    let tokens = tokens();
    let sign = |sub: &str, hex: &str| {
        let claims = Outgoing {
            hex_identity: hex,
            sub,
            iss: "i",
            aud: &[],
            iat: 1,
            exp: None,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &tokens.encoding).unwrap()
    };
    let other = Identity::from_claims("i", "other").to_hex();
    assert!(matches!(
        tokens.verify(&sign("s", other.as_str())),
        Err(TokenError::Malformed(_))
    ));
    let empty = Identity::from_claims("i", "").to_hex();
    assert!(matches!(
        tokens.verify(&sign("", empty.as_str())),
        Err(TokenError::Malformed(_))
    ));
    let long = "x".repeat(129);
    let id = Identity::from_claims("i", &long).to_hex();
    assert!(matches!(
        tokens.verify(&sign(&long, id.as_str())),
        Err(TokenError::Malformed(_))
    ));
}
