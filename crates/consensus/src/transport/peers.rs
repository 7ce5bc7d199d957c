//! The client's side: who is called, as whom, and for how long.

use super::sanity;
use super::wire::{
    AddMember, Answer, Append, Appended, Ask, ChangeAnswer, ChangeAsk, Header, Hello, Join, MemberChange,
    Ping, Pong, ProposeReply, ReadIndexAsk, Reply, Request,
};
use super::{PROTOCOL, PROTOCOL_MIN, PeerBudgets, PeerError};
use crate::LogIndex;
use crate::entry::EncodedBatch;
use crate::founding::{Greeted, Greeting};
use crate::group_id::GroupId;
use crate::log::Store;
use crate::types::TypeConfig;
use crate::vitals::Vitals;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::raft::{VoteRequest, VoteResponse};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What comes back on a stream.
pub type Replies<T> = BoxStream<'static, Result<T, PeerError>>;

/// Carries messages to peers. Streams keep their order; whatever is lost is lost with the whole stream.
pub trait Transport: Send + Sync + 'static {
    /// Makes a call.
    fn call(
        &self,
        addr: &str,
        header: Header,
        request: Request,
    ) -> BoxFuture<'static, Result<Reply, PeerError>>;

    /// Opens a stream of entries to a follower.
    fn append(
        &self,
        addr: &str,
        header: Header,
        entries: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<Replies<Appended>, PeerError>>;

    /// Opens a stream of proposals to a leader. It answers when it takes no more.
    fn propose(
        &self,
        addr: &str,
        header: Header,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, Result<Replies<ProposeReply>, PeerError>>;

    /// Waits until the process that was there is surely gone: what may be a fault of the network does not count. A
    /// transport that can't tell never says so.
    fn gone(&self, addr: &str, header: Header) -> BoxFuture<'static, ()> {
        let _ = (addr, header);
        Box::pin(std::future::pending())
    }
}

/// A peer, as it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its id.
    pub node: u64,
    /// Whether it is in a cluster.
    pub in_cluster: bool,
    /// Where peers reach it, as it says itself.
    pub raft_addr: String,
    /// Where clients reach it, as it says itself.
    pub client_addr: String,
    /// The feature level that it can apply.
    pub(crate) feature_level: u32,
    /// Its process.
    pub(crate) instance: u64,
}

/// This node, as it speaks to its peers.
pub(crate) struct Peers {
    pub(crate) node: u64,
    pub(crate) instance: u64,
    pub(crate) store: Arc<Store>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) answer_timeout: Duration,
    pub(crate) vitals: Arc<Vitals>,
    /// Of entries that are on their way.
    pub(crate) appends: PeerBudgets,
    /// Who belongs to the cluster, as its members say.
    pub(crate) vouched: Mutex<Vouched>,
}

/// Who belongs to the meta group, by the newest committed entry that this node, or a member that it knows, knows of.
#[derive(Debug, Default)]
pub(crate) struct Vouched {
    at: LogIndex,
    members: BTreeSet<u64>,
}

impl Vouched {
    /// A member says who they are.
    pub(crate) fn note(&mut self, at: LogIndex, members: impl IntoIterator<Item = u64>) {
        if at > self.at {
            (self.at, self.members) = (at, members.into_iter().collect());
        }
    }

    /// Whether a node is among them.
    pub(crate) fn knows(&self, node: u64) -> bool {
        self.members.contains(&node)
    }
}

impl Peers {
    fn header(&self, to: u64, group: GroupId) -> Header {
        Header {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL_MIN,
            cluster: self.store.cluster().unwrap_or_default(),
            from: self.node,
            instance: self.instance,
            to,
            group: group.0,
        }
    }

    pub(super) async fn call(
        &self,
        to: u64,
        addr: &str,
        group: GroupId,
        ask: Ask,
        timeout: Duration,
    ) -> Result<Answer, PeerError> {
        let call = self
            .transport
            .call(addr, self.header(to, group), Request { ask: Some(ask) });
        let reply = rtdb_runtime::timeout(timeout, call).await;
        let answer = reply
            .map_err(|_| PeerError::unreachable("it does not answer in time"))??
            .answer
            .ok_or(PeerError::Garbled)?;
        let vote = match &answer {
            Answer::Vote(answer) => answer.vote.as_ref(),
            Answer::Transfer(answer) => answer.vote.as_ref(),
            _ => None,
        };
        sanity::vote(vote, self.term_max())?;
        Ok(answer)
    }

    pub(super) fn append(
        &self,
        to: u64,
        addr: &str,
        group: GroupId,
        entries: BoxStream<'static, Append>,
    ) -> impl Future<Output = Result<Replies<Appended>, PeerError>> + Send + use<> {
        self.opened(self.transport.append(addr, self.header(to, group), entries))
    }

    /// The highest term that is believed.
    pub(super) fn term_max(&self) -> u64 {
        sanity::term_max(self.vitals.clock.now_us())
    }

