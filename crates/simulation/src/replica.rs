//! A node's replica: the product's own, over a server that is a model. What it reads from the log and what it tells is
//! looked at on the way.

use crate::spacetime::SpacetimeDb;
use crate::truth::Truth;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, JUDGEMENT_LEVEL};
use rtdb_consensus::{
    Follow, LogIndex, Manager, Origin, Outcome, Position, Propose, ReadError, ResolvedEntry,
};
use rtdb_replica::{Replica, ReplicaConfig, Report};
use rtdb_runtime::sleep;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How long a call may run.
const CALL_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a server must call its files damaged: it never does.
const DAMAGE_WAIT: Duration = Duration::from_secs(180);

/// How often it is told how far the replica lags.
const LOOK: Duration = Duration::from_millis(200);

/// Starts a node's replica.
pub fn start(node: u64, manager: &Arc<Manager>, server: SpacetimeDb, truth: Arc<Truth>) -> Arc<Replica> {
    let config = ReplicaConfig {
        server: Arc::new(server),
        call_time_max: CALL_TIME_MAX,
        damage_wait: DAMAGE_WAIT,
        node,
        reports: Some(Arc::new(Reports {
            manager: Arc::downgrade(manager),
            truth: truth.clone(),
        })),
    };
    let follow = Watched {
        node,
        inner: manager.shard().clone(),
        truth,
        told: Mutex::default(),
    };
    let replica = Arc::new(Replica::start(config, Arc::new(follow)));
    let (log, behind) = (Arc::downgrade(manager), Arc::downgrade(&replica));
    drop(rtdb_runtime::spawn(async move {
        while let (Some(manager), Some(replica)) = (log.upgrade(), behind.upgrade()) {
            manager.set_lags(replica.lags());
            drop((manager, replica));
            sleep(LOOK).await;
        }
    }));
    replica
}

/// A node's log, and what its replica makes of it.
struct Watched {
    node: u64,
    inner: Arc<dyn Follow>,
    truth: Arc<Truth>,
    /// The commands whose outcomes were told in this life of the node.
    told: Mutex<BTreeSet<(u64, u64, u64)>>,
}

impl Follow for Watched {
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.inner.resolved()
    }

    fn read(
        &self,
        from: LogIndex,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        async move {
            let read = self.inner.read(from, bytes_max).await?;
            self.truth.read(self.node, from, &read);
            Ok(read)
        }
        .boxed()
    }

    fn complete(&self, origin: Origin, seq: u64, outcome: Outcome) {
        let is_new = self.told.lock().insert((origin.node, origin.epoch, seq));
        assert!(
            is_new,
            "node {} tells twice what became of {seq} of {origin:?}: {outcome:?}",
            self.node
        );
        self.truth.completed(self.node, origin, seq, &outcome);
        self.inner.complete(origin, seq, outcome);
    }

    fn applied(&self, index: LogIndex) {
        self.inner.applied(index);
    }
}

/// Proposes what a replica has to say, as a node does.
struct Reports {
    manager: Weak<Manager>,
    truth: Arc<Truth>,
}

impl Report for Reports {
    fn report(&self, body: Body) -> bool {
        let Some(manager) = self.manager.upgrade() else {
            return false;
        };
        manager.shard().submit(body.into()).is_ok()
    }

    fn majority(&self) -> Option<usize> {
        let manager = self.manager.upgrade()?;
        if manager.feature_level() < JUDGEMENT_LEVEL {
            return None;
        }
        let voters = manager.shard().with_shard(|shard| shard.voters().len());
        let majority = voters.filter(|voters| *voters > 0).map(|voters| voters / 2 + 1)?;
        self.truth.majority(majority);
        Some(majority)
    }

    fn wants(&self, position: Position) -> bool {
        let manager = self.manager.upgrade();
        let wants = manager.and_then(|it| it.shard().with_shard(|shard| shard.wants_outcome(position)));
        wants.unwrap_or_default()
    }
}
