//! A cluster of real nodes on loopback, each with a real SpacetimeDB.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use crate::node::{Launch, Node};
use crate::proxy::Network;
use crate::status::Database;
use crate::{Api, ports, server, slow_disk, sql};

/// How often a state that is waited for is looked at.
const POLL: Duration = Duration::from_millis(50);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The number of nodes.
    pub nodes: u16,
    /// Holds every node's data and log.
    pub folder: PathBuf,
    /// The `rafttimedb` binary.
    pub program: PathBuf,
    /// The SpacetimeDB server binary.
    pub server: PathBuf,
    /// Puts a proxy before each node's raft address, so that [`Cluster::network`] can cut links.
    pub proxied: bool,
    /// Asks for the ports of the documentation, 3001 and 4001 onwards, where they are free.
    pub usual_ports: bool,
    /// Tells each node where the others are.
    pub lists_peers: bool,
    /// More arguments for every node.
    pub arguments: Vec<String>,
    /// Starts the nodes so that [`Node::slow_disk`](crate::Node::slow_disk) can make their disks slow.
    pub slow_disks: bool,
}

impl ClusterConfig {
    /// Nodes of this build (see [`built`]) with `$SPACETIMEDB_BIN` beside them, on any free ports.
    pub fn new(nodes: u16, folder: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self {
            nodes,
            folder: folder.into(),
            program: built("rafttimedb")?,
            server: server::binary()?,
            proxied: false,
            usual_ports: false,
            lists_peers: true,
            arguments: Vec::new(),
            slow_disks: false,
        })
    }
}

/// A binary of this workspace, built by the same profile as the running program: beside it, or beside its `deps`.
pub fn built(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let mut folders = this.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    folders
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} near {}: build it first", this.display()))
}

/// A running cluster. Dropping it kills every process of it.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    peers: String,
    nodes: Vec<Node>,
    network: Option<Network>,
}

impl Cluster {
    /// Starts every node; [`Self::init`] makes a cluster of them.
    pub async fn start(config: &ClusterConfig) -> Result<Self> {
        let mut listen = Vec::new();
        for id in 1..=config.nodes {
            let wanted = |base: u16| if config.usual_ports { base + id } else { 0 };
            listen.push((ports::free(wanted(3000))?, ports::free(wanted(4000))?));
        }
        let raft_addrs: Vec<String> = listen
            .iter()
            .map(|(_, raft)| format!("127.0.0.1:{raft}"))
            .collect();
        let network = if config.proxied {
            Some(Network::start(&raft_addrs).await?)
        } else {
            None
        };
        let advertised = network
            .as_ref()
            .map_or(raft_addrs.clone(), |network| network.addrs().to_vec());
        let peers: Vec<String> = (1..)
            .zip(&advertised)
            .filter(|_| config.lists_peers)
            .map(|(id, addr)| format!("{id}={addr}"))
            .collect();
        let slow_disk = match config.slow_disks {
            true => Some(slow_disk::build(&config.folder)?),
            false => None,
        };
        let nodes = (1..=u64::from(config.nodes))
            .zip(&listen)
            .zip(raft_addrs)
            .zip(&advertised);
        let nodes = nodes.map(|(((id, (client, _)), raft_listen), raft_advertised)| {
            let launch = Launch {
                program: config.program.clone(),
                server: config.server.clone(),
                data_dir: config.folder.join(format!("node-{id}")),
                client_addr: format!("127.0.0.1:{client}"),
                raft_listen,
                raft_advertised: raft_advertised.clone(),
                peers: peers.join(","),
                arguments: config.arguments.clone(),
                slow_disk: slow_disk.clone(),
            };
            Node::new(id, launch)
        });
        let mut cluster = Self {
            config: config.clone(),
            peers: peers.join(","),
            nodes: nodes.collect(),
            network,
        };
        for id in 1..=u64::from(config.nodes) {
            cluster.restart(id)?;
        }
        Ok(cluster)
    }

    /// Starts, initialises and waits: a cluster that serves.
    pub async fn start_ready(config: &ClusterConfig, max: Duration) -> Result<Self> {
        let cluster = Self::start(config).await?;
        cluster.init(max).await?;
        cluster.wait_ready(max).await?;
        Ok(cluster)
    }

    /// `POST /cluster/init` on node 1, as `rtdb init` does, as soon as the node answers.
    pub async fn init(&self, max: Duration) -> Result<()> {
        let nodes: serde_json::Map<_, _> = self
            .nodes
            .iter()
            .map(|node| (node.id().to_string(), node.raft_addr().into()))
            .collect();
        let body = serde_json::json!({ "nodes": nodes });
        self.until("the cluster accepts init", max, async || {
            let answer = self.nodes[0].admin().post_json("/cluster/init", &body).await?;
            ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
            Ok(())
        })
        .await
    }

