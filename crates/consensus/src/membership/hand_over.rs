//! Another node leads.

use crate::group::Group;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeSet;
use std::time::Duration;

/// Hands a group's leadership over to a node that `may_lead`, if this node has it; `false` if nobody took it.
pub(crate) async fn hand_over(
    group: &Group,
    me: u64,
    patience: Duration,
    may_lead: impl Fn(u64) -> bool,
) -> bool {
    let mut metrics = group.raft().metrics();
    let target = {
        let metrics = metrics.borrow_watched();
        if metrics.current_leader != Some(me) {
            return true;
        }
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let committed = metrics.local_committed.map(|id| id.index);
        // Who lacks what is committed is not elected, and raft takes nothing any more once it was told to hand over.
        let followers = metrics.replication.iter().flatten().filter(|(id, matching)| {
            **id != me && voters.contains(id) && matching.map(|id| id.index) >= committed && may_lead(**id)
        });
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
    rtdb_runtime::timeout(patience, taken).await.is_ok()
}
