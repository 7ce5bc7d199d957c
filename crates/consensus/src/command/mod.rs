//! What the log holds. Prost messages, so that both the disk and the wire are versioned by tag: a field is never
//! renumbered or retyped, and a reader passes over what it does not know.

use bytes::Bytes;

/// What this version's nodes can apply. Raised with each command, or field of one, that a node must know; none is
/// proposed before every node of the cluster has announced the level that it came with.
pub const FEATURE_LEVEL: u32 = 4;

/// The level from which on replicas report what they hold, and an operator may say which is right.
pub const LEVEL_REPORTS: u32 = 2;

/// Databases in one [`Reports`].
pub const REPORTS_MAX: usize = 1024;
/// The level that [`Poison`] came with.
pub const POISON_LEVEL: u32 = 2;
/// The level from which on [`Connect`] and [`Call`] carry claims.
pub const CLAIMS_LEVEL: u32 = 2;

/// The level that [`Judgement`] and [`Trapped`] came with.
pub const JUDGEMENT_LEVEL: u32 = 3;
/// The level from which on a publication may break clients, and databases may be locked.
pub const MIGRATION_LEVEL: u32 = 4;
/// The level that [`EndDatabase`] came with: from it on databases have births, names are compared before they are replaced,
/// and connection ids are unique.
pub const ENDS_LEVEL: u32 = 4;
/// Bytes of a [`Judgement::refusal`].
pub const REFUSAL_BYTES_MAX: usize = 2048;
/// Positions in one [`Trapped`].
pub const TRAPPED_MAX: usize = 1024;

/// Bytes of an address that a node announces: the longest name of DNS (253), a colon and a port (5).
pub const NODE_ADDR_BYTES_MAX: usize = 259;

/// Bytes of each other text that a node announces.
pub const NODE_TEXT_BYTES_MAX: usize = 128;

/// A command, as a client, a gateway or the leader proposed it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do. `None` is a command of a newer version: the node stops rather than skip it.
    #[prost(
        oneof = "Body",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20, 21"
    )]
    pub body: Option<Body>,
    /// The version that whoever applies it must know: raised by whoever sets a field that must not be passed over. 0 for
    /// the first.
    #[prost(uint32, tag = "15")]
    pub version: u32,
}

/// The kinds of [`Command`]. 1 to 14 belong to a shard, 16 up to the meta group, expiry to both.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// A client calls a reducer.
    #[prost(message, tag = "1")]
    Call(Call),
    /// A client arrives.
    #[prost(message, tag = "2")]
    Connect(Connect),
    /// A client has left.
    #[prost(message, tag = "3")]
    Disconnect(Disconnect),
    /// A module is published: a database comes into being, or its module is replaced.
    #[prost(message, tag = "4")]
    Publish(Publish),
    /// A database is deleted.
    #[prost(message, tag = "5")]
    Delete(Delete),
    /// A node's epoch has ended: nothing more of it is accepted.
    #[prost(message, tag = "6")]
    ExpireNode(ExpireNode),
    /// What a node's replicas hold.
    #[prost(message, tag = "7")]
    Reports(Reports),
    /// Which replica of a split database is right.
    #[prost(message, tag = "9")]
    Resolve(Resolve),
    /// Every replica reads what it holds at this position.
    #[prost(message, tag = "10")]
    Verify(Verify),
    /// A command stops SpacetimeDB: a replica says so, or it is decided that the command has failed.
    #[prost(message, tag = "8")]
    Poison(Poison),
    /// What a replica's SpacetimeDB says of a publication.
    #[prost(message, tag = "11")]
    Judgement(Judgement),
    /// Which calls have not come to an end of their own on a replica.
    #[prost(message, tag = "12")]
    Trapped(Trapped),
    /// The cluster's settings, written once by `rtdb init`.
    #[prost(message, tag = "16")]
    InitCluster(InitCluster),
    /// A node: where and what it is.
    #[prost(message, tag = "17")]
    SetNode(SetNode),
    /// A database's identity, owner and shard.
    #[prost(message, tag = "18")]
    RegisterDatabase(RegisterDatabase),
    /// A database's names.
    #[prost(message, tag = "19")]
    SetNames(SetNames),
    /// Whether a database may be deleted.
    #[prost(message, tag = "20")]
    SetLock(SetLock),
    /// A database ends.
    #[prost(message, tag = "21")]
    EndDatabase(EndDatabase),
}

