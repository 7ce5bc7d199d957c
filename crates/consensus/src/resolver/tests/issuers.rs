//! What the meta group knows of outside issuers.

use super::*;
use crate::command::{ISSUER_BYTES_MAX, ISSUER_KEYS_BYTES_MAX, WantIssuer};
use crate::resolver::issuers::{ISSUERS_MAX, WANTED_MAX};

fn set(issuer: &str, keys: &'static [u8]) -> Body {
    Body::SetIssuer(SetIssuer {
        issuer: issuer.to_owned(),
        keys: Bytes::from_static(keys),
    })
}

fn want(issuer: &str) -> Body {
    Body::WantIssuer(WantIssuer {
        issuer: issuer.to_owned(),
    })
}

/// An entry of that time with one command.
fn at(bench: &mut Bench, seq: u64, timestamp_us: i64, body: Body) -> Decision {
    bench.resolve(entry(timestamp_us, vec![batch(1, 1, seq, vec![body])]))
}

#[test]
fn keys_are_known_with_the_logs_time_until_others_are_fetched() {
    let mut bench = Bench::new(Resolver::meta());
    let known = |bench: &Bench| {
        let meta = bench.resolver.meta_state();
        let issuer = meta.issuer("https://a").cloned().unwrap_or_default();
        (issuer.keys, issuer.fetched_us, issuer.wanted_us)
    };
    at(&mut bench, 1, 1_000, set("https://a", b"one"));
    assert_eq!(known(&bench), ("one".into(), 1_000, 0));
    at(&mut bench, 2, 2_000, set("https://a", b""));
    assert_eq!(known(&bench), ("one".into(), 2_000, 0), "the same as before");
    at(&mut bench, 3, 3_000, want("https://a"));
    assert_eq!(known(&bench), ("one".into(), 2_000, 3_000));
    at(&mut bench, 4, 4_000, set("https://a", b"two"));
    assert_eq!(known(&bench), ("two".into(), 4_000, 3_000));
    at(&mut bench, 5, 5_000, set("https://b", b""));
    let meta = bench.resolver.meta_state();
    let other = meta.issuer("https://b").unwrap();
    assert_eq!(
        (other.keys.len(), other.fetched_us),
        (0, 0),
        "the same as nothing"
    );
    assert_eq!(bench.restored().meta_state(), meta);
}

#[test]
fn the_oldest_go_first_and_those_that_are_only_wanted_push_none_out() {
    let mut bench = Bench::new(Resolver::meta());
    let mut seq = 0;
    let mut next = |bench: &mut Bench, body| {
        seq += 1;
        at(bench, seq, seq as i64, body)
    };
    for issuer in 0..ISSUERS_MAX {
        next(&mut bench, set(&issuer.to_string(), b"keys"));
    }
    // It is not the oldest any more.
    next(&mut bench, set("0", b""));
    for wanted in 0..=WANTED_MAX {
        next(&mut bench, want(&format!("wanted {wanted}")));
    }
    let meta = bench.resolver.meta_state();
    assert_eq!(meta.issuers().count(), ISSUERS_MAX + WANTED_MAX);
    assert!(meta.issuer("wanted 0").is_none() && meta.issuer("wanted 1").is_some());
    next(&mut bench, set("one more", b"keys"));
    let meta = bench.resolver.meta_state();
    assert!(meta.issuer("0").is_some() && meta.issuer("1").is_none() && meta.issuer("2").is_some());
    assert_eq!(bench.restored().meta_state(), meta);
}

#[test]
fn who_has_many_issuers_pushes_out_none_but_his_own() {
    let mut bench = Bench::new(Resolver::meta());
    let mut seq = 0;
    let mut next = |bench: &mut Bench, body| {
        seq += 1;
        at(bench, seq, seq as i64, body)
    };
    next(&mut bench, set("https://mine", b"keys"));
    next(&mut bench, want("https://wanted/mine"));
    for number in 0..2 * ISSUERS_MAX {
        next(&mut bench, set(&format!("https://his/{number}"), b"keys"));
        next(&mut bench, want(&format!("https://his.own/{number}")));
    }
    let meta = bench.resolver.meta_state();
    assert_eq!(meta.issuers().count(), ISSUERS_MAX + WANTED_MAX);
    assert!(meta.issuer("https://mine").is_some() && meta.issuer("https://wanted/mine").is_some());
}

#[test]
fn what_is_too_long_is_refused() {
    let mut bench = Bench::new(Resolver::meta());
    let long = "x".repeat(ISSUER_BYTES_MAX + 1);
    let keys = vec![0; ISSUER_KEYS_BYTES_MAX + 1].leak();
    for (seq, body) in [set(&long, b"keys"), want(&long), set("https://a", keys)]
        .into_iter()
        .enumerate()
    {
        let refused = refusal(&bench.one(seq as u64 + 1, body));
        assert!(matches!(refused, Some(Refusal::TooLong { .. })), "{refused:?}");
    }
    assert_eq!(bench.resolver.meta_state().issuers().count(), 0);
}
