//! The node's settings: flags, environment variables and their defaults.

use crate::discovery::Discovery;
use clap::{Args, Parser, ValueEnum};
use rtdb_consensus::{ELECTORS_MAX, Timing};
use rtdb_gateway::{ClientLimits, Publishers, Quotas};
use rtdb_issuers::Policy;
use rtdb_replica::ServerLimits;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A node of a RaftTimeDB cluster: put one before each SpacetimeDB server, and the servers behave to every client
/// like one SpacetimeDB that does not die.
///
/// Start the nodes, then run `rtdb init` once; or let them find each other: --bootstrap-expect, --discovery, --join. Clients, SDKs and the `spacetime` CLI connect to any node's
/// --listen-addr as they would to SpacetimeDB.
#[derive(Debug, Clone, Parser)]
#[command(name = "rafttimedb", version)]
pub(crate) struct Config {
    /// This node's id, unique in the cluster: a number from 1, or a StatefulSet's pod name (`name-0` is node 1)
    #[arg(long, env = "RTDB_NODE_ID", value_parser = parse_node_id)]
    pub(crate) node_id: u64,

    /// Where clients connect
    #[arg(long, env = "RTDB_LISTEN_ADDR", default_value = "0.0.0.0:3001")]
    pub(crate) listen_addr: SocketAddr,

    /// Where the other nodes, `rtdb` and monitoring connect. Keep it on a private network
    #[arg(long, env = "RTDB_RAFT_ADDR", default_value = "0.0.0.0:4001")]
    pub(crate) raft_addr: SocketAddr,

    /// The other nodes' raft addresses, `host:port` or `id=host:port`, separated by commas; none for a cluster of one
    #[arg(long, env = "RTDB_PEERS", value_delimiter = ',', default_value = "")]
    pub(crate) peers: Vec<PeerArg>,

    /// How many nodes found the cluster, the same on all of them: they do so by themselves, without `rtdb init`. Those are, of the
    /// nodes that --peers gives ids, this one included, the ones with the lowest; or nodes 1 to N if it gives none. All of them found
    /// it as soon as they see each other, a majority after --bootstrap-timeout-ms, and fewer never; the rest joins. 1 is for a node
    /// that may found one alone. It counts for a node without data only
    #[arg(long, env = "RTDB_BOOTSTRAP_EXPECT", value_name = "N", value_parser = clap::value_parser!(u64).range(1..=ELECTORS_MAX as u64))]
    pub(crate) bootstrap_expect: Option<u64>,

    /// How long a node looks around for all nodes of --bootstrap-expect, in milliseconds, before it founds a cluster with a majority
    #[arg(long, env = "RTDB_BOOTSTRAP_TIMEOUT_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub(crate) bootstrap_timeout_ms: u64,

    /// The share of --bootstrap-timeout-ms, from 0 to 1, in which a node must have been seen to be one of the founders; who comes
    /// later joins
    #[arg(long, env = "RTDB_BOOTSTRAP_THRESHOLD", default_value_t = 0.8, value_parser = parse_share)]
    pub(crate) bootstrap_threshold: f64,

    /// Found a cluster of this node alone, at once. DANGER: if the other nodes have a cluster, or found one, there are two from then
    /// on, each with clients and data of its own, and they never become one again. It counts for a node without data only
    #[arg(long, env = "RTDB_FORCE_BOOTSTRAP")]
    pub(crate) force_bootstrap: bool,

