//! A raft group on this node.

use crate::batcher::{Batcher, Inbox};
use crate::budget::Share;
use crate::command::SetNode;
use crate::config::{Config, Timing};
use crate::courier::Courier;
use crate::group_id::GroupId;
use crate::log::{GroupLog, Store};
use crate::machine::{Machine, Raft};
use crate::proposer::Proposer;
use crate::reads::Reads;
use crate::resolved::ResolvedLog;
use crate::resolver::{MetaState, Resolver, ShardState};
use crate::status::{GroupStatus, Role};
use crate::succession::{Succession, last};
use crate::supervisor::Supervisor;
use crate::transport::{Network, PeerError, Peers};
use crate::types::TypeConfig;
use crate::vitals::Vitals;
use crate::{
    Command, Follow, LogIndex, NoReadIndex, NotProposed, Origin, Outcome, Pending, Propose, ReadError,
    ResolvedEntry,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::VoteResponse;
use openraft::{ServerState, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Entries in one message to a follower, unless their bytes are too many.
const SENT_ENTRIES_MAX: u64 = 1024;

/// How long raft may take to stop.
const STOP_MAX: Duration = Duration::from_secs(3);

/// What a node's groups share.
#[derive(Clone, Copy)]
pub(crate) struct Host<'a> {
    pub(crate) store: &'a Arc<Store>,
    pub(crate) peers: &'a Arc<Peers>,
    pub(crate) epoch: u64,
    pub(crate) config: &'a Config,
    pub(crate) supervisor: &'a Supervisor,
    pub(crate) vitals: &'a Arc<Vitals>,
}

/// A raft group on this node.
pub struct Group {
    id: GroupId,
    store: Arc<Store>,
    raft: Raft,
    resolved: Arc<ResolvedLog>,
    proposer: Arc<Proposer>,
    peers: Arc<Peers>,
    batcher: Inbox,
    succession: Arc<Succession>,
    reads: Reads,
    applied: AtomicU64,
    vitals: Arc<Vitals>,
    supervisor: Supervisor,
}

impl Group {
    /// Starts a group with its `log` and its share of the bytes that may be `waiting` for entries.
    pub(crate) async fn start(
        log: GroupLog,
        waiting: Share,
        host: Host<'_>,
    ) -> Result<Arc<Self>, std::io::Error> {
        let Host {
            store,
            peers,
            epoch,
            config,
            supervisor,
            vitals,
        } = host;
        let id = log.id();
        let resolver = if id == GroupId::META {
            Resolver::meta()
        } else {
            Resolver::shard()
        };
        let proposer = Arc::new(Proposer::new(config.node, epoch, config.limits.clone()));
        let resolved = ResolvedLog::new(log.clone(), resolver, proposer.clone());
        let machine = Machine::open(resolved.clone())?;
        let (addrs, known) = watch::channel(BTreeMap::new());
        let network = Network {
            group: id,
            peers: peers.clone(),
            addrs: known,
        };
        let mut settings = raft_config(id, &config.timing).map_err(std::io::Error::other)?;
        // Until it is known to be ripe.
        settings.enable_elect = store.floor(id).index == 0;
        let settings = Arc::new(settings);
        let starting = Raft::new(config.node, settings, network, log, machine);
        let raft = supervisor
            .watch(format!("raft ({id})"), starting)
            .await
            .map_err(std::io::Error::other)?;
        let (batcher, incoming) = Inbox::new(waiting);
        let courier = Courier {
            group: id,
            proposer: proposer.clone(),
            store: store.clone(),
            leaders: raft.server_metrics(),
            batcher: batcher.clone(),
            peers: peers.clone(),
            timing: config.timing.clone(),
            vitals: vitals.clone(),
        };
        let heartbeat = Duration::from_millis(config.timing.heartbeat_ms);
        let succession = Succession::new(id, raft.clone(), peers.clone(), vitals.clone(), heartbeat);
        let group = Arc::new(Self {
            id,
            store: store.clone(),
            raft: raft.clone(),
            resolved,
            proposer,
            peers: peers.clone(),
            batcher,
            succession: Arc::new(succession),
            reads: Reads::new(id, raft.clone(), peers.clone()),
            applied: AtomicU64::new(0),
            vitals: vitals.clone(),
            supervisor: supervisor.clone(),
        });
        let batcher = Batcher {
            raft,
            incoming,
            vitals: vitals.clone(),
        };
        group.run("batcher", batcher.run());
        group.run("courier", courier.run());
        group.run("succession", group.succession.clone().run());
        group.run("raft", until_over(group.raft.clone()));
        group.run("address book", keep_addrs(group.raft.clone(), addrs));
        Ok(group)
    }

    /// Runs one of the group's tasks, which ends only when it is told to.
    pub(crate) fn run(&self, name: &str, task: impl Future<Output = ()> + Send + 'static) {
        let (id, raft, supervisor) = (self.id, self.raft.clone(), self.supervisor.clone());
        self.supervisor.run(format!("the {name} of {id}"), async move {
            task.await;
            // It ends when raft has: then raft has said why, unless it panicked. A panic is reported once it is over, so
            // that is waited for.
            let state = raft.metrics().borrow_watched().running_state.clone();
            match state {
                Err(fatal) => supervisor.fail(format!("{id} has stopped: {fatal}")),
                Ok(()) if supervisor.fatal().borrow().is_none() => drop(raft.with_raft_state(|_| ()).await),
                Ok(()) => {}
            }
        });
    }

    /// Which group it is.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The meta group's state; empty for a shard.
    pub fn meta(&self) -> Arc<MetaState> {
        self.resolved.resolver().meta_state()
    }

    /// The members of the meta group, as they have announced themselves there.
    pub fn announced(&self) -> Vec<SetNode> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let meta = self.meta();
        let members = meta
            .nodes()
            .filter(|node| membership.get_node(&node.node).is_some());
        members.cloned().collect()
    }

    /// What all members of the meta group can apply, as they have announced it there; 0 as long as one has not.
    pub fn feature_level(&self) -> u32 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let learners: Vec<u64> = membership.learner_ids().collect();
        self.meta().feature_level(&voters, &learners)
    }

    /// Looks at a shard's state, and holds the log's progress up meanwhile; `None` for the meta group.
    pub fn with_shard<T>(&self, look: impl FnOnce(&ShardState) -> T) -> Option<T> {
        self.resolved.resolver().shard_state().map(look)
    }

    /// This node's epoch in the group. When it changes, the cluster has expired the epoch before: all sessions of
    /// this node are ended, and its clients must be disconnected. 0 while a new epoch is being taken.
    pub fn epoch(&self) -> watch::Receiver<u64> {
        self.proposer.epoch()
    }

    /// How the group does.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let leader = metrics
            .current_leader
            .and_then(|id| Some((id, membership.get_node(&id)?.addr.clone())));
        let (outstanding_count, outstanding_bytes) = self.proposer.outstanding();
        GroupStatus {
            group: self.id,
            term: metrics.current_term,
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Candidate => Role::Candidate,
                ServerState::Follower => Role::Follower,
                ServerState::Learner | ServerState::Shutdown => Role::Learner,
            },
            leader,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            resolved: *self.resolved.resolved().borrow(),
            applied: self.applied.load(Ordering::Relaxed),
            sessions: self.with_shard(ShardState::session_count).unwrap_or(0),
            outstanding_count,
            outstanding_bytes,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            members: membership
                .nodes()
                .map(|(node, member)| (*node, member.clone()))
                .collect(),
            // A core that panicked has no time to say so.
            running: metrics.running_state.is_ok() && self.supervisor.fatal().borrow().is_none(),
        }
    }

    /// The term in which this node leads the group, if it does.
    pub fn leads(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.current_term)
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    #[cfg(test)]
    pub(crate) fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn succession(&self) -> &Succession {
        &self.succession
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(crate) fn batcher(&self) -> Inbox {
        self.batcher.clone()
    }

    /// Whether a node is listened to: one that belongs to the group as far as this node knows. Its own log may lack the newest
    /// members, and among them the leader that is to send it what is missing: then it goes by the word of other members, or of those
    /// who have taken it in. Before there is a log, it listens to those that found the cluster.
    pub(crate) fn is_member(&self, node: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let knows_itself = membership.get_node(&metrics.id).is_some();
        // Of one that comes again it says who they were once.
        let is_ripe = metrics.last_log_index.unwrap_or(0) >= self.store.floor(self.id).index;
        let is_new = !knows_itself || !is_ripe || self.store.taken_in().is_some();
        membership.get_node(&node).is_some()
            || self.peers.vouched.lock().knows(node)
            || (is_new && self.store.is_founder(node))
    }

    /// Who belongs to the group for sure, and the entry that says so; `None` as long as that is not known.
    pub(crate) fn members(&self) -> Option<(LogIndex, BTreeSet<u64>)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let at = membership
            .log_id()
            .filter(|at| Some(*at) <= metrics.local_committed)?;
        let nodes = membership.membership().nodes().map(|(node, _)| *node);
        Some((at.index, nodes.collect()))
    }

    /// The newest entry by which this node knows that it belongs to the group, as far as its log goes, or where it was taken in.
    pub(crate) fn member_since(&self) -> LogIndex {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let knows_itself = membership.membership().get_node(&metrics.id).is_some();
        let own = membership.log_id().filter(|_| knows_itself).map(|at| at.index);
        own.max(self.store.taken_in()).unwrap_or(0)
    }

    /// Whether this node's log has reached what the group had when it was taken in.
    pub(crate) fn is_ripe(&self) -> bool {
        let last = self.raft.metrics().borrow_watched().last_log_index;
        last.unwrap_or(0) >= self.store.floor(self.id).index
    }

    /// What a node answers to those who want its vote, as long as it is not [ripe](Self::is_ripe). One that founds the cluster with
    /// others begins its log before it votes: once it has voted it could not, and who stands may die.
    pub(crate) async fn unripe(&self) -> Result<Option<VoteResponse<TypeConfig>>, PeerError> {
        let floor = self.store.floor(self.id).index;
        let begins = self.store.pledge().is_decided;
        let answer = self.raft.with_raft_state(move |state| {
            let last = last(state);
            let is_ripe = last.map_or(0, |id| id.index) >= floor && (last.is_some() || !begins);
            (!is_ripe).then(|| VoteResponse::new(*state.vote_ref(), last, false))
        });
        answer.await.map_err(PeerError::stopped)
    }

    /// Whether the group's leader has spoken to this node lately, or this node leads it and a majority answers.
    pub(crate) async fn is_served(&self, lately: Duration) -> bool {
        let acked = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let acked = metrics
                .last_quorum_acked
                .filter(|_| metrics.state == ServerState::Leader);
            acked.map(|acked| acked.elapsed())
        };
        let heard = self.raft.with_raft_state(|state| {
            let heard = state.vote_last_modified().filter(|_| state.vote_ref().committed);
            heard.map(|heard| heard.elapsed())
        });
        let me = self.peers.node;
        let leads = self.raft.metrics().borrow_watched().current_leader == Some(me);
        let heard = heard.await.ok().flatten().filter(|_| !leads);
        acked.into_iter().chain(heard).any(|ago| ago < lately)
    }

    /// Databases, no more than `count_max`, that were begun to be restored by nodes' lives that are over; and their births.
    pub(crate) fn abandoned(&self, count_max: usize) -> Vec<(Bytes, u64)> {
        self.resolved.resolver().abandoned(count_max)
    }

    pub(crate) fn orphans(&self, count_max: usize) -> Vec<u64> {
        self.resolved.resolver().orphans(count_max)
    }

    /// A node's last epoch; 0 if it had none.
    pub(crate) fn epoch_of(&self, node: u64) -> u64 {
        let stream = self.resolved.resolver().stream(node);
        stream.map_or(0, |(origin, _)| origin.epoch)
    }

    /// The nodes whose present epoch is not over.
    pub(crate) fn living(&self) -> Vec<Origin> {
        self.resolved.resolver().living()
    }

    pub(crate) async fn stop(&self) {
        self.proposer.stop();
        // It waits for what it is writing, on a disk that may hang. Were it dropped then, openraft would panic where others
        // ask why its core has ended.
        let raft = self.raft.clone();
        let stopping = rtdb_runtime::spawn(async move { raft.shutdown().await });
        let stopped = rtdb_runtime::timeout(STOP_MAX, stopping).await;
        if !matches!(stopped, Ok(Ok(Ok(())))) {
            tracing::warn!(group = %self.id, "raft did not stop in order");
        }
    }
}

