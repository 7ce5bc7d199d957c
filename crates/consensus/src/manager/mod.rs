//! All of a node's groups: starting, initialising, handing over, stopping.

mod bootstrap;
mod error;
mod init;
mod lasting;
mod members;
mod steward;
mod tasks;

pub use bootstrap::Bootstrap;
pub use error::{BootstrapError, ChangeError, InitError, StartError};

use crate::budget::ByteBudget;
use crate::command::FEATURE_LEVEL;
use crate::config::{Config, META_WAITING_BYTES_MAX};
use crate::group::{Group, Host};
use crate::group_id::GroupId;
use crate::log::{Disk, Files, Store};
use crate::membership::{Promoter, hand_over};
use crate::service::{Service, router};
use crate::status::NodeStatus;
use crate::supervisor::Supervisor;
use crate::transport::wire::Hello;
use crate::transport::{Grpc, PeerBudgets, PeerError, PeerInfo, Peers, Transport};
use crate::vitals::{Lag, Slowed, Vitals};
use crate::warden::Warden;
use parking_lot::Mutex;
use rtdb_runtime::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use steward::{Comparison, keep_fit, watch_space, watch_work};
use tasks::{announce, take_in_whoever_asks, watch_store};
use tokio::sync::{mpsc, watch};

/// All of a node's groups.
pub struct Manager {
    config: Config,
    store: Arc<Store>,
    service: Arc<Service>,
    peers: Arc<Peers>,
    groups: BTreeMap<GroupId, Arc<Group>>,
    spacetimedb_version: watch::Sender<Option<String>>,
    supervisor: Supervisor,
    vitals: Arc<Vitals>,
    /// Of batches that wait for their entries: the meta group's, and the shards'.
    waiting: [Arc<ByteBudget>; 2],
    /// What a node that is in no cluster waits for, of those that look for one.
    formation: watch::Sender<Option<String>>,
}

/// Nodes that wait to be taken in through this one.
const WISHES_MAX: usize = 16;

