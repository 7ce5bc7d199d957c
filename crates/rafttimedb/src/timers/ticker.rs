//! One database's timers, in one term of this node's leadership.

use super::clock::{Clock, Due, Ended};
use crate::node::big_endian_hex;
use futures::StreamExt;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;
use prometheus::Histogram;
use rtdb_consensus::command::{Body, DUE_LEVEL, Timer, TimerAt};
use rtdb_consensus::{Applied, Manager, Outcome, Propose, SystemClock, Unapplied, WallClock};
use rtdb_replica::{ActiveDatabase, Replica, ScheduleRow, ScheduleWatch, WatchError, When};
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

/// Runs of a database that are under way at a time. The next tick of a row is set once its last one has ended.
const UNDER_WAY_MAX: usize = 1_024;

/// How long nothing is proposed after a proposal was not taken, or was refused by the log's rules.
const NOT_TAKEN_PAUSE: Duration = Duration::from_millis(100);
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// While the database is slowed, runs go one at a time, with a pause behind each: ten a second at most.
const SLOWED_PAUSE: Duration = Duration::from_millis(100);

/// The longest sleep: the system's clock may be set.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The pause before a lost connection is tried again: doubles from the first to the second.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// The pause before all rows are asked for again that were too many.
const TOO_LARGE_PAUSE: Duration = Duration::from_secs(60);

/// A run under way, and what becomes of it.
type Run = BoxFuture<'static, (Due, Outcome)>;

/// Proposes what is due.
pub(super) struct Ticker {
    manager: Arc<Manager>,
    replica: Arc<Replica>,
    database: Arc<ActiveDatabase>,
    term: u64,
    delay: Histogram,
    clock: Clock,
    under_way: FuturesUnordered<Run>,
    /// Until when nothing is proposed.
    paused: Instant,
    quota: Option<Quota>,
    /// Where databases wait to ask for all their rows.
    turns: Arc<Semaphore>,
    /// The log's rules have refused the last run: until one is let through, they go one at a time.
    refused: bool,
}

/// Why the rows have to be looked at again.
#[derive(Debug, Error)]
enum Interrupt {
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("what came of a call is not known")]
    Unknown,
}

impl Ticker {
    pub(super) fn new(
        manager: Arc<Manager>,
        replica: Arc<Replica>,
        database: Arc<ActiveDatabase>,
        term: u64,
        delay: Histogram,
        quota: Option<NonZeroU32>,
        turns: Arc<Semaphore>,
    ) -> Self {
        Self {
            manager,
            replica,
            database,
            term,
            delay,
            clock: Clock::default(),
            under_way: FuturesUnordered::new(),
            paused: Instant::now(),
            quota: quota.map(Quota::new),
            turns,
            refused: false,
        }
    }

