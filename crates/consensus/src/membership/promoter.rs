//! Members that have caught up come to vote, and changes that a leader before has begun are finished.

use super::{change_if, settled};
use crate::group::Group;
use crate::types::StoredMembership;
use crate::vitals::Vitals;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use rtdb_runtime::Instant;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Entries that a member may lack that has caught up.
const LACKS_MAX: u64 = 1_000;

/// The task that looks after a group's members, on whichever node leads it.
pub(crate) struct Promoter {
    pub(crate) group: Arc<Group>,
    pub(crate) meta: Arc<Group>,
    pub(crate) vitals: Arc<Vitals>,
}

impl Promoter {
    /// Looks after them until the group stops.
    pub(crate) async fn run(self) {
        loop {
            rtdb_runtime::sleep(LOOK).await;
            let Some(settled) = settled(&self.group) else {
                continue;
            };
            let is_joint = settled.membership().get_joint_config().len() > 1;
            let voters: BTreeSet<u64> = match self.ready(&settled) {
                // No voters more: the newer set of the two is what remains.
                _ if is_joint => BTreeSet::new(),
                Some(node) => [node].into(),
                None => continue,
            };
            if let Some(node) = voters.first() {
                tracing::info!(node, group = %self.group.id(), "it has caught up: it votes from now on");
            }
            let voters = ChangeMembers::AddVoterIds(voters);
            let changing = change_if(&self.group, &settled, voters, true);
            if let Err(error) = changing.await {
                tracing::info!(group = %self.group.id(), "the members do not change yet: {error}");
            }
        }
    }

    /// A member that is to vote and has caught up.
    fn ready(&self, settled: &StoredMembership) -> Option<u64> {
        let membership = settled.membership();
        let level = self.meta.feature_level();
        let announced: BTreeSet<u64> = {
            let meta = self.meta.meta();
            let nodes = meta.nodes().filter(|node| node.feature_level >= level);
            nodes.map(|node| node.node).collect()
        };
        let metrics = self.group.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let has_caught_up = |node: &u64| {
            let has = metrics.replication.iter().flatten().find(|(it, _)| *it == node);
            let has = has.and_then(|(_, matching)| *matching);
            // It knows that it was taken in: until then it would give its vote to nobody.
            has.is_some_and(|has| has.index + LACKS_MAX >= last && Some(has) >= *settled.log_id())
                && announced.contains(node)
                && self.vitals.clock.is_fit(*node)
                && self.vitals.lags.lock().keeps_up(*node, Instant::now())
        };
        let mut learners = membership.learner_ids();
        learners.find(|node| {
            let is_to_vote = membership
                .get_node(node)
                .is_some_and(|member| !member.never_votes);
            is_to_vote && has_caught_up(node)
        })
    }
}
