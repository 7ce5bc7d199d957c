//! Views that clients of this node look at, and what becomes of them.
//!
//! A view is evaluated by refreshes alone, see `rtdb_determinism::REFRESH`: they are this node's own, come after the
//! calls that have outdated a view, and fail without anything else failing. Who looks at a view *holds* it; while any view
//! is held, what calls outdate is refreshed: behind each call by the applier, or, where refreshes take long, from time to
//! time by the [`Refresher`](refresher::Refresher). A view that fails is put aside, and its holders are told why.

pub(crate) mod refresher;

use parking_lot::Mutex;
use rtdb_runtime::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, oneshot, watch};

/// How long an instance of a view is remembered that nobody holds any more. The server keeps it for up to 20 minutes, and
/// it may fail until then.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 60);
/// How many of them are remembered. Should another one fail, all that are held are refreshed one by one.
const RELEASED_MAX: usize = 16_384;
/// How long what nobody holds any more is refreshed all the same: queries over HTTP hold it for moments, and may come again.
const LINGER: Duration = Duration::from_secs(30);
/// How many refreshes may be waited for.
const REQUESTS_MAX: usize = 16_384;
/// How long a view that has run for too long is not run again on this node, for anybody.
const STUCK_PAUSE: Duration = Duration::from_secs(600);

/// After a refresh behind a call that takes longer than that, none follows calls for a while: see [`PAUSE_FACTOR`].
const QUICK_MAX: Duration = Duration::from_millis(10);
/// As long as those that are under way take no longer than that together, a call is followed by one: no call waits longer for the
/// views of calls before it.
const UNDER_WAY_MAX: Duration = Duration::from_millis(50);
/// One that takes even longer by itself is the only one. There are no more than so many: the first may be slow though those
/// before it were quick, and those behind it can't be taken back. Where calls are many, views show what several of them have made
/// together.
const REFRESHES_MAX: u128 = 4;
/// One that fails though the refresher's succeeds would have taken too long for calls to wait: none follows calls for that long
/// from then on.
const TOO_LONG_PAUSE: Duration = Duration::from_secs(1);
/// How much longer than a refresh the pause after it is, so that calls have at least two thirds of the server's time.
const PAUSE_FACTOR: u32 = 2;

/// Why a view can't be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ViewError {
    /// It failed.
    #[error("view `{view}` failed on this node: {reason}")]
    Failed {
        /// Its name.
        view: String,
        /// The server's words.
        reason: String,
    },
    /// It has run for too long.
    #[error("view `{view}` ran for too long on this node: it is not run again for {} s", .left.as_secs())]
    Stuck {
        /// Its name.
        view: String,
        /// How long it is not run again.
        left: Duration,
    },
    /// The local server can't be asked now.
    #[error("SpacetimeDB is not available on this node: {0}")]
    Unavailable(String),
}

/// The views of one database that clients of this node look at.
#[derive(Debug, Default)]
pub struct Views {
    state: Mutex<State>,
    /// How many holds there are: the applier asks after each batch.
    holds: AtomicUsize,
    pace: Mutex<Pace>,
    /// There is something to do.
    wake: Notify,
    /// Counts failures.
    failures: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The instances that the server may have, by their keys.
    known: BTreeMap<u64, Known>,
    /// How many of them nobody holds.
    released: usize,
    requests: VecDeque<Request>,
    /// Views that have run for too long, and until when they are not run again.
    stuck: BTreeMap<String, Instant>,
    /// Calls have been applied since the last refresh began.
    outdated: bool,
    forgot: Option<Instant>,
    /// When somebody last let go of an instance.
    left: Option<Instant>,
}

/// What refreshes behind calls take.
#[derive(Debug, Default)]
struct Pace {
    /// The longest one, less with each that is shorter; not known before the first.
    takes: Option<Duration>,
    /// None before this, since one was too long.
    rested: Option<Instant>,
    /// The last one has failed, and the refresher has not said yet whether a view fails.
    failed: bool,
    /// None follows calls before this, since one would have been too long.
    alone: Option<Instant>,
}

