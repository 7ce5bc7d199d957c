//! The rules by which a group's members change.

use crate::member::Member;
use crate::transport::sanity::MEMBERS_MAX;
use crate::transport::wire::{AddMember, MemberChange, RemoveMember};
use crate::types::Membership;
use openraft::ChangeMembers;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// What a leader is to do for a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing: it is done.
    Done,
    /// This change of raft's. Of voters that are removed, those are kept that are to follow.
    Change {
        members: ChangeMembers<u64, Member>,
        keeps_removed: bool,
    },
    /// Another node is to lead: this one, or any.
    HandOver(Option<u64>),
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error("node {0} is no member: add it with `rtdb add-node`")]
    NoMember(u64),
    #[error("node {0} is a member that votes: `rtdb demote` lets it only follow")]
    Votes(u64),
    #[error("node {0} has that address already")]
    TakenAddress(u64),
    #[error("a cluster has at most {MEMBERS_MAX} nodes")]
    TooMany,
    #[error("node {0} does not vote: it can't lead")]
    NoVoter(u64),
    #[error("node {0} does not answer: it can't lead")]
    Silent(u64),
    #[error("node {0} is the only one that votes")]
    Last(u64),
    #[error(
        "without node {node} only {answering:?} of {rest:?} would answer, which is no majority: nothing would be acknowledged any \
         more. See that they run, or say --force"
    )]
    NoQuorum {
        node: u64,
        answering: BTreeSet<u64>,
        rest: BTreeSet<u64>,
    },
}

/// A group, as its leader knows it.
pub(super) struct Known<'a> {
    pub(super) membership: &'a Membership,
    pub(super) leader: u64,
    /// Those that have answered lately, the leader among them.
    pub(super) answering: &'a BTreeSet<u64>,
}

impl Known<'_> {
    pub(super) fn plan(&self, change: &MemberChange) -> Result<Plan, Refusal> {
        match change {
            MemberChange::Add(add) => self.add(add),
            MemberChange::Remove(RemoveMember { node, force }) => self.remove(*node, *force),
            MemberChange::Promote(node) => self.promote(*node),
            MemberChange::Demote(RemoveMember { node, force }) => self.demote(*node, *force),
            MemberChange::Lead(node) => self.lead(*node),
        }
    }

    fn add(&self, add: &AddMember) -> Result<Plan, Refusal> {
        let mut members = self.membership.nodes();
        if let Some((other, _)) = members.find(|(node, it)| **node != add.node && it.addr == add.addr) {
            return Err(Refusal::TakenAddress(*other));
        }
        let wanted = Member {
            addr: add.addr.clone(),
            never_votes: add.never_votes,
        };
        let nodes = |member| BTreeMap::from([(add.node, member)]);
        let members = match self.membership.get_node(&add.node) {
            Some(known) if *known == wanted => return Ok(Plan::Done),
            Some(_) if add.never_votes && self.votes(add.node) => return Err(Refusal::Votes(add.node)),
            Some(_) => ChangeMembers::SetNodes(nodes(wanted)),
            None if self.membership.nodes().count() >= MEMBERS_MAX => return Err(Refusal::TooMany),
            None => ChangeMembers::AddNodes(nodes(wanted)),
        };
        Ok(Plan::kept(members))
    }

    fn remove(&self, node: u64, force: bool) -> Result<Plan, Refusal> {
        let one = BTreeSet::from([node]);
        match self.membership.get_node(&node) {
            None => Ok(Plan::Done),
            Some(_) if !self.votes(node) => Ok(Plan::kept(ChangeMembers::RemoveNodes(one))),
            Some(_) => self.without(node, force, || Plan::Change {
                members: ChangeMembers::RemoveVoters(one),
                keeps_removed: false,
            }),
        }
    }

    fn promote(&self, node: u64) -> Result<Plan, Refusal> {
        let member = self.membership.get_node(&node).ok_or(Refusal::NoMember(node))?;
        Ok(match member.never_votes {
            false => Plan::Done,
            true => Plan::kept(ChangeMembers::SetNodes([(node, follows(member, false))].into())),
        })
    }

    fn demote(&self, node: u64, force: bool) -> Result<Plan, Refusal> {
        let member = self.membership.get_node(&node).ok_or(Refusal::NoMember(node))?;
        let marked = ChangeMembers::SetNodes([(node, follows(member, true))].into());
        if self.votes(node) {
            let removed = ChangeMembers::RemoveVoters([node].into());
            return self.without(node, force, || {
                Plan::kept(ChangeMembers::Batch(vec![removed, marked]))
            });
        }
        Ok(match member.never_votes {
            true => Plan::Done,
            false => Plan::kept(marked),
        })
    }

    fn lead(&self, node: u64) -> Result<Plan, Refusal> {
        if !self.votes(node) {
            return Err(match self.membership.get_node(&node) {
                Some(_) => Refusal::NoVoter(node),
                None => Refusal::NoMember(node),
            });
        }
        match node == self.leader {
            true => Ok(Plan::Done),
            false if !self.answering.contains(&node) => Err(Refusal::Silent(node)),
            false => Ok(Plan::HandOver(Some(node))),
        }
    }

    /// What makes one voter fewer, if the others can go on without it.
    fn without(&self, node: u64, force: bool, plan: impl FnOnce() -> Plan) -> Result<Plan, Refusal> {
        let rest: BTreeSet<u64> = self
            .membership
            .voter_ids()
            .filter(|voter| *voter != node)
            .collect();
        if rest.is_empty() {
            return Err(Refusal::Last(node));
        }
        let answering: BTreeSet<u64> = rest.intersection(self.answering).copied().collect();
        if answering.len() <= rest.len() / 2 && !force {
            return Err(Refusal::NoQuorum {
                node,
                answering,
                rest,
            });
        }
        Ok(match node == self.leader {
            true => Plan::HandOver(None),
            false => plan(),
        })
    }

    fn votes(&self, node: u64) -> bool {
        self.membership.voter_ids().any(|voter| voter == node)
    }
}