    /// Starts a node more, which is in no cluster, and gives its number.
    pub fn start_spare(&mut self) -> Result<u64> {
        ensure!(self.network.is_none(), "the network has no place for a node more");
        let id = self.nodes.len() as u64 + 1;
        let raft_addr = format!("127.0.0.1:{}", ports::free(0)?);
        let launch = Launch {
            program: self.config.program.clone(),
            server: self.config.server.clone(),
            data_dir: self.config.folder.join(format!("node-{id}")),
            client_addr: format!("127.0.0.1:{}", ports::free(0)?),
            raft_listen: raft_addr.clone(),
            raft_advertised: raft_addr,
            peers: self.peers.clone(),
            arguments: self.config.arguments.clone(),
            slow_disk: None,
        };
        self.nodes.push(Node::new(id, launch));
        self.restart(id)?;
        Ok(id)
    }

    /// Waits until every running node answers `/cluster/health` with 200 and serves clients.
    pub async fn wait_ready(&self, max: Duration) -> Result<()> {
        self.until("every node is ready", max, async || {
            for node in self.running() {
                let response = node.admin().send(Method::GET, "/cluster/health", "").await?;
                if response.status != StatusCode::OK {
                    bail!("node {}: {} {}", node.id(), response.status, response.text());
                }
                let status = node.status().await?;
                if !status.ready {
                    bail!(
                        "node {} waits for {}",
                        node.id(),
                        status.waiting_for.unwrap_or_default()
                    );
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until all running nodes have applied the same commands of `database`, and none is under way. With no
    /// calls being made, that's all of them.
    pub async fn wait_level(&self, database: &str, max: Duration) -> Result<Vec<Database>> {
        self.until("all replicas are at the same index", max, async || {
            let replicas = self.replicas(database).await?;
            sleep(POLL).await;
            if self.replicas(database).await? != replicas {
                bail!("still applying: {replicas:?}");
            }
            if replicas.iter().any(|it| {
                it.in_flight > 0 || it.digest.is_none() || it.digest_is_old || it.index != replicas[0].index
            }) {
                bail!("apart: {replicas:?}");
            }
            Ok(replicas)
        })
        .await
    }

    /// The state of `database` on every running node.
    pub async fn replicas(&self, database: &str) -> Result<Vec<Database>> {
        let mut replicas = Vec::new();
        for node in self.running() {
            let status = node.status().await?;
            let replica = status.database(database).cloned();
            replicas.push(replica.with_context(|| format!("node {} has no database {database}", node.id()))?);
        }
        Ok(replicas)
    }

    /// Every table of `database` on each running node's own SpacetimeDB, read past the gateways, as its `owner`.
    pub async fn dumps(&self, database: &str, owner: &str) -> Result<Vec<Dump>> {
        let mut dumps = Vec::new();
        for node in self.running() {
            let status = node.status().await?;
            let replica = status
                .database(database)
                .with_context(|| format!("no database {database}"))?;
            let server = Api::new(status.server_addr()).with_token(owner);
            dumps.push(
                sql::dump(&server, &replica.identity)
                    .await
                    .with_context(|| format!("node {}", node.id()))?,
            );
        }
        Ok(dumps)
    }

    /// The node that a majority's newest term says leads the default shard.
    pub async fn wait_leader(&self, max: Duration) -> Result<u64> {
        self.until("a leader of the default shard", max, async || {
            for node in self.running() {
                let leader = node.status().await?.shard_leader();
                if let Some(leader) = leader.filter(|&leader| self.node(leader).is_running()) {
                    return Ok(leader);
                }
            }
            bail!("no node knows one")
        })
        .await
    }

    /// A node, by its number from 1.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[index(id)]
    }

    /// The same, to stop, kill or start it. Starting is [`Self::restart`]'s, which also tells the network.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[index(id)]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Starts a node that doesn't run, on the data it has.
    pub fn restart(&mut self, id: u64) -> Result<()> {
        self.nodes[index(id)].start()?;
        if let (Some(network), Some(pid)) = (&self.network, self.nodes[index(id)].pid()) {
            network.node_started(id, pid);
        }
        Ok(())
    }

    /// Stops every node in order; the first error is returned after all have been tried.
    pub async fn stop(&mut self) -> Result<()> {
        let mut result = Ok(());
        for node in &mut self.nodes {
            result = result.and(node.stop().await);
        }
        result
    }

    /// Lets all nodes run on after this program's end.
    pub fn leave_running(mut self) {
        self.nodes.iter_mut().for_each(Node::leave_running);
    }

    /// The links between the nodes.
    pub fn network(&self) -> Result<&Network> {
        self.network
            .as_ref()
            .context("the cluster was started without `proxied`")
    }

    /// Every node's client address, in the nodes' order.
    pub fn client_addrs(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| node.client_addr().to_string())
            .collect()
    }

    async fn until<T>(
        &self,
        what: &str,
        max: Duration,
        mut look: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + max;
        loop {
            let error = match look().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                let logs: Vec<String> = self
                    .nodes
                    .iter()
                    .map(|node| node.log().display().to_string())
                    .collect();
                return Err(error.context(format!("waited {max:?} until {what}; logs: {}", logs.join(" "))));
            }
            sleep(POLL).await;
        }
    }
}

/// Every table of a database by name, each with its sorted rows.
pub type Dump = Vec<(String, Vec<String>)>;

fn index(id: u64) -> usize {
    usize::try_from(id)
        .ok()
        .and_then(|id| id.checked_sub(1))
        .expect("nodes are numbered from 1")
}
