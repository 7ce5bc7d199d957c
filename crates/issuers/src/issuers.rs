//! Who is asked for keys, and when.

use crate::cache::{Cache, Known};
use crate::fetch::{Fetch, Held};
use crate::key_set::{BadSignature, KeySet, KeySetError, PUBLIC_KEY_SET_BYTES_MAX};
use crate::policy::Policy;
use crate::rate::Rate;
use crate::refused::{NoKeys, NotNow, Refused};
use crate::shared::{Shared, SharedIssuer};
use crate::token::Token;
use crate::url::{Reach, Url, host_of};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// After this time keys are fetched anew when they are needed, as natively.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

/// After this time they are no more used if the issuer can be asked.
const STALE_AFTER: Duration = Duration::from_secs(600);

/// After this time they are not used at all.
const KEYS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How old keys are at least before they are fetched anew because a token names another one.
const ROTATION_MIN: Duration = Duration::from_secs(30);

/// Issuers that are asked at a time: of those that the operator has named, of others whose keys are known already, and of
/// the rest. What is beyond is refused at once: so strangers with issuers of their own wait for each other alone.
const NAMED_MAX: usize = 8;
const REFRESHES_MAX: usize = 8;
const FETCHES_MAX: usize = 8;

/// Issuers of one host, of those that the operator has not named, that are asked at a time; and so many more of those whose keys
/// are known already: whoever names a host can have it asked where nobody answers.
const HOST_FETCHES_MAX: usize = 2;

/// How long who shows a token waits for a place among these, if the keys that are known are too old.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Issuers, of those that the operator has not named, whose new keys the others are told, that they are asked for, and that
/// they are told of because they have asked.
const TOLD_MAX: usize = 8;
const WANTED_MAX: usize = 8;
const SERVED_MAX: usize = 8;

/// The same of those whose keys are known among all nodes: whoever names others leaves them these.
const KNOWN_TOLD_MAX: usize = 8;
const KNOWN_WANTED_MAX: usize = 32;

/// Issuers, of those that the operator has not named, of which the log says that they could not be asked.
const LOGGED_MAX: usize = 8;

/// In how long.
const WINDOW: Duration = Duration::from_secs(60);

/// How long who shows a token waits for another node to ask its issuer.
const OTHERS_MAX: Duration = Duration::from_secs(5);

/// How long after a node wanted an issuer's keys they are fetched for it.
const WANTED_FOR: Duration = Duration::from_secs(30);

/// Outside issuers, whose keys are known here, or among all nodes, or are asked for. However many slashes a token writes at an
/// issuer's end, it is the same one: it is asked at the same place.
#[derive(Clone)]
pub struct Issuers(Arc<Inner>);

struct Inner {
    policy: Policy,
    fetch: Arc<dyn Fetch>,
    shared: Arc<dyn Shared>,
    cache: Mutex<Cache>,
    flights: Mutex<BTreeMap<String, Flight>>,
    /// Notified when one has left its place.
    landed: Notify,
    named: Arc<Semaphore>,
    refreshes: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    told: Mutex<Rate>,
    known_told: Mutex<Rate>,
    wanted: Mutex<Rate>,
    known_wanted: Mutex<Rate>,
    served: Mutex<Rate>,
    logged: Mutex<Rate>,
}

/// An issuer is being asked: one for all who wait for it.
struct Flight {
    ends: Ends,
    /// The issuer's host, if the operator has not named it, until it has answered or has not.
    host: Option<String>,
    /// Whether its keys were known already.
    is_known: bool,
}

/// The end of a flight.
type Ends = futures::future::Shared<BoxFuture<'static, ()>>;

