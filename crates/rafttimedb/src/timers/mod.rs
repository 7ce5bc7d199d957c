//! The leader's clock: proposes the rows of schedule tables when they are due.
//!
//! Only the shard's leader does, and only in its own term: what it has proposed counts in no other. It begins once its own
//! replica has applied all that its log had when it began to lead, so that it sees the rows as every leader before it has left
//! them.

mod clock;
mod ticker;

use self::ticker::Ticker;
use crate::node::big_endian_hex;
use prometheus::Histogram;
use rtdb_consensus::Manager;
use rtdb_consensus::command::TIMERS_LEVEL;
use rtdb_replica::{ActiveDatabase, DatabaseId, Firing, Replica};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How often it is looked who leads, and which modules run.
const LOOK: Duration = Duration::from_millis(50);

/// Databases all of whose rows are asked for at one time: they may be many.
const READS_MAX: usize = 4;

/// The task that runs a clock for each database with schedule tables while this node leads.
pub(crate) struct Timers {
    manager: Arc<Manager>,
    replica: Arc<Replica>,
    /// How late rows are run, in seconds.
    delay: Histogram,
    /// How many of a database's rows are run in a second.
    quota: Option<NonZeroU32>,
    turns: Arc<Semaphore>,
    tickers: BTreeMap<DatabaseId, Running>,
    /// The modules, by their publications, of which it was said that their timers don't run.
    told: BTreeSet<(DatabaseId, u64)>,
}

/// The clock of a database. It ends when it is dropped.
struct Running {
    term: u64,
    database: Arc<ActiveDatabase>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Timers {
    pub(crate) fn new(
        manager: Arc<Manager>,
        replica: Arc<Replica>,
        delay: Histogram,
        quota: Option<NonZeroU32>,
    ) -> Self {
        Self {
            manager,
            replica,
            delay,
            quota,
            turns: Arc::new(Semaphore::new(READS_MAX)),
            tickers: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    /// Runs clocks for as long as it is polled.
    pub(crate) async fn run(mut self) {
        loop {
            self.look();
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&mut self) {
        let scheduled: Vec<_> = self.replica.databases();
        let scheduled = scheduled
            .into_iter()
            .filter(|it| !it.module.schedules().is_empty());
        let (fire, silent): (Vec<_>, Vec<_>) = scheduled.partition(|it| it.firing != Firing::Never);
        self.tell(&silent);
        let level = self.manager.feature_level();
        let term = self.manager.shard().leads().filter(|_| level >= TIMERS_LEVEL);
        let wanted: BTreeMap<DatabaseId, Arc<ActiveDatabase>> = match term {
            Some(_) => fire
                .into_iter()
                .map(|database| (database.identity, database))
                .collect(),
            None => BTreeMap::new(),
        };
        self.tickers.retain(|identity, running| {
            let is_same = |wanted: &Arc<ActiveDatabase>| wanted.position == running.database.position;
            Some(running.term) == term
                && wanted.get(identity).is_some_and(is_same)
                && !running.task.is_finished()
        });
        let Some(term) = term else { return };
        for (identity, database) in wanted {
            self.tickers.entry(identity).or_insert_with(|| {
                let ticker = Ticker::new(
                    self.manager.clone(),
                    self.replica.clone(),
                    database.clone(),
                    term,
                    self.delay.clone(),
                    self.quota,
                    self.turns.clone(),
                );
                Running {
                    term,
                    database,
                    task: tokio::spawn(ticker.run()),
                }
            });
        }
    }

    /// Says once of each module that its timers don't run.
    fn tell(&mut self, silent: &[Arc<ActiveDatabase>]) {
        let silent: BTreeMap<_, _> = silent
            .iter()
            .map(|database| ((database.identity, database.position.0), database))
            .collect();
        self.told.retain(|module| silent.contains_key(module));
        for (module, database) in silent {
            if self.told.insert(module) {
                tracing::warn!(
                    database = big_endian_hex(database.identity),
                    "its scheduled reducers are not called, since its module was published with an older RaftTimeDB: publish it \
                     again"
                );
            }
        }
    }
}
