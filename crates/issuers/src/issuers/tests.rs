use super::*;
use crate::fetch::FetchError;
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

#[tokio::test(start_paused = true)]
async fn slashes_at_the_end_make_no_other_issuer() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&signer])));
    for slashes in 0..4 {
        let issuer = format!("{ISSUER}{}", "/".repeat(slashes));
        assert_eq!(here.verify(&signer.sign(&issuer), &issuer).await, Ok(()));
    }
    assert_eq!(world.asked(), 1);
    assert_eq!(log.issuers.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_host_does_not_take_all_places() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (here, world) = node(&log, "everyone");
    *world.is_slow.lock() = true;
    let ask = |issuer: String| {
        let (here, token) = (here.clone(), signer.sign(&issuer));
        tokio::spawn(async move { here.verify(&token, &issuer).await })
    };
    let his: Vec<_> = (0..FETCHES_MAX)
        .map(|number| ask(format!("https://his.example/{number}")))
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(world.asked(), HOST_FETCHES_MAX);
    let other = ask("https://other.example".to_owned());
    tokio::task::yield_now().await;
    assert_eq!(world.asked(), HOST_FETCHES_MAX + 1);
    world.answer.notify_waiters();
    let mut busy = 0;
    for it in his {
        busy += usize::from(it.await.unwrap() == Err(Refused::Busy));
    }
    assert_eq!(busy, FETCHES_MAX - HOST_FETCHES_MAX);
    assert!(matches!(other.await.unwrap(), Err(Refused::NoKeys(_))));
}

