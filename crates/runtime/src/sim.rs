//! One thread, virtual time, and a seed from which every choice comes: which of the tasks that can go on does so next, how
//! long that takes, and every random number.
//!
//! Each task belongs to a node (0 is the world outside), which has its own clock and can be [killed](kill). In which order
//! tasks were woken decides nothing: some of what wakes them (Tokio's `watch`) has an order of its own. Time passes when
//! nobody can go on; when nothing can ever happen any more, the run ends in a panic, as it does when a task panics.

mod clock;
mod rng;

pub use rng::Rng;

use crate::task::JoinError;
use crate::time::{Instant, START_NS};
use clock::Clock;
use parking_lot::{Mutex, MutexGuard};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A task that goes on so often while no time passes never ends.
const POLLS_AT_ONCE_MAX: u64 = 1_000_000;

/// The newest lines of the trace are kept: a run that goes wrong shows what was before.
const TRACE_LINES_MAX: usize = 4_000;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Sim>>> = const { RefCell::new(None) };
}

/// The simulation that this thread is in.
#[cfg(feature = "sim")]
pub(crate) fn current() -> Option<Arc<Sim>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// There are none.
#[cfg(not(feature = "sim"))]
#[inline]
pub(crate) const fn current() -> Option<Arc<Sim>> {
    None
}

fn here() -> Arc<Sim> {
    CURRENT
        .with(|current| current.borrow().clone())
        .expect("inside a simulation")
}

/// How a simulation runs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What every choice comes from.
    pub seed: u64,
    /// The longest that a task runs at once, in nanoseconds of virtual time.
    pub poll_ns_max: u64,
    /// Whether to keep the trace, and not only its hash.
    pub trace: bool,
    /// The faults that are planted in the code: see [`planted`](crate::planted).
    pub faults: BTreeSet<String>,
}

/// What a simulation has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of all that has happened, in its order.
    pub hash: u64,
    /// How often a task went on.
    pub polls: u64,
    /// Virtual time that has passed, in nanoseconds.
    pub virtual_ns: u64,
}

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    node: u32,
    place: &'static Location<'static>,
    /// Not there while it goes on.
    future: Option<BoxFuture>,
    waker: Arc<TaskWaker>,
}

struct State {
    now: u64,
    /// Whose task goes on now.
    node: u32,
    rng: Rng,
    hash: u64,
    tasks: BTreeMap<u64, Task>,
    /// The tasks that can go on, ascending.
    ready: Vec<u64>,
    timers: BTreeMap<(u64, u64), Waker>,
    last_task: u64,
    last_timer: u64,
    clocks: BTreeMap<u32, Clock>,
    /// Nodes whose tasks stand still, and until when.
    paused: BTreeMap<u32, u64>,
    polls_at_once: u64,
    polls: u64,
    reached: BTreeMap<&'static str, u64>,
    /// Where it is said at once what was reached, and by which node.
    moments: Option<mpsc::Sender<(u32, &'static str)>>,
    trace: Option<VecDeque<String>>,
}

impl State {
    fn clock(&self, node: u32) -> Clock {
        self.clocks.get(&node).copied().unwrap_or_default()
    }

    fn hash(&mut self, values: [u64; 3]) {
        for value in values {
            self.hash = (self.hash ^ value)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(29);
        }
    }

    /// One of the tasks that can go on, if there is one.
    fn choose(&mut self) -> Option<u64> {
        // Those that are over.
        self.paused.retain(|_, end| *end > self.now);
        if self.paused.is_empty() {
            let place = below(&mut self.rng, self.ready.len())?;
            return Some(self.ready.remove(place));
        }
        let (tasks, paused) = (&self.tasks, &self.paused);
        let goes_on = |(_, id): &(usize, &u64)| {
            let task = tasks.get(id);
            !task.is_some_and(|task| paused.contains_key(&task.node))
        };
        let places: Vec<usize> = self
            .ready
            .iter()
            .enumerate()
            .filter(goes_on)
            .map(|(place, _)| place)
            .collect();
        let place = places[below(&mut self.rng, places.len())?];
        Some(self.ready.remove(place))
    }

