//! Members that have caught up come to vote, changes that a leader before has begun are finished, and a shard has the members that
//! the meta group has: who changes them may not have come to all groups.

use super::{change as change_members, change_if, settled};
use crate::group::Group;
use crate::group_id::GroupId;
use crate::transport::wire::{AddMember, MemberChange, RemoveMember};
use crate::types::{Membership, StoredMembership};
use crate::vitals::Vitals;
use crate::{Follow, Propose};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use rtdb_runtime::Instant;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// How long a leader may take to hear how far the meta group's log is.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// Entries that a member may lack that has caught up.
const LACKS_MAX: u64 = 1_000;

/// The task that looks after a group's members, on whichever node leads it.
pub(crate) struct Promoter {
    pub(crate) group: Arc<Group>,
    pub(crate) meta: Arc<Group>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) me: u64,
    /// For another node to lead.
    pub(crate) patience: Duration,
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
            if !is_joint && let Some(change) = self.strays(settled.membership()).await {
                let changed =
                    change_members(&self.group, &self.vitals, &change, self.me, self.patience).await;
                tracing::info!(group = %self.group.id(), ?change, ?changed, "not the members of the meta group");
                continue;
            }
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

    /// What makes the members more like those of the meta group.
    async fn strays(&self, membership: &Membership) -> Option<MemberChange> {
        if self.group.id() == GroupId::META {
            return None;
        }
        difference(membership, &committed(&self.meta)?)?;
        // This node may not know yet who belongs to it by now.
        let asked = async {
            let index = self.meta.read_index().await.ok()?;
            self.meta
                .resolved()
                .wait_for(|resolved| *resolved >= index)
                .await
                .ok()?;
            Some(())
        };
        rtdb_runtime::timeout(KNOWN_WITHIN, asked).await.ok()??;
        difference(membership, &committed(&self.meta)?)
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

/// The members, if it is known that they are committed.
fn committed(group: &Group) -> Option<Membership> {
    let metrics = group.raft().metrics();
    let metrics = metrics.borrow_watched();
    let membership = &metrics.membership_config;
    let is_committed = membership.log_id().is_some() && *membership.log_id() <= metrics.local_committed;
    is_committed.then(|| membership.membership().clone())
}

/// A change by which a group's members are more like those that they should be. Whether one votes is each group's own affair.
fn difference(members: &Membership, wanted: &Membership) -> Option<MemberChange> {
    let comes = wanted.nodes().find(|(node, member)| {
        let known = members.get_node(node);
        known.is_none_or(|known| known.addr != member.addr)
    });
    if let Some((node, member)) = comes {
        let never_votes = members.get_node(node).unwrap_or(member).never_votes;
        return Some(MemberChange::Add(AddMember {
            node: *node,
            addr: member.addr.clone(),
            never_votes,
        }));
    }
    let (node, _) = members
        .nodes()
        .find(|(node, _)| wanted.get_node(node).is_none())?;
    Some(MemberChange::Remove(RemoveMember {
        node: *node,
        force: false,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Member;
    use std::collections::BTreeMap;

    fn members(addrs: &[(u64, &str)]) -> Membership {
        let nodes: BTreeMap<u64, Member> = addrs
            .iter()
            .map(|(node, addr)| (*node, Member::at(*addr)))
            .collect();
        Membership::new(vec![[1].into()], nodes).unwrap()
    }

    #[test]
    fn a_shard_comes_to_have_the_members_of_the_meta_group() {
        let wanted = members(&[(1, "n1"), (2, "n2"), (3, "n3")]);
        assert_eq!(difference(&wanted, &wanted), None);
        let addr = |node: u64| AddMember {
            node,
            addr: format!("n{node}"),
            never_votes: false,
        };
        let lacks = members(&[(1, "n1"), (2, "n2"), (4, "n4")]);
        assert_eq!(difference(&lacks, &wanted), Some(MemberChange::Add(addr(3))));
        let moved = members(&[(1, "n1"), (2, "elsewhere"), (3, "n3")]);
        assert_eq!(difference(&moved, &wanted), Some(MemberChange::Add(addr(2))));
        let has_more = members(&[(1, "n1"), (2, "n2"), (3, "n3"), (4, "n4")]);
        let goes = RemoveMember {
            node: 4,
            force: false,
        };
        assert_eq!(difference(&has_more, &wanted), Some(MemberChange::Remove(goes)));
    }
}