impl Manager {
    /// Opens the data directory and starts the groups. The [`router`](Self::router) must be served on the raft
    /// address soon after.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub async fn start(config: Config) -> Result<Arc<Self>, StartError> {
        Self::start_with(config, Arc::new(Grpc::default()), Disk).await
    }

    /// [`start`](Self::start), with another transport or disk.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub async fn start_with(
        config: Config,
        transport: Arc<dyn Transport>,
        files: impl Files,
    ) -> Result<Arc<Self>, StartError> {
        let store = Store::open_with(&config.data_dir, config.node, files)?;
        Self::start_on(store, config, transport).await
    }

    /// [`start`](Self::start), on a log that is open.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub async fn start_on(
        store: Arc<Store>,
        config: Config,
        transport: Arc<dyn Transport>,
    ) -> Result<Arc<Self>, StartError> {
        let (watched, patience) = (store.clone(), config.timing.disk());
        rtdb_runtime::select! {
            started = Self::begin(store, config, transport) => started,
            () = watched.watch(patience) => Err(StartError::Disk {
                reason: watched.fatal().borrow().clone().unwrap_or_default().to_string(),
            }),
        }
    }

    async fn begin(
        store: Arc<Store>,
        config: Config,
        transport: Arc<dyn Transport>,
    ) -> Result<Arc<Self>, StartError> {
        let vitals = Vitals::new(config.node, config.wall_clock.clone(), config.disk_reserve_bytes);
        let starting = |group| move |source| StartError::Group { group, source };
        let epoch = store
            .next_epoch(vitals.clock.now_us(), 0)
            .await
            .map_err(starting(GroupId::META))?;
        let instance = rtdb_runtime::random();
        let peers = Arc::new(Peers {
            node: config.node,
            instance,
            store: store.clone(),
            transport,
            answer_timeout: config.timing.answer(),
            vitals: vitals.clone(),
            appends: PeerBudgets::new(config.limits.peer_bytes_max),
            vouched: Mutex::default(),
        });
        let me = Hello {
            node: config.node,
            instance,
            in_cluster: false,
            raft_addr: config.raft_addr.clone(),
            client_addr: config.client_addr.clone(),
            feature_level: FEATURE_LEVEL,
        };
        let patience = config.timing.another_leads();
        let (wishes, wished) = mpsc::channel(WISHES_MAX);
        let service = Service::new(me, store.clone(), vitals.clone(), patience, wishes);
        let service = Arc::new(service);
        let supervisor = Supervisor::new();
        let waiting = [META_WAITING_BYTES_MAX, config.limits.waiting_bytes_max].map(ByteBudget::new);
        let mut groups = BTreeMap::new();
        for id in [GroupId::META, GroupId::SHARD] {
            let log = store.group(id)?;
            let waiting = waiting[usize::from(id != GroupId::META)].share();
            let host = Host {
                store: &store,
                peers: &peers,
                epoch,
                config: &config,
                supervisor: &supervisor,
                vitals: &vitals,
            };
            let group = Group::start(log, waiting, host).await.map_err(starting(id))?;
            groups.insert(id, group);
        }
        service.serve(groups.clone());
        let (spacetimedb_version, met) = watch::channel(None);
        let shard = &groups[&GroupId::SHARD];
        let warden = Warden {
            node: config.node,
            group: shard.clone(),
            meta: groups[&GroupId::META].clone(),
            lease: config.timing.lease(),
            vitals: vitals.clone(),
        };
        shard.run("warden", warden.run());
        for group in groups.values() {
            let promoter = Promoter {
                group: group.clone(),
                meta: groups[&GroupId::META].clone(),
                vitals: vitals.clone(),
                me: config.node,
                patience: config.timing.another_leads(),
            };
            group.run("promoter", promoter.run());
        }
        let announced = announce(groups[&GroupId::META].clone(), config.clone(), met);
        supervisor.run_once("the announcement of this node", announced);
        let meta = groups[&GroupId::META].clone();
        let compared = Comparison {
            meta,
            peers: peers.clone(),
            vitals: vitals.clone(),
            lease: config.timing.lease(),
            served: patience,
            supervisor: supervisor.clone(),
        };
        supervisor.run("the comparison of clocks", compared.run());
        let watched = watch_space(
            config.free_space.clone(),
            config.data_dir.clone(),
            vitals.clone(),
            supervisor.clone(),
        );
        supervisor.run("the watch of the disk's room", watched);
        let watched = watch_work(store.clone(), groups[&GroupId::SHARD].clone(), vitals.clone());
        supervisor.run("the watch of the node's pace", watched);
        let all = groups.values().cloned().collect();
        let patience = config.timing.another_leads();
        supervisor.run(
            "the steward",
            keep_fit(all, config.node, vitals.clone(), patience),
        );
        supervisor.run(
            "the watch of the store",
            watch_store(store.clone(), config.timing.disk(), supervisor.clone()),
        );
        let manager = Arc::new(Self {
            config,
            store,
            service,
            peers,
            groups,
            spacetimedb_version,
            supervisor,
            vitals,
            waiting,
            formation: watch::Sender::default(),
        });
        let porter = take_in_whoever_asks(Arc::downgrade(&manager), wished);
        manager.supervisor.run_once("the porter", porter);
        Ok(manager)
    }

    /// What peers call: to be served, with HTTP/2, on the raft address. Other routes may be merged into it.
    pub fn router(&self) -> axum::Router {
        router(self.service.clone())
    }

    /// What peers call, for another transport.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The group of the cluster's own settings.
    pub fn meta(&self) -> &Arc<Group> {
        &self.groups[&GroupId::META]
    }

    /// The shard that holds every database.
    pub fn shard(&self) -> &Arc<Group> {
        &self.groups[&GroupId::SHARD]
    }

    /// The node's id.
    pub fn node(&self) -> u64 {
        self.config.node
    }

    /// The cluster this node belongs to; `None` before `rtdb init`.
    pub fn cluster(&self) -> Option<String> {
        self.store.cluster()
    }

    /// What this node waits for as it [looks for a cluster](Self::bootstrap), or founds one.
    pub fn formation(&self) -> Option<String> {
        self.formation.borrow().clone()
    }

    /// Tells the cluster which version the SpacetimeDB behind this node has.
    pub fn set_spacetimedb_version(&self, version: String) {
        self.spacetimedb_version.send_replace(Some(version));
    }

    /// Says how far this node's replicas lag, by database: from time to time, or they count as replicas that keep up.
    pub fn set_lags(&self, lags: impl IntoIterator<Item = ([u8; 32], Lag)>) {
        let mut known = self.vitals.lags.lock();
        known.note(self.config.node, lags, Instant::now());
    }

    /// The databases that are slowed from now on, since a majority of their replicas lags, and how many calls of each this
    /// node may propose beyond those that it was told before.
    pub fn slowed(&self) -> Vec<Slowed> {
        let voters = self.shard().status().voters.into_iter().collect();
        self.vitals.lags.lock().judge(&voters, Instant::now())
    }

    /// Whether a majority of a database's replicas lags: then no other node is better.
    pub fn is_lag_common(&self, database: &[u8; 32]) -> bool {
        let voters = self.shard().status().voters.into_iter().collect();
        self.vitals
            .lags
            .lock()
            .is_common(database, &voters, Instant::now())
    }

    /// Whether a database is slowed, as [`slowed`](Self::slowed) has said last.
    pub fn is_slowed(&self, database: &[u8; 32]) -> bool {
        self.vitals.lags.lock().is_slowed(database)
    }

    /// Becomes `Some`, with the reason, when the node can't go on: its disk refuses, the log holds what it does not
    /// understand, or one of its tasks has ended. Nothing more is acknowledged from then on, and the process should
    /// stop.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.supervisor.fatal()
    }

    /// The [feature level](crate::command::FEATURE_LEVEL) that all nodes of the cluster have announced: what came with a
    /// later one must not be proposed.
    pub fn feature_level(&self) -> u32 {
        let status = self.meta().status();
        self.meta().meta().feature_level(&status.voters, &status.learners)
    }

    /// How the node does.
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.config.node,
            cluster: self.cluster(),
            groups: self.groups.values().map(|group| group.status()).collect(),
            append_bytes: self.peers.appends.held(),
            waiting_bytes: self.waiting.iter().map(|budget| budget.held()).sum(),
            writes: self.store.stats(),
            clock: *self.vitals.clock.verdict().borrow(),
            space: self.vitals.space.now(),
            troubles: self.vitals.troubles(),
        }
    }

    #[cfg(test)]
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Of batches that wait for their entries in the shards.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> &Arc<ByteBudget> {
        &self.waiting[1]
    }

    /// Asks who answers at an address: to find out the ids of `--peers`, and whether two nodes have one id.
    ///
    /// # Errors
    /// [`PeerError::SameId`] if another process has this node's id; otherwise why the peer can't be talked to.
    pub async fn hello(&self, addr: &str) -> Result<PeerInfo, PeerError> {
        self.peers.hello(addr).await
    }

    /// Hands the leadership of every group that this node leads to its most advanced follower, to one that is fit to
    /// lead if there is one, and waits a moment for it to be taken. Gives back whether this node leads nothing any more.
    pub async fn transfer_leadership(&self) -> bool {
        let patience = self.config.timing.another_leads();
        let (me, clock) = (self.config.node, &self.vitals.clock);
        let transfers = self.groups.values().map(async |group| {
            hand_over(group, me, patience, |node| clock.is_fit(node)).await
                || hand_over(group, me, patience, |_| true).await
        });
        futures::future::join_all(transfers)
            .await
            .into_iter()
            .all(|done| done)
    }

    /// Has this node lead nothing from now on, as long as another node can, or lets it lead again.
    pub async fn drain(&self, drain: bool) {
        self.vitals.is_drained.store(drain, Relaxed);
        if drain {
            self.transfer_leadership().await;
        }
    }

    /// Waits until the data directory is closed: after [`shutdown`](Self::shutdown), and once the last handle to the
    /// manager and to its groups is dropped.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.store.closed()
    }

    /// Stops the groups: what is under way has an unknown outcome.
    pub async fn shutdown(&self) {
        self.service.stop();
        self.supervisor.stopping();
        for group in self.groups.values() {
            group.stop().await;
        }
        self.supervisor.stop().await;
    }
}
