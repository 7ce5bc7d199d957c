//! One database's timers of one kind, in one term of this node's leadership.

use super::clock::{Clock, Due, Ended};
use crate::node::big_endian_hex;
use futures::FutureExt;
use futures::StreamExt;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;
use prometheus::Histogram;
use rtdb_consensus::command::{Body, DUE_LEVEL, Timer, TimerAt};
use rtdb_consensus::{Applied, Manager, Outcome, Propose, SystemClock, Unapplied, WallClock};
use rtdb_gateway::{Gateway, Scheduled};
use rtdb_replica::{
    ActiveDatabase, Replica, ScheduleKind, ScheduleRow, ScheduleWatch, WatchError, Watched, When,
};
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

/// Runs of a database's reducers that are under way at a time. The next tick of a row is set once its last one has ended.
const UNDER_WAY_MAX: usize = 1_024;

/// The same of its procedures, which may take long: beyond, those that are due wait.
const PROCEDURES_MAX: usize = 16;

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
type Run = BoxFuture<'static, (Due, End)>;

/// What has become of a run.
enum End {
    /// It is over, well or not, and began at this time of the log's.
    Ran(i64),
    /// There was nothing to run any more.
    NotThere,
    /// Why it never was.
    Refused(String),
    Unknown,
}

/// What all tickers of a node share.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) manager: Arc<Manager>,
    pub(super) replica: Arc<Replica>,
    /// What runs procedures, and where.
    pub(super) gateway: Gateway,
    pub(super) clients: Handle,
    /// How late rows are run, in seconds.
    pub(super) delay: Histogram,
    /// How many of a database's rows are run in a second.
    pub(super) quota: Option<NonZeroU32>,
    /// Where databases wait to ask for all their rows.
    pub(super) turns: Arc<Semaphore>,
}