    /// When something can happen again that can't now.
    fn next_event(&self) -> Option<u64> {
        let timer = self.timers.first_key_value().map(|((deadline, _), _)| *deadline);
        let pause = self.paused.values().min().copied();
        timer.into_iter().chain(pause).min()
    }

    fn is_due(&self) -> bool {
        self.timers
            .first_key_value()
            .is_some_and(|((deadline, _), _)| *deadline <= self.now)
    }

    fn ready(&mut self, task: u64) {
        if let Err(place) = self.ready.binary_search(&task) {
            self.ready.insert(place, task);
        }
    }
}

/// One of so many; `None` of none.
fn below(rng: &mut Rng, count: usize) -> Option<usize> {
    match count {
        0 | 1 => (count == 1).then_some(0),
        _ => Some(rng.below(count as u64) as usize),
    }
}

/// A simulation.
pub(crate) struct Sim {
    state: Mutex<State>,
    poll_ns_max: u64,
    faults: BTreeSet<String>,
}

struct TaskWaker {
    sim: Weak<Sim>,
    id: u64,
    is_queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::Relaxed)
            && let Some(sim) = self.sim.upgrade()
        {
            sim.lock().ready(self.id);
        }
    }
}

/// A task.
#[derive(Debug)]
pub(crate) struct Handle<T> {
    output: oneshot::Receiver<T>,
    sim: Weak<Sim>,
    id: u64,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a simulation")
    }
}

impl<T> Handle<T> {
    pub(crate) fn abort(&self) {
        if let Some(sim) = self.sim.upgrade() {
            let task = sim.lock().tasks.remove(&self.id);
            // It may look at the clock when it is dropped.
            drop(task);
        }
    }
}

impl<T> Future for Handle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.output)
            .poll(cx)
            .map_err(|_| JoinError::Cancelled)
    }
}

/// Waits for a moment of virtual time.
#[derive(Debug)]
pub(crate) struct Sleep {
    sim: Weak<Sim>,
    key: (u64, u64),
}

