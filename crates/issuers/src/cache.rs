//! What a node knows of issuers by itself.

use crate::key_set::KeySet;
use crate::url::host_of;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Issuers whose keys are kept. Of the host that has most of them, the one that was not needed for longest goes first.
const KNOWN_MAX: usize = 256;

/// Issuers of which it is remembered that they could not be asked. The same of that which may be asked
/// again first.
const FAILED_MAX: usize = 1_024;

/// How long an issuer is not asked again that could not be asked: each time twice as long, up to the second.
const REST: Duration = Duration::from_secs(15);
const REST_MAX: Duration = Duration::from_secs(240);

/// An issuer's keys.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) keys: Arc<KeySet>,
    /// The same in JSON.
    pub(crate) json: Bytes,
    /// When a node had them from the issuer, in microseconds since the Unix epoch.
    pub(crate) fetched_us: u64,
    /// Whether the other nodes know it, too.
    pub(crate) is_told: bool,
}

/// An issuer that could not be asked.
struct Failed {
    times: u32,
    until: Instant,
    /// Until when another node may have its keys.
    others_until: Instant,
}

/// Bounded, whatever issuers strangers name.
#[derive(Default)]
pub(crate) struct Cache {
    /// By name, with the turn in which they were needed last.
    known: BTreeMap<String, (Known, u64)>,
    failed: BTreeMap<String, Failed>,
    turn: u64,
}

impl Cache {
    pub(crate) fn get(&mut self, issuer: &str) -> Option<Known> {
        self.turn += 1;
        let (known, needed) = self.known.get_mut(issuer)?;
        *needed = self.turn;
        Some(known.clone())
    }

    /// Notes an issuer's keys. It can be asked, whoever has.
    pub(crate) fn put(&mut self, issuer: &str, known: Known) {
        self.turn += 1;
        self.failed.remove(issuer);
        self.known.insert(issuer.to_owned(), (known, self.turn));
        if self.known.len() > KNOWN_MAX {
            forget(&mut self.known, |(_, needed)| *needed);
        }
    }

    /// Notes that the other nodes know an issuer's keys, too.
    pub(crate) fn told(&mut self, issuer: &str) {
        if let Some((known, _)) = self.known.get_mut(issuer) {
            known.is_told = true;
        }
    }

    /// Notes that an issuer could not be asked.
    pub(crate) fn fail(&mut self, issuer: &str) {
        let times = self.failed.get(issuer).map_or(0, |failed| failed.times);
        let rest = REST.saturating_mul(1 << times.min(16)).min(REST_MAX);
        let now = Instant::now();
        let failed = Failed {
            times: times.saturating_add(1),
            until: now + rest,
            others_until: now,
        };
        self.failed.insert(issuer.to_owned(), failed);
        if self.failed.len() > FAILED_MAX {
            forget(&mut self.failed, |failed| failed.until);
        }
    }

    /// Notes that the other nodes are asked for the keys of an issuer that could not be asked, and how long they may take.
    pub(crate) fn ask_others(&mut self, issuer: &str, max: Duration) {
        if let Some(failed) = self.failed.get_mut(issuer) {
            failed.others_until = Instant::now() + max;
        }
    }

    /// Until when another node may have an issuer's keys; it is over if none was asked.
    pub(crate) fn others_until(&self, issuer: &str) -> Instant {
        let failed = self.failed.get(issuer);
        failed.map_or_else(Instant::now, |failed| failed.others_until)
    }

    /// Whether it could not be asked a moment ago.
    pub(crate) fn is_resting(&self, issuer: &str) -> bool {
        let failed = self.failed.get(issuer);
        failed.is_some_and(|failed| Instant::now() < failed.until)
    }
}

/// Removes the one that comes first in an order, of the host that has most: so nobody pushes out others' with many of his own.
fn forget<T, O: Ord>(all: &mut BTreeMap<String, T>, order: impl Fn(&T) -> O) {
    let mut hosts: BTreeMap<String, Vec<(&str, &T)>> = BTreeMap::new();
    for (issuer, it) in &*all {
        hosts.entry(host_of(issuer)).or_default().push((issuer, it));
    }
    let most = hosts.values().map(Vec::len).max();
    let of_most = hosts.into_values().filter(|of_host| Some(of_host.len()) == most);
    let first = of_most.flatten().min_by_key(|(_, it)| order(it));
    if let Some(name) = first.map(|(name, _)| name.to_owned()) {
        all.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_set::tests::{Signer, document};

    fn known() -> Known {
        let (keys, json) = KeySet::parse(&document(&[&Signer::new("one", 1)])).unwrap();
        Known {
            keys: Arc::new(keys),
            json: json.into(),
            fetched_us: 1,
            is_told: true,
        }
    }

    #[test]
    fn what_is_needed_stays_and_the_others_go() {
        let mut cache = Cache::default();
        let known = known();
        cache.put("needed", known.clone());
        cache.put("once", known.clone());
        for issuer in 0..2 * KNOWN_MAX {
            cache.put(&issuer.to_string(), known.clone());
            assert!(cache.get("needed").is_some());
        }
        assert!(cache.get("once").is_none());
        assert_eq!(cache.known.len(), KNOWN_MAX);
    }

    #[tokio::test]
    async fn who_has_many_issuers_pushes_out_none_but_his_own() {
        let mut cache = Cache::default();
        let known = known();
        cache.put("https://mine", known.clone());
        cache.fail("https://away");
        for number in 0..2 * KNOWN_MAX {
            let host = ["his", "HIS", "his."][number % 3];
            cache.put(&format!("https://{host}:{number}"), known.clone());
        }
        for number in 0..2 * FAILED_MAX {
            cache.fail(&format!("https://his/{number}"));
        }
        assert!(cache.get("https://mine").is_some());
        assert!(cache.is_resting("https://away"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_could_not_be_asked_rests_each_time_longer() {
        let mut cache = Cache::default();
        for rest in [15, 30, 60, 120, 240, 240] {
            cache.fail("away");
            tokio::time::advance(Duration::from_secs(rest - 1)).await;
            assert!(cache.is_resting("away"), "{rest}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(!cache.is_resting("away"), "{rest}");
        }
        for issuer in 0..2 * FAILED_MAX {
            cache.fail(&issuer.to_string());
        }
        assert_eq!(cache.failed.len(), FAILED_MAX);
    }
}