    pub(crate) fn propose(
        &self,
        to: u64,
        addr: &str,
        group: GroupId,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> impl Future<Output = Result<Replies<ProposeReply>, PeerError>> + Send + use<> {
        self.opened(self.transport.propose(addr, self.header(to, group), batches))
    }

    /// Bounds the opening of a stream, not the stream.
    fn opened<T: 'static>(
        &self,
        open: BoxFuture<'static, Result<Replies<T>, PeerError>>,
    ) -> impl Future<Output = Result<Replies<T>, PeerError>> + Send + use<T> {
        let timeout = self.answer_timeout;
        async move {
            let opened = rtdb_runtime::timeout(timeout, open).await;
            opened.map_err(|_| PeerError::unreachable("it does not answer in time"))?
        }
    }

    /// Waits until a peer's process is surely gone.
    pub(crate) fn gone(&self, to: u64, addr: &str, group: GroupId) -> BoxFuture<'static, ()> {
        self.transport.gone(addr, self.header(to, group))
    }

    /// Asks a peer whether it would vote for this node.
    pub(crate) async fn pre_vote(
        &self,
        to: u64,
        addr: &str,
        group: GroupId,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, PeerError> {
        let ask = Ask::PreVote(request.into());
        match self.call(to, addr, group, ask, self.answer_timeout).await? {
            Answer::Vote(answer) => answer.try_into(),
            _ => Err(PeerError::Garbled),
        }
    }

    /// Asks who answers at an address.
    pub(crate) async fn hello(&self, addr: &str) -> Result<PeerInfo, PeerError> {
        let ask = Ask::Hello(Hello::default());
        let answer = self
            .call(0, addr, GroupId::META, ask, self.answer_timeout)
            .await?;
        let Answer::Hello(hello) = answer else {
            return Err(PeerError::Garbled);
        };
        if hello.node == self.node && hello.instance != self.instance {
            return Err(PeerError::SameId { node: hello.node });
        }
        Ok(PeerInfo {
            node: hello.node,
            in_cluster: hello.in_cluster,
            raft_addr: hello.raft_addr,
            client_addr: hello.client_addr,
            feature_level: hello.feature_level,
            instance: hello.instance,
        })
    }

    /// Asks a peer what time it is.
    pub(crate) async fn ping(&self, to: u64, addr: &str) -> Result<Pong, PeerError> {
        let ask = Ask::Ping(Ping {});
        match self
            .call(to, addr, GroupId::META, ask, self.answer_timeout)
            .await?
        {
            Answer::Pong(pong) => Ok(pong),
            _ => Err(PeerError::Garbled),
        }
    }

    /// Asks a group's leader how far the log is committed; `None` if it does not lead.
    pub(crate) async fn read_index(
        &self,
        to: u64,
        addr: &str,
        group: GroupId,
    ) -> Result<Option<LogIndex>, PeerError> {
        let ask = Ask::ReadIndex(ReadIndexAsk {});
        match self.call(to, addr, group, ask, self.answer_timeout).await? {
            Answer::ReadIndex(answer) => Ok(answer.index),
            _ => Err(PeerError::Garbled),
        }
    }

    /// Asks a group's leader for a change of its members.
    pub(crate) async fn change(
        &self,
        to: u64,
        addr: &str,
        group: GroupId,
        change: MemberChange,
        timeout: Duration,
    ) -> Result<ChangeAnswer, PeerError> {
        let ask = Ask::Change(ChangeAsk { change: Some(change) });
        match self.call(to, addr, group, ask, timeout).await? {
            Answer::Change(answer) => Ok(answer),
            _ => Err(PeerError::Garbled),
        }
    }

    /// Greets whoever is at an address.
    pub(crate) async fn greet(&self, addr: &str, greeting: Greeting) -> Result<Greeted, PeerError> {
        let ask = Ask::Greet(greeting);
        match self
            .call(0, addr, GroupId::META, ask, self.answer_timeout)
            .await?
        {
            Answer::Greet(greeted) => Ok(greeted),
            _ => Err(PeerError::Garbled),
        }
    }

    /// Asks a member of a cluster to have this node taken in.
    pub(crate) async fn take_in(
        &self,
        to: u64,
        addr: &str,
        me: AddMember,
        timeout: Duration,
    ) -> Result<ChangeAnswer, PeerError> {
        match self
            .call(to, addr, GroupId::META, Ask::TakeIn(me), timeout)
            .await?
        {
            Answer::Change(answer) => Ok(answer),
            _ => Err(PeerError::Garbled),
        }
    }

    /// Makes a peer belong to this node's cluster.
    pub(crate) async fn join(&self, to: u64, addr: &str, join: Join) -> Result<(), PeerError> {
        let ask = Ask::Join(join);
        match self
            .call(to, addr, GroupId::META, ask, self.answer_timeout)
            .await?
        {
            Answer::Join(_) => Ok(()),
            _ => Err(PeerError::Garbled),
        }
    }
}