impl Pace {
    fn max(&self, now: Instant) -> usize {
        match (self.takes, self.rested.max(self.alone)) {
            (None, _) => 0,
            (_, Some(until)) if now < until => 0,
            (Some(takes), _) => {
                let max = UNDER_WAY_MAX.as_micros() / takes.as_micros().max(1);
                max.clamp(1, REFRESHES_MAX) as usize
            }
        }
    }

    fn known(&mut self, time: Duration) {
        self.takes = Some(self.takes.map_or(time, |takes| time.max(takes * 7 / 8)));
    }

    fn failed(&mut self) {
        (self.takes, self.failed) = (None, true);
    }

    /// No view fails, if each gets its time.
    fn works_as_a_whole(&mut self, time: Duration, now: Instant) {
        self.known(time);
        if std::mem::take(&mut self.failed) {
            self.alone = Some(now + TOO_LONG_PAUSE);
        }
    }

    fn took(&mut self, time: Duration, now: Instant) {
        if !self.failed {
            self.known(time);
        }
        if time > QUICK_MAX {
            let rested = self.rested.filter(|rested| *rested > now);
            self.rested = Some(rested.unwrap_or(now) + time * PAUSE_FACTOR);
        }
    }
}

/// An instance of a view.
#[derive(Debug)]
struct Known {
    view: String,
    holds: usize,
    /// Since when nobody holds it.
    since: Instant,
    failure: Option<ViewError>,
}

/// Somebody waits for a refresh.
#[derive(Debug)]
struct Request {
    view: String,
    key: u64,
    done: oneshot::Sender<Result<(), ViewError>>,
}

/// While there is one, an instance of a view is refreshed as calls outdate it.
#[derive(Debug)]
pub struct ViewHold {
    views: Arc<Views>,
    view: String,
    key: u64,
}

impl Views {
    /// Holds the instance `key` (`rtdb_determinism::view_key`) of a view. It comes before the server is asked for it.
    ///
    /// # Errors
    /// [`ViewError::Stuck`]: the server must not be asked for it.
    pub fn hold(self: &Arc<Self>, view: &str, key: u64) -> Result<ViewHold, ViewError> {
        let mut state = self.state.lock();
        state.check_stuck(view)?;
        state.hold(view, key);
        self.holds.fetch_add(1, Ordering::Relaxed);
        Ok(ViewHold {
            views: self.clone(),
            view: view.to_owned(),
            key,
        })
    }

    /// Changes whenever a view has failed.
    pub fn failures(&self) -> watch::Receiver<u64> {
        self.failures.subscribe()
    }

    /// A call is followed by a refresh if fewer than so many are under way.
    pub(crate) fn refreshes_max(&self) -> usize {
        match self.is_live() {
            true => self.pace.lock().max(Instant::now()),
            false => 0,
        }
    }

    /// A refresh behind a call has failed: the refresher looks at it, after the pause. The server does not say whether a view has
    /// failed, or had not been allowed the time that it takes: either is a trap.
    pub(crate) fn refresh_failed(&self) {
        self.pace.lock().failed();
        self.outdate();
    }

    /// A refresh of all by itself has taken so long: those behind calls may begin. Its time is not theirs, for the first one
    /// makes what the view shows.
    fn works_as_a_whole(&self, time: Duration) {
        self.pace.lock().works_as_a_whole(time, Instant::now());
    }

    /// A refresh behind a call has taken so long.
    pub(crate) fn took(&self, time: Duration) {
        self.pace.lock().took(time, Instant::now());
        if time > QUICK_MAX {
            self.outdate();
        }
    }

    /// Calls have been applied that no refresh follows.
    pub(crate) fn outdate(&self) {
        if self.is_live() {
            self.state.lock().outdated = true;
            self.wake.notify_one();
        }
    }

    /// Until when nothing is refreshed, since refreshes behind calls have taken long.
    fn rested(&self) -> Option<Instant> {
        self.pace.lock().rested
    }

    fn is_held(&self) -> bool {
        self.holds.load(Ordering::Relaxed) > 0
    }