/// Keeps the members' addresses as the group has them now: raft goes on talking to a member where it was when it began to.
async fn keep_addrs(raft: Raft, addrs: watch::Sender<BTreeMap<u64, String>>) {
    let mut changes = raft.server_metrics();
    loop {
        let known: BTreeMap<u64, String> = {
            let metrics = changes.borrow_watched();
            let nodes = metrics.membership_config.nodes();
            nodes.map(|(node, member)| (*node, member.addr.clone())).collect()
        };
        addrs.send_if_modified(|addrs| {
            let is_new = *addrs != known;
            *addrs = known;
            is_new
        });
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Waits until raft's core has ended.
async fn until_over(raft: Raft) {
    let mut changes = raft.server_metrics();
    while changes.changed().await.is_ok() {}
}

fn raft_config(id: GroupId, timing: &Timing) -> Result<openraft::Config, openraft::ConfigError> {
    openraft::Config {
        cluster_name: id.to_string(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_ms_min,
        election_timeout_max: timing.election_ms_max,
        max_payload_entries: SENT_ENTRIES_MAX,
        // The log is kept whole: a follower, however far behind, gets entries.
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        // Followers write while the leader does. They may so have entries that a leader who crashes has not: it must
        // never lead in the same term again, or other entries would get the same ids.
        broadcast_submitted_on_append: Some(true),
        enable_leader_restore: Some(rtdb_runtime::planted("leaders are restored")),
        backoff: "50ms 100ms 200ms ...500ms".to_owned(),
        ..openraft::Config::default()
    }
    .validate()
}

impl Propose for Group {
    fn submit(&self, command: Command) -> Result<Pending, NotProposed> {
        let space = self.vitals.space.now();
        if space.is_low && command.grows() {
            return Err(NotProposed::DiskLow {
                free_bytes: space.free_bytes.unwrap_or(0),
                reserve_bytes: space.reserve_bytes,
            });
        }
        self.proposer.submit(&command)
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.proposer.ready())
    }

    fn read_index(&self) -> BoxFuture<'_, Result<LogIndex, NoReadIndex>> {
        Box::pin(self.reads.index())
    }
}

impl Follow for Group {
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.resolved.resolved()
    }

    fn read(
        &self,
        from: LogIndex,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        Box::pin(self.resolved.read(from, bytes_max))
    }

    fn complete(&self, origin: Origin, seq: u64, outcome: Outcome) {
        self.proposer.complete(origin, seq, outcome);
    }

    fn applied(&self, index: LogIndex) {
        self.applied.fetch_max(index, Ordering::Relaxed);
    }
}
