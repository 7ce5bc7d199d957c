//! The server's side: who is let in, and what is answered.

mod door;
mod forming;
mod grpc;

pub(crate) use forming::Forming;
pub(crate) use grpc::router;

use crate::LogIndex;
use crate::batcher::Refused;
use crate::entry::EncodedBatch;
use crate::group::Group;
use crate::group_id::GroupId;
use crate::log::{Store, StoreError};
use crate::proposer::BATCH_COUNT_MAX;
use crate::transport::wire::{
    AddMember, Answer, Append, Appended, Ask, ChangeAnswer, Header, Hello, Join, MemberChange, Pong,
    ProposeReply, ReadIndexAnswer, Reply, Request, TransferAnswer, VoteAnswer,
};
use crate::transport::{PeerError, Replies, Versions, sanity, told};
use crate::vitals::Vitals;
use crate::{membership, succession};
use door::Door;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What a node answers its peers.
pub struct Service {
    me: Hello,
    vitals: Arc<Vitals>,
    /// For another node to lead that was asked to.
    patience: Duration,
    forming: Forming,
    /// Where those go who wish to be taken in.
    wishes: mpsc::Sender<Wish>,
    /// `None` once the node has stopped: connections may live longer.
    node: RwLock<Option<Running>>,
}

/// A node that wishes to be taken in, and where it is told what became of that.
pub(crate) struct Wish {
    pub(crate) add: AddMember,
    pub(crate) answer: oneshot::Sender<ChangeAnswer>,
}

/// A node that runs.
#[derive(Clone)]
struct Running {
    store: Arc<Store>,
    groups: BTreeMap<GroupId, Arc<Group>>,
}

impl Service {
    pub(crate) fn new(
        me: Hello,
        store: Arc<Store>,
        vitals: Arc<Vitals>,
        patience: Duration,
        wishes: mpsc::Sender<Wish>,
    ) -> Self {
        Self {
            me,
            vitals,
            patience,
            forming: Forming::default(),
            wishes,
            node: RwLock::new(Some(Running {
                store,
                groups: BTreeMap::new(),
            })),
        }
    }

    /// Answers for these groups from now on.
    pub(crate) fn serve(&self, groups: BTreeMap<GroupId, Arc<Group>>) {
        if let Some(node) = self.node.write().as_mut() {
            node.groups = groups;
        }
    }

    /// Refuses everybody from now on.
    pub(crate) fn stop(&self) {
        self.node.write().take();
    }

    fn store(&self) -> Result<Arc<Store>, PeerError> {
        let node = self.node.read();
        node.as_ref()
            .map(|node| node.store.clone())
            .ok_or_else(|| PeerError::unreachable("it is stopping"))
    }

    fn check(&self, header: &Header) -> Result<(), PeerError> {
        Versions::OURS.check(header)?;
        if header.from == self.me.node && header.instance != self.me.instance {
            return Err(PeerError::SameId { node: header.from });
        }
        if header.to != 0 && header.to != self.me.node {
            return Err(PeerError::OtherNode {
                wanted: header.to,
                found: self.me.node,
            });
        }
        Ok(())
    }

    fn check_cluster(&self, header: &Header) -> Result<(), PeerError> {
        self.check(header)?;
        match self.store()?.cluster() {
            None => Err(PeerError::NoCluster),
            Some(ours) => self.check_name(&ours, header),
        }
    }

    fn check_name(&self, ours: &str, header: &Header) -> Result<(), PeerError> {
        if header.cluster == ours {
            return Ok(());
        }
        tracing::debug!(
            from = header.from,
            cluster = header.cluster,
            "a node of another cluster speaks"
        );
        Err(PeerError::OtherCluster {
            ours: header.cluster.clone(),
        })
    }

    fn check_member(&self, header: &Header) -> Result<Arc<Group>, PeerError> {
        self.check_cluster(header)?;
        let node = self.node.read();
        let groups = node
            .as_ref()
            .map(|node| &node.groups)
            .filter(|groups| !groups.is_empty());
        let groups = groups.ok_or_else(|| PeerError::unreachable("it is starting or stopping"))?;
        let group = groups
            .get(&GroupId(header.group))
            .cloned()
            .ok_or(PeerError::UnknownGroup { group: header.group })?;
        match group.is_member(header.from) {
            true => Ok(group),
            false => Err(PeerError::NotMember { node: header.from }),
        }
    }