    /// Whether anything is refreshed.
    fn is_live(&self) -> bool {
        let lingers = || self.state.lock().left.is_some_and(|left| left.elapsed() < LINGER);
        self.is_held() || lingers()
    }

    /// Resolves when there may be something to do. Nothing is missed in between.
    async fn woken(&self) {
        self.wake.notified().await;
    }

    fn take_request(&self) -> Option<Request> {
        let mut state = self.state.lock();
        // Whoever has given up waiting is passed over.
        std::iter::from_fn(|| state.requests.pop_front()).find(|request| !request.done.is_closed())
    }

    /// Takes note that a refresh begins: whether one is due.
    fn take_outdated(&self) -> bool {
        let mut state = self.state.lock();
        state.forget();
        std::mem::take(&mut state.outdated)
    }

    /// The instances that are not put aside.
    fn running(&self) -> Vec<u64> {
        let state = self.state.lock();
        let running = state.known.iter().filter(|(_, known)| known.failure.is_none());
        running.map(|(key, _)| *key).collect()
    }

    fn is_running(&self, key: u64) -> bool {
        let state = self.state.lock();
        state.known.get(&key).is_some_and(|known| known.failure.is_none())
    }

    fn check_stuck(&self, view: &str) -> Result<(), ViewError> {
        self.state.lock().check_stuck(view)
    }

    /// The instance works.
    fn works(&self, key: u64) {
        if let Some(known) = self.state.lock().known.get_mut(&key) {
            known.failure = None;
        }
    }

    /// The instance has failed, in the server's words. What is to be put aside: all instances of a view that is `stuck`.
    fn failed(&self, key: u64, reason: String, stuck: bool) -> (ViewError, Vec<u64>) {
        let mut state = self.state.lock();
        let view = state.known.get(&key).map(|known| known.view.clone());
        let view = view.unwrap_or_default();
        let (error, all) = if stuck {
            state.stuck.insert(view.clone(), Instant::now() + STUCK_PAUSE);
            let alike = state.known.iter().filter(|(_, known)| known.view == view);
            let alike = alike.map(|(key, _)| *key).collect();
            let left = STUCK_PAUSE;
            (ViewError::Stuck { view, left }, alike)
        } else {
            (ViewError::Failed { view, reason }, vec![key])
        };
        for key in &all {
            if let Some(known) = state.known.get_mut(key) {
                known.failure = Some(error.clone());
            }
        }
        drop(state);
        self.pace.lock().failed = false;
        self.failures.send_modify(|count| *count += 1);
        (error, all)
    }

    /// Another module runs: what has failed may work.
    pub(crate) fn published(&self) {
        *self.pace.lock() = Pace::default();
        let mut state = self.state.lock();
        state.stuck.clear();
        for known in state.known.values_mut() {
            known.failure = None;
        }
    }

    /// Tells all who wait that nothing can be refreshed now.
    fn refuse(&self, reason: &str) {
        for request in std::mem::take(&mut self.state.lock().requests) {
            request.answer(Err(ViewError::Unavailable(reason.to_owned())));
        }
    }
}

impl State {
    fn hold(&mut self, view: &str, key: u64) {
        let known = self.known.entry(key).or_insert_with(|| {
            self.released += 1;
            Known {
                view: view.to_owned(),
                holds: 0,
                since: Instant::now(),
                failure: None,
            }
        });
        if known.holds == 0 {
            self.released -= 1;
        }
        known.holds += 1;
        // The server may be a new one, which has not put it aside. Who held it before has been told.
        known.failure = None;
    }

    fn release(&mut self, key: u64) {
        let Some(known) = self.known.get_mut(&key) else {
            return;
        };
        known.holds -= 1;
        if known.holds > 0 {
            return;
        }
        known.since = Instant::now();
        self.left = Some(known.since);
        if self.released >= RELEASED_MAX {
            self.known.remove(&key);
        } else {
            self.released += 1;
        }
    }

