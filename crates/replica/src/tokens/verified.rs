use super::Claims;
#[allow(clippy::disallowed_types, reason = "see `Generations`")]
use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

/// Tokens that are remembered at least, before those are forgotten that were not shown meanwhile.
const REMEMBERED_MIN: usize = 2_048;

/// Tokens whose signature was found good: looking again would say the same, and take longer than most requests. Whether
/// their time is over is looked at each time.
#[derive(Default)]
pub(super) struct Verified(Mutex<Generations>);

/// By the token's hash.
#[derive(Default)]
#[allow(clippy::disallowed_types, reason = "they are only looked up")]
struct Generations {
    new: HashMap<[u8; 32], Claims>,
    old: HashMap<[u8; 32], Claims>,
}

impl Verified {
    pub(super) fn get(&self, token: &str) -> Option<Claims> {
        let hash = blake3::hash(token.as_bytes()).into();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = known.new.get(&hash) {
            return Some(claims.clone());
        }
        let claims = known.old.remove(&hash)?;
        known.put(hash, claims.clone());
        Some(claims)
    }

    pub(super) fn put(&self, token: &str, claims: Claims) {
        let hash = blake3::hash(token.as_bytes()).into();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.put(hash, claims);
    }
}

impl Generations {
    fn put(&mut self, hash: [u8; 32], claims: Claims) {
        if self.new.len() >= REMEMBERED_MIN {
            self.old = mem::take(&mut self.new);
        }
        self.new.insert(hash, claims);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(subject: &str) -> Claims {
        Claims {
            identity: [0; 32],
            issuer: "i".into(),
            subject: subject.into(),
            expires_s: None,
        }
    }

    #[test]
    fn what_is_shown_stays_and_the_others_go() {
        let verified = Verified::default();
        verified.put("often", claims("often"));
        verified.put("once", claims("once"));
        for token in 0..2 * REMEMBERED_MIN {
            verified.put(&token.to_string(), claims("other"));
            assert_eq!(verified.get("often"), Some(claims("often")));
        }
        assert_eq!(verified.get("once"), None);
        let known = verified.0.lock().unwrap();
        assert!(known.new.len() + known.old.len() <= 2 * REMEMBERED_MIN);
    }
}