    /// Proposes for as long as it is polled.
    pub(super) async fn run(mut self) {
        let mut pause = BACK_OFF_MIN;
        loop {
            let begun = Instant::now();
            let Err(error) = self.serve().await;
            let database = big_endian_hex(self.database.identity);
            if matches!(error, Interrupt::Watch(WatchError::TooLarge)) {
                tracing::error!(database, "{error}");
                sleep(TOO_LARGE_PAUSE).await;
                continue;
            }
            if begun.elapsed() >= BACK_OFF_MAX {
                pause = BACK_OFF_MIN;
            }
            tracing::warn!(database, %error, ?pause, "the schedule tables are looked at again");
            sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    async fn serve(&mut self) -> Result<Infallible, Interrupt> {
        while let Some((due, outcome)) = self.under_way.next().await {
            // What is not known is looked at in a moment.
            let _ = self.ended(due, outcome);
        }
        self.caught_up().await;
        let turn = self.turns.clone().acquire_owned().await;
        let mut watch = ScheduleWatch::open(self.replica.admin(), self.database.clone()).await?;
        let rows = watch.next().await?.into_iter();
        let rows = rows.filter_map(|row| Some(((row.schedule, row.id), row.when?)));
        drop(turn);
        let last = self
            .replica
            .last_ticks(&self.database.identity, self.database.position);
        self.clock.reset(rows, &last, now_us());
        loop {
            self.propose();
            let next = self.next();
            tokio::select! {
                changed = watch.next() => self.changed(changed?),
                Some((due, outcome)) = self.under_way.next() => self.ended(due, outcome)?,
                Some(()) = OptionFuture::from(next.map(sleep_until)) => {}
            }
        }
    }

    /// Waits until the replica has all that stood in the log when this was called, of this term or an earlier one: what
    /// another leader, or this one, has run before.
    async fn caught_up(&mut self) {
        let last = self.manager.shard().status().last_log;
        self.replica.caught_up(&self.database.identity, last).await;
    }

    fn changed(&mut self, rows: Vec<ScheduleRow>) {
        let now_us = now_us();
        for ScheduleRow { schedule, id, when } in rows {
            match when {
                Some(when) => self.clock.came((schedule, id), when, now_us),
                None => self.clock.went((schedule, id)),
            }
        }
    }

    /// Proposes what is due, as far as there is room.
    fn propose(&mut self) {
        if self.paused > Instant::now() {
            return;
        }
        let is_slowed = self.manager.is_slowed(&self.database.identity);
        let max = if is_slowed || self.refused {
            1
        } else {
            UNDER_WAY_MAX
        };
        self.clock.looked(now_us());
        let says_when = self.manager.feature_level() >= DUE_LEVEL;
        while self.under_way.len() < max
            && self.has_quota()
            && let Some(due) = self.clock.take(now_us())
        {
            let (schedule, row) = due.row;
            let timer = Timer {
                database: self.database.identity.to_vec().into(),
                module: self.database.position.0,
                schedule,
                row,
                term: self.term,
                interval_due_us: match due.when {
                    When::Interval(_) => due.due_us,
                    When::Time(_) => 0,
                },
                at: says_when.then_some(match due.when {
                    When::Interval(interval_us) => TimerAt::IntervalUs(interval_us),
                    When::Time(at_us) => TimerAt::TimeUs(at_us),
                }),
                over: false,
            };
            match self.manager.shard().submit(Body::Timer(timer).into()) {
                Ok(pending) => self.under_way.push(Box::pin(async move { (due, pending.await) })),
                Err(error) => {
                    tracing::debug!(%error, "a row that is due waits");
                    self.clock.done(due, Ended::NotRun, now_us());
                    self.paused = Instant::now() + NOT_TAKEN_PAUSE;
                    return;
                }
            }
            if let Some(quota) = &mut self.quota {
                quota.spend(Instant::now());
            }
            if is_slowed {
                self.paused = Instant::now() + SLOWED_PAUSE;
            }
        }
    }

    /// Whether there may be one more run now; if not, there is a pause until there may be.
    fn has_quota(&mut self) -> bool {
        let now = Instant::now();
        let until = self.quota.as_ref().map_or(now, Quota::until);
        self.paused = self.paused.max(until);
        until <= now
    }

    /// When there may be something to propose, as far as that is known.
    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        let wait_us = self.clock.next_us()?.saturating_sub(now_us()).max(0);
        let wait = Duration::from_micros(wait_us.unsigned_abs()).min(SLEEP_MAX);
        // Then the end of a run is waited for. A row that became due only now is not taken yet.
        let is_full = wait.is_zero() && self.paused <= now && !self.under_way.is_empty();
        (!is_full).then_some((now + wait).max(self.paused))
    }

    /// A run has ended, as far as this node can say.
    fn ended(&mut self, due: Due, outcome: Outcome) -> Result<(), Interrupt> {
        let ended = match &outcome {
            Ok(Applied { timestamp_us, .. }) | Err(Unapplied::Reducer { timestamp_us, .. }) => {
                let delay_us = timestamp_us.saturating_sub(due.due_us).max(0);
                self.delay.observe(delay_us as f64 / 1e6);
                Ended::Ran
            }
            Err(Unapplied::Refused(refusal)) => {
                tracing::debug!(%refusal, "a row that is due waits");
                self.paused = Instant::now() + REFUSED_PAUSE;
                Ended::NotRun
            }
            Err(Unapplied::Unknown { .. }) => Ended::Unknown,
        };
        self.refused = ended == Ended::NotRun;
        self.clock.done(due, ended, now_us());
        match ended {
            Ended::Unknown => Err(Interrupt::Unknown),
            _ => Ok(()),
        }
    }
}

/// How many runs a second there may be: at first as many at once.
struct Quota {
    interval: Duration,
    /// When those that there were would have been, one by one.
    spent: Instant,
}

impl Quota {
    fn new(per_second: NonZeroU32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.get(),
            spent: Instant::now(),
        }
    }

    /// From when on there may be one more.
    fn until(&self) -> Instant {
        // Never before its beginning.
        let ahead = Duration::from_secs(1) - self.interval;
        self.spent.checked_sub(ahead).unwrap_or(self.spent)
    }

    fn spend(&mut self, now: Instant) {
        self.spent = self.spent.max(now) + self.interval;
    }
}

/// The time of day, in microseconds since the Unix epoch: what the leader stamps entries with.
fn now_us() -> i64 {
    i64::try_from(SystemClock.now_us()).unwrap_or(i64::MAX)
}
