//! What nodes say to each other.

pub use crate::founding::{Ballot, Founder, Founding, Greeted, Greeting, Proposed};
use crate::record::{LogIdRecord, LogRecord, VoteRecord};
use std::collections::BTreeMap;

/// Who speaks, and to whom. Goes before every call and every stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Header {
    /// The newest version of the protocol that the sender speaks.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// The sender's cluster; empty if it is in none yet.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// The sender's id.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// The sender's process: a random number.
    #[prost(fixed64, tag = "4")]
    pub instance: u64,
    /// The receiver's id; 0 if the sender does not know it.
    #[prost(uint64, tag = "5")]
    pub to: u64,
    /// The group; of no meaning for what concerns the whole node.
    #[prost(uint64, tag = "6")]
    pub group: u64,
    /// The oldest version of the protocol that the sender understands; 0 for the newest, as in version 1.
    #[prost(uint32, tag = "7")]
    pub protocol_min: u32,
}

/// A call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// What is asked.
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub ask: Option<Ask>,
}

/// The kinds of calls.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Ask {
    /// For a vote.
    #[prost(message, tag = "1")]
    Vote(VoteAsk),
    /// Whether a vote would be given.
    #[prost(message, tag = "2")]
    PreVote(VoteAsk),
    /// To lead.
    #[prost(message, tag = "3")]
    Transfer(TransferAsk),
    /// Who the node is.
    #[prost(message, tag = "4")]
    Hello(Hello),
    /// To belong to the cluster that the header names.
    #[prost(message, tag = "5")]
    Join(Join),
    /// What time it is.
    #[prost(message, tag = "6")]
    Ping(Ping),
    /// How far the log is committed. A node that does not know this finds the call garbled.
    #[prost(message, tag = "7")]
    ReadIndex(ReadIndexAsk),
    /// To change the group's members, as its leader. A node that does not know this finds the call garbled.
    #[prost(message, tag = "8")]
    Change(ChangeAsk),
    /// Who the node is, and to pledge itself to a cluster that is founded. A node that does not know this finds the call garbled.
    #[prost(message, tag = "9")]
    Greet(Greeting),
    /// To be a member of the node's cluster, which asks its leaders. A node that does not know this finds the call garbled.
    #[prost(message, tag = "10")]
    TakeIn(AddMember),
}

/// The answer to a call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// The answer.
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub answer: Option<Answer>,
}

/// The kinds of answers.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    /// To a vote or a pre-vote.
    #[prost(message, tag = "1")]
    Vote(VoteAnswer),
    /// To a transfer.
    #[prost(message, tag = "2")]
    Transfer(TransferAnswer),
    /// To a hello.
    #[prost(message, tag = "3")]
    Hello(Hello),
    /// To a join.
    #[prost(message, tag = "4")]
    Join(Join),
    /// To a ping.
    #[prost(message, tag = "5")]
    Pong(Pong),
    /// How far the log is committed.
    #[prost(message, tag = "6")]
    ReadIndex(ReadIndexAnswer),
    /// To a change, or to a wish to be taken in.
    #[prost(message, tag = "7")]
    Change(ChangeAnswer),
    /// To a greeting.
    #[prost(message, tag = "8")]
    Greet(Greeted),
}

/// Asks for a vote.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VoteAsk {
    #[prost(message, optional, tag = "1")]
    pub(crate) vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    pub(crate) last: Option<LogIdRecord>,
    #[prost(bool, tag = "3")]
    pub(crate) transfer: bool,
}

/// Gives a vote, or not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VoteAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) vote: Option<VoteRecord>,
    #[prost(bool, tag = "2")]
    pub(crate) granted: bool,
    #[prost(message, optional, tag = "3")]
    pub(crate) last: Option<LogIdRecord>,
}

impl VoteAnswer {
    /// Whether the vote was given.
    pub fn is_granted(&self) -> bool {
        self.granted
    }
}

/// Hands leadership over.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransferAsk {
    #[prost(message, optional, tag = "1")]
    pub(crate) from: Option<VoteRecord>,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(message, optional, tag = "3")]
    pub(crate) last: Option<LogIdRecord>,
}

/// Takes leadership, or says why not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransferAnswer {
    /// Set if another vote was seen meanwhile.
    #[prost(message, optional, tag = "1")]
    pub(crate) vote: Option<VoteRecord>,
    /// Whether the log is not on disk yet.
    #[prost(bool, tag = "2")]
    pub(crate) behind: bool,
    #[prost(message, optional, tag = "3")]
    pub(crate) last: Option<LogIdRecord>,
}

