//! Tells the log what this node's replicas hold, and acts on what the log knows of all of them.

use crate::kinds;
use crate::node::big_endian_hex;
use rtdb_consensus::command::{Body, JUDGEMENT_LEVEL, LEVEL_REPORTS, REPORTS_MAX, Report, Reports};
use rtdb_consensus::{Audit, Contest, Divergence, Follow, Manager, Pending, Position, Propose};
use rtdb_replica::{DatabaseId, Quarantine, Replica};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// What was said of a database, so that it is not said again.
#[derive(Default, PartialEq)]
struct Said {
    diverged: BTreeMap<u64, Divergence>,
    contest: Option<Contest>,
}

/// The task that compares this node's replicas with the others.
pub(crate) struct Auditor {
    manager: Arc<Manager>,
    replica: Arc<Replica>,
    waiting: Vec<Report>,
    pending: Option<Pending>,
    /// By database, and whether it is about the rows as they are stored.
    said: BTreeMap<(DatabaseId, bool), Said>,
    warned: Vec<String>,
}

impl Auditor {
    pub(crate) fn new(manager: Arc<Manager>, replica: Arc<Replica>) -> Self {
        Self {
            manager,
            replica,
            waiting: Vec::new(),
            pending: None,
            said: BTreeMap::new(),
            warned: Vec::new(),
        }
    }

    /// Compares for as long as it is polled.
    pub(crate) async fn run(mut self) {
        let mut resolved = self.manager.shard().resolved();
        loop {
            self.tell();
            self.warn();
            if self.act() {
                // Whoever leads should be one whose replicas are sound. If the others elect this node again, so be it.
                self.manager.transfer_leadership().await;
            }
            tokio::time::sleep(LOOK).await;
            tokio::select! {
                changed = resolved.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Says in what the nodes differ, whenever that changes.
    fn warn(&mut self) {
        let warnings = kinds::differences(self.manager.meta().meta().nodes());
        if warnings != self.warned {
            for warning in &warnings {
                tracing::warn!("{warning}");
            }
            self.warned = warnings;
        }
    }

    /// Proposes what has been found. One proposal at a time; what finds no place in it is the newest, next time.
    fn tell(&mut self) {
        let level = self.manager.feature_level();
        let found = self.replica.take_holdings().into_iter();
        let found = found.filter(|(_, found)| !found.of_rows || level >= JUDGEMENT_LEVEL);
        self.waiting.extend(found.map(|(database, found)| Report {
            database: database.to_vec().into(),
            position: found.held.position,
            digest: found.held.digest,
            of_rows: found.of_rows,
        }));
        let surplus = self.waiting.len().saturating_sub(REPORTS_MAX);
        self.waiting.drain(..surplus);
        if self.pending.as_mut().is_some_and(|pending| !pending.is_done()) {
            return;
        }
        self.pending = None;
        if self.waiting.is_empty() || level < LEVEL_REPORTS {
            return;
        }
        let reports = std::mem::take(&mut self.waiting);
        let body = Body::Reports(Reports { reports });
        // What is not taken is lost: the next report says as much.
        self.pending = self.manager.shard().submit(body.into()).ok();
    }

    /// Sets databases aside that have diverged here, and says what is wrong anywhere. Gives back whether one was set aside
    /// just now.
    fn act(&mut self) -> bool {
        let me = self.manager.node();
        let mut is_new = false;
        let databases = self.replica.progress().databases;
        self.said
            .retain(|(known, _), _| databases.iter().any(|database| database.identity == *known));
        for database in databases {
            let audits = self.manager.shard().with_shard(|shard| {
                let identity = &database.identity;
                [shard.audit(identity), shard.stored(identity)].map(Option::<&Audit>::cloned)
            });
            for (audit, of_rows) in audits.unwrap_or_default().into_iter().zip([false, true]) {
                let audit = audit.unwrap_or_default();
                if let Some(divergence) = audit.diverged().get(&me) {
                    let known = self.replica.quarantine(&database.identity);
                    is_new |= known.is_some_and(|known| known.borrow().is_none());
                    let why = Quarantine::Diverged(range(*divergence));
                    self.replica.set_aside(&database.identity, why);
                }
                self.say(database.identity, of_rows, &audit);
            }
        }
        is_new
    }

    fn say(&mut self, database: DatabaseId, of_rows: bool, audit: &Audit) {
        let said = self.said.entry((database, of_rows)).or_default();
        let news = Said {
            diverged: audit.diverged().clone(),
            contest: audit.contest(),
        };
        if *said == news {
            return;
        }
        let name = big_endian_hex(database);
        for (node, divergence) in &news.diverged {
            if said.diverged.get(node) != Some(divergence) {
                tracing::error!(
                    database = name,
                    node,
                    "a replica has diverged: {}",
                    range(*divergence)
                );
            }
        }
        for node in said
            .diverged
            .keys()
            .filter(|node| !news.diverged.contains_key(node))
        {
            tracing::info!(
                database = name,
                node,
                "the replica is the same as the others again"
            );
        }
        match (said.contest, news.contest) {
            (known, Some(contest)) if known.is_none_or(|known| known.is_certain != contest.is_certain) => {
                tracing::error!(
                    database = name,
                    "the replicas differ somewhere after {} and by {}, and there is no majority: if it stays so the database \
                     takes no calls until `rtdb resolve` says which of them is right",
                    Position(contest.after),
                    Position(contest.by),
                );
            }
            (Some(_), None) => tracing::info!(database = name, "it is known again which replicas are right"),
            _ => {}
        }
        *said = news;
    }
}

/// Where a replica began to differ, for people.
pub(crate) fn range(divergence: Divergence) -> String {
    format!(
        "it holds something else than the majority from some command after {} on, and by {}",
        Position(divergence.after),
        Position(divergence.by)
    )
}
