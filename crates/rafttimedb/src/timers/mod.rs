//! The leader's clock: proposes the rows of schedule tables when they are due, and the calls that modules ask for at once.
//!
//! Only the shard's leader does, and only in its own term: what it has proposed counts in no other. It begins once its own
//! replica has applied all that its log had when it began to lead, so that it sees the rows as every leader before it has left
//! them.

mod clock;
mod ticker;

use self::ticker::{Ticker, Tools};
use crate::node::big_endian_hex;
use prometheus::Histogram;
use rtdb_consensus::Manager;
use rtdb_consensus::command::{CLAIM_LEVEL, IMMEDIATE_LEVEL, TIMERS_LEVEL};
use rtdb_gateway::Gateway;
use rtdb_replica::{ActiveDatabase, DatabaseId, Firing, Replica, ScheduleKind, Watched};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How often it is looked who leads, and which modules run.
const LOOK: Duration = Duration::from_millis(50);

/// Databases all of whose rows are asked for at one time: they may be many.
const READS_MAX: usize = 4;

/// The rows of a database that call functions of one kind.
type Kind = (DatabaseId, ScheduleKind);

/// A module some of whose rows a clock is for, and which.
#[derive(Clone)]
struct Wanted {
    database: Arc<ActiveDatabase>,
    rows: Watched,
}

/// The task that runs a clock for each database with schedule tables while this node leads; another one for those whose rows call
/// procedures, which may take long.
pub(crate) struct Timers {
    tools: Tools,
    tickers: BTreeMap<Kind, Running>,
    /// The modules, by their publications, of which it was said that their timers don't run.
    told: BTreeSet<(Kind, u64)>,
}

/// The clock of a database. It ends when it is dropped.
struct Running {
    term: u64,
    wanted: Wanted,
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
        (gateway, clients): (Gateway, Handle),
        delay: Histogram,
        quota: Option<NonZeroU32>,
    ) -> Self {
        Self {
            tools: Tools {
                manager,
                replica,
                gateway,
                clients,
                delay,
                quota,
                turns: Arc::new(Semaphore::new(READS_MAX)),
            },
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
        let level = self.tools.manager.feature_level();
        let may_fire = |wanted: &Wanted| match wanted.rows.kind {
            ScheduleKind::Reducer => wanted.database.firing != Firing::Never,
            ScheduleKind::Procedure => level >= CLAIM_LEVEL,
        };
        let scheduled = self.tools.replica.databases().into_iter().flat_map(|database| {
            let immediate = database.calls_at_once && level >= IMMEDIATE_LEVEL;
            let kinds = database.module.schedules().iter().map(|it| it.kind);
            let kinds: BTreeSet<_> = kinds.chain(immediate.then_some(ScheduleKind::Reducer)).collect();
            kinds.into_iter().map(move |kind| {
                let rows = Watched {
                    kind,
                    immediate: immediate && kind == ScheduleKind::Reducer,
                };
                let database = database.clone();
                ((database.identity, kind), Wanted { database, rows })
            })
        });
        let (fire, silent): (Vec<_>, Vec<_>) = scheduled.partition(|(_, wanted)| may_fire(wanted));
        self.tell(&silent);
        let term = self
            .tools
            .manager
            .shard()
            .leads()
            .filter(|_| level >= TIMERS_LEVEL);
        let wanted: BTreeMap<Kind, Wanted> = match term {
            Some(_) => fire.into_iter().collect(),
            None => BTreeMap::new(),
        };
        self.tickers.retain(|of, running| {
            let is_same = |wanted: &Wanted| {
                wanted.database.position == running.wanted.database.position
                    && wanted.rows == running.wanted.rows
            };
            Some(running.term) == term && wanted.get(of).is_some_and(is_same) && !running.task.is_finished()
        });
        let Some(term) = term else { return };
        for (of, wanted) in wanted {
            self.tickers.entry(of).or_insert_with(|| {
                let ticker = Ticker::new(self.tools.clone(), wanted.database.clone(), wanted.rows, term);
                Running {
                    term,
                    wanted,
                    task: tokio::spawn(ticker.run()),
                }
            });
        }
    }

    /// Says once of each module that its timers don't run.
    fn tell(&mut self, silent: &[(Kind, Wanted)]) {
        let silent: BTreeMap<_, _> = silent
            .iter()
            .map(|(of, wanted)| ((*of, wanted.database.position.0), &wanted.database))
            .collect();
        self.told.retain(|module| silent.contains_key(module));
        for (module, database) in silent {
            if !self.told.insert(module) {
                continue;
            }
            let database = big_endian_hex(database.identity);
            match module.0.1 {
                ScheduleKind::Reducer => tracing::warn!(
                    database,
                    "its scheduled reducers are not called, since its module was published with an older RaftTimeDB: publish it \
                     again"
                ),
                ScheduleKind::Procedure => tracing::warn!(
                    database,
                    "its scheduled procedures do not run before all nodes of the cluster are updated"
                ),
            }
        }
    }
}