/// A call of a reducer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    /// The database's identity, 32 bytes as in BSATN (little endian).
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The session that calls: the position of its [`Connect`]; 0 for none (an HTTP call of a module without
    /// lifecycle reducers).
    #[prost(fixed64, tag = "2")]
    pub session: u64,
    /// The reducer's name.
    #[prost(string, tag = "3")]
    pub reducer: String,
    /// The call header (72 bytes, its timestamp and index still zero), then the reducer's own arguments in BSATN.
    #[prost(bytes = "bytes", tag = "4")]
    pub args: Bytes,
    /// The number by which the client knows the call.
    #[prost(uint32, tag = "5")]
    pub request_id: u32,
    /// If there is no session: what the client's token says, in JSON.
    #[prost(string, tag = "6")]
    pub claims: String,
}

/// A client's arrival. Its position in the log is the session's id.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Connect {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The client's identity, 32 bytes as in BSATN.
    #[prost(bytes = "bytes", tag = "2")]
    pub sender: Bytes,
    /// The client's connection id, 16 bytes as in BSATN.
    #[prost(bytes = "bytes", tag = "3")]
    pub connection: Bytes,
    /// What the client's token says, in JSON; empty for none.
    #[prost(string, tag = "4")]
    pub claims: String,
    /// Whether the client is refused while another session of the database has its connection id. Of [`ENDS_LEVEL`].
    #[prost(bool, tag = "5")]
    pub unique: bool,
}

/// A client's departure. Passed over if the session is not there (any more).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Disconnect {
    /// The session that ends.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Whether the client was refused by `client_connected`, so that `client_disconnected` must not run.
    #[prost(bool, tag = "2")]
    pub refused: bool,
}

/// A module is published.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Publish {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The owner, by whose name each replica publishes.
    #[prost(message, optional, tag = "2")]
    pub owner: Option<Owner>,
    /// The database's names, the first one first.
    #[prost(string, repeated, tag = "3")]
    pub names: Vec<String>,
    /// The prepared module.
    #[prost(bytes = "bytes", tag = "4")]
    pub module: Bytes,
    /// The original module's `RawModuleDef`, in BSATN, as its `__describe_module__` wrote it.
    #[prost(bytes = "bytes", tag = "5")]
    pub original_def: Bytes,
    /// Whether all rows are thrown away first.
    #[prost(bool, tag = "6")]
    pub clear: bool,
    /// Whether the first [`Judgement`] in the log says if it is taken; else each replica's server does, as it was before
    /// [`JUDGEMENT_LEVEL`].
    #[prost(bool, tag = "7")]
    pub judged: bool,
    /// The hash of the original module, 32 bytes; empty before [`MIGRATION_LEVEL`].
    #[prost(bytes = "bytes", tag = "8")]
    pub program: Bytes,
    /// The token by which its owner agrees to what an update does to clients, 32 bytes: without one, nothing that breaks
    /// them is taken. Of [`MIGRATION_LEVEL`].
    #[prost(bytes = "bytes", tag = "9")]
    pub token: Bytes,
    /// The birth of the database that is meant, as its record in the meta group has it. Refused if that one has been deleted
    /// and another has taken its place. Of [`ENDS_LEVEL`]; 0 for a database from before.
    #[prost(fixed64, tag = "12")]
    pub born: u64,
}

/// Who owns a database: enough to mint the owner's token on any node.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Owner {
    /// The owner's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub identity: Bytes,
    /// The token's issuer.
    #[prost(string, tag = "2")]
    pub issuer: String,
    /// The token's subject.
    #[prost(string, tag = "3")]
    pub subject: String,
}

/// A database is deleted; its sessions end with it. Follows an [`EndDatabase`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Delete {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Only a database that was born before this is deleted; 0 if any is. Of [`ENDS_LEVEL`].
    #[prost(fixed64, tag = "2")]
    pub before: u64,
}

/// A node has been gone for longer than its lease: its epoch ends here, and the leader disconnects its sessions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpireNode {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// The last epoch that has ended.
    #[prost(fixed64, tag = "2")]
    pub epoch: u64,
    /// The term in which the proposer led. In an entry of another term the command has no effect: a leader that was
    /// cut off takes everybody else for gone, and proposes so again when it is back.
    #[prost(uint64, tag = "3")]
    pub term: u64,
}

/// What the proposing node's replicas hold. Of the first [`LEVEL_REPORTS`]; at most [`REPORTS_MAX`] of them count.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reports {
    /// Each at a position where all replicas report.
    #[prost(message, repeated, tag = "1")]
    pub reports: Vec<Report>,
}