    /// Where to find other nodes, besides --peers: `dns:NAME:PORT` for all addresses of a name (A, AAAA), such as a headless
    /// Kubernetes service's; `dns:NAME` for a service's hosts and ports (SRV), or else the addresses with --raft-addr's port.
    /// Separated by commas. A node that has no data joins the cluster that it finds so; with --bootstrap-expect it may found one
    #[arg(
        long,
        env = "RTDB_DISCOVERY",
        value_delimiter = ',',
        value_name = "dns:NAME[:PORT]"
    )]
    pub(crate) discovery: Vec<Discovery>,

    /// The DNS server that is asked for SRV records, `ip:port` [default: those of /etc/resolv.conf]
    #[arg(long, env = "RTDB_DNS_SERVER")]
    pub(crate) dns_server: Option<SocketAddr>,

    /// Join the cluster of the nodes at these raft addresses, `host:port`, separated by commas: this node asks to be taken in as
    /// long as it has no data, and founds nothing
    #[arg(long, env = "RTDB_JOIN", value_delimiter = ',', value_name = "HOST:PORT", conflicts_with_all = ["bootstrap_expect", "force_bootstrap"])]
    pub(crate) join: Vec<PeerArg>,

    /// Where the raft log and a managed SpacetimeDB keep their data
    #[arg(long, env = "RTDB_DATA_DIR", default_value = "./data")]
    pub(crate) data_dir: PathBuf,

    /// The address under which clients reach this node, told to them when another node goes away
    /// [default: --listen-addr, with this node's host name in place of 0.0.0.0]
    #[arg(long, env = "RTDB_ADVERTISE_ADDR")]
    pub(crate) advertise_addr: Option<String>,

    /// The raft address under which the others reach this node, `host:port`: one that stays the same when it is started anew
    /// [default: what --peers says of this node's id, else --raft-addr, with this node's host name in place of 0.0.0.0]
    #[arg(long, env = "RTDB_ADVERTISE_RAFT_ADDR", value_name = "HOST:PORT")]
    pub(crate) advertise_raft_addr: Option<PeerArg>,

    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// How far apart the nodes are: sets what --heartbeat-ms, --election-timeout-ms and --lease-ms are if they are not given, and how
    /// long a peer may take to answer
    #[arg(long, env = "RTDB_PRESET", value_enum, default_value = "regional")]
    pub(crate) preset: Preset,

    /// How often the leader of a group lets its followers hear from it, in milliseconds
    /// [default: 50, 200 or 600, by --preset]
    #[arg(long, env = "RTDB_HEARTBEAT_MS", value_parser = clap::value_parser!(u64).range(10..=10_000))]
    pub(crate) heartbeat_ms: Option<u64>,

    /// How long a follower waits for the leader before it stands for election, in milliseconds (up to a fifth longer,
    /// at random) [default: 300, 1000 or 4000, by --preset]
    #[arg(long, env = "RTDB_ELECTION_TIMEOUT_MS", value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub(crate) election_timeout_ms: Option<u64>,

    /// How long a node may be silent before its clients count as disconnected, in milliseconds
    /// [default: 10000, or 30000 with --preset global]
    #[arg(long, env = "RTDB_LEASE_MS", value_parser = clap::value_parser!(u64).range(1_000..=3_600_000))]
    pub(crate) lease_ms: Option<u64>,

    /// How long one call may run on a SpacetimeDB, in seconds, the same on every node. One that runs for longer is given
    /// up: with --stdb-bin the server is killed and started again, else its connection is closed
    #[arg(long, env = "RTDB_CALL_TIME_MAX_S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) call_time_max_s: u64,

    /// How long SpacetimeDB must call a database's files damaged, in seconds, before the database is made again from the log
    #[arg(long, env = "RTDB_STDB_DAMAGE_WAIT_S", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) stdb_damage_wait_s: u64,

    /// How often the replicas compare all rows of each small database (8 MiB, and 50,000 rows a table), in seconds; 0 for never
    #[arg(long, env = "RTDB_SCRUB_INTERVAL_S", default_value_t = 21_600, value_parser = clap::value_parser!(u64).range(..=31_536_000))]
    pub(crate) scrub_interval_s: u64,

    /// Who may create databases: `everyone`, `nobody`, or identities, separated by commas; the same on every node. Owners go
    /// on updating theirs
    #[arg(long, env = "RTDB_PUBLISHERS", default_value = "everyone")]
    pub(crate) publishers: Publishers,

    /// Whose tokens are taken besides the cluster's own: `everyone`'s that an OpenID provider on the public internet vouches
    /// for over HTTPS, `nobody`'s, or those of issuers, by their URLs, separated by commas; `everyone` may be among them. An
    /// issuer that is named may have a private address, and be asked over http. `HTTPS_PROXY` is not used. The same on every node
    #[arg(long, env = "RTDB_ISSUERS", default_value = "everyone")]
    pub(crate) issuers: Policy,

    /// How many calls a second this node takes to one database, of all its clients; what is beyond is refused at once. And
    /// how many scheduled reducers of one database it calls in a second, if it leads; more wait [default: no limit]
    #[arg(long, env = "RTDB_CALLS_PER_SECOND_MAX_DATABASE")]
    pub(crate) calls_per_second_max_database: Option<NonZeroU32>,

    /// How many calls a second this node takes of one identity, over all its connections; what is beyond is refused at once
    /// [default: no limit]
    #[arg(long, env = "RTDB_CALLS_PER_SECOND_MAX_IDENTITY")]
    pub(crate) calls_per_second_max_identity: Option<NonZeroU32>,

    /// How many MiB of the disk must stay free: below, this node takes no calls and gives leadership away
    #[arg(long, env = "RTDB_DISK_RESERVE_MB", default_value_t = rtdb_consensus::DISK_RESERVE_BYTES >> 20, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub(crate) disk_reserve_mb: u64,

    /// How many connections of clients there may be at one time, HTTP and WebSocket together. One more is refused with 503.
    /// There are fewer if the process may not have as many open files
    #[arg(long, env = "RTDB_CONNECTIONS_MAX", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) connections_max: u32,

    /// How long a client may take to send the head of a request, its token in it, in milliseconds
    #[arg(long, env = "RTDB_AUTH_TIMEOUT_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub(crate) auth_timeout_ms: u64,

    /// How long a client may be silent before its connection is closed, in milliseconds. It is pinged twice as often
    #[arg(long, env = "RTDB_IDLE_TIMEOUT_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1_000..=3_600_000))]
    pub(crate) idle_timeout_ms: u64,

    /// How far this node may be behind the log for `/cluster/ready` to answer 200, in milliseconds
    #[arg(long, env = "RTDB_READY_LAG_MAX_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub(crate) ready_lag_max_ms: u64,

    /// How log lines are written. What is logged is set by RUST_LOG, `info` by default
    #[arg(long, env = "RTDB_LOG_FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// The SpacetimeDB server behind this node.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// The SpacetimeDB server behind this node, run by somebody else [default: ws://127.0.0.1:3000]
    #[arg(long, env = "RTDB_STDB_URL", conflicts_with = "stdb_bin")]
    pub(crate) stdb_url: Option<String>,

    /// Run the SpacetimeDB server from this executable (`spacetimedb-standalone`) on a loopback port of its own, with
    /// its data under --data-dir: the node starts, watches, restarts and stops it
    #[arg(long, env = "RTDB_STDB_BIN")]
    pub(crate) stdb_bin: Option<PathBuf>,

    /// How many MiB of memory the server of --stdb-bin may have resident: beyond, it is killed and started again, so that
    /// it dies alone rather than with the node [default: no limit]
    #[arg(long, env = "RTDB_STDB_MEMORY_MAX", requires = "stdb_bin", value_parser = clap::value_parser!(u64).range(64..=1 << 24))]
    pub(crate) stdb_memory_max: Option<u64>,

    /// The private key with which the SpacetimeDB servers sign tokens (ES256, PEM), the same on every node.
    /// Needed without --stdb-bin; with it, `rtdb init` makes one for the whole cluster
    #[arg(long, env = "RTDB_STDB_JWT_PRIV_KEY", requires = "stdb_jwt_pub_key")]
    pub(crate) stdb_jwt_priv_key: Option<PathBuf>,

    /// The public half of that key (PEM)
    #[arg(long, env = "RTDB_STDB_JWT_PUB_KEY", requires = "stdb_jwt_priv_key")]
    pub(crate) stdb_jwt_pub_key: Option<PathBuf>,
}

