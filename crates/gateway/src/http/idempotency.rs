//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a call that is sent again counts once, and is answered as it
//! was the first time, by whichever node.

use super::{Authenticated, HttpError};
use crate::limits::{FIRST_ASK, FIRST_LOOK, FIRST_WAIT_MAX};
use crate::node::Node;
use axum::body::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use rtdb_consensus::command::{Body, CallKey, KEY_BYTES_MAX};
use rtdb_consensus::{KEY_KEPT_US_MAX, Outcome, Refusal, Unapplied};
use rtdb_runtime::Instant;
use spacetimedb_lib::{Identity, hash_bytes};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is heard if nobody says in time what came of the first call.
const NOT_SAID: &str = "a call with this idempotency key is under way, or no node knows what came of it: ask again with the same \
                        key";

/// The key that a call has, if it has one. `parts` are all of the call; they are asked for then only.
///
/// # Errors
/// 400 if it is none, or the next time would be another caller's.
pub(super) async fn key_of<const N: usize>(
    node: &Node,
    headers: &HeaderMap,
    caller: &Authenticated,
    parts: impl FnOnce() -> [Bytes; N],
) -> Result<Option<CallKey>, HttpError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).into_iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = parse(value).filter(|_| values.next().is_none()).ok_or_else(|| {
        HttpError::bad_request(format!(
            "`Idempotency-Key` must be one key of 1 to {KEY_BYTES_MAX} printable ASCII characters, in quotes if there is a \
             space, comma, semicolon, quote or backslash among them"
        ))
    })?;
    if !headers.contains_key(AUTHORIZATION) {
        return Err(HttpError::bad_request(
            "`Idempotency-Key` needs a token (`Authorization`): without one each request has an identity of its own, and keys \
             are their callers'",
        ));
    }
    if !node.catalog.takes_keys() {
        return Err(HttpError::not_served(
            "`Idempotency-Key`, before all nodes of the cluster are updated,",
        ));
    }
    let parts = parts();
    let bytes = parts.iter().map(Bytes::len).sum();
    let fingerprint = node.requests.run(bytes, move || fingerprint(&parts)).await;
    Ok(Some(CallKey {
        sender: caller.claims.identity.to_byte_array().to_vec().into(),
        key,
        fingerprint: fingerprint.into(),
    }))
}

/// Refuses a key where it would be no good.
pub(super) fn none(headers: &HeaderMap, what: &str) -> Result<(), HttpError> {
    match headers.contains_key(IDEMPOTENCY_KEY) {
        true => Err(HttpError::bad_request(format!(
            "{what} can't have an `Idempotency-Key`"
        ))),
        false => Ok(()),
    }
}

/// A string, as structured headers have it; a key without quotes is taken, too.
fn parse(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    let key = match text.strip_prefix('"') {
        Some(rest) => unquoted(rest.strip_suffix('"')?)?,
        None => text.to_owned(),
    };
    let is_plain = |c: char| c.is_ascii_graphic() && !"\",;\\".contains(c);
    let is_printable = |c: char| c.is_ascii_graphic() || c == ' ';
    let is_key = match text.starts_with('"') {
        true => key.chars().all(is_printable),
        false => key.chars().all(is_plain),
    };
    (is_key && (1..=KEY_BYTES_MAX).contains(&key.len())).then_some(key)
}

fn unquoted(text: &str) -> Option<String> {
    let (mut key, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        key.push(match c {
            '\\' => chars.next().filter(|c| matches!(c, '"' | '\\'))?,
            '"' => return None,
            c => c,
        });
    }
    Some(key)
}

/// A hash of the hashes of all parts.
fn fingerprint(parts: &[Bytes]) -> Vec<u8> {
    let hashes: Vec<_> = parts.iter().map(|part| hash_bytes(part).data).collect();
    hash_bytes(hashes.concat()).data.to_vec()
}