impl Sleep {
    pub(crate) fn poll_elapsed(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(sim) = self.sim.upgrade() else {
            return Poll::Pending;
        };
        let mut state = sim.lock();
        if state.now >= self.key.0 {
            return Poll::Ready(());
        }
        match state.timers.get_mut(&self.key) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => drop(state.timers.insert(self.key, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(sim) = self.sim.upgrade() {
            let waker = sim.lock().timers.remove(&self.key);
            drop(waker);
        }
    }
}

/// Lets others have a turn.
pub(crate) async fn yield_once() {
    let mut has_yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Sim {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn random(&self) -> u64 {
        self.lock().rng.next()
    }

    pub(crate) fn count(&self, what: &'static str) {
        let mut state = self.lock();
        *state.reached.entry(what).or_default() += 1;
        if let Some(moments) = state.moments.clone() {
            let node = state.node;
            drop(state);
            // Who is told looks at some of them only.
            let _ = moments.try_send((node, what));
        }
    }

    pub(crate) fn has(&self, fault: &str) -> bool {
        self.faults.contains(fault)
    }

    /// What the clock of the node shows that goes on now.
    pub(crate) fn monotonic(&self) -> u64 {
        let state = self.lock();
        state.clock(state.node).monotonic(state.now)
    }

    pub(crate) fn wall_us(&self) -> u64 {
        let state = self.lock();
        state.clock(state.node).wall_us(state.now)
    }

    pub(crate) fn sleep_until(self: &Arc<Self>, deadline: Instant) -> Sleep {
        let mut state = self.lock();
        state.last_timer += 1;
        let deadline = state.clock(state.node).true_ns(deadline.0);
        Sleep {
            sim: Arc::downgrade(self),
            key: (deadline, state.last_timer),
        }
    }

    #[track_caller]
    pub(crate) fn spawn<F>(self: &Arc<Self>, node: Option<u32>, future: F) -> Handle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let place = Location::caller();
        let (done, output) = oneshot::channel();
        let future = Box::pin(async move {
            // Nobody may care.
            drop(done.send(future.await));
        });
        let mut state = self.lock();
        state.last_task += 1;
        let id = state.last_task;
        let node = node.unwrap_or(state.node);
        let waker = Arc::new(TaskWaker {
            sim: Arc::downgrade(self),
            id,
            is_queued: AtomicBool::new(true),
        });
        state.hash([id, node.into(), place.line().into()]);
        let task = Task {
            node,
            place,
            future: Some(future),
            waker,
        };
        state.tasks.insert(id, task);
        state.ready(id);
        Handle {
            output,
            sim: Arc::downgrade(self),
            id,
        }
    }

    /// Lets one task go on, or time pass. `false` if nothing can happen any more.
    fn step(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        if state.is_due() {
            let mut due = Vec::new();
            while state.is_due() {
                due.extend(state.timers.pop_first());
            }
            drop(state);
            due.into_iter().for_each(|(_, waker)| waker.wake());
            return true;
        }
        let Some(id) = state.choose() else {
            let Some(next) = state.next_event() else {
                return false;
            };
            state.now = state.now.max(next);
            state.polls_at_once = 0;
            return true;
        };
        let Some(task) = state.tasks.get_mut(&id) else {
            return true;
        };
        let (node, place, waker) = (task.node, task.place, task.waker.clone());
        let Some(mut future) = task.future.take() else {
            return true;
        };
        state.node = node;
        state.polls += 1;
        state.polls_at_once += 1;
        assert!(state.polls_at_once < POLLS_AT_ONCE_MAX, "a task spins: {place}");
        let now = state.now;
        state.hash([id, node.into(), now]);
        drop(state);
        // A wake while it goes on queues it again.
        waker.is_queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(waker);
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut state = self.lock();
        if self.poll_ns_max > 0 {
            let took = state.rng.below(self.poll_ns_max + 1);
            state.now += took;
        }
        state.node = 0;
        match (polled, state.tasks.get_mut(&id)) {
            (Poll::Pending, Some(task)) => task.future = Some(future),
            // It is done, or was ended meanwhile.
            _ => {
                let task = state.tasks.remove(&id);
                drop(state);
                drop((task, future));
            }
        }
        true
    }
}

/// The thread is in a simulation until this is dropped.
struct Entered(Arc<Sim>);

impl Entered {
    fn new(sim: Arc<Sim>) -> Self {
        CURRENT.with(|current| {
            let before = current.borrow_mut().replace(sim.clone());
            assert!(before.is_none(), "a simulation inside a simulation");
        });
        Self(sim)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // What tasks hold may look at the clock when it is dropped, and end others.
        loop {
            let tasks = std::mem::take(&mut self.0.lock().tasks);
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        CURRENT.with(|current| current.borrow_mut().take());
    }
}

/// What became of a run: its output, or the message of the panic that ended it.
pub struct Ran<T> {
    /// The output of the first task.
    pub output: Result<T, String>,
    /// What it took.
    pub summary: Summary,
    /// What was [reached](crate::reached), and how often.
    pub reached: BTreeMap<&'static str, u64>,
    /// The newest of what was [noted](note), if that was kept.
    pub trace: Vec<String>,
}

/// Runs a future, and everything that it spawns, until it is done.
pub fn run<F>(config: &Config, main: F) -> Ran<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let state = State {
        now: START_NS,
        node: 0,
        rng: Rng::new(config.seed),
        hash: config.seed,
        tasks: BTreeMap::new(),
        ready: Vec::new(),
        timers: BTreeMap::new(),
        last_task: 0,
        last_timer: 0,
        clocks: BTreeMap::new(),
        paused: BTreeMap::new(),
        polls_at_once: 0,
        polls: 0,
        reached: BTreeMap::new(),
        moments: None,
        trace: config.trace.then(Default::default),
    };
    let sim = Arc::new(Sim {
        state: Mutex::new(state),
        poll_ns_max: config.poll_ns_max,
        faults: config.faults.clone(),
    });
    let run = std::panic::AssertUnwindSafe(|| {
        let _entered = Entered::new(sim.clone());
        let mut main = sim.spawn(Some(0), main);
        loop {
            if let Ok(output) = main.output.try_recv() {
                return output;
            }
            assert!(sim.step(), "nothing can happen any more, and the run is not over");
        }
    });
    let output = std::panic::catch_unwind(run).map_err(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        message.unwrap_or("a panic without words").to_owned()
    });
    let mut state = sim.lock();
    Ran {
        output,
        summary: Summary {
            hash: state.hash,
            polls: state.polls,
            virtual_ns: state.now - START_NS,
        },
        reached: std::mem::take(&mut state.reached),
        trace: state.trace.take().map_or_else(Vec::new, Vec::from),
    }
}

/// Runs a task of a node.
#[track_caller]
pub fn spawn_on<F>(node: u32, future: F) -> crate::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    crate::JoinHandle::of_sim(here().spawn(Some(node), future))
}