impl Issuers {
    /// Takes tokens of whom `policy` names, whose keys come by `fetch` and from the other nodes.
    pub fn new(policy: Policy, fetch: Arc<dyn Fetch>, shared: Arc<dyn Shared>) -> Self {
        Self(Arc::new(Inner {
            policy,
            fetch,
            shared,
            cache: Mutex::default(),
            flights: Mutex::default(),
            landed: Notify::new(),
            named: Arc::new(Semaphore::new(NAMED_MAX)),
            refreshes: Arc::new(Semaphore::new(REFRESHES_MAX)),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            told: Mutex::new(Rate::new(TOLD_MAX, WINDOW)),
            known_told: Mutex::new(Rate::new(KNOWN_TOLD_MAX, WINDOW)),
            wanted: Mutex::new(Rate::new(WANTED_MAX, WINDOW)),
            known_wanted: Mutex::new(Rate::new(KNOWN_WANTED_MAX, WINDOW)),
            served: Mutex::new(Rate::new(SERVED_MAX, WINDOW)),
            logged: Mutex::new(Rate::new(LOGGED_MAX, WINDOW)),
        }))
    }

    /// Whether this issuer has signed a token, which is whose it says it is.
    ///
    /// # Errors
    /// [`Refused`]
    pub async fn verify(&self, token: &str, issuer: &str) -> Result<(), Refused> {
        let Some(reach) = self.0.policy.reach(issuer) else {
            return Err(Refused::NotTaken(issuer.to_owned()));
        };
        Url::of_configuration(issuer, reach).map_err(|error| Refused::NotAsked(issuer.to_owned(), error))?;
        let token = Token::parse(token).ok_or(Refused::Malformed)?;
        let name = issuer.trim_end_matches('/');
        let known = self.keys(name, reach).await?;
        let known = known.ok_or_else(|| Refused::NoKeys(issuer.to_owned()))?;
        let verified = known.keys.verify(&token);
        if verified != Err(BadSignature::UnknownKey) || age(known.fetched_us) < ROTATION_MIN {
            return Ok(verified?);
        }
        // The key may be one that has come since.
        match self.ask_soon(name, reach).await {
            Ok(asked) => asked.await,
            Err(NotNow::Busy) => return Err(Refused::Busy),
            Err(NotNow::Resting) => {}
        }
        let newer = self.newer(name, &known).await;
        Ok(newer.unwrap_or(known).keys.verify(&token)?)
    }

    /// Fetches what other nodes want and can't fetch, for as long as it is polled.
    pub async fn serve_others(&self) {
        let mut changes = self.0.shared.changes();
        loop {
            // One of them may have found no place.
            let landed = self.0.landed.notified();
            for wanted in self.0.shared.wanted() {
                self.serve(&wanted);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = landed => {}
            }
        }
    }

    fn serve(&self, wanted: &SharedIssuer) {
        let issuer = wanted.name.trim_end_matches('/');
        let Some(reach) = self
            .0
            .policy
            .reach(issuer)
            .filter(|_| age(wanted.wanted_us) < WANTED_FOR)
        else {
            return;
        };
        match self.look(issuer) {
            Some(known) if known.fetched_us > wanted.fetched_us && age(known.fetched_us) < REFRESH_AFTER => {
                self.tell(issuer, reach, &known.json);
            }
            _ => drop(self.ask(issuer, reach, !wanted.keys.is_empty())),
        }
    }

    /// An issuer's keys, old ones if it can't be asked.
    async fn keys(&self, issuer: &str, reach: Reach) -> Result<Option<Known>, Refused> {
        let known = self.look(issuer);
        let asked = match &known {
            Some(known) if age(known.fetched_us) < REFRESH_AFTER => {
                // It may be that this could not be done before.
                if !known.is_told {
                    self.tell(issuer, reach, &known.json);
                }
                return Ok(Some(known.clone()));
            }
            Some(_) => self.ask(issuer, reach, true),
            None => self.ask(issuer, reach, false),
        };
        let asked = match (asked, known) {
            (Ok(_) | Err(NotNow::Busy), Some(known)) if age(known.fetched_us) < STALE_AFTER => {
                return Ok(Some(known));
            }
            (Err(NotNow::Busy), Some(_)) => self.ask_soon(issuer, reach).await,
            (asked, _) => asked,
        };
        match asked {
            Ok(asked) => asked.await,
            Err(NotNow::Busy) => return Err(Refused::Busy),
            Err(NotNow::Resting) => {}
        }
        Ok(self.look(issuer))
    }