/// What a replica of a database holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Report {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The position of the last command that changed it.
    #[prost(fixed64, tag = "2")]
    pub position: u64,
    /// The digest of all writes up to there.
    #[prost(fixed64, tag = "3")]
    pub digest: u64,
    /// Whether it is a hash of all rows instead, as they are stored: what was read at the [`Verify`] at `position`. Of
    /// [`JUDGEMENT_LEVEL`].
    #[prost(bool, tag = "4")]
    pub of_rows: bool,
    /// The position of the command before which the replica was looked at: every replica has come to the same commands
    /// there, whether they have succeeded on it or not. 0 for a look at rest. Of [`JUDGEMENT_LEVEL`].
    #[prost(fixed64, tag = "5")]
    pub place: u64,
}

/// Which replica of a split database is right: an operator's word. Refused if the database is not split, or that replica
/// has not reported where the others differ.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resolve {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The node whose replica is right.
    #[prost(uint64, tag = "2")]
    pub node: u64,
}

/// Every replica reads all rows of a database as they are here, to be compared. Of the first [`LEVEL_REPORTS`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Verify {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Whether the cluster asks of itself: then only a small database is read.
    #[prost(bool, tag = "2")]
    pub scrub: bool,
}

/// About a command that stops SpacetimeDB each time it is tried.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Poison {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The command's position.
    #[prost(fixed64, tag = "2")]
    pub position: u64,
    /// What is said of it. `None` is something of a newer version: the node stops rather than skip it.
    #[prost(oneof = "PoisonStep", tags = "3, 4, 5")]
    pub step: Option<PoisonStep>,
}

/// What a [`Poison`] says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum PoisonStep {
    /// The proposer's replica is stuck at the command, or is not any more.
    #[prost(message, tag = "3")]
    Stuck(Stuck),
    /// The leader has found all voters stuck at the command: it has failed, and is passed over.
    #[prost(message, tag = "4")]
    Failed(Failed),
    /// An operator wants the command passed over, wherever the replicas are.
    #[prost(message, tag = "5")]
    Skipped(Skipped),
}

/// A replica has not got past a command, and promises not to try it again before it has taken this back.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Stuck {
    /// How often the command has stopped the replica's server; 0 takes the report back.
    #[prost(uint32, tag = "1")]
    pub attempts: u32,
}

/// All voters have reported that they are stuck at a command. Without effect unless they still are, and the proposer
/// leads.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failed {
    /// The term in which the proposer led.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// The voters.
    #[prost(uint64, repeated, tag = "2")]
    pub voters: Vec<u64>,
}

/// An operator's decision.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Skipped {}

impl Poison {
    /// Whether it decides that the command has failed.
    pub fn decides(&self) -> bool {
        matches!(self.step, Some(PoisonStep::Failed(_) | PoisonStep::Skipped(_)))
    }
}

/// What the proposer's SpacetimeDB says of a publication. The first one in the log holds for every replica: whatever their
/// own servers say, they go on with the same module. Of [`JUDGEMENT_LEVEL`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Judgement {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The publication's position.
    #[prost(fixed64, tag = "2")]
    pub position: u64,
    /// Why the module is refused, in the server's words, at most [`REFUSAL_BYTES_MAX`]; `None` if it is not.
    #[prost(string, optional, tag = "3")]
    pub refusal: Option<String>,
    /// Whether the update breaks clients: all that came before it are disconnected. Of [`MIGRATION_LEVEL`].
    #[prost(bool, tag = "4")]
    pub breaks: bool,
}

/// Calls to which the proposer's SpacetimeDB, rather than their reducers, has given an answer: they trapped, ran out of
/// energy or memory, or the server had troubles of its own. A caller is told once a majority of the replicas says the same.
/// Of [`JUDGEMENT_LEVEL`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Trapped {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The calls' positions; at most [`TRAPPED_MAX`] of them count.
    #[prost(fixed64, repeated, tag = "2")]
    pub positions: Vec<u64>,
}

/// The cluster's settings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InitCluster {
    /// The cluster's id, a UUID.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// The public half of the key that signs tokens (ES256, PEM), the same for every SpacetimeDB of the cluster.
    #[prost(string, tag = "2")]
    pub jwt_public_key: String,
    /// The private half, when the nodes manage their SpacetimeDB themselves; empty when operators hand it out.
    #[prost(string, tag = "3")]
    pub jwt_private_key: String,
}

