//! A running node: its raft groups, and what it says of itself.

use crate::config::Config;
use crate::keys;
use crate::kinds;
use crate::lag::Behind;
use crate::local::{LocalNode, Running};
use crate::metrics::Metrics;
use crate::snapshots::Turns;
use crate::status::{
    DatabaseStatus, DivergedReplica, GroupStatus, MemberStatus, Membership, NodeAddrs, NodeStatus,
    ServerStatus, SplitReplicas, StuckStatus,
};
use axum::body::Bytes;
use axum::http::StatusCode;
use rtdb_consensus::command::{
    Body, InitCluster, LEVEL_REPORTS, POISON_LEVEL, Poison, PoisonStep, Resolve, Skipped, Verify,
};
use rtdb_consensus::wire::MemberChange;
use rtdb_consensus::{
    Applied, Audit, ChangeError, ClockVerdict, GroupId, InitError, Manager, Position, Propose, Role,
    Unapplied,
};
use rtdb_gateway::Gateway;
use rtdb_replica::{Contents, Phase, Quarantine, ReplicaStatus, ServerState};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// What the admin API and the wiring share.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) manager: Arc<Manager>,
    pub(crate) local: Arc<LocalNode>,
    pub(crate) metrics: Metrics,
    pub(crate) gateway: Gateway,
    pub(crate) is_drained: AtomicBool,
    pub(crate) snapshots: Turns,
}

/// How long the nodes may take to agree on what an operator wants.
const AGREE_MAX: Duration = Duration::from_secs(20);

/// The cluster is initialised.
#[derive(Serialize)]
pub(crate) struct Initialised {
    /// Its id.
    pub(crate) cluster_id: String,
    /// Whether it was before.
    pub(crate) already: bool,
}

/// Why what an operator wants was not done.
pub(crate) struct Refused {
    /// The status to answer with.
    pub(crate) status: StatusCode,
    /// What to do about it.
    pub(crate) reason: String,
}

impl Node {
    /// The shard's leader, if this node knows one.
    pub(crate) fn leader(&self) -> Option<NodeAddrs> {
        let (id, raft_addr) = self.manager.shard().status().leader?;
        Some(self.addrs(id, raft_addr))
    }

    /// Why there is no leader, for people.
    pub(crate) fn why_no_leader(&self) -> String {
        if self.manager.cluster().is_some() {
            return "no leader is known: fewer than a majority of the nodes can talk to each other, or an election is under way"
                .to_owned();
        }
        match self.manager.formation() {
            Some(what) => format!("this node is in no cluster yet, and waits for {what}"),
            None => {
                "the cluster has not been initialised: run `rtdb init` once, when its nodes are up".to_owned()
            }
        }
    }

    fn addrs(&self, id: u64, raft_addr: String) -> NodeAddrs {
        let meta = self.manager.meta().meta();
        let client_addr = meta
            .node(id)
            .map(|node| node.client_addr.clone())
            .unwrap_or_default();
        NodeAddrs {
            id,
            raft_addr,
            client_addr,
        }
    }