impl Plan {
    fn kept(members: ChangeMembers<u64, Member>) -> Self {
        Self::Change {
            members,
            keeps_removed: true,
        }
    }
}

fn follows(member: &Member, never_votes: bool) -> Member {
    Member {
        never_votes,
        ..member.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(voters: &[u64], learners: &[u64]) -> Membership {
        let nodes = voters.iter().chain(learners);
        let nodes: BTreeMap<u64, Member> = nodes
            .map(|node| (*node, Member::at(format!("n{node}"))))
            .collect();
        Membership::new(vec![voters.iter().copied().collect()], nodes).unwrap()
    }

    fn plan(membership: &Membership, answering: &[u64], change: MemberChange) -> Result<Plan, Refusal> {
        let known = Known {
            membership,
            leader: 1,
            answering: &answering.iter().copied().collect(),
        };
        known.plan(&change)
    }

    fn added(node: u64, addr: &str) -> MemberChange {
        let addr = addr.to_owned();
        MemberChange::Add(AddMember {
            node,
            addr,
            never_votes: false,
        })
    }

    fn removed(node: u64, force: bool) -> MemberChange {
        MemberChange::Remove(RemoveMember { node, force })
    }

    #[test]
    fn a_node_comes_once_and_may_move() {
        let three = group(&[1, 2, 3], &[]);
        let comes = Plan::kept(ChangeMembers::AddNodes([(4, Member::at("n4"))].into()));
        assert_eq!(plan(&three, &[1], added(4, "n4")), Ok(comes));
        assert_eq!(plan(&three, &[1], added(3, "n3")), Ok(Plan::Done));
        let moves = Plan::kept(ChangeMembers::SetNodes([(3, Member::at("elsewhere"))].into()));
        assert_eq!(plan(&three, &[1], added(3, "elsewhere")), Ok(moves));
        assert_eq!(plan(&three, &[1], added(4, "n2")), Err(Refusal::TakenAddress(2)));
        let reader = AddMember {
            node: 3,
            addr: "n3".into(),
            never_votes: true,
        };
        assert_eq!(
            plan(&three, &[1], MemberChange::Add(reader)),
            Err(Refusal::Votes(3))
        );
    }

    #[test]
    fn nobody_goes_without_whom_nothing_would_be_acknowledged() {
        let three = group(&[1, 2, 3], &[4]);
        let goes = |node| Plan::Change {
            members: ChangeMembers::RemoveVoters([node].into()),
            keeps_removed: false,
        };
        assert_eq!(plan(&three, &[1, 2, 4], removed(3, false)), Ok(goes(3)));
        // With one that does not answer, of the two that remain.
        let refused = plan(&three, &[1, 2, 4], removed(2, false));
        assert!(
            matches!(refused, Err(Refusal::NoQuorum { node: 2, .. })),
            "{refused:?}"
        );
        assert_eq!(plan(&three, &[1, 2, 4], removed(2, true)), Ok(goes(2)));
        assert_eq!(
            plan(&three, &[1, 2, 3], removed(1, false)),
            Ok(Plan::HandOver(None))
        );
        let learner = Plan::kept(ChangeMembers::RemoveNodes([4].into()));
        assert_eq!(plan(&three, &[1, 2, 3], removed(4, false)), Ok(learner));
        assert_eq!(plan(&three, &[1], removed(9, false)), Ok(Plan::Done));
        assert_eq!(
            plan(&group(&[1], &[]), &[1], removed(1, true)),
            Err(Refusal::Last(1))
        );
    }

    #[test]
    fn who_votes_can_be_said() {
        let three = group(&[1, 2, 3], &[4]);
        let reader = |node| {
            let member = follows(three.get_node(&node).unwrap(), true);
            ChangeMembers::SetNodes([(node, member)].into())
        };
        let demote = |node| MemberChange::Demote(RemoveMember { node, force: false });
        assert_eq!(plan(&three, &[1, 2, 3], demote(4)), Ok(Plan::kept(reader(4))));
        let both = vec![ChangeMembers::RemoveVoters([3].into()), reader(3)];
        assert_eq!(
            plan(&three, &[1, 2, 3], demote(3)),
            Ok(Plan::kept(ChangeMembers::Batch(both)))
        );
        assert_eq!(plan(&three, &[1, 2, 3], demote(9)), Err(Refusal::NoMember(9)));
        assert_eq!(plan(&three, &[1], MemberChange::Promote(4)), Ok(Plan::Done));
        assert_eq!(
            plan(&three, &[1], MemberChange::Promote(9)),
            Err(Refusal::NoMember(9))
        );
    }

    #[test]
    fn who_votes_and_answers_may_lead() {
        let three = group(&[1, 2, 3], &[4]);
        let lead = |node| plan(&three, &[1, 2, 4], MemberChange::Lead(node));
        assert_eq!(lead(1), Ok(Plan::Done));
        assert_eq!(lead(2), Ok(Plan::HandOver(Some(2))));
        assert_eq!(lead(3), Err(Refusal::Silent(3)));
        assert_eq!(lead(4), Err(Refusal::NoVoter(4)));
        assert_eq!(lead(9), Err(Refusal::NoMember(9)));
    }
}
