//! Many subscribers of one table, who count what they are told and how late it comes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use rtdb_testkit::client::{Connect, Thin, Told, Wire};
use rtdb_testkit::demo_module::TABLE;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::latencies::{Latencies, Percentiles};

/// Connections being opened at the same time.
const OPENING_MAX: usize = 64;

/// Calls whose time is known, at most; what is further behind is counted with a time too short.
const BEHIND_MAX: usize = 1 << 17;

/// Of the counts of times, so that threads seldom meet.
const SHARES: usize = 16;

/// How long nothing arrives before what is missing counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long updates may arrive after the last call.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// How often counts that are waited for are looked at.
const POLL: Duration = Duration::from_millis(2);

/// Subscribers that run until this is dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    board: Arc<Board>,
    listening: JoinSet<()>,
    subscribers: u64,
}

/// What the subscribers of a table and its writer know together.
#[derive(Debug)]
pub(crate) struct Board {
    since: Instant,
    /// When each of the last calls was due.
    due: Vec<AtomicU64>,
    calls: AtomicU64,
    /// What each subscriber has seen.
    seen: Vec<AtomicU64>,
    /// What all have seen together, and when the last of it came.
    delivered: AtomicU64,
    last: AtomicU64,
    latencies: Vec<Latencies>,
    /// Why subscribers are gone.
    ends: Mutex<Vec<String>>,
}

impl Board {
    fn new(subscribers: usize) -> Self {
        let counts = |len| (0..len).map(|_| AtomicU64::new(0)).collect();
        Self {
            since: Instant::now(),
            due: counts(BEHIND_MAX),
            calls: AtomicU64::new(0),
            seen: counts(subscribers),
            delivered: AtomicU64::new(0),
            last: AtomicU64::new(0),
            latencies: (0..SHARES).map(|_| Latencies::default()).collect(),
            ends: Mutex::default(),
        }
    }

    /// Before each call, in the order in which they are sent.
    pub(crate) fn calling(&self, due: Instant) {
        let call = self.calls.load(Ordering::Relaxed);
        self.slot(call).store(self.at(due), Ordering::Relaxed);
        self.calls.store(call + 1, Ordering::Release);
    }

    fn told(&self, subscriber: usize, updates: u64) {
        let now = Instant::now();
        let before = self.seen[subscriber].fetch_add(updates, Ordering::Relaxed);
        for call in before..before + updates {
            let due = Duration::from_nanos(self.slot(call).load(Ordering::Relaxed));
            let late = now.saturating_duration_since(self.since + due);
            self.latencies[subscriber % SHARES].add(late);
        }
        self.last.fetch_max(self.at(now), Ordering::Relaxed);
        self.delivered.fetch_add(updates, Ordering::Release);
    }

    fn slot(&self, call: u64) -> &AtomicU64 {
        &self.due[call as usize % BEHIND_MAX]
    }

    fn at(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.since).as_nanos()).unwrap_or(u64::MAX)
    }

    fn ended(&self, why: String) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).push(why);
    }

    fn ends(&self) -> Vec<String> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Crowd {
    /// As many subscribers of the whole table, each a client of its own.
    pub(crate) async fn open(addr: &str, database: &str, subscribers: usize) -> Result<Self> {
        let to = Connect {
            wire: Wire::thin()?,
            ..Connect::new(addr, database)
        };
        let query = format!("SELECT * FROM {TABLE}");
        let subscribe = async || {
            let mut thin = Thin::connect(&to).await?;
            thin.subscribe(&[&query], 1).await?;
            anyhow::Ok(thin)
        };
        let opening = stream::iter(0..subscribers)
            .map(|_| subscribe())
            .buffer_unordered(OPENING_MAX);
        let thin: Vec<Thin> = opening.try_collect().await?;
        let board = Arc::new(Board::new(subscribers));
        let mut listening = JoinSet::new();
        for (subscriber, thin) in thin.into_iter().enumerate() {
            listening.spawn(listen(thin, subscriber, Arc::clone(&board)));
        }
        Ok(Self {
            board,
            listening,
            subscribers: subscribers as u64,
        })
    }

    /// For the writer.
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// Updates that all subscribers have seen together.
    pub(crate) fn delivered(&self) -> u64 {
        self.board.delivered.load(Ordering::Acquire)
    }

    /// How long ago the last of them came to somebody.
    pub(crate) fn last(&self) -> Instant {
        self.board.since + Duration::from_nanos(self.board.last.load(Ordering::Relaxed))
    }

    /// How late updates came, since this was asked before.
    pub(crate) fn latencies(&self) -> Percentiles {
        Latencies::take(&self.board.latencies)
    }

    /// Whether every subscriber sees every call's update within `max`.
    pub(crate) async fn level(&self, max: Duration) -> bool {
        let deadline = Instant::now() + max;
        while !self.is_level() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }

    fn is_level(&self) -> bool {
        let calls = self.board.calls.load(Ordering::Acquire);
        self.delivered() == calls * self.subscribers
    }

    /// Waits for every update, as long as some arrive; an error says what is missing.
    pub(crate) async fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let before = self.delivered();
            if self.level(SILENCE_MAX).await || self.delivered() == before || Instant::now() > deadline {
                break;
            }
        }
        let calls = self.board.calls.load(Ordering::Acquire);
        let seen = self.board.seen.iter().map(|seen| seen.load(Ordering::Relaxed));
        let (behind, missing) = seen
            .filter(|seen| *seen != calls)
            .fold((0, 0), |sum, seen| (sum.0 + 1, sum.1 + calls.abs_diff(seen)));
        if behind == 0 {
            return Ok(());
        }
        let ends = self.board.ends();
        bail!(
            "{behind} of {} subscribers have not seen every update ({missing} of {}); {} are gone ({})",
            self.subscribers,
            calls * self.subscribers,
            ends.len(),
            ends.first().map_or("", String::as_str)
        )
    }

    /// How many updates each subscriber has seen.
    pub(crate) fn seen(&self) -> Vec<u64> {
        let seen = self.board.seen.iter();
        seen.map(|seen| seen.load(Ordering::Relaxed)).collect()
    }

    /// How many connections have broken, and why the first of them did.
    pub(crate) fn gone(&self) -> Result<()> {
        match self.board.ends().as_slice() {
            [] => Ok(()),
            ends => bail!(
                "{} of {} subscribers are gone: {}",
                ends.len(),
                self.listening.len(),
                ends[0]
            ),
        }
    }
}

async fn listen(mut thin: Thin, subscriber: usize, board: Arc<Board>) {
    loop {
        let mut updates = 0;
        let ended = thin.told(|told| updates += u64::from(told == Told::Update)).await;
        if updates > 0 {
            board.told(subscriber, updates);
        }
        if let Err(error) = ended {
            return board.ended(format!("{error:#}"));
        }
    }
}
