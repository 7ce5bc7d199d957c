//! A log in memory, and a server to which things happen.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Method;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, Judgement, Owner, Poison, PoisonStep, Skipped};
use rtdb_consensus::{
    Follow, LogIndex, Origin, Outcome, Position, ReadError, ResolvedCommand, ResolvedEntry,
};
use rtdb_replica::server::HttpError;
use rtdb_replica::{
    AdminError, Connecting, DatabaseId, Line, LineError, Replica, ReplicaConfig, Server, ServerState, Version,
};
use rtdb_runtime::{sim, sleep, timeout};
use rtdb_simulation::module::DATABASE;
use rtdb_simulation::spacetime::SpacetimeDb;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) const WITHIN: Duration = Duration::from_secs(30);

/// A log in memory, and what came of its commands.
#[derive(Default)]
pub(crate) struct Log {
    resolved: watch::Sender<LogIndex>,
    entries: Mutex<Vec<Arc<ResolvedEntry>>>,
    outcomes: Mutex<BTreeMap<u64, Outcome>>,
    /// How many were told, some of them more than once.
    pub(crate) told: AtomicU64,
}

impl Log {
    /// Takes a command in, and gives its position.
    pub(crate) fn push(&self, command: impl Into<rtdb_consensus::Command>) -> Position {
        let mut entries = self.entries.lock();
        let index = entries.len() as LogIndex + 1;
        let position = Position::new(index, 0);
        entries.push(Arc::new(ResolvedEntry {
            index,
            commands: vec![ResolvedCommand {
                position,
                timestamp_us: index as i64,
                origin: Origin { node: 1, epoch: 1 },
                seq: index,
                command: command.into(),
                session: None,
            }],
        }));
        self.resolved.send_replace(index);
        position
    }

    pub(crate) async fn outcome(&self, position: Position) -> Outcome {
        let told = async {
            loop {
                if let Some(outcome) = self.outcomes.lock().get(&position.index()) {
                    return outcome.clone();
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WITHIN, told).await.expect("it is told in time")
    }
}

impl Follow for Log {
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.resolved.subscribe()
    }

    fn read(&self, from: LogIndex, _: usize) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        let entries = self.entries.lock().clone();
        async move { Ok(entries.into_iter().skip(from as usize - 1).collect()) }.boxed()
    }

    fn complete(&self, _: Origin, seq: u64, outcome: Outcome) {
        self.outcomes.lock().insert(seq, outcome);
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    fn applied(&self, _: LogIndex) {}
}

pub(crate) fn start(log: &Arc<Log>, server: Arc<dyn Server>) -> Replica {
    let config = ReplicaConfig {
        server,
        call_time_max: Duration::from_secs(20),
        damage_wait: Duration::from_secs(180),
        node: 1,
        reports: None,
    };
    Replica::start(config, log.clone())
}

/// What comes of a world.
pub(crate) fn ran<T: Send + 'static>(seed: u64, world: impl Future<Output = T> + Send + 'static) -> T {
    let config = sim::Config {
        seed,
        ..sim::Config::default()
    };
    sim::run(&config, world).output.expect("it runs")
}

/// Decides that the command at a position has failed.
pub(crate) fn skip(position: Position) -> Body {
    Body::Poison(Poison {
        database: DATABASE,
        position: position.0,
        step: Some(PoisonStep::Skipped(Skipped::default())),
    })
}

pub(crate) fn names(server: &SpacetimeDb) -> Vec<String> {
    let database = server.database(&DATABASE);
    let rows = database.into_iter().flat_map(|it| it.rows.into_values());
    rows.map(|row| row.name).collect()
}

/// Says that the publication at a position is refused, or taken.
pub(crate) fn judge(position: Position, refusal: Option<&str>) -> Body {
    Body::Judgement(Judgement {
        database: DATABASE,
        position: position.0,
        refusal: refusal.map(str::to_owned),
        breaks: false,
    })
}

/// When something happens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Before somebody is connected.
    Connects,
    /// Once a database is deleted.
    Deleted,
}

type Event = Box<dyn FnOnce(&SpacetimeDb) + Send>;

/// What a server does with calls.
#[derive(Default)]
enum Habit {
    /// As it should.
    #[default]
    Good,
    /// It loses the connection with the next frame, and makes its calls only when somebody connects again.
    Late,
    Held(Bytes),
    /// It repeats each so many answers.
    Stutters(u64),
}

