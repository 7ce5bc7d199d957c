use super::*;
use crate::key_set::tests::{Signer, document};
use parking_lot::Mutex as PlainMutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Notify, watch};

const ISSUER: &str = "https://issuer.example";

type Document = Result<Vec<u8>, FetchError>;

/// Issuers, as one node can ask them.
#[derive(Default)]
struct World {
    documents: PlainMutex<BTreeMap<String, Vec<u8>>>,
    asked: AtomicUsize,
    /// Whether they answer only once they are told to.
    is_slow: PlainMutex<bool>,
    answer: Notify,
}

impl World {
    fn set(&self, issuer: &str, document: Document) {
        let mut documents = self.documents.lock();
        match document {
            Ok(document) => documents.insert(issuer.to_owned(), document),
            Err(_) => documents.remove(issuer),
        };
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

struct Asking(Arc<World>);

impl Fetch for Asking {
    fn fetch(&self, issuer: String, _: Reach, held: Held) -> BoxFuture<'static, Result<Bytes, FetchError>> {
        let world = self.0.clone();
        async move {
            let _held = held;
            world.asked.fetch_add(1, Ordering::SeqCst);
            if *world.is_slow.lock() {
                world.answer.notified().await;
            }
            let document = world.documents.lock().get(&issuer).cloned();
            document
                .map(Bytes::from)
                .ok_or_else(|| FetchError::Unreachable("away".to_owned()))
        }
        .boxed()
    }
}

/// What the nodes know together.
#[derive(Default)]
struct Log {
    issuers: PlainMutex<BTreeMap<String, SharedIssuer>>,
    told: AtomicUsize,
    changes: watch::Sender<u64>,
}

impl Log {
    fn change(&self, issuer: &str, change: impl FnOnce(&mut SharedIssuer)) {
        let mut issuers = self.issuers.lock();
        let known = issuers.entry(issuer.to_owned()).or_insert_with(|| SharedIssuer {
            name: issuer.to_owned(),
            ..SharedIssuer::default()
        });
        change(known);
        drop(issuers);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Makes it as old as that.
    fn age(&self, issuer: &str, age: Duration) {
        self.change(issuer, |it| it.fetched_us = ago(age));
    }
}

fn ago(age: Duration) -> u64 {
    rtdb_runtime::wall_us() - u64::try_from(age.as_micros()).unwrap()
}

impl Shared for Log {
    fn issuer(&self, name: &str) -> Option<SharedIssuer> {
        self.issuers.lock().get(name).cloned()
    }

    fn wanted(&self) -> Vec<SharedIssuer> {
        let issuers = self.issuers.lock();
        issuers
            .values()
            .filter(|it| it.wanted_us > it.fetched_us)
            .cloned()
            .collect()
    }

    fn tell(&self, issuer: &str, keys: Option<Bytes>) -> bool {
        self.told.fetch_add(1, Ordering::SeqCst);
        self.change(issuer, |it| {
            it.keys = keys.unwrap_or(it.keys.clone());
            it.fetched_us = rtdb_runtime::wall_us();
        });
        true
    }

    fn want(&self, issuer: &str) -> bool {
        self.change(issuer, |it| it.wanted_us = rtdb_runtime::wall_us());
        true
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// A node, and what it can ask.
fn node(log: &Arc<Log>, policy: &str) -> (Issuers, Arc<World>) {
    let world: Arc<World> = Arc::default();
    let fetch = Arc::new(Asking(world.clone()));
    (Issuers::new(policy.parse().unwrap(), fetch, log.clone()), world)
}

fn away() -> Document {
    Err(FetchError::Slow(5))
}

fn no_keys() -> Result<(), Refused> {
    Err(Refused::NoKeys(ISSUER.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn an_issuer_is_asked_once_and_the_other_nodes_need_not() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&signer])));
    let token = signer.sign(ISSUER);
    let many = futures::future::join_all((0..100).map(|_| here.verify(&token, ISSUER)));
    assert!(many.await.into_iter().all(|verified| verified.is_ok()));
    assert_eq!(world.asked(), 1);
    let forged = Signer::new("one", 2).sign(ISSUER);
    let refused = Refused::NotSigned("Invalid token: InvalidSignature".to_owned());
    assert_eq!(here.verify(&forged, ISSUER).await, Err(refused));
    // A node that can't ask it, and the same one after it has started anew.
    let (there, cut_off) = node(&log, "everyone");
    assert_eq!(there.verify(&token, ISSUER).await, Ok(()));
    assert!(there.verify(&forged, ISSUER).await.is_err());
    assert_eq!((cut_off.asked(), world.asked()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_anew_and_the_old_ones_stay_while_the_issuer_is_away() {
    let log: Arc<Log> = Arc::default();
    let (old, new) = (Signer::new("old", 1), Signer::new("new", 2));
    let (first, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&old])));
    let (old, rotated) = (old.sign(ISSUER), document(&[&new]));
    assert_eq!(first.verify(&old, ISSUER).await, Ok(()));