/// What came of the first call with a key; `None` if there has been none, as far as this node knows, or its time is over.
/// Waits for it.
///
/// # Errors
/// 422 if it was another call.
pub(super) async fn first(
    node: &Node,
    database: &Identity,
    key: &CallKey,
) -> Result<Option<Outcome>, HttpError> {
    // By this node's clock: the log's time may stand still.
    let now_us = rtdb_runtime::wall_us() as i64;
    match node.catalog.keyed(database, key) {
        Some(first) if now_us.saturating_sub(first.timestamp_us) < KEY_KEPT_US_MAX => {
            outcome_of(node, database, key).await
        }
        _ => Ok(None),
    }
}

/// The same of a call whose time is not over.
async fn outcome_of(node: &Node, database: &Identity, key: &CallKey) -> Result<Option<Outcome>, HttpError> {
    let (begun, mut pause) = (Instant::now(), FIRST_LOOK);
    loop {
        let Some(first) = node.catalog.keyed(database, key) else {
            return Ok(None);
        };
        if !first.is_same {
            return Err(Unapplied::Refused(Refusal::KeyTaken).into());
        }
        if first.outcome.is_some() {
            return Ok(first.outcome);
        }
        if begun.elapsed() >= FIRST_WAIT_MAX {
            return Ok(Some(Err(Unapplied::Unknown {
                why: NOT_SAID,
                position: Some(first.position),
            })));
        }
        // Mostly the first call's node says it by itself.
        if pause >= FIRST_ASK {
            for question in node.asking.ask(database, first.position, Instant::now()) {
                if let Err(error) = node.shard.submit(Body::Outcomes(question).into()) {
                    tracing::debug!(%error, "nobody is asked yet what came of a call");
                }
            }
        }
        rtdb_runtime::sleep(pause).await;
        pause = (pause * 2).min(FIRST_ASK);
    }
}

/// Proposes a call, and waits for its outcome: if it was made before, for that of the first time.
///
/// # Errors
/// Those of [`Node::propose`] and [`first`].
pub(super) async fn propose(
    node: &Node,
    database: &Identity,
    body: Body,
    key: Option<&CallKey>,
) -> Result<Outcome, HttpError> {
    let outcome = node.propose(&node.shard, body).await?;
    match (&outcome, key) {
        (Err(Unapplied::Refused(Refusal::Repeated)), Some(key)) => {
            // It was refused meanwhile, and may be made again.
            Ok(outcome_of(node, database, key).await?.unwrap_or(outcome))
        }
        _ => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Option<String> {
        parse(&HeaderValue::from_str(value).unwrap())
    }

    #[test]
    fn a_key_is_a_string_with_or_without_quotes() {
        for (value, key) in [
            ("8e03978e-40d5-43dd", "8e03978e-40d5-43dd"),
            ("\"8e03978e-40d5-43dd\"", "8e03978e-40d5-43dd"),
            (" a ", "a"),
            (r#""a b, c; \"d\" \\""#, r#"a b, c; "d" \"#),
        ] {
            assert_eq!(parsed(value).as_deref(), Some(key), "{value}");
        }
        let long = |count| "k".repeat(count);
        assert!(parsed(&long(KEY_BYTES_MAX)).is_some());
        for value in [
            "",
            "\"",
            "\"\"",
            "a b",
            "a,b",
            "\"a",
            "a\"",
            "\"a\";b=1",
            r#""a\""#,
            r#""\a""#,
            "\"a\tb\"",
            &long(KEY_BYTES_MAX + 1),
        ] {
            assert_eq!(parsed(value), None, "{value}");
        }
    }

    #[test]
    fn other_calls_have_other_fingerprints() {
        let print = |parts: &[&'static str]| {
            let parts: Vec<_> = parts.iter().copied().map(Bytes::from).collect();
            fingerprint(&parts)
        };
        let calls: [&[&str]; 4] = [&["ab", "c"], &["a", "bc"], &["abc"], &["abc", ""]];
        let prints: std::collections::BTreeSet<_> = calls.iter().map(|call| print(call)).collect();
        assert_eq!(prints.len(), calls.len());
        assert_eq!(print(calls[0]), print(&["ab", "c"]));
    }
}
