//! What runs beside the groups.

use crate::command::{Body, SetNode};
use crate::config::Config;
use crate::group::Group;
use crate::supervisor::Supervisor;
use crate::{Follow, Propose};
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Hands a group's leadership over, if this node has it; `false` if nobody took it.
pub(super) async fn transfer(group: &Group, me: u64, patience: Duration) -> bool {
    let mut metrics = group.raft().metrics();
    let target = {
        let metrics = metrics.borrow_watched();
        if metrics.current_leader != Some(me) {
            return true;
        }
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let followers = metrics
            .replication
            .iter()
            .flatten()
            .filter(|(id, _)| **id != me && voters.contains(id));
        followers
            .max_by_key(|(_, matching)| **matching)
            .map(|(id, _)| *id)
    };
    let Some(target) = target else { return false };
    if group.raft().trigger().transfer_leader(target).await.is_err() {
        return false;
    }
    let taken = async {
        while metrics
            .borrow_watched()
            .current_leader
            .is_none_or(|leader| leader == me)
        {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(patience, taken).await.is_ok()
}

/// Announces this node's addresses in the meta group, once there is a cluster.
pub(super) async fn announce(meta: Arc<Group>, config: Config) {
    let me = SetNode {
        node: config.node,
        raft_addr: config.raft_addr.clone(),
        client_addr: config.client_addr.clone(),
    };
    if Follow::resolved(&*meta)
        .wait_for(|index| *index > 0)
        .await
        .is_err()
    {
        return;
    }
    while meta.meta().node(config.node) != Some(&me) {
        let Ok(pending) = meta.submit(Body::SetNode(me.clone()).into()) else {
            return;
        };
        if pending.await.is_err() {
            tokio::time::sleep(config.timing.progress()).await;
        }
    }
}

/// Waits until the store can't be written.
pub(super) async fn watch_store(mut store: watch::Receiver<Option<Arc<str>>>, supervisor: Supervisor) {
    let reason = match store.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone(),
        Err(_) => None,
    };
    supervisor.fail(reason.unwrap_or_else(|| "the log store has ended, which it must not".into()));
}