/// How far apart the nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// One machine, or one rack (messages take less than 5 ms there and back): a leader that is not heard any more is succeeded after
    /// 0.3 to 0.4 s.
    Local,
    /// Machines or data centers of one region (up to 50 ms): after 1 to 1.2 s.
    Regional,
    /// Continents (up to 300 ms): after 4 to 5 s.
    Global,
}

impl Preset {
    /// The heartbeat, the election timeout, the lease, and how long a peer may take to answer, in milliseconds.
    fn millis(self) -> [u64; 4] {
        match self {
            Self::Local => [50, 300, 10_000, 1_000],
            Self::Regional => [200, 1_000, 10_000, 1_000],
            Self::Global => [600, 4_000, 30_000, 3_000],
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The URL of a SpacetimeDB server that nobody said anything about.
const DEFAULT_STDB_URL: &str = "ws://127.0.0.1:3000";

impl Config {
    /// What clap's own rules can't express.
    pub(crate) fn validate(self) -> Result<Self, String> {
        if self.server.stdb_bin.is_none() && self.server.stdb_jwt_priv_key.is_none() {
            return Err(format!(
                "the SpacetimeDB server at {} is not managed by this node, so the node needs the key pair with which \
                 that server signs tokens: give --stdb-jwt-priv-key and --stdb-jwt-pub-key (the server's own \
                 --jwt-priv-key-path and --jwt-pub-key-path; the same pair on every node). Or let the node run the \
                 server: --stdb-bin PATH",
                self.external_url()
            ));
        }
        let [heartbeat, election, ..] = self.millis();
        if heartbeat * 4 > election {
            return Err(format!(
                "--election-timeout-ms {election} is too short for --heartbeat-ms {heartbeat}: give at least four times as much"
            ));
        }
        let expected = self.bootstrap_expect.unwrap_or(0);
        if expected > 1 && self.peers().next().is_none() && self.discovery.is_empty() {
            return Err(format!(
                "--bootstrap-expect {expected} is for nodes that can find each other: give --peers or --discovery"
            ));
        }
        if let Some(named) = self.named_nodes()
            && (named.len() as u64) < expected
        {
            return Err(format!(
                "--bootstrap-expect {expected}, and --peers names {} nodes with this one: name all of them, or give no ids",
                named.len()
            ));
        }
        let mut ids: Vec<u64> = self.peers().filter_map(|peer| peer.id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("--peers names node {} twice", pair[0]));
        }
        Ok(self)
    }

    /// The peers, this node itself left out (a list that is the same on every node names it, too).
    pub(crate) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers
            .iter()
            .filter_map(|arg| arg.0.as_ref())
            .filter(|peer| peer.id != Some(self.node_id))
    }

    /// The ids that --peers names, and this node's, if it names all of them.
    fn named_nodes(&self) -> Option<BTreeSet<u64>> {
        let mut peers = self.peers().peekable();
        peers.peek()?;
        let named: Option<BTreeSet<u64>> = peers.map(|peer| peer.id).collect();
        let mut named = named?;
        named.insert(self.node_id);
        Some(named)
    }

    /// The nodes that may found the cluster; none if this one waits for an operator, or joins.
    pub(crate) fn electors(&self) -> BTreeSet<u64> {
        match (self.bootstrap_expect, self.named_nodes()) {
            (None, _) => BTreeSet::new(),
            (Some(1), _) => [self.node_id].into(),
            (Some(expected), Some(named)) => named.into_iter().take(expected as usize).collect(),
            (Some(expected), None) => (1..=expected).collect(),
        }
    }

    /// Whether the node looks for a cluster itself.
    pub(crate) fn looks(&self) -> bool {
        self.bootstrap_expect.is_some() || !self.discovery.is_empty() || !self.join.is_empty()
    }

    /// Where it looks, besides what is discovered.
    pub(crate) fn looks_at(&self) -> BTreeSet<String> {
        let joined = self.join.iter().filter_map(|arg| arg.0.as_ref());
        let all = self.peers().chain(joined);
        all.map(|peer| peer.addr.clone()).collect()
    }

    /// The address under which peers reach this node: the one that it is told, or that a full --peers list gives it, else --raft-addr.
    pub(crate) fn own_raft_addr(&self) -> String {
        if let Some(Peer { addr, .. }) = self.advertise_raft_addr.as_ref().and_then(|arg| arg.0.as_ref()) {
            return addr.clone();
        }
        let listed = self
            .peers
            .iter()
            .filter_map(|arg| arg.0.as_ref())
            .find(|peer| peer.id == Some(self.node_id));
        listed.map_or_else(|| reachable(self.raft_addr), |peer| peer.addr.clone())
    }

    /// The address under which clients reach this node.
    pub(crate) fn client_addr(&self) -> String {
        self.advertise_addr
            .clone()
            .unwrap_or_else(|| reachable(self.listen_addr))
    }

    /// The URL of a server that this node does not run itself.
    pub(crate) fn external_url(&self) -> &str {
        self.server.stdb_url.as_deref().unwrap_or(DEFAULT_STDB_URL)
    }

    /// How long one call may run.
    pub(crate) fn call_time_max(&self) -> Duration {
        Duration::from_secs(self.call_time_max_s)
    }

    /// How long a database's files must have been called damaged.
    pub(crate) fn damage_wait(&self) -> Duration {
        Duration::from_secs(self.stdb_damage_wait_s)
    }

    /// How often all rows are compared; zero for never.
    pub(crate) fn scrub_interval(&self) -> Duration {
        Duration::from_secs(self.scrub_interval_s)
    }

    /// How many calls a second are taken.
    pub(crate) fn quotas(&self) -> Quotas {
        Quotas {
            database: self.calls_per_second_max_database,
            identity: self.calls_per_second_max_identity,
        }
    }

    /// What a managed server may do. One call may keep it from answering for as long as a call may run.
    pub(crate) fn server_limits(&self) -> ServerLimits {
        let limits = ServerLimits::default();
        ServerLimits {
            busy_hang_max: limits.busy_hang_max + self.call_time_max(),
            memory_max: self.server.stdb_memory_max.map(|mib| mib << 20),
            ..limits
        }
    }

    /// What clients may take, when there are descriptors for so many connections.
    pub(crate) fn client_limits(&self, connections_max: usize) -> ClientLimits {
        ClientLimits {
            connections_max,
            auth_timeout: Duration::from_millis(self.auth_timeout_ms),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            ..ClientLimits::default()
        }
    }

    /// What raft is told. A follower stands for election after the leader's lease (`election_ms_max`) and then a random
    /// time between the two limits: together, the election timeout and up to a fifth more.
    pub(crate) fn timing(&self) -> Timing {
        let [heartbeat_ms, election_ms, lease_ms, answer_ms] = self.millis();
        Timing {
            heartbeat_ms,
            election_ms_min: election_ms * 2 / 5,
            election_ms_max: election_ms * 3 / 5,
            lease_ms,
            answer_ms,
            ..Timing::default()
        }
    }

    /// What --preset says, where no flag says otherwise.
    fn millis(&self) -> [u64; 4] {
        let [heartbeat, election, lease, answer] = self.preset.millis();
        [
            self.heartbeat_ms.unwrap_or(heartbeat),
            self.election_timeout_ms.unwrap_or(election),
            self.lease_ms.unwrap_or(lease),
            answer,
        ]
    }
}

/// An address that others can use: the host's name where the node listens on every interface.
fn reachable(addr: SocketAddr) -> String {
    if !addr.ip().is_unspecified() {
        return addr.to_string();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => format!("localhost:{}", addr.port()),
        host => format!("{host}:{}", addr.port()),
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its id, if the list says it; else it is asked.
    pub(crate) id: Option<u64>,
    /// Its raft address, `host:port`.
    pub(crate) addr: String,
}

/// One element of `--peers`; nothing for an empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerArg(pub(crate) Option<Peer>);

impl FromStr for PeerArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self(None));
        }
        let (id, addr) = match text.split_once('=') {
            Some((id, addr)) => (Some(parse_node_id(id)?), addr),
            None => (None, text),
        };
        match addr.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
                Ok(Self(Some(Peer {
                    id,
                    addr: addr.to_owned(),
                })))
            }
            _ => Err(format!("`{text}` is no peer: give host:port or id=host:port")),
        }
    }
}