    /// Makes a cluster of the nodes, with keys of its own if the nodes run their servers themselves. May be repeated.
    pub(crate) async fn init(&self, nodes: BTreeMap<u64, String>) -> Result<Initialised, Refused> {
        let already = self.manager.meta().meta().cluster().is_some();
        let keys = keys::for_new_cluster(&self.config.server).map_err(|error| Refused {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason: error.to_string(),
        })?;
        let settings = InitCluster {
            cluster_id: uuid::Uuid::new_v4().to_string(),
            ..keys
        };
        let init = tokio::time::timeout(AGREE_MAX, self.manager.init(nodes, settings)).await;
        let initialised = init.map_err(|_| Refused {
            status: StatusCode::GATEWAY_TIMEOUT,
            reason: "a majority of the nodes does not agree yet: see that they run, and run this again"
                .to_owned(),
        })?;
        let cluster_id = initialised.map_err(|error| Refused {
            status: match error {
                InitError::NotAmongNodes(_) => StatusCode::BAD_REQUEST,
                InitError::Peer { .. } => StatusCode::BAD_GATEWAY,
                InitError::NotProposed(_) => StatusCode::SERVICE_UNAVAILABLE,
                InitError::AlreadyInitialised { .. }
                | InitError::Begun(_)
                | InitError::Lost(_)
                | InitError::Unapplied(_) => StatusCode::CONFLICT,
                InitError::Store(_) | InitError::Raft { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            reason: error.to_string(),
        })?;
        Ok(Initialised { cluster_id, already })
    }

    /// Says which node's replica of a split database is right.
    pub(crate) async fn resolve(&self, database: &str, node: u64) -> Result<(), Refused> {
        let database = self.identity_of(database)?;
        let body = Body::Resolve(Resolve { database, node });
        self.command(LEVEL_REPORTS, body).await.map(drop)
    }

    /// Changes the members of all groups, or of one.
    pub(crate) async fn change_members(
        &self,
        change: MemberChange,
        group: Option<GroupId>,
    ) -> Result<(), Refused> {
        let changed = self.manager.change_members(change, group).await;
        changed.map_err(|error| Refused {
            status: match error {
                ChangeError::Unsound | ChangeError::UnknownGroup => StatusCode::BAD_REQUEST,
                ChangeError::NoCluster
                | ChangeError::OtherNode { .. }
                | ChangeError::TooOld { .. }
                | ChangeError::Refused { .. } => StatusCode::CONFLICT,
                ChangeError::Peer { .. } => StatusCode::BAD_GATEWAY,
                ChangeError::Unfinished { .. } => StatusCode::SERVICE_UNAVAILABLE,
            },
            reason: error.to_string(),
        })
    }

    /// The members of the meta group.
    pub(crate) fn members(&self) -> Vec<Membership> {
        let status = self.manager.meta().status();
        let shard = self.manager.shard().status();
        let leader = |of: &rtdb_consensus::GroupStatus| of.leader.as_ref().map(|(id, _)| *id);
        let members = status.members.iter().map(|(id, member)| {
            let groups = [&status, &shard];
            let leads = groups.into_iter().filter(|group| leader(group) == Some(*id));
            Membership {
                addrs: self.addrs(*id, member.addr.clone()),
                votes: groups.into_iter().all(|group| group.voters.contains(id)),
                never_votes: member.never_votes,
                leads: leads.map(|group| group.group.to_string()).collect(),
            }
        });
        members.collect()
    }

    /// Sends the node's clients and leaderships to other nodes, for as long as it runs, or lets them come again.
    pub(crate) async fn drain(&self, drain: bool) {
        self.is_drained.store(drain, Relaxed);
        self.manager.drain(drain).await;
        match drain {
            true => self.gateway.drain(self.hint("drained")),
            false => self.gateway.take_clients(),
        }
    }

    /// Whom a client is told to turn to; `else`, if nobody is known.
    pub(crate) fn hint(&self, or_else: &str) -> String {
        match self.leader() {
            Some(leader) if leader.id != self.config.node_id => {
                format!("leader={}:{}", leader.id, leader.client_addr)
            }
            _ => or_else.to_owned(),
        }
    }

    /// Lets every replica read its rows at one position of the log, which is given back with the database's identity.
    pub(crate) async fn verify(&self, database: &str) -> Result<(Position, String), Refused> {
        let database = self.identity_of(database)?;
        let identity = hex_of(&database);
        let scrub = false;
        let body = Body::Verify(Verify { database, scrub });
        let applied = self.command(LEVEL_REPORTS, body).await?;
        Ok((applied.position, identity))
    }

    /// What this node's replica held at a position, if it was read there.
    pub(crate) fn contents(&self, identity: &str, position: Position) -> Option<Arc<Contents>> {
        let identity = from_big_endian_hex(identity)?;
        self.local.running()?.replica.contents(&identity, position)
    }

    /// Why this node has set a database aside, if it has.
    pub(crate) fn set_aside(&self, identity: &str) -> Option<Quarantine> {
        let identity = from_big_endian_hex(identity)?;
        let quarantine = self.local.running()?.replica.quarantine(&identity)?;
        quarantine.borrow().clone()
    }

    pub(crate) fn identity_of(&self, database: &str) -> Result<Bytes, Refused> {
        let meta = self.manager.meta().meta();
        let named = meta.named(database);
        let by_identity = || meta.database(&from_big_endian_hex(database)?);
        let record = named.or_else(by_identity).ok_or_else(|| Refused {
            status: StatusCode::NOT_FOUND,
            reason: format!("there is no database `{database}`"),
        })?;
        Ok(record.identity.clone())
    }

    /// Proposes an operator's command, known from this feature level on, to the shard, and waits for its outcome.
    async fn command(&self, level: u32, body: Body) -> Result<Applied, Refused> {
        let refuse = |status, reason: String| Err(Refused { status, reason });
        if self.manager.feature_level() < level {
            let reason = "not all nodes know this command yet: update them first".to_owned();
            return refuse(StatusCode::CONFLICT, reason);
        }
        let pending = match self.manager.shard().submit(body.into()) {
            Ok(pending) => pending,
            Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        };
        match tokio::time::timeout(AGREE_MAX, pending).await {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(Unapplied::Refused(refusal))) => refuse(StatusCode::CONFLICT, refusal.to_string()),
            Ok(Err(error)) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Err(_) => refuse(
                StatusCode::GATEWAY_TIMEOUT,
                format!(
                    "there is no outcome after {} s, and it may still come: see `rtdb status`",
                    AGREE_MAX.as_secs()
                ),
            ),
        }
    }

    /// The metrics, in Prometheus's text format.
    pub(crate) fn metrics(&self) -> Result<String, prometheus::Error> {
        self.metrics.render(&self.status(), self.manager.status().writes)
    }

    /// Why clients should turn to another node for now; nothing, if they need not.
    /// `lag_max_ms` goes before the setting.
    pub(crate) fn unready(&self, lag_max_ms: Option<u64>) -> Option<String> {
        if self.is_drained.load(Relaxed) {
            return Some("this node is drained: `rtdb drain --undo` lets clients come again".to_owned());
        }
        if self.leader().is_none() {
            return Some(self.why_no_leader());
        }
        let up = |running: &&Running| *running.server.state().borrow() == ServerState::Up;
        let Some(running) = self.local.running().filter(up) else {
            return Some("this node's SpacetimeDB does not answer".to_owned());
        };
        let max = lag_max_ms.unwrap_or(self.config.ready_lag_max_ms);
        let behind = behind(running).exceeds(max, |database| self.manager.is_lag_common(database));
        behind.map(|lag| {
            format!(
                "this node is {lag} ms behind, and may be {max} (--ready-lag-max-ms, or `max_lag_ms` here)"
            )
        })
    }

    /// What the node says of itself. Nobody is asked for it: the databases' digests are those that were read last.
    pub(crate) fn status(&self) -> NodeStatus {
        let replica = self.local.running().map(|running| running.replica.progress());
        let raft = self.manager.status();
        let meta = self.manager.meta().meta();
        let announced = self.manager.meta().announced();
        let up = replica
            .as_ref()
            .is_some_and(|replica| replica.server == ServerState::Up);
        let waiting_for = match (&raft.cluster, up) {
            (None, _) => Some(
                self.manager
                    .formation()
                    .unwrap_or_else(|| "`rtdb init`".to_owned()),
            ),
            (Some(_), false) => Some("SpacetimeDB".to_owned()),
            (Some(_), true) => None,
        };
        let databases = replica
            .iter()
            .flat_map(|replica| &replica.databases)
            .map(|database| {
                let names = meta
                    .database(&database.identity)
                    .map(|it| it.names.clone())
                    .unwrap_or_default();
                let position = database.digest.map_or(database.applied, |digest| digest.position);
                let identity = &database.identity;
                let known = self.manager.shard().with_shard(|shard| {
                    let agreed = shard.audit(identity).and_then(Audit::agreed);
                    let split = shard.audits(identity).find_map(split);
                    (agreed, split, shard.diverged(identity))
                });
                let (agreed, split, diverged) = known.unwrap_or_default();
                let diverged = diverged.iter().map(|(node, it)| DivergedReplica {
                    node: *node,
                    after: Position(it.after).to_string(),
                    by: Position(it.by).to_string(),
                });
                DatabaseStatus {
                    set_aside: match &database.phase {
                        Phase::Quarantined(why) => Some(why.to_string()),
                        _ => None,
                    },
                    agreed_index: agreed.map(|agreed| agreed.position),
                    diverged: diverged.collect(),
                    split,
                    identity: big_endian_hex(database.identity),
                    names,
                    applied: database.applied.to_string(),
                    index: position.0,
                    digest: database.digest.map(|digest| format!("{:016x}", digest.value)),
                    digest_is_old: database.digest_is_old,
                    in_flight: database.in_flight,
                    lag_commands: database.lag.commands,
                    lag_ms: database.lag.age_ms,
                    slowed: self.manager.is_slowed(identity),
                    overlong_calls: database.overlong_calls,
                    stuck: self.stuck(database),
                }
            });
        NodeStatus {
            node_id: raft.node,
            cluster_id: raft.cluster,
            version: env!("CARGO_PKG_VERSION"),
            ready: waiting_for.is_none(),
            lag_ms: self.local.running().map_or(0, |running| behind(running).ms()),
            waiting_for,
            troubles: raft.troubles,
            clock_off_ms: match raft.clock {
                ClockVerdict::Off { offset_us } => offset_us / 1000,
                ClockVerdict::Good | ClockVerdict::Unverified => 0,
            },
            disk_free_bytes: raft.space.free_bytes,
            waiting_bytes: raft.waiting_bytes,
            append_bytes: raft.append_bytes,
            spacetimedb: self.server(replica.as_ref()),
            groups: raft.groups.into_iter().map(|group| self.group(group)).collect(),
            databases: databases.collect(),
            warnings: kinds::differences(&announced),
            nodes: announced
                .into_iter()
                .map(|node| MemberStatus {
                    addrs: self.addrs(node.node, node.raft_addr),
                    version: node.version,
                    spacetimedb_version: node.spacetimedb_version,
                    cpu: node.cpu,
                })
                .collect(),
            sessions: self.metrics.sessions(),
            issuers: meta.issuers().filter(|issuer| !issuer.keys.is_empty()).count(),
        }
    }

    fn stuck(&self, database: &rtdb_replica::DatabaseStatus) -> Option<StuckStatus> {
        let Phase::Stuck { position, attempts } = database.phase else {
            return None;
        };
        let nodes = self.manager.shard().with_shard(|shard| {
            let of = shard
                .stuck()
                .filter(|(identity, _)| **identity == database.identity[..]);
            let replicas = of.flat_map(|(_, replicas)| replicas);
            let here = replicas.filter(|replica| replica.position == position);
            here.map(|replica| replica.node).collect()
        });
        Some(StuckStatus {
            position: position.to_string(),
            attempts,
            nodes: nodes.unwrap_or_default(),
        })
    }

    /// Decides, for the operator, that a command has failed which stops SpacetimeDB.
    pub(crate) async fn skip(&self, database: &str, position: &str) -> Result<(), Refused> {
        let refused = |status, reason: String| Refused { status, reason };
        let position = position
            .parse::<Position>()
            .map_err(|error| refused(StatusCode::BAD_REQUEST, error.to_string()))?;
        let database = self.identity_of(database)?;
        let Some(running) = self.local.running() else {
            let reason = "the node is not ready".to_owned();
            return Err(refused(StatusCode::SERVICE_UNAVAILABLE, reason));
        };
        let replicas = running.replica.progress().databases;
        let replica = replicas.iter().find(|it| it.identity[..] == database[..]);
        if replica.is_none_or(|replica| replica.applied >= position) {
            let reason = format!("this node's replica is past {position}: what was applied can't be skipped");
            return Err(refused(StatusCode::CONFLICT, reason));
        }
        let body = Body::Poison(Poison {
            database,
            position: position.0,
            step: Some(PoisonStep::Skipped(Skipped {})),
        });
        self.command(POISON_LEVEL, body).await.map(drop)
    }

    fn group(&self, group: rtdb_consensus::GroupStatus) -> GroupStatus {
        // The meta group's commands take effect in the log itself.
        let applied = if group.group == GroupId::META {
            group.resolved
        } else {
            group.applied
        };
        let state = match group.role {
            _ if !group.running => "stopped",
            Role::Leader => "leader",
            Role::Candidate => "candidate",
            Role::Follower => "follower",
            Role::Learner => "learner",
        };
        GroupStatus {
            group: group.group.to_string(),
            term: group.term,
            state: state.to_owned(),
            leader: group.leader.map(|(id, addr)| self.addrs(id, addr)),
            last_log_index: group.last_log,
            committed_index: group.committed,
            applied_index: applied,
            voters: group.voters,
            learners: group.learners,
        }
    }

    fn server(&self, replica: Option<&ReplicaStatus>) -> ServerStatus {
        let url = match self.local.running() {
            Some(running) => Some(running.server.url()),
            None if self.config.server.stdb_bin.is_some() => None,
            None => Some(self.config.external_url().to_owned()),
        };
        let state = match replica.map(|replica| &replica.server) {
            None | Some(ServerState::Starting) => "starting",
            Some(ServerState::Up) => "up",
            Some(ServerState::Down { .. }) => "down",
        };
        ServerStatus {
            url,
            version: replica.and_then(|it| it.server_version.clone()),
            state: state.to_owned(),
        }
    }
}

fn behind(running: &Running) -> Behind {
    Behind {
        unread_ms: running.replica.unread_ms(),
        lags: running.replica.lags(),
    }
}

/// An identity as SpacetimeDB writes it: in hex, the most significant byte first.
pub(crate) fn big_endian_hex(mut identity: [u8; 32]) -> String {
    identity.reverse();
    hex::encode(identity)
}

/// An identity that is written so.
fn from_big_endian_hex(text: &str) -> Option<[u8; 32]> {
    let mut identity: [u8; 32] = hex::decode(text).ok()?.try_into().ok()?;
    identity.reverse();
    Some(identity)
}

/// [`big_endian_hex`] of bytes that may be none.
pub(crate) fn hex_of(identity: &[u8]) -> String {
    identity.try_into().map(big_endian_hex).unwrap_or_default()
}

fn split(audit: &Audit) -> Option<SplitReplicas> {
    let contest = audit.contest()?;
    Some(SplitReplicas {
        after: Position(contest.after).to_string(),
        by: Position(contest.by).to_string(),
        nodes: audit.contestants().collect(),
    })
}