/// Who a node is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Its process: a random number.
    #[prost(fixed64, tag = "2")]
    pub instance: u64,
    /// Whether it is in a cluster: the one that the header names, or it refuses. Which one it is it tells nobody. (In tag
    /// 3 was once the name.)
    #[prost(bool, tag = "6")]
    pub in_cluster: bool,
    /// Where peers reach it.
    #[prost(string, tag = "4")]
    pub raft_addr: String,
    /// Where clients reach it.
    #[prost(string, tag = "5")]
    pub client_addr: String,
    /// What it can apply.
    #[prost(uint32, tag = "7")]
    pub feature_level: u32,
}

/// Belonging to a cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Join {
    /// The nodes that found it, or those that take the node in, in no order. Before its own log says who the members are, a node
    /// listens to these only.
    #[prost(uint64, repeated, tag = "1")]
    pub founders: Vec<u64>,
    /// How far the meta group's log is committed in the cluster that takes the node in; not set where one is founded.
    #[prost(uint64, optional, tag = "2")]
    pub taken_in: Option<u64>,
    /// For each group: the term of its leader before the node came, and what was committed. Given once, before that.
    #[prost(btree_map = "uint64, message", tag = "3")]
    pub(crate) floors: BTreeMap<u64, LogIdRecord>,
}

/// Asks a group's leader for a change of its members.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangeAsk {
    /// Which one.
    #[prost(oneof = "MemberChange", tags = "1, 2, 3, 4, 5")]
    pub change: Option<MemberChange>,
}

/// A change of a group's members. Asking for one that is done already changes nothing.
#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
pub enum MemberChange {
    /// A node comes, or has another address from now on.
    #[prost(message, tag = "1")]
    Add(AddMember),
    /// A node goes.
    #[prost(message, tag = "2")]
    Remove(RemoveMember),
    /// A node that only follows is to vote, as soon as it has caught up.
    #[prost(uint64, tag = "3")]
    Promote(u64),
    /// A node only follows from now on.
    #[prost(message, tag = "4")]
    Demote(RemoveMember),
    /// A node leads from now on, as long as it can.
    #[prost(uint64, tag = "5")]
    Lead(u64),
}

/// A node that comes.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct AddMember {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Where the others reach it, `host:port`.
    #[prost(string, tag = "2")]
    pub addr: String,
    /// It only follows, for good.
    #[prost(bool, tag = "3")]
    pub never_votes: bool,
}

/// A node that goes, or votes no more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct RemoveMember {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Also if so few of the others answer that nothing would be acknowledged any more.
    #[prost(bool, tag = "2")]
    pub force: bool,
}

/// What became of a change.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangeAnswer {
    /// Why it is not made.
    #[prost(string, optional, tag = "1")]
    pub refused: Option<String>,
    /// Why it is not made yet: it may be asked for again.
    #[prost(string, optional, tag = "2")]
    pub waits: Option<String>,
}

/// Asks what time it is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Ping {}

/// Asks the leader how far the log is committed.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ReadIndexAsk {}

/// Says how far it is, surely still as the leader.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ReadIndexAnswer {
    /// Not set by a node that does not lead, or finds no majority that says so.
    #[prost(uint64, optional, tag = "1")]
    pub index: Option<u64>,
}

/// Says what time it is, and how the node is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pong {
    /// The node's wall clock, in microseconds since the Unix epoch.
    #[prost(fixed64, tag = "1")]
    pub clock_us: u64,
    /// Whether the node is fit to lead.
    #[prost(bool, tag = "2")]
    pub is_fit: bool,
    /// Its replicas that lag, the worst of them.
    #[prost(message, repeated, tag = "3")]
    pub lagging: Vec<Lagging>,
    /// The committed entry by which the node knows who belongs to the meta group; 0 if it does not know.
    #[prost(uint64, tag = "4")]
    pub members_at: u64,
    /// Who they are.
    #[prost(uint64, repeated, tag = "6")]
    pub members: Vec<u64>,
}

/// How far a replica lags.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Lagging {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: bytes::Bytes,
    /// Commands that are not applied yet.
    #[prost(uint64, tag = "2")]
    pub commands: u64,
    /// How long ago the oldest of them was resolved there, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub age_ms: u64,
    /// Commands that were applied since the node began.
    #[prost(uint64, tag = "4")]
    pub applied: u64,
}

/// Entries for a follower.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Append {
    #[prost(message, optional, tag = "1")]
    pub(crate) vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    pub(crate) prev: Option<LogIdRecord>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) entries: Vec<LogRecord>,
    #[prost(message, optional, tag = "4")]
    pub(crate) commit: Option<LogIdRecord>,
}

/// What a follower made of them. None of the fields: it matches, and has nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Appended {
    #[prost(message, optional, tag = "1")]
    pub(crate) matching: Option<LogIdRecord>,
    #[prost(message, optional, tag = "2")]
    pub(crate) conflict: Option<LogIdRecord>,
    #[prost(message, optional, tag = "3")]
    pub(crate) higher: Option<VoteRecord>,
}

/// The leader takes nothing more from a stream of proposals.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProposeReply {}