/// Ends all tasks of a node, in the middle of whatever they do; says how many.
pub fn kill(node: u32) -> usize {
    let sim = here();
    let mut count = 0;
    loop {
        let dead: Vec<Task> = {
            let mut state = sim.lock();
            let of_node = state.tasks.iter().filter(|(_, task)| task.node == node);
            let ids: Vec<u64> = of_node.map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| state.tasks.remove(id)).collect()
        };
        if dead.is_empty() {
            return count;
        }
        count += dead.len();
        drop(dead);
    }
}

/// Lets a node's tasks stand still for so long, while time goes on.
pub fn pause(node: u32, time: Duration) {
    let sim = here();
    let mut state = sim.lock();
    let end = state.now + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
    let known = state.paused.entry(node).or_default();
    *known = end.max(*known);
}

/// Sets a node's clock: by how many millionths it is faster than true time, and how far ahead its time of day is.
pub fn set_clock(node: u32, ppm: i64, ahead_us: i64) {
    let sim = here();
    let mut state = sim.lock();
    let now = state.now;
    state.clocks.entry(node).or_default().set(now, ppm, ahead_us);
}

/// Lets a node's clock be faster than true time by so many millionths from now on.
pub fn drift(node: u32, ppm: i64) {
    let sim = here();
    let mut state = sim.lock();
    let now = state.now;
    state.clocks.entry(node).or_default().drift(now, ppm);
}

/// Lets a node's time of day jump.
pub fn shift_wall(node: u32, by_us: i64) {
    here().lock().clocks.entry(node).or_default().shift(by_us);
}

/// A number below `end`, which is not 0.
pub fn draw(end: u64) -> u64 {
    here().lock().rng.below(end)
}

/// Whether something happens that happens so often in a thousand times.
pub fn per_mille(times: u64) -> bool {
    times > 0 && draw(1_000) < times
}

/// A time up to `max`.
pub fn up_to(max: Duration) -> Duration {
    Duration::from_nanos(draw(u64::try_from(max.as_nanos()).unwrap_or(u64::MAX - 1) + 1))
}

/// Takes something into the hash, and into the trace if one is kept.
pub fn note(what: impl FnOnce() -> String, values: [u64; 3]) {
    let sim = here();
    let mut state = sim.lock();
    state.hash(values);
    if state.trace.is_none() {
        return;
    }
    let at = (state.now - START_NS) / 1_000;
    let line = format!("{:>4}.{:06} {}", at / 1_000_000, at % 1_000_000, what());
    if let Some(trace) = &mut state.trace {
        if trace.len() == TRACE_LINES_MAX {
            trace.pop_front();
        }
        trace.push_back(line);
    }
}

/// The world's own clock.
pub fn true_now() -> Instant {
    Instant(here().lock().now)
}

/// The time of day as it is.
pub fn true_wall_us() -> u64 {
    Clock::default().wall_us(here().lock().now)
}

/// Whether a node's tasks stand still.
pub fn is_paused(node: u32) -> bool {
    let sim = here();
    let state = sim.lock();
    state.paused.get(&node).is_some_and(|end| *end > state.now)
}

/// True time since the start.
pub fn elapsed() -> Duration {
    Duration::from_nanos(here().lock().now - START_NS)
}

