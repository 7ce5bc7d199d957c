//! Tells the log what this node's replicas hold, and acts on what the log knows of all of them.

use crate::kinds;
use crate::node::big_endian_hex;
use futures::FutureExt;
use rtdb_consensus::command::{Body, JUDGEMENT_LEVEL, LEVEL_REPORTS, REPORTS_MAX, Report, Reports};
use rtdb_consensus::{Audit, Contest, Divergence, Follow, LogIndex, Manager, Pending, Position, Propose};
use rtdb_replica::{DatabaseId, DatabaseStatus, Quarantine, Replica};
use std::collections::{BTreeMap, BTreeSet};
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
    /// What was proposed last.
    pending: Option<(Pending, Vec<Report>)>,
    /// The databases that are set aside here.
    aside: BTreeSet<DatabaseId>,
    /// The databases of which the log does not say that this node's replica differs, and an index at which it has not.
    sound: BTreeMap<DatabaseId, LogIndex>,
    /// By database, and what of it is compared.
    said: BTreeMap<(DatabaseId, usize), Said>,
    warned: Vec<String>,
}

impl Auditor {
    pub(crate) fn new(manager: Arc<Manager>, replica: Arc<Replica>) -> Self {
        Self {
            manager,
            replica,
            waiting: Vec::new(),
            pending: None,
            aside: BTreeSet::new(),
            sound: BTreeMap::new(),
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
        let warnings = kinds::differences(&self.manager.meta().announced());
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
        self.waiting.extend(found.map(|(database, found)| {
            Report {
                database: database.to_vec().into(),
                position: found.held.position,
                digest: found.held.digest,
                of_rows: found.of_rows,
                place: found
                    .place
                    .filter(|_| level >= JUDGEMENT_LEVEL)
                    .map_or(0, |place| place.0),
            }
        }));
        if let Some((mut pending, told)) = self.pending.take() {
            match (&mut pending).now_or_never() {
                None => self.pending = Some((pending, told)),
                Some(outcome) if outcome.is_err() => tell_again(told, &mut self.waiting),
                Some(_) => {}
            }
        }
        let surplus = self.waiting.len().saturating_sub(REPORTS_MAX);
        self.waiting.drain(..surplus);
        if self.pending.is_some() || self.waiting.is_empty() || level < LEVEL_REPORTS {
            return;
        }
        let reports = self.waiting.clone();
        let body = Body::Reports(Reports { reports });
        // What is not taken waits for the next time.
        if let Ok(pending) = self.manager.shard().submit(body.into()) {
            self.pending = Some((pending, std::mem::take(&mut self.waiting)));
        }
    }

    /// Sets databases aside that have diverged here, for as long as the log says so, and says what is wrong anywhere. Gives back whether one was set aside
    /// just now, whoever did it.
    fn act(&mut self) -> bool {
        let me = self.manager.node();
        let mut is_new = false;
        let databases = self.replica.progress().databases;
        let exists = |known: &DatabaseId| databases.iter().any(|database| database.identity == *known);
        self.said.retain(|(known, _), _| exists(known));
        self.aside.retain(exists);
        self.sound.retain(|known, _| exists(known));
        for DatabaseStatus { identity, .. } in databases {
            let known = self.manager.shard().with_shard(|shard| {
                let audits: Vec<Audit> = shard.audits(&identity).cloned().collect();
                (audits, shard.diverged(&identity))
            });
            let (audits, diverged) = known.unwrap_or_default();
            match diverged.get(&me) {
                Some(divergence) => {
                    let why = Quarantine::Outvoted(range(*divergence));
                    self.replica.set_aside(&identity, why);
                    self.sound.remove(&identity);
                }
                None => {
                    let resolved = || *self.manager.shard().resolved().borrow();
                    let since = *self.sound.entry(identity).or_insert_with(resolved);
                    self.replica.acquit(&identity, since);
                }
            }
            let quarantine = self.replica.quarantine(&identity);
            if quarantine.is_some_and(|why| why.borrow().is_some()) {
                is_new |= self.aside.insert(identity);
            } else {
                self.aside.remove(&identity);
            }
            for (what, audit) in audits.iter().enumerate() {
                self.say(identity, what, audit);
            }
        }
        is_new
    }

    fn say(&mut self, database: DatabaseId, what: usize, audit: &Audit) {
        let said = self.said.entry((database, what)).or_default();
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

/// Takes in again what has not come into the log: of each kind the newest, unless there is news that says as much.
fn tell_again(lost: Vec<Report>, waiting: &mut Vec<Report>) {
    let kind = |report: &Report| (report.database.clone(), report.of_rows, report.place != 0);
    let mut known: BTreeSet<_> = waiting.iter().map(kind).collect();
    let newest = lost.into_iter().rev().filter(|report| known.insert(kind(report)));
    let again: Vec<_> = newest.collect();
    waiting.splice(..0, again.into_iter().rev());
}

/// Where a replica began to differ, for people.
pub(crate) fn range(divergence: Divergence) -> String {
    format!(
        "it holds something else than the majority from some command after {} on, and by {}",
        Position(divergence.after),
        Position(divergence.by)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_lost_the_newest_is_told_again() {
        let report = |database: u8, position, of_rows| Report {
            database: vec![database].into(),
            position,
            of_rows,
            ..Report::default()
        };
        let lost = vec![
            report(1, 5, false),
            report(1, 6, false),
            report(1, 6, true),
            report(2, 7, false),
        ];
        let mut waiting = vec![report(2, 8, false)];
        tell_again(lost, &mut waiting);
        let expected = [report(1, 6, false), report(1, 6, true), report(2, 8, false)];
        assert_eq!(waiting, expected);
    }
}
