//! A group's network, as openraft uses it.

use super::PeerError;
use super::peers::Peers;
use super::window::{Window, WindowReplies};
use super::wire::{Answer, Append, Ask};
use crate::budget::Share;
use crate::group_id::GroupId;
use crate::member::Member;
use crate::types::{TypeConfig, Vote};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

#[cfg(test)]
mod tests;

/// As many tasks hand a committed entry on to the local SpacetimeDB, one after the other.
const TURNS: usize = 6;

type Result<T> = std::result::Result<T, RPCError<TypeConfig>>;

/// A group's way to its members.
pub(crate) struct Network {
    pub(crate) group: GroupId,
    pub(crate) peers: Arc<Peers>,
    /// Where the members are now.
    pub(crate) addrs: watch::Receiver<BTreeMap<u64, String>>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer {
            id: target,
            addr: node.addr.clone(),
            group: self.group,
            peers: self.peers.clone(),
            addrs: self.addrs.clone(),
            share: self.peers.appends.of(target).share(),
        }
    }
}

/// A group's way to one member.
pub(crate) struct Peer {
    id: u64,
    /// Where it was when raft began to talk to it.
    addr: String,
    group: GroupId,
    peers: Arc<Peers>,
    addrs: watch::Receiver<BTreeMap<u64, String>>,
    /// Of the bytes that may be on their way to the member.
    share: Share,
}

impl Peer {
    fn addr(&self) -> String {
        let known = self.addrs.borrow().get(&self.id).cloned();
        known.unwrap_or_else(|| self.addr.clone())
    }

    /// Waits until the member is elsewhere.
    fn moved(&self, from: String) -> impl Future<Output = ()> + Send + use<> {
        let (id, mut addrs) = (self.id, self.addrs.clone());
        async move {
            let is_elsewhere = |known: &BTreeMap<u64, String>| known.get(&id).is_some_and(|at| *at != from);
            if addrs.wait_for(is_elsewhere).await.is_err() {
                std::future::pending().await
            }
        }
    }

    async fn call(&self, ask: Ask, option: RPCOption) -> Result<Answer> {
        self.peers
            .call(self.id, &self.addr(), self.group, ask, option.soft_ttl())
            .await
            .map_err(into_rpc)
    }

    async fn ask_vote(&self, ask: Ask, option: RPCOption) -> Result<VoteResponse<TypeConfig>> {
        match self.call(ask, option).await? {
            Answer::Vote(answer) => answer.try_into().map_err(into_rpc),
            _ => Err(into_rpc(PeerError::Garbled)),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>> {
        let input = futures::stream::iter([request]);
        let mut replies = RaftNetworkV2::stream_append(self, input, option).await?;
        match replies.next().await {
            Some(reply) => Ok(reply?.into()),
            None => Err(into_rpc(PeerError::unreachable("the stream ended"))),
        }
    }

    /// One gRPC stream, without a deadline: that the peer is there is what the connection's keep-alive finds out.
    ///
    /// It is opened only when there is something to send, since raft waits between its attempts where it makes the
    /// first request: a peer that can't be reached would be called without a pause otherwise.
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else {
                let nothing: BoxStream<'s, _> = Box::pin(futures::stream::empty());
                return Ok(nothing);
            };
            let window = Window::new(self.share.clone());
            let (wanted, unwanted) = oneshot::channel();
            let requests = futures::stream::iter([first]).chain(input);
            let entries = futures::stream::unfold((requests, window.clone()), next_append)
                .take_until(unwanted)
                .boxed();
            let addr = self.addr();
            let open = self.peers.append(self.id, &addr, self.group, entries);
            let replies = open.await.map_err(into_rpc)?;
            let replies = WindowReplies::new(window, replies, self.peers.clone(), wanted)
                .map(|reply| reply.map(Into::into).map_err(into_rpc))
                .take_until(self.moved(addr).boxed());
            let replies: BoxStream<'s, _> = Box::pin(replies);
            Ok(replies)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>> {
        self.ask_vote(Ask::Vote(request.into()), option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>> {
        self.ask_vote(Ask::PreVote(request.into()), option).await
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> std::result::Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let reason = "snapshots are not sent: every node keeps the whole log";
        Err(StreamingError::Unreachable(Unreachable::from_string(reason)))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>> {
        match self.call(Ask::Transfer(request.clone().into()), option).await? {
            Answer::Transfer(answer) => Ok(answer.response(&request)),
            _ => Err(into_rpc(PeerError::Garbled)),
        }
    }
}

/// The next message to a follower, as soon as the window has room for it. Until then no further entries are read: raft
/// reads them as the stream is polled, for one request at a time.
async fn next_append<S>((mut requests, window): (S, Arc<Window>)) -> Option<(Append, (S, Arc<Window>))>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    let place = window.place().await;
    let append = Append::from(requests.next().await?);
    if append.entries.is_empty() {
        give_way().await;
    }
    window.enter(place, &append).await;
    Some((append, (requests, window)))
}

/// Lets everything else run first that is ready to: the news that entries are committed must not keep this node from
/// applying them, for which its client waits.
async fn give_way() {
    for _ in 0..TURNS {
        rtdb_runtime::yield_now().await;
    }
}

fn into_rpc(error: PeerError) -> RPCError<TypeConfig> {
    match error {
        PeerError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
        other => {
            tracing::warn!(error = %other, "a peer refuses to talk");
            RPCError::Network(NetworkError::new(&other))
        }
    }
}