/// Has it said at once when something is [reached](crate::reached), and by which node; what there is no room for is not.
pub fn tell_moments(moments: mpsc::Sender<(u32, &'static str)>) {
    here().lock().moments = Some(moments);
}

/// Whose task goes on now.
pub fn node() -> u32 {
    here().lock().node
}

#[cfg(all(test, feature = "sim"))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{sleep, spawn, timeout, unblock, wall_us, yield_now};

    fn config(seed: u64) -> Config {
        Config {
            seed,
            poll_ns_max: 2_000,
            trace: true,
            ..Config::default()
        }
    }

    /// Tasks that talk, sleep and wait for each other.
    async fn busy() -> Vec<u64> {
        let (news, mut heard) = tokio::sync::watch::channel(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..20)
            .map(|id| {
                let (order, mut news) = (order.clone(), news.subscribe());
                spawn(async move {
                    for _ in 0..10 {
                        drop(timeout(up_to(Duration::from_millis(5)), news.changed()).await);
                        yield_now().await;
                        order.lock().push(id);
                        note(|| format!("task {id}"), [id, 0, 0]);
                    }
                    unblock(move || id).await.unwrap()
                })
            })
            .collect();
        for round in 0..30 {
            news.send_replace(round);
            sleep(Duration::from_millis(1)).await;
        }
        heard.changed().await.unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        Arc::into_inner(order).unwrap().into_inner()
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let mut hashes = BTreeSet::new();
        for seed in 0..50 {
            let [one, other] = [run(&config(seed), busy()), run(&config(seed), busy())];
            assert_eq!(one.output, other.output);
            assert_eq!(one.summary, other.summary);
            assert_eq!(one.trace, other.trace);
            assert_eq!(one.trace.len(), 200);
            hashes.insert(one.summary.hash);
        }
        assert_eq!(hashes.len(), 50, "and another seed another one");
    }

    #[test]
    fn nodes_have_clocks_and_die() {
        let ran = run(&config(1), async {
            set_clock(1, 1_000, 5_000_000);
            let wall = wall_us();
            let slept = spawn_on(1, async {
                let (begin, wall) = (Instant::now(), wall_us());
                sleep(Duration::from_secs(1_001)).await;
                (begin.elapsed(), wall)
            });
            let (by_its_clock, its_wall) = slept.await.unwrap();
            assert!(
                (1_001_000..1_001_001).contains(&by_its_clock.as_millis()),
                "{by_its_clock:?}"
            );
            assert!(
                (999_999..1_000_001).contains(&elapsed().as_millis()),
                "a fast clock"
            );
            assert!((5_000_000..5_001_000).contains(&(its_wall - wall)));
            shift_wall(1, -7_000_000);
            let its = spawn_on(1, async { wall_us() }).await.unwrap();
            assert!(its < wall_us());

            pause(3, Duration::from_secs(9));
            let begin = true_now();
            let paused = spawn_on(3, async { sleep(Duration::from_secs(1)).await });
            sleep(Duration::from_secs(2)).await;
            assert_eq!(begin.elapsed().as_secs(), 2, "others go on");
            paused.await.unwrap();
            assert_eq!(begin.elapsed().as_secs(), 10);

            let (alive, dead) = oneshot::channel::<()>();
            let doomed = spawn_on(2, async move {
                spawn(std::future::pending::<()>());
                sleep(Duration::from_secs(60)).await;
                let _ = alive.send(());
            });
            sleep(Duration::from_secs(1)).await;
            assert_eq!(kill(2), 2);
            assert_eq!(doomed.await, Err(JoinError::Cancelled));
            assert!(dead.await.is_err());
        });
        assert_eq!(ran.output, Ok(()));
    }

    #[test]
    fn a_run_that_can_not_end_says_so() {
        let hangs = run(&config(1), std::future::pending::<()>());
        assert!(hangs.output.unwrap_err().contains("nothing can happen"));
        let panics = run(&config(1), async {
            drop(spawn(async { panic!("no {}", "ink") }));
            sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(panics.output, Err("no ink".to_owned()));
    }

    #[test]
    fn faults_are_only_where_they_are_planted() {
        let planted = |faults: &[&str]| {
            let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
            run(&Config { faults, ..config(1) }, async { crate::planted("rot") }).output
        };
        assert_eq!((planted(&[]), planted(&["rot"])), (Ok(false), Ok(true)));
        assert!(!crate::planted("rot"));
    }
}
