//! Who belongs to a group: what its leader does if that is to change, and what it sees to by itself.
//!
//! Raft paper, section 6: between two sets of voters stands an entry with both, and each of them must agree (joint consensus). New
//! members follow until they have caught up, so that nothing waits for them.

mod hand_over;
mod plan;
mod promoter;

pub(crate) use hand_over::hand_over;
pub(crate) use promoter::Promoter;

use crate::group::Group;
use crate::member::Member;
use crate::transport::sanity::ADDR_BYTES_MAX;
use crate::transport::wire::{ChangeAnswer, MemberChange};
use crate::types::{Membership, StoredMembership, TypeConfig};
use crate::vitals::Vitals;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition, ServerState};
use plan::{Known, Plan};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A node that takes longer to answer does not.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// How long a leader waits until a change is committed.
const COMMITTED_WITHIN: Duration = Duration::from_secs(5);

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It is made.
    Done,
    /// Why it is not made yet: it may be asked for again.
    Waits(String),
    /// Why it is not made.
    Refused(String),
}

impl From<Changed> for ChangeAnswer {
    fn from(changed: Changed) -> Self {
        let (refused, waits) = match changed {
            Changed::Done => (None, None),
            Changed::Waits(why) => (None, Some(why)),
            Changed::Refused(why) => (Some(why), None),
        };
        Self { refused, waits }
    }
}

impl From<ChangeAnswer> for Changed {
    fn from(answer: ChangeAnswer) -> Self {
        match (answer.refused, answer.waits) {
            (Some(why), _) => Self::Refused(why),
            (None, Some(why)) => Self::Waits(why),
            (None, None) => Self::Done,
        }
    }
}

/// Whether a change says what it must.
pub(crate) fn is_sound(change: &MemberChange) -> bool {
    match change {
        MemberChange::Add(add) => add.node > 0 && (1..=ADDR_BYTES_MAX).contains(&add.addr.len()),
        MemberChange::Remove(it) | MemberChange::Demote(it) => it.node > 0,
        MemberChange::Promote(node) | MemberChange::Lead(node) => *node > 0,
    }
}

/// Changes a group's members, as its leader; a node that does not lead it says so. `patience` is for another node to lead.
pub(crate) async fn change(
    group: &Group,
    vitals: &Vitals,
    change: &MemberChange,
    me: u64,
    patience: Duration,
) -> Changed {
    let Some(settled) = settled(group) else {
        return Changed::Waits(format!(
            "the node that was asked does not lead {} for sure",
            group.id()
        ));
    };
    let membership = settled.membership();
    if membership.get_joint_config().len() > 1 {
        return Changed::Waits("a change before this one is not finished".to_owned());
    }
    let answering = answering(group, membership, me).await;
    let known = Known {
        membership,
        leader: me,
        answering: &answering,
    };
    match known.plan(change) {
        Err(refusal) => Changed::Refused(refusal.to_string()),
        Ok(Plan::Done) => Changed::Done,
        Ok(Plan::Change {
            members,
            keeps_removed,
        }) => {
            tracing::info!(group = %group.id(), ?change, "the members change");
            let changing = change_if(group, &settled, members, keeps_removed);
            match rtdb_runtime::timeout(COMMITTED_WITHIN, changing).await {
                Ok(Ok(_)) => Changed::Done,
                Ok(Err(error)) => failed(&error),
                Err(_) => Changed::Waits("a majority does not agree yet".to_owned()),
            }
        }
        Ok(Plan::HandOver(to)) => {
            let may_lead = |node: u64| to.is_none_or(|to| to == node);
            let is_fit = |node| may_lead(node) && vitals.clock.is_fit(node);
            let is_handed_over = hand_over(group, me, patience, is_fit).await
                || hand_over(group, me, patience, may_lead).await;
            match (is_handed_over, to) {
                (true, Some(_)) => Changed::Done,
                (true, None) => Changed::Waits("another node has come to lead".to_owned()),
                (false, _) => Changed::Waits("no other node is ready to lead".to_owned()),
            }
        }
    }
}

/// Why a leader that has the members that this node knows of would not make a change, whatever answers.
pub(crate) fn refusal(group: &Group, change: &MemberChange) -> Option<String> {
    let metrics = group.raft().metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let known = Known {
        membership,
        leader: 0,
        answering: &membership.nodes().map(|(node, _)| *node).collect(),
    };
    Some(known.plan(change).err()?.to_string())
}

/// The members, if this node leads and they are committed.
fn settled(group: &Group) -> Option<Arc<StoredMembership>> {
    let metrics = group.raft().metrics();
    let metrics = metrics.borrow_watched();
    let membership = &metrics.membership_config;
    let is_committed = *membership.log_id() <= metrics.cluster_committed;
    let leads = metrics.state == ServerState::Leader && is_committed;
    leads.then(|| membership.clone())
}

/// Makes a change, if the members are still those that it was planned for: another one may have been made meanwhile.
async fn change_if(
    group: &Group,
    settled: &StoredMembership,
    members: ChangeMembers<u64, Member>,
    keeps_removed: bool,
) -> Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>> {
    let last_membership_log_id = *settled.log_id();
    let unchanged = [Precondition::LastMembershipLogId {
        last_membership_log_id,
    }];
    let changing = group
        .raft()
        .change_membership_if(members, keeps_removed, unchanged);
    changing.await.map(drop)
}

/// The members that answer now, and this node.
async fn answering(group: &Group, membership: &Membership, me: u64) -> BTreeSet<u64> {
    let others = membership.nodes().filter(|(node, _)| **node != me);
    let asked = others.map(async |(node, member)| {
        let asked = group.peers().ping(*node, &member.addr);
        let answer = rtdb_runtime::timeout(ANSWER_MAX, asked).await;
        matches!(answer, Ok(Ok(_))).then_some(*node)
    });
    let answered = futures::future::join_all(asked).await;
    answered.into_iter().flatten().chain([me]).collect()
}

fn failed(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Changed {
    match error {
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            openraft::errors::ChangeMembershipError::InProgress(_) => {
                Changed::Waits("a change before this one is not finished".to_owned())
            }
            error => Changed::Refused(error.to_string()),
        },
        error => Changed::Waits(error.to_string()),
    }
}
