//! How openraft is configured: the types of a log, and the runtime.

use crate::entry::Proposal;
use crate::member::Member;
use crate::runtime::Runtime;
use openraft::EntryPayload;

openraft::declare_raft_types!(
    /// The types of every group's log.
    pub TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = EntryPayload<Proposal, u64, Member>;
pub(crate) type RaftEntry = openraft::Entry<LeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, Member>;