/// A server to which things happen.
#[derive(Clone)]
pub(crate) struct Eventful {
    pub(crate) server: SpacetimeDb,
    events: Arc<Mutex<VecDeque<(When, Event)>>>,
    habit: Arc<Mutex<Habit>>,
    /// How often it was asked to take a module.
    pub(crate) put: Arc<AtomicU64>,
    /// It does not answer the next question about a database's state.
    pub(crate) is_silent: Arc<AtomicBool>,
}

impl Eventful {
    pub(crate) fn new(server: &SpacetimeDb) -> Arc<Self> {
        Arc::new(Self {
            server: server.clone(),
            events: Arc::default(),
            habit: Arc::default(),
            put: Arc::default(),
            is_silent: Arc::default(),
        })
    }

    /// What happens then, behind all that is to happen before.
    pub(crate) fn at(&self, when: When, event: impl FnOnce(&SpacetimeDb) + Send + 'static) {
        self.events.lock().push_back((when, Box::new(event)));
    }

    fn happens(&self, when: When) {
        let event = {
            let mut events = self.events.lock();
            let is_next = events.front().is_some_and(|(next, _)| *next == when);
            if is_next { events.pop_front() } else { None }
        };
        if let Some((_, event)) = event {
            event(&self.server);
        }
    }

    /// Whether all that was to happen has.
    pub(crate) fn is_over(&self) -> bool {
        self.events.lock().is_empty()
    }

    pub(crate) fn is_late(&self) {
        *self.habit.lock() = Habit::Late;
    }

    pub(crate) fn stutters(&self, each: u64) {
        *self.habit.lock() = Habit::Stutters(each);
    }
}

impl Server for Eventful {
    fn ask<'a>(
        &'a self,
        owner: &'a Owner,
        method: Method,
        path: String,
        body: Bytes,
        max: Duration,
    ) -> BoxFuture<'a, Result<Bytes, AdminError>> {
        if method == Method::PUT {
            self.put.fetch_add(1, Ordering::Relaxed);
        }
        async move {
            if body.ends_with(b"rtdb_state") && self.is_silent.swap(false, Ordering::Relaxed) {
                return Err(AdminError::Http(HttpError::Timeout(WITHIN)));
            }
            let is_deletion = method == Method::DELETE;
            let answer = self.server.ask(owner, method, path, body, max).await;
            if is_deletion {
                self.happens(When::Deleted);
            }
            answer
        }
        .boxed()
    }

    fn connect<'a>(&'a self, owner: &'a Owner, database: &'a DatabaseId, bytes_max: usize) -> Connecting<'a> {
        async move {
            let held = {
                let mut habit = self.habit.lock();
                match std::mem::take(&mut *habit) {
                    Habit::Held(frame) => Some(frame),
                    other => {
                        *habit = other;
                        None
                    }
                }
            };
            if let Some(frame) = held {
                let (_, mut line) = self.server.connect(owner, database, bytes_max).await?;
                line.send(frame)?;
                sleep(Duration::from_secs(1)).await;
            }
            self.happens(When::Connects);
            let (subprotocol, inner) = self.server.connect(owner, database, bytes_max).await?;
            let line: Box<dyn Line> = Box::new(Odd {
                inner,
                habit: self.habit.clone(),
                received: 0,
                again: None,
            });
            Ok((subprotocol, line))
        }
        .boxed()
    }

    fn state(&self) -> watch::Receiver<ServerState> {
        self.server.state()
    }

    fn version(&self) -> Option<Version> {
        self.server.version()
    }

    fn life(&self) -> u64 {
        self.server.life()
    }

    fn end_life(&self, life: u64, why: String) -> bool {
        self.server.end_life(life, why)
    }
}

/// A connection to a server of odd habits.
struct Odd {
    inner: Box<dyn Line>,
    habit: Arc<Mutex<Habit>>,
    received: u64,
    again: Option<Bytes>,
}

impl Line for Odd {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, LineError>> {
        if let Some(again) = self.again.take() {
            return Poll::Ready(Ok(again));
        }
        if let Habit::Held(_) = *self.habit.lock() {
            return Poll::Ready(Err(LineError::Ended));
        }
        let received = ready!(self.inner.poll_receive(cx))?;
        self.received += 1;
        if let Habit::Stutters(each) = *self.habit.lock()
            && self.received.is_multiple_of(each)
        {
            self.again = Some(received.clone());
        }
        Poll::Ready(Ok(received))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        self.inner.poll_ready(cx)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), LineError> {
        let mut habit = self.habit.lock();
        if let Habit::Late = *habit {
            *habit = Habit::Held(frame);
            return Ok(());
        }
        drop(habit);
        self.inner.send(frame)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        self.inner.poll_flush(cx)
    }

    fn gather(&mut self, gathers: bool) -> io::Result<()> {
        self.inner.gather(gathers)
    }
}
