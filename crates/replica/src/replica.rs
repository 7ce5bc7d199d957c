//! All databases of a shard on this node.

mod awaited;
mod backlog;
mod outcomes;
mod programs;
mod recent;
mod scout;
mod shared;
mod ticks;
mod verdicts;
mod witnesses;

pub use recent::Became;
pub use shared::Found;
pub(crate) use shared::{Shared, Slot};
pub(crate) use verdicts::{Taken, Verdict, Verdicts};
pub(crate) use witnesses::Witnesses;

use crate::snapshot::{Snapshot, SnapshotError};
use crate::{
    ActiveDatabase, Admin, Contents, DatabaseId, Digest, Fatal, Procedures, Quarantine, ReplicaStatus,
    Server, Views,
};
use parking_lot::Mutex;
use rtdb_consensus::command::Body;
use rtdb_consensus::{Follow, Lag, LogIndex, Position};
use rtdb_runtime::Instant;
use rtdb_runtime::JoinHandle;
use scout::Scout;
use spacetimedb_lib::Hash;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked whether the server has caught up, or the database is there.
const LOOK: Duration = Duration::from_millis(20);

/// How often it is looked whether a database's digest is to be read anew.
const DIGEST_PERIOD: Duration = Duration::from_millis(100);

/// How long the server may take to say a digest. While a call runs, it answers nobody who asks for the database's rows.
const DIGEST_MAX: Duration = Duration::from_secs(3);

/// What a replica works with.
#[derive(Clone)]
pub struct ReplicaConfig {
    /// The local server.
    pub server: Arc<dyn Server>,
    /// How long the cluster lets one call run on a server.
    pub call_time_max: Duration,
    /// How long the server must call a database's files damaged before the database is made again from the log.
    pub damage_wait: Duration,
    /// This node's id.
    pub node: u64,
    /// What carries its reports into the log; `None` if it reports nothing.
    pub reports: Option<Arc<dyn Report>>,
}

/// Carries what a replica has to say into the log.
pub trait Report: Send + Sync {
    /// Proposes a command, if the cluster knows its kind and there is room, and says whether it did. What is said is said
    /// again until it is in the log.
    fn report(&self, body: Body) -> bool;

    /// How many replicas are a majority of those that count; `None` as long as there are nodes that don't know
    /// [`Judgement`](rtdb_consensus::command::Judgement) and [`Trapped`](rtdb_consensus::command::Trapped).
    fn majority(&self) -> Option<usize>;

    /// Whether the call at `position` has a key, and the log does not know yet what came of it.
    fn wants(&self, position: Position) -> bool;
}

/// The local copy of a shard: follows the log, and applies it to the local server. Dropping it ends the appliers.
pub struct Replica {
    shared: Arc<Shared>,
    scout: Mutex<Option<JoinHandle<()>>>,
    /// Keeps the digests fresh.
    reader: JoinHandle<()>,
}

