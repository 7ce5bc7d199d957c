//! What the gateway asks of the cluster: which databases there are, and whose.

use rtdb_consensus::command::{CallKey, Owner};
use rtdb_consensus::{Outcome, Position};
use spacetimedb_lib::{ConnectionId, Identity};

/// A database, as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseRecord {
    /// Its identity.
    pub identity: Identity,
    /// Who owns it.
    pub owner: Owner,
    /// Its names, the first one first.
    pub names: Vec<String>,
    /// The shard it belongs to.
    pub shard: u64,
    /// Whether it is neither to be deleted nor cleared.
    pub locked: bool,
    /// Its birth, by which it is told from what else was of its identity; 0 for a database of before there were births.
    pub born: u64,
}

impl DatabaseRecord {
    /// Whether `identity` owns the database.
    pub fn is_owned_by(&self, identity: &Identity) -> bool {
        self.owner.identity == identity.to_byte_array().as_slice()
    }
}

/// A client that is connected to a database, through whichever node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Who it is.
    pub identity: Identity,
    /// Its connection's id.
    pub connection: ConnectionId,
}

/// The first call that had a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstCall {
    /// Where it stands in the log.
    pub position: Position,
    /// When it was made, by the log's time.
    pub timestamp_us: i64,
    /// Whether it was the same call.
    pub is_same: bool,
    /// What came of it, if the log knows.
    pub outcome: Option<Outcome>,
}

/// The cluster's databases, as this node knows them.
pub trait Catalog: Send + Sync {
    /// Whether the cluster has been initialised (`rtdb init`): before, there is no key to sign tokens with.
    fn ready(&self) -> bool;

    /// Whether every node of the cluster knows of claims in commands: before, none may be proposed.
    fn takes_claims(&self) -> bool;

    /// Whether every node of the cluster goes by what the log says of a publication.
    fn judges(&self) -> bool;

    /// Whether every node of the cluster knows of updates that break clients, and of locks.
    fn migrates(&self) -> bool;

    /// Whether every node of the cluster knows how databases end, and that connection ids are unique.
    fn ends(&self) -> bool;

    /// Whether every node of the cluster knows of rows that are written by SQL.
    fn writes(&self) -> bool;

    /// Whether every node of the cluster knows of procedures' transactions.
    fn runs_procedures(&self) -> bool;

    /// Whether every node of the cluster knows of calls with keys.
    fn takes_keys(&self) -> bool;

    /// Whether every node of the cluster has said what it knows of: before that, all questions of that kind are answered with no.
    fn has_heard_all(&self) -> bool {
        true
    }

    /// Whether every node of the cluster knows of calls that modules ask for at once.
    fn calls_at_once(&self) -> bool;

    /// Whether the nodes have processors of different kinds.
    fn has_mixed_processors(&self) -> bool;

    /// Whether the nodes run different versions of SpacetimeDB.
    fn has_mixed_servers(&self) -> bool;

    /// The database of that identity.
    fn by_identity(&self, identity: &Identity) -> Option<DatabaseRecord>;

    /// The databases of an owner, in the order in which they came.
    fn owned_by(&self, owner: &Identity) -> Vec<DatabaseRecord>;

    /// The identity of that name, whose database may have been deleted.
    fn identity(&self, name: &str) -> Option<Identity>;

    /// The clients of a database, in the order in which they came.
    fn clients(&self, database: &Identity) -> Vec<Client>;

    /// The first call of a caller of the database that had that key.
    fn keyed(&self, database: &Identity, key: &CallKey) -> Option<FirstCall>;
}