    /// Forgets what the server has forgotten; looks for it every now and then.
    fn forget(&mut self) {
        let is_due = self
            .forgot
            .is_none_or(|forgot| forgot.elapsed() >= FORGET_AFTER / 8);
        if !is_due {
            return;
        }
        self.forgot = Some(Instant::now());
        self.known
            .retain(|_, known| known.holds > 0 || known.since.elapsed() < FORGET_AFTER);
        self.released = self.known.values().filter(|known| known.holds == 0).count();
        self.stuck.retain(|_, until| *until > Instant::now());
    }

    fn check_stuck(&self, view: &str) -> Result<(), ViewError> {
        let left = self
            .stuck
            .get(view)
            .map_or(Duration::ZERO, |until| until.duration_since(Instant::now()));
        match left {
            Duration::ZERO => Ok(()),
            left => Err(ViewError::Stuck {
                view: view.to_owned(),
                left,
            }),
        }
    }
}

impl Request {
    /// Whoever asked may be gone.
    fn answer(self, answer: Result<(), ViewError>) {
        let _ = self.done.send(answer);
    }
}

impl ViewHold {
    /// The view's name.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// The instance's key.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Why the instance has been put aside, if it has.
    pub fn failure(&self) -> Option<ViewError> {
        self.views.state.lock().known.get(&self.key)?.failure.clone()
    }

    /// Evaluates the instance, if the server has it and it is not up to date.
    ///
    /// # Errors
    /// [`ViewError`]: it is put aside until it is refreshed in this way again.
    pub async fn refresh(&self) -> Result<(), ViewError> {
        let (done, answer) = oneshot::channel();
        let request = Request {
            view: self.view.clone(),
            key: self.key,
            done,
        };
        {
            let mut state = self.views.state.lock();
            if state.requests.len() >= REQUESTS_MAX {
                return Err(ViewError::Unavailable(format!(
                    "{REQUESTS_MAX} refreshes are waited for"
                )));
            }
            state.requests.push_back(request);
        }
        self.views.wake.notify_one();
        answer
            .await
            .unwrap_or_else(|_| Err(ViewError::Unavailable("the node is stopping".into())))
    }
}

impl Drop for ViewHold {
    fn drop(&mut self) {
        self.views.state.lock().release(self.key);
        self.views.holds.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_is_held_or_was_a_moment_ago_is_refreshed() {
        let views = Arc::new(Views::default());
        views.outdate();
        assert!(!views.take_outdated());
        let hold = views.hold("board", 2).unwrap();
        let again = views.hold("board", 2).unwrap();
        views.outdate();
        assert!(views.take_outdated() && !views.take_outdated());
        drop(hold);
        assert!(views.is_held());
        drop(again);
        views.outdate();
        assert!(views.take_outdated());
        tokio::time::advance(LINGER).await;
        views.outdate();
        assert!(!views.take_outdated());
        // The server has it still, and it may fail.
        assert_eq!(views.running(), [2]);
        assert_eq!(views.state.lock().released, 1);
    }

    #[test]
    fn calls_are_followed_by_as_many_refreshes_as_they_leave_time_for() {
        let [quick, long] = [100, 50_000].map(Duration::from_micros);
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.max(now), 0, "nothing is known of them");
        pace.known(quick);
        assert_eq!(pace.max(now), 4);
        pace.took(long, now);
        assert_eq!(pace.max(now), 0);
        pace.took(long, now);
        assert_eq!(pace.max(now + 2 * long * PAUSE_FACTOR - quick), 0);
        let rested = now + 2 * long * PAUSE_FACTOR;
        assert_eq!(pace.max(rested), 1);
        for _ in 0..8 {
            pace.took(quick, rested);
        }
        assert_eq!(pace.max(rested), 2);
        for _ in 0..8 {
            pace.took(quick, rested);
        }
        assert_eq!(pace.max(rested), 4);

        let views = Arc::new(Views::default());
        views.took(quick);
        assert_eq!(views.refreshes_max(), 0, "nobody looks");
        let _hold = views.hold("board", 2).unwrap();
        assert_eq!(views.refreshes_max(), 4);
        assert!(!views.take_outdated());
        views.refresh_failed();
        assert_eq!(views.refreshes_max(), 0);
        assert!(views.take_outdated());
    }