/// Proposes what is due.
pub(super) struct Ticker {
    tools: Tools,
    database: Arc<ActiveDatabase>,
    rows: Watched,
    term: u64,
    clock: Clock,
    /// Where procedures take their rows, one after the other, so that they don't come between each other.
    claims: Arc<Semaphore>,
    under_way: FuturesUnordered<Run>,
    /// Until when nothing is proposed.
    paused: Instant,
    quota: Option<Quota>,
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
    pub(super) fn new(tools: Tools, database: Arc<ActiveDatabase>, rows: Watched, term: u64) -> Self {
        Self {
            quota: tools.quota.map(Quota::new),
            tools,
            database,
            rows,
            term,
            clock: Clock::default(),
            claims: Arc::new(Semaphore::new(1)),
            under_way: FuturesUnordered::new(),
            paused: Instant::now(),
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
        // Procedures may take long: they go on, and have taken their rows.
        while self.rows.kind == ScheduleKind::Reducer
            && let Some((due, end)) = self.under_way.next().await
        {
            // What is not known is looked at in a moment.
            let _ = self.ended(due, end);
        }
        self.caught_up().await;
        let turn = self.tools.turns.clone().acquire_owned().await;
        let (admin, database) = (self.tools.replica.admin(), self.database.clone());
        let mut watch = ScheduleWatch::open(admin, database, self.rows).await?;
        let rows = watch.next().await?.into_iter();
        let rows = rows.filter_map(|row| Some(((row.schedule, row.id), row.when?)));
        drop(turn);
        let last = self
            .tools
            .replica
            .last_ticks(&self.database.identity, self.database.position);
        self.clock.reset(rows, &last, now_us());
        let claims = self.claims.clone();
        loop {
            self.propose();
            let next = self.next();
            tokio::select! {
                changed = watch.next() => self.changed(changed?),
                Some((due, end)) = self.under_way.next() => self.ended(due, end)?,
                _ = claims.clone().acquire_owned(), if claims.available_permits() == 0 => {}
                Some(()) = OptionFuture::from(next.map(sleep_until)) => {}
            }
        }
    }

    /// Waits until the replica has all that stood in the log when this was called, of this term or an earlier one: what
    /// another leader, or this one, has run before.
    async fn caught_up(&mut self) {
        let Tools { manager, replica, .. } = &self.tools;
        let last = manager.shard().status().last_log;
        replica.caught_up(&self.database.identity, last).await;
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
        let is_slowed = self.is_slowed();
        self.clock.looked(now_us());
        while self.has_room()
            && self.has_quota()
            && let Some(due) = self.clock.take(now_us())
        {
            let begun = match self.rows.kind {
                ScheduleKind::Reducer => self.call_reducer(due),
                ScheduleKind::Procedure => self.run_procedure(due),
            };
            match begun {
                Some(run) => self.under_way.push(run),
                None => {
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
                return;
            }
        }
    }

    /// Has the reducer called with a row that is due.
    fn call_reducer(&self, due: Due) -> Option<Run> {
        let timer = self.timer(due);
        match self.tools.manager.shard().submit(Body::Timer(timer).into()) {
            Ok(pending) => Some(async move { (due, End::of(pending.await)) }.boxed()),
            Err(error) => {
                tracing::debug!(%error, "a row that is due waits");
                None
            }
        }
    }

    /// Runs the procedure with a row that is due. It goes on if the ticker ends.
    fn run_procedure(&self, due: Due) -> Option<Run> {
        let turn: OwnedSemaphorePermit = self.claims.clone().try_acquire_owned().ok()?;
        let (timer, gateway) = (self.timer(due), self.tools.gateway.clone());
        let running = async move { gateway.run_scheduled(timer, turn).await };
        let running = self.tools.clients.spawn(running);
        let run = async move {
            let end = match running.await {
                Ok(Scheduled::Ran { at_us }) => End::Ran(at_us),
                Ok(Scheduled::NotThere) => End::NotThere,
                Ok(Scheduled::NotRun(why)) => End::Refused(why),
                Ok(Scheduled::Unknown) | Err(_) => End::Unknown,
            };
            (due, end)
        };
        Some(run.boxed())
    }

    fn timer(&self, due: Due) -> Timer {
        let (schedule, row) = due.row;
        let says_when = self.tools.manager.feature_level() >= DUE_LEVEL;
        Timer {
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
        }
    }

    fn is_slowed(&self) -> bool {
        self.tools.manager.is_slowed(&self.database.identity)
    }

    /// Whether one more may be under way.
    fn has_room(&self) -> bool {
        match self.rows.kind {
            ScheduleKind::Reducer if self.is_slowed() || self.refused => self.under_way.is_empty(),
            ScheduleKind::Reducer => self.under_way.len() < UNDER_WAY_MAX,
            // Their rows are taken one at a time anyway.
            ScheduleKind::Procedure => {
                self.under_way.len() < PROCEDURES_MAX && self.claims.available_permits() > 0
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
        // Then the end of a run is waited for, or of a claim.
        let is_full = wait.is_zero() && self.paused <= now && !self.has_room();
        (!is_full).then_some((now + wait).max(self.paused))
    }

    /// A run has ended, as far as this node can say.
    fn ended(&mut self, due: Due, end: End) -> Result<(), Interrupt> {
        let ended = match end {
            End::Ran(at_us) => {
                let delay_us = at_us.saturating_sub(due.due_us).max(0);
                self.tools.delay.observe(delay_us as f64 / 1e6);
                Ended::Ran
            }
            End::NotThere => Ended::Ran,
            End::Refused(why) => {
                tracing::debug!(why, "a row that is due waits");
                self.paused = Instant::now() + REFUSED_PAUSE;
                Ended::NotRun
            }
            End::Unknown => Ended::Unknown,
        };
        self.refused = ended == Ended::NotRun;
        self.clock.done(due, ended, now_us());
        match ended {
            Ended::Unknown => Err(Interrupt::Unknown),
            _ => Ok(()),
        }
    }
}

impl End {
    /// What the log has decided of a reducer's run.
    fn of(outcome: Outcome) -> Self {
        match outcome {
            Ok(Applied { timestamp_us, .. }) | Err(Unapplied::Reducer { timestamp_us, .. }) => {
                Self::Ran(timestamp_us)
            }
            Err(Unapplied::Refused(refusal)) => Self::Refused(refusal.to_string()),
            Err(Unapplied::Unknown { .. }) => Self::Unknown,
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