    /// Answers a call.
    ///
    /// # Errors
    /// [`PeerError`] if the sender is not let in, or the group has stopped.
    pub async fn call(&self, header: Header, request: Request) -> Result<Reply, PeerError> {
        let term_max = sanity::term_max(self.vitals.clock.now_us());
        let answer = match request.ask.ok_or(PeerError::Garbled)? {
            Ask::Vote(ask) => {
                let group = self.check_member(&header)?;
                sanity::vote_ask(&ask, header.from, term_max)?;
                if let Some(refusal) = group.unripe().await? {
                    return Ok(Reply {
                        answer: Some(Answer::Vote(refusal.into())),
                    });
                }
                Answer::Vote(
                    group
                        .raft()
                        .vote(ask.try_into()?)
                        .map_ok(VoteAnswer::from)
                        .map_err(PeerError::stopped)
                        .await?,
                )
            }
            // The group itself decides: it refuses while it hears from a leader whose process is there, or if its log is
            // newer.
            Ask::PreVote(ask) => {
                let group = self.check_member(&header)?;
                sanity::vote_ask(&ask, header.from, term_max)?;
                let answer = match group.unripe().await? {
                    Some(refusal) => refusal,
                    None => group.succession().pre_vote(ask.try_into()?).await?,
                };
                Answer::Vote(answer.into())
            }
            Ask::Transfer(ask) => {
                let group = self.check_member(&header)?;
                sanity::vote(ask.from.as_ref(), term_max)?;
                sanity::candidate(ask.last.as_ref(), term_max)?;
                let answer = group
                    .raft()
                    .handle_transfer_leader(ask.try_into()?)
                    .map_ok(TransferAnswer::from);
                Answer::Transfer(answer.map_err(PeerError::stopped).await?)
            }
            Ask::Hello(_) => {
                self.check(&header)?;
                let cluster = self.store()?.cluster();
                if let Some(ours) = &cluster
                    && !header.cluster.is_empty()
                {
                    self.check_name(ours, &header)?;
                }
                Answer::Hello(Hello {
                    in_cluster: cluster.is_some(),
                    ..self.me.clone()
                })
            }
            // Answered at once: whether a node's disk or raft is slow is not the question.
            Ask::Ping(_) => {
                self.check_cluster(&header)?;
                let members = self.members();
                Answer::Pong(Pong {
                    clock_us: self.vitals.clock.now_us(),
                    is_fit: self.vitals.is_fit(),
                    lagging: told(self.vitals.lags.lock().told()),
                    members_at: members.as_ref().map_or(0, |(at, _)| *at),
                    members: members.into_iter().flat_map(|(_, members)| members).collect(),
                })
            }
            Ask::ReadIndex(_) => {
                let index = self.check_member(&header)?.reads().own().await;
                Answer::ReadIndex(ReadIndexAnswer { index })
            }
            Ask::Join(join) => {
                self.check(&header)?;
                self.join(&header, &join).await?;
                Answer::Join(Join::default())
            }
            Ask::Change(ask) => {
                let group = self.check_member(&header)?;
                let change = ask
                    .change
                    .filter(membership::is_sound)
                    .ok_or(PeerError::Garbled)?;
                let change = membership::change(&group, &self.vitals, &change, self.me.node, self.patience);
                Answer::Change(change.await.into())
            }
            Ask::Greet(greeting) => {
                self.check(&header)?;
                Answer::Greet(self.greet(&header, &greeting).await?)
            }
            Ask::TakeIn(add) => {
                self.check(&header)?;
                Answer::Change(self.wish(&header, add).await?)
            }
        };
        Ok(Reply { answer: Some(answer) })
    }

    /// Has whoever speaks taken in.
    async fn wish(&self, header: &Header, add: AddMember) -> Result<ChangeAnswer, PeerError> {
        if self.store()?.cluster().is_none() {
            return Err(PeerError::NoCluster);
        }
        let is_sound = membership::is_sound(&MemberChange::Add(add.clone()));
        if add.node != header.from || !is_sound {
            return Err(PeerError::Garbled);
        }
        let (answer, told) = oneshot::channel();
        let busy = || ChangeAnswer {
            refused: None,
            waits: Some("the node that was asked is busy".to_owned()),
        };
        if self.wishes.try_send(Wish { add, answer }).is_err() {
            return Ok(busy());
        }
        Ok(told.await.unwrap_or_else(|_| busy()))
    }

    /// Who belongs to the meta group for sure.
    fn members(&self) -> Option<(LogIndex, BTreeSet<u64>)> {
        let node = self.node.read();
        node.as_ref()?.groups.get(&GroupId::META)?.members()
    }