impl Replica {
    /// Starts following. Catching up goes on in the background.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(config: ReplicaConfig, follow: Arc<dyn Follow>) -> Self {
        let shared = Arc::new(Shared::new(config, follow));
        let scout = rtdb_runtime::spawn(Scout::new(shared.clone()).run());
        Self {
            scout: Mutex::new(Some(scout)),
            reader: rtdb_runtime::spawn(read_digests(shared.clone())),
            shared,
        }
    }

    /// A database whose module is running here. Stays while the local server is down.
    pub fn database(&self, identity: &DatabaseId) -> Option<Arc<ActiveDatabase>> {
        self.shared.active(identity)
    }

    /// Takes a snapshot of a database as it is here.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub async fn snapshot(&self, identity: &DatabaseId) -> Result<Snapshot, SnapshotError> {
        let active = self.database(identity).ok_or(SnapshotError::Absent)?;
        let at = active.position;
        let entries = self.shared.follow.read(at.index(), 1).await;
        let entries = entries.map_err(|_| SnapshotError::Absent)?;
        let mut commands = entries.iter().flat_map(|entry| &entry.commands);
        let publish = commands
            .find(|command| command.position == at)
            .and_then(|command| match &command.command.body {
                Some(Body::Publish(publish)) => Some(publish.clone()),
                _ => None,
            });
        let publish = publish.ok_or(SnapshotError::Absent)?;
        Snapshot::take(&self.shared.admin, &active, publish).await
    }

    /// The hash of the module as its author wrote it, of one that was ever published to the database, by that of the prepared
    /// module.
    pub fn original(&self, identity: &DatabaseId, prepared: Hash) -> Option<Hash> {
        self.shared.original(identity, prepared)
    }

    /// The databases whose modules are running here.
    pub fn databases(&self) -> Vec<Arc<ActiveDatabase>> {
        self.shared.all_active()
    }

    /// When the rows of a database's schedule tables that are due again and again were due last, by the schedule's place and
    /// the row's key: as far as this node has seen it in the log, of the module that was published at `module`.
    pub fn last_ticks(&self, identity: &DatabaseId, module: Position) -> BTreeMap<(u32, u64), i64> {
        let slot = self.slot(identity);
        slot.map(|slot| slot.last_ticks(module)).unwrap_or_default()
    }

    /// Changes whenever a publication to a database that exists has ended, well or not.
    pub fn publications(&self, identity: &DatabaseId) -> Option<watch::Receiver<u64>> {
        Some(self.slot(identity)?.publications())
    }

    /// The position of the last publication here that breaks the clients of before it.
    pub fn broken(&self, identity: &DatabaseId) -> Option<watch::Receiver<Position>> {
        Some(self.slot(identity)?.broken())
    }

    /// The views of a database that clients of this node look at.
    pub fn views(&self, identity: &DatabaseId) -> Option<Arc<Views>> {
        Some(self.slot(identity)?.views.clone())
    }

    /// How many commands of a database are at the server, whose updates are about to come. Told is only when there are none any
    /// more, or some again.
    pub fn in_flight(&self, identity: &DatabaseId) -> Option<watch::Receiver<usize>> {
        Some(self.slot(identity)?.in_flight())
    }

    /// The procedures of a database that run for clients of this node.
    pub fn procedures(&self, identity: &DatabaseId) -> Option<Arc<Procedures>> {
        Some(self.slot(identity)?.procedures.clone())
    }

    /// Resolves when the server has all of a database that stands in the log up to `index`, and everything that it may have
    /// shown anybody before this was called, though it may have died and lost its last transactions.
    ///
    /// It can't have shown what had not been taken for it from the log. When the applier has the outcomes of all that, it
    /// knows the last position among them that is part of the database; yet it may not have noticed that the server
    /// died. So the server itself is asked whether it is there. Many callers share an answer.
    pub async fn caught_up(&self, identity: &DatabaseId, index: LogIndex) {
        let slot = loop {
            match self.slot(identity) {
                Some(slot) => break slot,
                None if index == 0 => return,
                // It is not looked through that far.
                None => rtdb_runtime::sleep(LOOK).await,
            }
        };
        slot.done_to(index).await;
        let called = Instant::now();
        let taken = slot.taken();
        loop {
            let mut look = slot.look.lock().await;
            if look.begun.is_some_and(|begun| begun > called) && look.done >= taken {
                return;
            }
            let (begun, done) = (Instant::now(), slot.done());
            let succeeded = slot.succeeded();
            if done >= taken
                && let Some(active) = self.database(identity)
                && let Ok(Some(state)) = self.shared.admin.state(&active.owner, identity).await
                && state.index >= succeeded.0
            {
                (look.begun, look.done) = (Some(begun), done);
                return;
            }
            // The lock is held: while this one waits, the others need not ask.
            rtdb_runtime::sleep(LOOK).await;
        }
    }

    /// Takes what the databases' replicas hold, at places where all nodes look: to be told to the others.
    pub fn take_holdings(&self) -> Vec<(DatabaseId, Found)> {
        let slots = self.shared.slots();
        let told = slots.iter().flat_map(|slot| {
            let holdings = slot.take_holdings();
            holdings.into_iter().map(|held| (slot.identity, held))
        });
        told.collect()
    }

    /// What a database held at a position, if it was read there a short while ago.
    pub fn contents(&self, identity: &DatabaseId, position: Position) -> Option<Arc<Contents>> {
        let contents = self.slot(identity)?.contents()?;
        (contents.position == position).then_some(contents)
    }

    /// Sets a database aside on this node: it is neither applied nor served until it is made anew.
    pub fn set_aside(&self, identity: &DatabaseId, why: Quarantine) {
        if let Some(slot) = self.slot(identity) {
            slot.set_aside(why);
        }
    }

    /// At `index` at the latest the log has taken back that this node's replica of a database differs, if it ever said so:
    /// then the database is applied and served again. What makes it anew comes first.
    pub fn acquit(&self, identity: &DatabaseId, index: LogIndex) {
        if let Some(slot) = self.slot(identity) {
            slot.acquit(index);
        }
    }

    /// Why a database is set aside; `None` if there is no such database.
    pub fn quarantine(&self, identity: &DatabaseId) -> Option<watch::Receiver<Option<Quarantine>>> {
        Some(self.slot(identity)?.quarantine())
    }

    /// Becomes `true` when a database is deleted, as soon as that is in the log; `None` if there is no such database.
    pub fn deleted(&self, identity: &DatabaseId) -> Option<watch::Receiver<bool>> {
        Some(self.slot(identity)?.deleted())
    }

    fn slot(&self, identity: &DatabaseId) -> Option<Arc<Slot>> {
        self.shared.slot(identity)
    }

    /// What became of the call that a client's last session of a database has given a number, as far as it is applied here.
    pub fn became(
        &self,
        identity: &DatabaseId,
        sender: [u8; 32],
        connection: [u8; 16],
        request_id: u32,
    ) -> Became {
        let slot = self.slot(identity);
        slot.map_or(Became::Forgotten, |slot| {
            slot.became(&(sender, connection), request_id)
        })
    }

    /// The local server's HTTP API, in owners' names.
    pub fn admin(&self) -> &Admin {
        &self.shared.admin
    }

    /// Becomes `Some` when the node must stop rather than go on.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<Fatal>>> {
        self.shared.fatal()
    }

    /// The log index up to which everything is applied on this node; changes as it grows.
    pub fn applied(&self) -> watch::Receiver<LogIndex> {
        self.shared.applied()
    }

    /// How far the databases' replicas lag behind what is resolved. One that is set aside applies nothing, and lags behind
    /// nothing.
    pub fn lags(&self) -> Vec<(DatabaseId, Lag)> {
        self.shared.see_resolved();
        let slots = self.shared.slots();
        slots.iter().map(|slot| (slot.identity, slot.lag())).collect()
    }

    /// How long ago the oldest entry of the log was resolved that was not looked through yet, in milliseconds: what there is
    /// in it, [`Replica::lags`] does not know.
    pub fn unread_ms(&self) -> u64 {
        self.shared.see_resolved();
        self.shared.unread_ms()
    }

    /// How it is doing. The server is not asked: the digests are those that were read last, a moment ago.
    pub fn progress(&self) -> ReplicaStatus {
        let server = self.shared.admin.server();
        ReplicaStatus {
            server: server.state().borrow().clone(),
            server_version: server.version().map(|version| version.to_string()),
            applied: *self.shared.applied().borrow(),
            databases: self.shared.slots().iter().map(|slot| slot.status()).collect(),
        }
    }

    /// Ends the appliers, and waits until nothing more is sent to the server. Outcomes that are still open are not told.
    pub async fn stop(&self) {
        self.reader.abort();
        let scout = self.scout.lock().take();
        if let Some(scout) = scout {
            self.shared.stop.notify_one();
            // It ends either because it was told to or because it had ended: both are what we want.
            let _ = scout.await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.reader.abort();
        if let Some(scout) = self.scout.lock().take() {
            scout.abort();
        }
    }
}

/// Reads the digests of databases that have changed.
async fn read_digests(shared: Arc<Shared>) {
    loop {
        let slots = shared.slots();
        let due = slots
            .iter()
            .filter_map(|slot| Some((slot, slot.ask_for_digest(Instant::now())?)));
        let read = due.map(|(slot, at)| {
            let shared = &shared;
            async move {
                let Some(active) = shared.active(&slot.identity) else {
                    return slot.set_digest(at, None);
                };
                let state = shared.admin.state(&active.owner, &slot.identity);
                if let Ok(Ok(Some(state))) = rtdb_runtime::timeout(DIGEST_MAX, state).await {
                    let digest = Digest {
                        position: Position(state.index),
                        value: state.digest,
                    };
                    slot.set_digest(at, Some(digest));
                }
            }
        });
        futures::future::join_all(read).await;
        rtdb_runtime::sleep(DIGEST_PERIOD).await;
    }
}

#[cfg(test)]
mod tests;