    // The issuer is away: until a day has passed, what was fetched is used.
    log.age(ISSUER, KEYS_AGE_MAX - Duration::from_secs(60));
    let (here, world) = node(&log, "everyone");
    assert_eq!(here.verify(&old, ISSUER).await, Ok(()));
    assert_eq!(world.asked(), 1);
    assert_eq!(here.verify(&old, ISSUER).await, Ok(()));
    assert_eq!(world.asked(), 1, "it rests");
    log.age(ISSUER, KEYS_AGE_MAX);
    let (here, world) = node(&log, "everyone");
    assert_eq!(here.verify(&old, ISSUER).await, no_keys());

    // It is there, with other keys: those are used at once after a while, and soon before.
    world.set(ISSUER, Ok(rotated.clone()));
    log.age(ISSUER, STALE_AFTER);
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(rotated));
    let unknown = Refused::NotSigned("Specified key ID not found in JWKs".to_owned());
    assert_eq!(here.verify(&old, ISSUER).await, Err(unknown));
    assert_eq!(here.verify(&new.sign(ISSUER), ISSUER).await, Ok(()));
    assert_eq!(world.asked(), 1);
    log.age(ISSUER, REFRESH_AFTER);
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&new])));
    *world.is_slow.lock() = true;
    assert_eq!(
        here.verify(&new.sign(ISSUER), ISSUER).await,
        Ok(()),
        "nobody waits"
    );
    tokio::task::yield_now().await;
    assert_eq!(world.asked(), 1);
    world.answer.notify_one();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_known_is_looked_for_once_in_a_while() {
    let log: Arc<Log> = Arc::default();
    let (old, new) = (Signer::new("old", 1), Signer::new("new", 2));
    let (first, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&old])));
    assert_eq!(first.verify(&old.sign(ISSUER), ISSUER).await, Ok(()));
    let stranger = Signer::new("stranger", 3).sign(ISSUER);
    for _ in 0..10 {
        assert!(first.verify(&stranger, ISSUER).await.is_err());
    }
    assert_eq!(world.asked(), 1);

    log.age(ISSUER, ROTATION_MIN);
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&old, &new])));
    for _ in 0..10 {
        assert!(here.verify(&stranger, ISSUER).await.is_err());
        assert_eq!(here.verify(&new.sign(ISSUER), ISSUER).await, Ok(()));
    }
    assert_eq!(world.asked(), 1);
    assert_eq!(
        first.verify(&new.sign(ISSUER), ISSUER).await,
        Ok(()),
        "told by the other"
    );
}

