//! The server's side: who is let in, and what is answered.

use super::PeerError;
use super::peers::Replies;
use super::protocol::Versions;
use super::sanity;
use super::wire::{
    Answer, Append, Appended, Ask, Header, Hello, Join, Pong, ProposeReply, Reply, Request, TransferAnswer,
    VoteAnswer,
};
use crate::group::Group;
use crate::log::{Store, StoreError};
use crate::proposer::{BATCH_COUNT_MAX, Refused};
use crate::record::{EncodedBatch, LogRecord};
use crate::types::GroupId;
use crate::vitals::Vitals;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use openraft::raft::AppendEntriesRequest;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a node answers its peers.
pub struct Service {
    me: Hello,
    vitals: Arc<Vitals>,
    /// `None` once the node has stopped: connections may live longer.
    node: RwLock<Option<Running>>,
}

/// A node that runs.
#[derive(Clone)]
struct Running {
    store: Arc<Store>,
    groups: BTreeMap<GroupId, Arc<Group>>,
}

impl Service {
    pub(crate) fn new(me: Hello, store: Arc<Store>, vitals: Arc<Vitals>) -> Self {
        Self {
            me,
            vitals,
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
            Some(theirs) if theirs != header.cluster => Err(PeerError::OtherCluster {
                ours: header.cluster.clone(),
                theirs,
            }),
            Some(_) => Ok(()),
        }
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
                Answer::Vote(
                    group
                        .raft()
                        .vote(ask.try_into()?)
                        .map_ok(VoteAnswer::from)
                        .map_err(PeerError::stopped)
                        .await?,
                )
            }
            // The group itself decides: it refuses while it hears from a leader, or if its log is newer.
            Ask::PreVote(ask) => {
                let group = self.check_member(&header)?;
                sanity::vote_ask(&ask, header.from, term_max)?;
                let answer = group.raft().pre_vote(ask.try_into()?).map_ok(VoteAnswer::from);
                Answer::Vote(answer.map_err(PeerError::stopped).await?)
            }
            Ask::Transfer(ask) => {
                let group = self.check_member(&header)?;
                sanity::vote(ask.from.as_ref(), term_max)?;
                let answer = group
                    .raft()
                    .handle_transfer_leader(ask.try_into()?)
                    .map_ok(TransferAnswer::from);
                Answer::Transfer(answer.map_err(PeerError::stopped).await?)
            }
            Ask::Hello(_) => {
                self.check(&header)?;
                let cluster = self.store()?.cluster().unwrap_or_default();
                Answer::Hello(Hello {
                    cluster,
                    ..self.me.clone()
                })
            }
            // Answered at once: whether a node's disk or raft is slow is not the question.
            Ask::Ping(_) => {
                self.check_cluster(&header)?;
                Answer::Pong(Pong {
                    clock_us: self.vitals.clock.now_us(),
                    is_fit: self.vitals.is_fit(),
                })
            }
            Ask::Join(_) => {
                self.check(&header)?;
                self.join(&header).await?;
                Answer::Join(Join {})
            }
        };
        Ok(Reply { answer: Some(answer) })
    }

    async fn join(&self, header: &Header) -> Result<(), PeerError> {
        if header.cluster.is_empty() {
            return Err(PeerError::NoCluster);
        }
        self.store()?
            .bind_cluster(&header.cluster)
            .await
            .map_err(|error| match error {
                StoreError::OtherCluster { found, wanted } => PeerError::OtherCluster {
                    ours: wanted,
                    theirs: found,
                },
                other => PeerError::stopped(other),
            })
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
        let vitals = self.vitals.clone();
        // A message that is not understood ends the stream, and so does one that is not believed, or of another time.
        let from = header.from;
        let requests = entries
            .take_while({
                let vitals = vitals.clone();
                move |append| {
                    let term_max = sanity::term_max(vitals.clock.now_us());
                    let sound = sanity::append(append, from, term_max);
                    if let Err(reason) = &sound {
                        tracing::warn!(from, "entries are refused: {reason}");
                    }
                    std::future::ready(sound.is_ok())
                }
            })
            .take_while(move |append| std::future::ready(!is_of_the_future(append, &vitals)))
            .map(AppendEntriesRequest::try_from)
            .take_while(|request| std::future::ready(request.is_ok()))
            .filter_map(|request| std::future::ready(request.ok()));
        let replies = group.raft().stream_append(requests);
        Ok(replies
            .map(|reply| reply.map(Appended::from).map_err(PeerError::stopped))
            .boxed())
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
        let (batcher, node, vitals) = (group.batcher(), header.from, self.vitals.clone());
        let replies = futures::stream::once(async move {
            let refused = Arc::new(Refused::default());
            let take = async {
                while let Some(batch) = batches.next().await {
                    // A node proposes in its own name, and no more at once than an entry has places for.
                    let believed = sanity::proposals(&batch, vitals.clock.now_us());
                    if let Err(reason) = &believed {
                        tracing::warn!(from = node, "proposals are refused: {reason}");
                    }
                    let is_sound =
                        batch.node == node && batch.commands.len() <= BATCH_COUNT_MAX && believed.is_ok();
                    // While there is no room the next one is not read, and the sender waits.
                    if !is_sound || !batcher.put(batch, &refused).await {
                        return;
                    }
                }
            };
            tokio::select! {
                () = take => {}
                () = refused.wait() => {}
            }
            Ok(ProposeReply {})
        });
        Ok(replies.boxed())
    }
}

/// Whether an entry that is not known to be committed is stamped further ahead than any good clock could. What is
/// committed is taken, whatever its stamp.
fn is_of_the_future(append: &Append, vitals: &Vitals) -> bool {
    let committed = append.commit.map_or(0, |id| id.index);
    let new = append
        .entries
        .iter()
        .filter(|entry| entry.log_id.is_some_and(|id| id.index > committed));
    let mut stamps = new.filter_map(LogRecord::stamp_us);
    let Some(stamp_us) = stamps.find(|stamp| vitals.clock.is_far_ahead(*stamp)) else {
        return false;
    };
    tracing::error!(
        stamp_us,
        "an entry is refused whose time is far ahead of this node's: see to the leader's clock"
    );
    true
}