    /// Has an issuer asked whose keys are known, once there is a place.
    async fn ask_soon(&self, issuer: &str, reach: Reach) -> Result<Ends, NotNow> {
        let asked = async {
            loop {
                let landed = self.0.landed.notified();
                match self.ask(issuer, reach, true) {
                    Err(NotNow::Busy) => landed.await,
                    asked => return asked,
                }
            }
        };
        let asked = tokio::time::timeout(PLACE_WAIT_MAX, asked).await;
        asked.unwrap_or(Err(NotNow::Busy))
    }

    /// An issuer's keys that are newer than these, if another node may be fetching them.
    async fn newer(&self, issuer: &str, known: &Known) -> Option<Known> {
        let mut changes = self.0.shared.changes();
        let is_newer = |it: &Known| it.fetched_us > known.fetched_us;
        let told = async {
            loop {
                match self.look(issuer).filter(is_newer) {
                    Some(newer) => return Some(newer),
                    None => changes.changed().await.ok()?,
                }
            }
        };
        let until = locked(&self.0.cache).others_until(issuer);
        tokio::time::timeout_at(until, told).await.ok().flatten()
    }

    /// The newest keys that are known here or to all nodes, unless they are too old.
    fn look(&self, issuer: &str) -> Option<Known> {
        let shared = self.0.shared.issuer(issuer).filter(|it| !it.keys.is_empty());
        let mut cache = locked(&self.0.cache);
        let own = cache.get(issuer);
        let known = match (own, shared) {
            (own, Some(shared)) if own.as_ref().is_none_or(|own| own.fetched_us < shared.fetched_us) => {
                let same = own.filter(|own| own.json == shared.keys);
                let keys = match same {
                    Some(own) => own.keys,
                    None => Arc::new(KeySet::parse(&shared.keys).ok()?.0),
                };
                let known = Known {
                    keys,
                    json: shared.keys,
                    fetched_us: shared.fetched_us,
                    is_told: true,
                };
                cache.put(issuer, known.clone());
                known
            }
            (own, _) => own?,
        };
        (age(known.fetched_us) < KEYS_AGE_MAX).then_some(known)
    }

    /// Has an issuer asked. It goes on whether or not somebody waits for it.
    fn ask(&self, issuer: &str, reach: Reach, is_known: bool) -> Result<Ends, NotNow> {
        let mut flights = locked(&self.0.flights);
        if let Some(flight) = flights.get(issuer) {
            return Ok(flight.ends.clone());
        }
        if locked(&self.0.cache).is_resting(issuer) {
            return Err(NotNow::Resting);
        }
        let host = (reach == Reach::Public).then(|| host_of(issuer));
        let is_alike = |it: &&Flight| host.is_some() && it.host == host && it.is_known == is_known;
        let of_host = flights.values().filter(is_alike);
        if of_host.count() >= HOST_FETCHES_MAX {
            return Err(NotNow::Busy);
        }
        let places = match (reach, is_known) {
            (Reach::Named, _) => &self.0.named,
            (Reach::Public, true) => &self.0.refreshes,
            (Reach::Public, false) => &self.0.fetches,
        };
        let held = places.clone().try_acquire_owned().map_err(|_| NotNow::Busy)?;
        let (this, name) = (self.clone(), issuer.to_owned());
        let asking = tokio::spawn(async move {
            let landing = Landing(this, name);
            landing.0.fetch(&landing.1, reach, Arc::new(held)).await;
        });
        let ends = asking.map(drop).boxed().shared();
        let flight = Flight {
            ends: ends.clone(),
            host,
            is_known,
        };
        flights.insert(issuer.to_owned(), flight);
        Ok(ends)
    }