#[tokio::test(start_paused = true)]
async fn who_can_ask_an_issuer_does_so_for_who_can_not() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (cut_off, _) = node(&log, "everyone");
    let (other, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&signer])));
    let serving = tokio::spawn({
        let other = other.clone();
        async move { other.serve_others().await }
    });
    let token = signer.sign(ISSUER);
    assert_eq!(cut_off.verify(&token, ISSUER).await, Ok(()));
    assert_eq!(world.asked(), 1);
    // Nobody can: it is said after a while, and then at once.
    let elsewhere = "https://nowhere.example";
    let refused = || Err(Refused::NoKeys(elsewhere.to_owned()));
    let since = tokio::time::Instant::now();
    assert_eq!(
        cut_off.verify(&signer.sign(elsewhere), elsewhere).await,
        refused()
    );
    assert_eq!(since.elapsed(), OTHERS_MAX);
    assert_eq!(
        cut_off.verify(&signer.sign(elsewhere), elsewhere).await,
        refused()
    );
    assert_eq!(since.elapsed(), OTHERS_MAX);
    assert_eq!(world.asked(), 2);
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn strangers_with_ten_thousand_issuers_hold_nobody_else_up() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&signer])));
    let token = signer.sign(ISSUER);
    assert_eq!(here.verify(&token, ISSUER).await, Ok(()));
    log.age(ISSUER, KEYS_AGE_MAX - Duration::from_secs(1));
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&signer])));

    *world.is_slow.lock() = true;
    let foreign = signer.sign_as(None, "whoever");
    let strangers = (0..10_000).map(|number| {
        let (here, token) = (here.clone(), foreign.clone());
        let issuer = format!("https://{number}.example");
        tokio::spawn(async move { here.verify(&token, &issuer).await })
    });
    let strangers: Vec<_> = strangers.collect();
    let refused = || strangers.iter().filter(|it| it.is_finished()).count();
    // The others hear so at once.
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((world.asked(), refused()), (FETCHES_MAX, 10_000 - FETCHES_MAX));
    *world.is_slow.lock() = false;
    assert_eq!(here.verify(&token, ISSUER).await, Ok(()));
    assert_eq!(
        world.asked(),
        FETCHES_MAX + 1,
        "a known issuer is asked all the same"
    );
    world.answer.notify_waiters();
    for stranger in strangers {
        assert!(stranger.await.unwrap().is_err());
    }
    let wanted = log.wanted().len();
    assert!(wanted <= WANTED_MAX, "the others are asked for {wanted}");
}

#[tokio::test(start_paused = true)]
async fn the_others_are_told_of_so_many_new_issuers_and_no_more() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (here, world) = node(&log, "everyone,http://named:1");
    for number in 0..2 * TOLD_MAX {
        let issuer = format!("https://{number}.example");
        world.set(&issuer, Ok(document(&[&signer])));
        assert_eq!(here.verify(&signer.sign(&issuer), &issuer).await, Ok(()));
    }
    assert_eq!(log.told.load(Ordering::SeqCst), TOLD_MAX);
    let named = "http://named:1";
    world.set(named, Ok(document(&[&signer])));
    assert_eq!(here.verify(&signer.sign(named), named).await, Ok(()));
    assert_eq!(log.told.load(Ordering::SeqCst), TOLD_MAX + 1);
    // The others come when it is their turn.
    tokio::time::advance(WINDOW).await;
    for number in 0..2 * TOLD_MAX {
        let issuer = format!("https://{number}.example");
        assert_eq!(here.verify(&signer.sign(&issuer), &issuer).await, Ok(()));
    }
    assert_eq!(log.told.load(Ordering::SeqCst), 2 * TOLD_MAX + 1);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_be_asked_is_not() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (here, world) = node(&log, "everyone");
    for issuer in [
        "http://plain.example",
        "https://user@a.example",
        "localhost",
        "https://a.example:22",
    ] {
        let refused = here.verify(&signer.sign(issuer), issuer).await;
        assert!(
            matches!(refused, Err(Refused::NotAsked(..))),
            "{issuer}: {refused:?}"
        );
    }
    let (here, nothing) = node(&log, "https://other.example");
    let refused = here.verify(&signer.sign(ISSUER), ISSUER).await;
    assert_eq!(refused, Err(Refused::NotTaken(ISSUER.to_owned())));
    assert_eq!(
        here.verify("a.b", ISSUER).await,
        Err(Refused::NotTaken(ISSUER.to_owned()))
    );
    assert_eq!((world.asked(), nothing.asked()), (0, 0));
    // What another node has fetched is not taken either, where it is not wanted.
    log.tell(
        ISSUER,
        Some(KeySet::parse(&document(&[&signer])).unwrap().1.into()),
    );
    assert!(here.verify(&signer.sign(ISSUER), ISSUER).await.is_err());
    world.set(ISSUER, away());
}