/// A node: where and what it is, as it announces itself. Refused if a text is longer than its limit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetNode {
    /// The node's id.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Where its peers reach it, `host:port`.
    #[prost(string, tag = "2")]
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    #[prost(string, tag = "3")]
    pub client_addr: String,
    /// Its RaftTimeDB's version.
    #[prost(string, tag = "4")]
    pub version: String,
    /// The version of the SpacetimeDB that was last behind it; empty as long as none was.
    #[prost(string, tag = "5")]
    pub spacetimedb_version: String,
    /// The kind of its CPU: the architecture, and what is known of vendor, family and model.
    #[prost(string, tag = "6")]
    pub cpu: String,
    /// Its [`FEATURE_LEVEL`].
    #[prost(uint32, tag = "7")]
    pub feature_level: u32,
}

impl SetNode {
    /// The first text that is longer than its limit, and the limit in bytes.
    pub(crate) fn too_long(&self) -> Option<(&'static str, usize)> {
        let texts = [
            ("the raft address", &self.raft_addr, NODE_ADDR_BYTES_MAX),
            ("the client address", &self.client_addr, NODE_ADDR_BYTES_MAX),
            ("the version", &self.version, NODE_TEXT_BYTES_MAX),
            (
                "SpacetimeDB's version",
                &self.spacetimedb_version,
                NODE_TEXT_BYTES_MAX,
            ),
            ("the kind of CPU", &self.cpu, NODE_TEXT_BYTES_MAX),
        ];
        let found = texts.into_iter().find(|(_, text, max)| text.len() > *max);
        found.map(|(what, _, max)| (what, max))
    }
}

/// A database's place in the cluster. Refused if one of the names is another database's.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterDatabase {
    /// The identity to use if the database is new, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Who owns it.
    #[prost(message, optional, tag = "2")]
    pub owner: Option<Owner>,
    /// The name it is published under, empty for none.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The shard it belongs to.
    #[prost(uint64, tag = "4")]
    pub shard: u64,
    /// Whether the database, if it is new, has this command's position as its birth. Of [`ENDS_LEVEL`].
    #[prost(bool, tag = "5")]
    pub has_birth: bool,
}

/// Replaces a database's names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetNames {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// All its names, the first one first.
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
    /// What is replaced: refused if the database has other names by now, or is another one. Of [`ENDS_LEVEL`]; `None` if
    /// whatever is there is.
    #[prost(message, optional, tag = "3")]
    pub replaced: Option<Names>,
}

/// A database's names, as whoever wants to change them knows them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Names {
    /// The database's birth.
    #[prost(fixed64, tag = "1")]
    pub born: u64,
    /// Its names.
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
}

/// A database ends: from here on nobody finds it. What its shard still has of it is deleted by whoever proposes this, and if
/// he can't any more, by the shard's leader. Of [`ENDS_LEVEL`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndDatabase {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Its birth: refused if that database has ended already.
    #[prost(fixed64, tag = "2")]
    pub born: u64,
}

/// Locks a database, so that it is neither deleted nor cleared, or unlocks it. Of [`MIGRATION_LEVEL`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetLock {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// Whether it is locked from now on.
    #[prost(bool, tag = "2")]
    pub locked: bool,
    /// Its birth: refused if that database has ended, as its identity may be somebody else's by now.
    #[prost(fixed64, tag = "3")]
    pub born: u64,
}

impl Command {
    /// Whether it makes the databases or the cluster grow: what frees, ends or repairs something does not count.
    pub(crate) fn grows(&self) -> bool {
        matches!(
            self.body,
            Some(Body::Call(_) | Body::Connect(_) | Body::Publish(_) | Body::RegisterDatabase(_))
        )
    }
}

impl From<Body> for Command {
    fn from(body: Body) -> Self {
        // A node that passed over the claims would have other rows than the others; one that passed over births or a
        // condition, other databases, names or sessions. One that passed over the token would refuse what the others take,
        // or leave clients with the rows of another module.
        let version = match &body {
            Body::Connect(connect) if connect.unique => ENDS_LEVEL,
            Body::Publish(publish) if publish.born != 0 => ENDS_LEVEL,
            Body::Publish(publish) if !publish.token.is_empty() => MIGRATION_LEVEL,
            Body::Judgement(judgement) if judgement.breaks => MIGRATION_LEVEL,
            Body::Delete(delete) if delete.before != 0 => ENDS_LEVEL,
            Body::RegisterDatabase(register) if register.has_birth => ENDS_LEVEL,
            Body::SetNames(set) if set.replaced.is_some() => ENDS_LEVEL,
            Body::Call(call) if !call.claims.is_empty() => CLAIMS_LEVEL,
            Body::Connect(connect) if !connect.claims.is_empty() => CLAIMS_LEVEL,
            _ => 0,
        };
        Self {
            body: Some(body),
            version,
        }
    }
}