    /// The server says of neither why it was.
    #[test]
    fn where_all_views_work_and_calls_have_waited_in_vain_none_follows_them_for_a_while() {
        let (quick, slow) = (Duration::from_millis(1), Duration::from_millis(100));
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.works_as_a_whole(quick, now);
        assert_eq!(pace.max(now), 4);
        pace.failed();
        assert_eq!(pace.max(now), 0);
        pace.works_as_a_whole(slow, now);
        let later = now + TOO_LONG_PAUSE;
        assert_eq!((pace.max(later - quick), pace.max(later)), (0, 1));
        pace.works_as_a_whole(quick, later);
        assert_eq!(pace.max(later), 1);

        // How long those took that have failed says nothing.
        pace.failed();
        pace.took(quick, later);
        assert_eq!(pace.max(later), 0);

        // If a view was found to fail, the others are as quick as before.
        let views = Arc::new(Views::default());
        let _hold = views.hold("board", 2).unwrap();
        views.refresh_failed();
        views.failed(2, "boom".into(), false);
        views.works_as_a_whole(quick);
        assert_eq!(views.refreshes_max(), 4);
    }

    /// The refresher's and those behind calls together.
    #[tokio::test(start_paused = true)]
    async fn refreshes_that_take_long_leave_calls_two_thirds_of_the_time() {
        const TAKES: Duration = Duration::from_secs(1);
        let views = Views::default();
        views.state.lock().left = Some(Instant::now());
        // The refresher has found out.
        views.works_as_a_whole(TAKES);
        let (begun, mut spent) = (Instant::now(), Duration::ZERO);
        while begun.elapsed() < 20 * TAKES {
            // Calls are many: as many refreshes follow as may, and nothing else is done meanwhile.
            let max = views.refreshes_max();
            for _ in 0..max {
                tokio::time::advance(TAKES).await;
                views.took(TAKES);
            }
            spent += TAKES * max as u32;
            assert!(max <= 1, "calls wait for {max} refreshes of {TAKES:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(
            spent * 3 <= begun.elapsed() + 3 * TAKES,
            "{spent:?} of {:?}",
            begun.elapsed()
        );
    }

    #[test]
    fn a_failure_is_told_to_those_who_hold_the_instance() {
        let views = Arc::new(Views::default());
        let failures = views.failures();
        let [mine, other] = [2, 4].map(|key| views.hold("board", key).unwrap());
        let (error, aside) = views.failed(2, "boom".into(), false);
        assert_eq!(aside, [2]);
        assert_eq!(error.to_string(), "view `board` failed on this node: boom");
        assert!(failures.has_changed().unwrap());
        assert_eq!((mine.failure(), other.failure()), (Some(error), None));
        assert_eq!(views.running(), [4]);
        views.works(2);
        assert_eq!(mine.failure(), None);
    }

    #[test]
    fn a_view_that_runs_for_too_long_is_not_run_again_until_another_module_comes() {
        let views = Arc::new(Views::default());
        let _holds = [2, 4].map(|key| views.hold("board", key).unwrap());
        let _other = views.hold("mine", 6).unwrap();
        let (error, mut aside) = views.failed(2, "boom".into(), true);
        aside.sort_unstable();
        assert_eq!(aside, [2, 4]);
        assert!(matches!(error, ViewError::Stuck { .. }));
        assert_eq!(views.running(), [6]);
        assert!(matches!(views.hold("board", 8), Err(ViewError::Stuck { .. })));
        views.published();
        assert!(views.hold("board", 8).is_ok());
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let views = Arc::new(Views::default());
        for key in 0..RELEASED_MAX as u64 + 10 {
            drop(views.hold("board", key).unwrap());
        }
        let state = views.state.lock();
        assert_eq!((state.known.len(), state.released), (RELEASED_MAX, RELEASED_MAX));
    }
}