    async fn fetch(&self, issuer: &str, reach: Reach, held: Held) {
        let fetched = self.0.fetch.fetch(issuer.to_owned(), reach, held).await;
        let parsed = fetched
            .map_err(NoKeys::from)
            .and_then(|document| Ok(KeySet::parse(&document)?))
            .and_then(|(keys, json)| match self.may_have(issuer, reach, &keys, &json) {
                Ok(()) => Ok((keys, Bytes::from(json))),
                Err(error) => Err(error.into()),
            });
        match parsed {
            Ok((keys, json)) => {
                let known = Known {
                    keys: Arc::new(keys),
                    json: json.clone(),
                    fetched_us: rtdb_runtime::wall_us(),
                    is_told: false,
                };
                locked(&self.0.cache).put(issuer, known);
                self.tell(issuer, reach, &json);
            }
            Err(error) => {
                // Others may still be asked, which takes no place.
                if let Some(flight) = locked(&self.0.flights).get_mut(issuer) {
                    flight.host = None;
                }
                self.0.landed.notify_waiters();
                // Strangers must not fill the log.
                if reach == Reach::Named || locked(&self.0.logged).pass() {
                    tracing::warn!(issuer, %error, "an issuer of tokens could not be asked for its keys");
                }
                locked(&self.0.cache).fail(issuer);
                self.ask_others(issuer, reach).await;
            }
        }
    }

    /// Whether an issuer may have these keys. Only one of whom some are known can have withdrawn them all.
    fn may_have(&self, issuer: &str, reach: Reach, keys: &KeySet, json: &[u8]) -> Result<(), KeySetError> {
        if keys.is_empty() && self.look(issuer).is_none() {
            return Err(KeySetError::None);
        }
        match reach == Reach::Public && json.len() > PUBLIC_KEY_SET_BYTES_MAX {
            true => Err(KeySetError::TooLarge(PUBLIC_KEY_SET_BYTES_MAX)),
            false => Ok(()),
        }
    }

    /// Asks the other nodes for what this one can't fetch, and waits for them if nothing is known yet.
    async fn ask_others(&self, issuer: &str, reach: Reach) {
        let mut changes = self.0.shared.changes();
        let wanted = match self.look(issuer) {
            Some(_) => &self.0.known_wanted,
            None => &self.0.wanted,
        };
        if reach == Reach::Public && !locked(wanted).pass() || !self.0.shared.want(issuer) {
            return;
        }
        locked(&self.0.cache).ask_others(issuer, OTHERS_MAX);
        let told = async { while self.look(issuer).is_none() && changes.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(OTHERS_MAX, told).await;
    }

    /// Tells the other nodes what they don't know yet.
    fn tell(&self, issuer: &str, reach: Reach, json: &Bytes) {
        let shared = self.0.shared.issuer(issuer).unwrap_or_default();
        let is_wanted = shared.wanted_us > shared.fetched_us;
        // Strangers must not fill the log.
        let may = |rate: &Mutex<Rate>| reach == Reach::Named || locked(rate).pass();
        let same = shared.keys == *json;
        let is_told = if same && !is_wanted && age(shared.fetched_us) < REFRESH_AFTER {
            true
        } else {
            let may = match is_wanted {
                false if same => true,
                _ if !shared.keys.is_empty() => may(&self.0.known_told),
                true => may(&self.0.served),
                false => may(&self.0.told),
            };
            may && self.0.shared.tell(issuer, (!same).then(|| json.clone()))
        };
        if is_told {
            locked(&self.0.cache).told(issuer);
        }
    }
}

/// Ends a flight, however it ends.
struct Landing(Issuers, String);

impl Drop for Landing {
    fn drop(&mut self) {
        locked(&self.0.0.flights).remove(&self.1);
        self.0.0.landed.notify_waiters();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn age(since_us: u64) -> Duration {
    Duration::from_micros(rtdb_runtime::wall_us().saturating_sub(since_us))
}

#[cfg(test)]
mod tests;