    /// Whether any group has a log here.
    async fn has_logs(&self) -> Result<bool, PeerError> {
        let groups: Vec<_> = {
            let node = self.node.read();
            node.iter()
                .flat_map(|node| node.groups.values().cloned())
                .collect()
        };
        let mut has_logs = groups.is_empty();
        for group in groups {
            let last = group.raft().with_raft_state(succession::last);
            has_logs |= last.await.map_err(PeerError::stopped)?.is_some();
        }
        Ok(has_logs)
    }

    async fn join(&self, header: &Header, join: &Join) -> Result<(), PeerError> {
        if header.cluster.is_empty() {
            return Err(PeerError::NoCluster);
        }
        let founders = sanity::founders(&join.founders, self.me.node, header.from);
        let founders = founders.ok_or(sanity::Unsound::Founders)?;
        let store = self.store()?;
        let bound = match join.taken_in {
            None => store.bind_cluster(&header.cluster, &founders).await,
            Some(at) => {
                // Who has a log remembers its votes, and nobody may make it forget how to vote.
                let floors = match self.has_logs().await? {
                    true => BTreeMap::new(),
                    false => join.floors.clone(),
                };
                store.join_cluster(&header.cluster, &founders, at, floors).await
            }
        };
        bound.map_err(|error| match error {
            StoreError::OtherCluster { found: _, wanted } => PeerError::OtherCluster { ours: wanted },
            StoreError::OtherFounders { found, .. } => PeerError::OtherFounders { known: found },
            other => PeerError::stopped(other),
        })?;
        let node = self.node.read();
        for group in node.iter().flat_map(|node| node.groups.values()) {
            if !group.is_ripe() {
                group.raft().runtime_config().elect(false);
            }
        }
        Ok(())
    }

    /// Takes a stream of entries from a leader.
    ///
    /// # Errors
    /// [`PeerError`] if the sender is not let in.
    pub fn append(
        &self,
        header: &Header,
        entries: BoxStream<'static, Append>,
    ) -> Result<Replies<Appended>, PeerError> {
        let group = self.check_member(header)?;
        let term_min = self.store()?.floor(group.id()).term;
        let door = Door::new(
            group.id(),
            group.raft().clone(),
            self.vitals.clone(),
            header.from,
            term_min,
        );
        // What is not let in ends the stream, and the sender is told why.
        let refused = Arc::<Mutex<Option<PeerError>>>::default();
        let requests = futures::stream::unfold((door, entries, refused.clone()), async |mut taken| {
            let (door, entries, refused) = &mut taken;
            match door.admit(entries.next().await?).await {
                Ok(request) => Some((request, taken)),
                Err(error) => {
                    *refused.lock() = Some(error);
                    None
                }
            }
        });
        let replies = group
            .raft()
            .stream_append(requests)
            .map(|reply| reply.map(Appended::from).map_err(PeerError::stopped));
        let reason = futures::stream::once(async move { refused.lock().take() });
        let reason = reason.filter_map(|error| std::future::ready(error.map(Err)));
        Ok(replies.chain(reason).boxed())
    }

    /// Takes a stream of proposals from another node.
    ///
    /// # Errors
    /// [`PeerError`] if the sender is not let in.
    pub fn propose(
        &self,
        header: &Header,
        mut batches: BoxStream<'static, EncodedBatch>,
    ) -> Result<Replies<ProposeReply>, PeerError> {
        let group = self.check_member(header)?;
        let (batcher, node) = (group.batcher(), header.from);
        let known = group.epoch_of(node);
        // The stream may outlive the group, and so holds nothing of it but raft.
        let members = group.raft().metrics();
        let replies = futures::stream::once(async move {
            let refused = Arc::new(Refused::default());
            let take = async {
                while let Some(batch) = batches.next().await {
                    // A node proposes in its own name, and no more at once than an entry has places for.
                    let believed = sanity::proposals(&batch, known);
                    if let Err(reason) = &believed {
                        tracing::warn!(from = node, "proposals are refused: {reason}");
                    }
                    let is_sound =
                        batch.node == node && batch.commands.len() <= BATCH_COUNT_MAX && believed.is_ok();
                    // It may have been removed since.
                    let is_member = members
                        .borrow_watched()
                        .membership_config
                        .get_node(&node)
                        .is_some();
                    // While there is no room the next one is not read, and the sender waits.
                    if !is_sound || !is_member || !batcher.put(batch, &refused).await {
                        return;
                    }
                }
            };
            rtdb_runtime::select! {
                () = take => {}
                () = refused.wait() => {}
            }
            Ok(ProposeReply {})
        });
        Ok(replies.boxed())
    }
}