#[tokio::test(start_paused = true)]
async fn old_keys_are_not_used_because_others_are_being_asked() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (first, world) = node(&log, "everyone");
    let path = |number: usize| format!("{ISSUER}/{number}");
    for number in 0..=HOST_FETCHES_MAX {
        world.set(&path(number), Ok(document(&[&signer])));
        assert_eq!(
            first.verify(&signer.sign(&path(number)), &path(number)).await,
            Ok(())
        );
        log.age(&path(number), STALE_AFTER);
    }
    let (here, world) = node(&log, "everyone");
    *world.is_slow.lock() = true;
    let ask = |number: usize| {
        let (here, token) = (here.clone(), signer.sign(&path(number)));
        tokio::spawn(async move { here.verify(&token, &path(number)).await })
    };
    let asked: Vec<_> = (0..HOST_FETCHES_MAX).map(ask).collect();
    tokio::task::yield_now().await;
    let since = tokio::time::Instant::now();
    assert_eq!(ask(HOST_FETCHES_MAX).await.unwrap(), Err(Refused::Busy));
    assert_eq!(since.elapsed(), PLACE_WAIT_MAX);
    // It has withdrawn its key when there is a place to ask it.
    let waits = ask(HOST_FETCHES_MAX);
    tokio::task::yield_now().await;
    *world.is_slow.lock() = false;
    world.set(&path(HOST_FETCHES_MAX), Ok(br#"{"keys":[]}"#.to_vec()));
    world.answer.notify_waiters();
    let unknown = Refused::NotSigned("Specified key ID not found in JWKs".to_owned());
    assert_eq!(waits.await.unwrap(), Err(unknown));
    for it in asked {
        assert_eq!(it.await.unwrap(), Ok(()), "it is away, and its old keys are used");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_no_keys_and_had_none_is_no_issuer() {
    let log: Arc<Log> = Arc::default();
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(br#"{"keys":[]}"#.to_vec()));
    assert_eq!(
        here.verify(&Signer::new("one", 1).sign(ISSUER), ISSUER).await,
        no_keys()
    );
    assert_eq!(log.told.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn strangers_keys_are_few_and_what_others_want_of_them_is_too() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (here, world) = node(&log, "everyone,http://named:1");
    let many: Vec<_> = (0..40)
        .map(|number| Signer::new(&"k".repeat(100 + number), 1))
        .collect();
    let many = document(&many.iter().collect::<Vec<_>>());
    for issuer in [ISSUER, "http://named:1"] {
        world.set(issuer, Ok(many.clone()));
    }
    let token = |issuer: &str| signer.sign_as(None, issuer);
    assert_eq!(here.verify(&token(ISSUER), ISSUER).await, no_keys());
    assert_eq!(
        here.verify(&token("http://named:1"), "http://named:1").await,
        Ok(())
    );

    log.told.store(0, Ordering::SeqCst);
    let wanted: Vec<_> = (0..2 * SERVED_MAX)
        .map(|number| format!("https://{number}.example"))
        .collect();
    for issuer in &wanted {
        world.set(issuer, Ok(document(&[&signer])));
        Shared::want(&*log, issuer);
        here.serve(&log.issuer(issuer).unwrap());
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(log.told.load(Ordering::SeqCst), SERVED_MAX);
}

#[tokio::test(start_paused = true)]
async fn strangers_at_a_known_issuers_host_take_none_of_its_places() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (here, world) = node(&log, "everyone");
    let token = signer.sign(ISSUER);
    world.set(ISSUER, Ok(document(&[&signer])));
    assert_eq!(here.verify(&token, ISSUER).await, Ok(()));
    log.age(ISSUER, STALE_AFTER);
    let (here, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&signer])));
    // Ports at which nobody answers.
    *world.is_slow.lock() = true;
    let strangers = (0..HOST_FETCHES_MAX).map(|number| {
        let issuer = format!("{ISSUER}:{}", 8_000 + number);
        let (here, token) = (here.clone(), signer.sign(&issuer));
        tokio::spawn(async move { here.verify(&token, &issuer).await })
    });
    let strangers: Vec<_> = strangers.collect();
    tokio::task::yield_now().await;
    assert_eq!(world.asked(), HOST_FETCHES_MAX);
    *world.is_slow.lock() = false;
    let since = tokio::time::Instant::now();
    assert_eq!(here.verify(&token, ISSUER).await, Ok(()));
    assert_eq!(since.elapsed(), Duration::ZERO);
    assert!(strangers.iter().all(|it| !it.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn who_shows_a_new_key_is_not_refused_because_others_are_being_asked() {
    let log: Arc<Log> = Arc::default();
    let (old, new) = (Signer::new("old", 1), Signer::new("new", 2));
    let (first, world) = node(&log, "everyone");
    let path = |number: usize| format!("{ISSUER}/{number}");
    for number in 0..=HOST_FETCHES_MAX {
        world.set(&path(number), Ok(document(&[&old])));
        assert_eq!(
            first.verify(&old.sign(&path(number)), &path(number)).await,
            Ok(())
        );
        log.age(&path(number), STALE_AFTER);
    }
    let rotated = path(HOST_FETCHES_MAX);
    log.age(&rotated, ROTATION_MIN);
    let (here, world) = node(&log, "everyone");
    world.set(&rotated, Ok(document(&[&old, &new])));
    *world.is_slow.lock() = true;
    let ask = |signer: &Signer, issuer: String| {
        let (here, token) = (here.clone(), signer.sign(&issuer));
        tokio::spawn(async move { here.verify(&token, &issuer).await })
    };
    let _others: Vec<_> = (0..HOST_FETCHES_MAX)
        .map(|number| ask(&old, path(number)))
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(ask(&new, rotated.clone()).await.unwrap(), Err(Refused::Busy));
    let waits = ask(&new, rotated);
    tokio::task::yield_now().await;
    *world.is_slow.lock() = false;
    world.answer.notify_waiters();
    assert_eq!(waits.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_new_key_that_only_another_node_can_fetch_is_waited_for() {
    let log: Arc<Log> = Arc::default();
    let (old, new) = (Signer::new("old", 1), Signer::new("new", 2));
    let (other, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&old])));
    assert_eq!(other.verify(&old.sign(ISSUER), ISSUER).await, Ok(()));
    world.set(ISSUER, Ok(document(&[&old, &new])));
    for age in [ROTATION_MIN, STALE_AFTER] {
        log.age(ISSUER, age);
        let (other, other_world) = node(&log, "everyone");
        other_world.set(ISSUER, Ok(document(&[&old, &new])));
        *other_world.is_slow.lock() = true;
        let serving = tokio::spawn(async move { other.serve_others().await });
        let (cut_off, _) = node(&log, "everyone");
        let token = new.sign(ISSUER);
        let waits = tokio::spawn(async move { cut_off.verify(&token, ISSUER).await });
        // It takes as long as it takes to ask somebody.
        tokio::time::sleep(OTHERS_MAX / 2).await;
        other_world.answer.notify_waiters();
        assert_eq!(waits.await.unwrap(), Ok(()), "{age:?}");
        serving.abort();
        log.change(ISSUER, |it| {
            it.keys = KeySet::parse(&document(&[&old])).unwrap().1.into()
        });
    }
    // Nobody can: it is said after a while, and then at once.
    log.age(ISSUER, ROTATION_MIN);
    let (cut_off, _) = node(&log, "everyone");
    let stranger = Signer::new("stranger", 3).sign(ISSUER);
    let since = tokio::time::Instant::now();
    for _ in 0..10 {
        assert!(cut_off.verify(&stranger, ISSUER).await.is_err());
    }
    assert_eq!(since.elapsed(), OTHERS_MAX);
}

#[tokio::test(start_paused = true)]
async fn strangers_issuers_do_not_keep_known_ones_from_being_wanted() {
    let (log, signer) = (Arc::new(Log::default()), Signer::new("one", 1));
    let (other, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&signer])));
    let token = signer.sign(ISSUER);
    assert_eq!(other.verify(&token, ISSUER).await, Ok(()));
    let (cut_off, _) = node(&log, "everyone");
    for number in 0..2 * WANTED_MAX {
        let issuer = format!("https://{number}.example");
        assert!(cut_off.verify(&signer.sign(&issuer), &issuer).await.is_err());
    }
    assert_eq!(log.wanted().len(), WANTED_MAX);
    log.age(ISSUER, STALE_AFTER);
    assert_eq!(cut_off.verify(&token, ISSUER).await, Ok(()));
    assert!(log.wanted().iter().any(|it| it.name == ISSUER));
}

#[tokio::test(start_paused = true)]
async fn what_another_node_wants_is_fetched_once_there_is_a_place() {
    let (log, signer) = (Arc::default(), Signer::new("one", 1));
    let (other, world) = node(&log, "everyone");
    world.set(ISSUER, Ok(document(&[&signer])));
    *world.is_slow.lock() = true;
    let strangers = (0..FETCHES_MAX).map(|number| {
        let issuer = format!("https://{number}.example");
        let (other, token) = (other.clone(), signer.sign(&issuer));
        tokio::spawn(async move { other.verify(&token, &issuer).await })
    });
    let _strangers: Vec<_> = strangers.collect();
    let serving = tokio::spawn(async move { other.serve_others().await });
    tokio::task::yield_now().await;
    let (cut_off, _) = node(&log, "everyone");
    let token = signer.sign(ISSUER);
    let waits = tokio::spawn(async move { cut_off.verify(&token, ISSUER).await });
    while log.wanted().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    *world.is_slow.lock() = false;
    world.answer.notify_waiters();
    assert_eq!(waits.await.unwrap(), Ok(()));
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn strangers_issuers_do_not_keep_known_ones_new_keys_from_being_told() {
    let log: Arc<Log> = Arc::default();
    let (old, new) = (Signer::new("old", 1), Signer::new("new", 2));
    let (here, world) = node(&log, "everyone");
    let yields = || async {
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    };
    let known = ["https://one.example", "https://two.example"];
    for issuer in known {
        world.set(issuer, Ok(document(&[&old])));
        assert_eq!(here.verify(&old.sign(issuer), issuer).await, Ok(()));
        world.set(issuer, Ok(document(&[&new])));
    }
    for number in 0..TOLD_MAX + SERVED_MAX {
        let issuer = format!("https://{number}.example");
        world.set(&issuer, Ok(document(&[&old])));
        if number < TOLD_MAX {
            assert_eq!(here.verify(&old.sign(&issuer), &issuer).await, Ok(()));
        } else {
            Shared::want(&*log, &issuer);
            here.serve(&log.issuer(&issuer).unwrap());
            yields().await;
        }
    }
    let told = log.told.load(Ordering::SeqCst);
    assert_eq!(told, TOLD_MAX + SERVED_MAX);
    // One is wanted by another node, and one was only asked again.
    let [wanted, asked] = known;
    for issuer in known {
        log.age(issuer, REFRESH_AFTER);
    }
    Shared::want(&*log, wanted);
    here.serve(&log.issuer(wanted).unwrap());
    yields().await;
    assert_eq!(log.told.load(Ordering::SeqCst), told + 1);
    drop(here.ask(asked, Reach::Public, true));
    yields().await;
    assert_eq!(log.told.load(Ordering::SeqCst), told + 2);
}
