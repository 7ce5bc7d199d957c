use super::turns::is_majority;
use crate::types::Membership;
use std::collections::{BTreeMap, BTreeSet};

/// Those who may elect a group's leader.
#[derive(PartialEq, Eq)]
pub(crate) struct Voters {
    /// The sets of them, each of which must agree.
    sets: Vec<BTreeSet<u64>>,
    /// Their addresses.
    pub(crate) addrs: BTreeMap<u64, String>,
}

impl Voters {
    pub(crate) fn of(membership: &Membership) -> Self {
        let addr = |voter| Some((voter, membership.get_node(&voter)?.addr.clone()));
        Self {
            sets: membership.get_joint_config().clone(),
            addrs: membership.voter_ids().filter_map(addr).collect(),
        }
    }

    /// Whether those who agree are a majority.
    pub(crate) fn are_won_by(&self, agreed: &BTreeSet<u64>) -> bool {
        is_majority(&self.sets, agreed)
    }
}
