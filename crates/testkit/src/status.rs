//! What `GET /cluster/status` answers, as far as tests look at it.

use serde::Deserialize;

/// One node's view of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Whose view this is.
    pub node_id: u64,
    /// Whether it serves clients.
    pub ready: bool,
    /// What it waits for before it does.
    pub waiting_for: Option<String>,
    /// Its SpacetimeDB.
    pub spacetimedb: SpacetimeDb,
    /// The Raft groups it is a member of.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// The databases it keeps a replica of.
    #[serde(default)]
    pub databases: Vec<Database>,
}

/// The server beside a node.
#[derive(Clone, Debug, Deserialize)]
pub struct SpacetimeDb {
    /// `http://127.0.0.1:PORT`; `None` until it is started.
    pub url: Option<String>,
}

/// A Raft group.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// `meta`, or `shard-0` for the default shard.
    pub group: String,
    /// The node's term.
    pub term: u64,
    /// Who the node thinks leads.
    pub leader: Option<Leader>,
}

/// A leader.
#[derive(Clone, Debug, Deserialize)]
pub struct Leader {
    /// The node.
    pub id: u64,
}

/// A replica of a database.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Database {
    /// In hex.
    pub identity: String,
    /// The names it can be reached by.
    #[serde(default)]
    pub names: Vec<String>,
    /// The last command applied.
    pub index: u64,
    /// Over everything written so far; replicas of one index must agree on it. `None` while its server is down.
    pub digest: Option<String>,
    /// Something was applied since the digest was read.
    #[serde(default)]
    pub digest_is_old: bool,
    /// Commands sent to SpacetimeDB and not answered yet.
    #[serde(default)]
    pub in_flight: u64,
    /// Commands in the log that its SpacetimeDB does not have yet.
    #[serde(default)]
    pub lag_commands: u64,
    /// Whether its clients' calls are slowed.
    #[serde(default)]
    pub slowed: bool,
}

impl Status {
    /// The leader of the default shard.
    pub fn shard_leader(&self) -> Option<u64> {
        let shard = self.groups.iter().find(|group| group.group == "shard-0")?;
        shard.leader.as_ref().map(|leader| leader.id)
    }

    /// A database by name.
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases
            .iter()
            .find(|database| database.names.iter().any(|known| known == name))
    }

    /// Where the SpacetimeDB beside this node listens, as `host:port`.
    pub fn server_addr(&self) -> &str {
        let url = self.spacetimedb.url.as_deref().unwrap_or_default();
        url.split_once("://")
            .map_or(url, |(_, addr)| addr)
            .trim_end_matches('/')
    }
}