/// A share of a time.
fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is no share: give a number from 0 to 1"))
}

/// A node id: a number from 1, or a StatefulSet's pod name, whose ordinals start at 0.
fn parse_node_id(text: &str) -> Result<u64, String> {
    let id = match (text.parse::<u64>(), text.rsplit_once('-')) {
        (Ok(id), _) => Some(id),
        (Err(_), Some((name, ordinal))) if !name.is_empty() => ordinal
            .parse::<u64>()
            .ok()
            .and_then(|ordinal| ordinal.checked_add(1)),
        _ => None,
    };
    id.filter(|id| *id != 0)
        .ok_or_else(|| format!("`{text}` is no node id: give a number from 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = ["rafttimedb"].iter().chain(args);
        Config::try_parse_from(args)
            .map_err(|error| error.to_string())
            .and_then(Config::validate)
    }

    #[test]
    fn peers_come_with_and_without_ids() {
        let config = parse(&[
            "--node-id",
            "1",
            "--stdb-bin",
            "x",
            "--peers",
            "node2:4001,3=node3:4001,1=node1:4001",
        ])
        .unwrap();
        let peers: Vec<_> = config.peers().cloned().collect();
        assert_eq!(
            peers[0],
            Peer {
                id: None,
                addr: "node2:4001".into()
            }
        );
        assert_eq!(
            peers[1],
            Peer {
                id: Some(3),
                addr: "node3:4001".into()
            }
        );
        assert_eq!(peers.len(), 2, "the node itself is no peer of its own");
        assert_eq!(config.own_raft_addr(), "node1:4001");
    }

    #[test]
    fn the_server_is_limited_as_the_settings_say() {
        let config = parse(&["--node-id", "1", "--stdb-bin", "x"]).unwrap();
        assert_eq!(config.call_time_max(), Duration::from_secs(120));
        assert_eq!(config.damage_wait(), Duration::from_secs(180));
        assert_eq!(config.server_limits().memory_max, None);
        let limited = ["--call-time-max-s", "7", "--stdb-memory-max", "100"];
        let config = parse(&[&["--node-id", "1", "--stdb-bin", "x"][..], &limited].concat()).unwrap();
        assert_eq!(config.call_time_max(), Duration::from_secs(7));
        let limits = config.server_limits();
        assert_eq!(limits.memory_max, Some(100 << 20));
        assert!(limits.busy_hang_max > config.call_time_max());
        let error = parse(&["--node-id", "1", "--stdb-memory-max", "100"]).unwrap_err();
        assert!(error.contains("--stdb-bin"), "{error}");
    }

    #[test]
    fn quotas_are_off_unless_they_are_set() {
        let with = |quota: &[&str]| {
            let args = [&["--node-id", "1", "--stdb-bin", "x"], quota].concat();
            parse(&args).map(|config| config.quotas())
        };
        assert_eq!(with(&[]), Ok(Quotas::default()));
        let quotas = with(&["--calls-per-second-max-identity", "5"]).unwrap();
        assert_eq!((quotas.identity, quotas.database), (NonZeroU32::new(5), None));
        assert!(with(&["--calls-per-second-max-database", "0"]).is_err());
    }

    #[test]
    fn who_founds_the_cluster_is_the_same_for_all() {
        let given = |id: &str, more: &[&str]| {
            parse(&[&["--node-id", id, "--stdb-bin", "x"], more].concat()).map(|config| config.electors())
        };
        let expect = |n| ["--bootstrap-expect", n];
        assert_eq!(given("1", &[]), Ok([].into()));
        assert_eq!(given("7", &expect("1")), Ok([7].into()));
        let found = Ok([1, 2, 3].into());
        for (id, peers) in [
            ("1", "2=b:1,3=c:1"),
            ("3", "1=a:1,2=b:1,3=c:1,4=d:1"),
            ("4", "1=a:1,2=b:1,3=c:1"),
            ("1", "b:1,c:1"),
            ("2", "1=a:1,c:1"),
        ] {
            let args = [&expect("3")[..], &["--peers", peers]].concat();
            assert_eq!(given(id, &args), found, "{id} {peers}");
        }
        let named = [&expect("2")[..], &["--peers", "20=b:1,30=c:1"]].concat();
        assert_eq!(given("10", &named), Ok([10, 20].into()));
        let discovered = [&expect("3")[..], &["--discovery", "dns:db:4001"]].concat();
        assert_eq!(given("5", &discovered), found);
        for (args, hint) in [
            (&expect("3")[..], "--discovery"),
            (&["--bootstrap-expect", "3", "--peers", "2=b:1"], "names 2 nodes"),
            (&["--bootstrap-expect", "0"], "0"),
            (&["--bootstrap-expect", "1", "--join", "a:1"], "--join"),
            (&["--bootstrap-threshold", "1.1"], "from 0 to 1"),
        ] {
            let error = given("1", args).unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_preset_is_what_no_flag_overrides() {
        let of = |more: &[&str]| {
            parse(&[&["--node-id", "1", "--stdb-bin", "x"], more].concat()).map(|config| config.millis())
        };
        let regional = Ok([200, 1_000, 10_000, 1_000]);
        assert_eq!(of(&[]), regional);
        assert_eq!(of(&["--preset", "regional"]), regional);
        assert_eq!(of(&["--preset", "local"]), Ok([50, 300, 10_000, 1_000]));
        let global = ["--preset", "global", "--heartbeat-ms", "900"];
        assert_eq!(of(&global), Ok([900, 4_000, 30_000, 3_000]));
        let error = of(&["--preset", "local", "--heartbeat-ms", "100"]).unwrap_err();
        assert!(error.contains("at least four times"), "{error}");
    }

    #[test]
    fn a_pod_name_is_a_node_id() {
        assert_eq!(parse_node_id("rafttimedb-0"), Ok(1));
        assert_eq!(parse_node_id("my-set-2"), Ok(3));
        assert_eq!(parse_node_id("7"), Ok(7));
        for bad in ["0", "", "-1", "node", "x-", "18446744073709551616"] {
            assert!(parse_node_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_settings_say_what_to_do() {
        for (args, hint) in [
            (&["--node-id", "1"][..], "--stdb-bin PATH"),
            (
                &["--node-id", "1", "--stdb-bin", "x", "--peers", "nohost"],
                "host:port",
            ),
            (
                &["--node-id", "1", "--stdb-bin", "x", "--peers", "2=a:1,2=b:1"],
                "node 2 twice",
            ),
            (
                &["--node-id", "1", "--stdb-bin", "x", "--heartbeat-ms", "900"],
                "at least four times",
            ),
            (
                &["--node-id", "1", "--stdb-jwt-priv-key", "x"],
                "--stdb-jwt-pub-key",
            ),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }
}
