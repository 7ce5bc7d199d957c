//! What the log holds. Prost messages, so that both the disk and the wire are versioned by tag: a field is never
//! renumbered or retyped, and a reader passes over what it does not know.

mod client;
mod cluster;
mod database;
mod issuer;
mod keyed;
mod level;
mod poison;
mod report;
mod restore;
mod timer;
mod transaction;
mod write;

pub use client::{Call, Connect, Disconnect};
pub use cluster::{
    EndDatabase, ExpireNode, InitCluster, NODE_ADDR_BYTES_MAX, NODE_TEXT_BYTES_MAX, Names, RegisterDatabase,
    SetLock, SetNames, SetNode,
};
pub use database::{Delete, Owner, Publish};
pub use issuer::{ISSUER_BYTES_MAX, ISSUER_KEYS_BYTES_MAX, SetIssuer, WantIssuer};
pub use keyed::{
    CallKey, Ended, FAILURE_BYTES_MAX, FINGERPRINT_BYTES_MAX, KEY_BYTES_MAX, Known, OUTCOMES_MAX, Outcomes,
    Succeeded,
};
pub use level::{
    CLAIM_LEVEL, CLAIMS_LEVEL, DUE_LEVEL, ENDS_LEVEL, FEATURE_LEVEL, IMMEDIATE_LEVEL, ISSUERS_LEVEL,
    JUDGEMENT_LEVEL, KEYS_LEVEL, LEVEL_REPORTS, MIGRATION_LEVEL, POISON_LEVEL, RESTORE_LEVEL, TIMERS_LEVEL,
    TRANSACTION_LEVEL, WRITE_LEVEL,
};
pub use poison::{Failed, Poison, PoisonStep, Skipped, Stuck};
pub use report::{
    Judgement, REFUSAL_BYTES_MAX, REPORTS_MAX, Report, Reports, Resolve, TRAPPED_MAX, Trapped, Verify,
};
pub use restore::{Departed, LOAD_BYTES_MAX, LOAD_DEPARTED_MAX, Load, TableRows, TableSum};
pub use timer::{IMMEDIATE_SCHEDULE, Timer, TimerAt};
pub use transaction::{Transaction, Turn};
pub use write::{Assignment, DeleteRows, InsertRows, UpdateRows, Write, WriteKind};

/// A command, as a client, a gateway or the leader proposed it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do. `None` is a command of a newer version: the node stops rather than skip it.
    #[prost(
        oneof = "Body",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 32, 33, 34, 35"
    )]
    pub body: Option<Body>,
    /// The version that whoever applies it must know: raised by whoever sets a field that must not be passed over. 0 for
    /// the first.
    #[prost(uint32, tag = "15")]
    pub version: u32,
}

/// The kinds of [`Command`]. 1 to 14 and 32 up belong to a shard, 16 to 31 to the meta group, expiry to both.
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
    /// A row of a schedule table is due.
    #[prost(message, tag = "13")]
    Timer(Timer),
    /// What came of calls with keys.
    #[prost(message, tag = "14")]
    Outcomes(Outcomes),
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
    /// An outside issuer's keys.
    #[prost(message, tag = "22")]
    SetIssuer(SetIssuer),
    /// An outside issuer's keys are wanted.
    #[prost(message, tag = "23")]
    WantIssuer(WantIssuer),
    /// A database's owner changes rows by SQL.
    #[prost(message, tag = "32")]
    Write(Write),
    /// A procedure's transaction.
    #[prost(message, tag = "33")]
    Transaction(Transaction),
    /// A procedure's transaction is to run where no call can come between.
    #[prost(message, tag = "34")]
    Turn(Turn),
    /// Rows of a database that is being restored.
    #[prost(message, tag = "35")]
    Load(Load),
}

impl Command {
    /// The caller's key for it, if it has one.
    pub fn key(&self) -> Option<&CallKey> {
        match &self.body {
            Some(Body::Call(call)) => call.key.as_ref(),
            Some(Body::Write(write)) => write.key.as_ref(),
            _ => None,
        }
    }

    /// Whether it makes the databases or the cluster grow: what frees, ends or repairs something does not count.
    pub(crate) fn grows(&self) -> bool {
        match &self.body {
            Some(Body::Transaction(transaction)) => return !transaction.is_nothing(),
            Some(Body::Outcomes(outcomes)) => return !outcomes.wanted.is_empty(),
            _ => {}
        }
        matches!(
            self.body,
            Some(
                Body::Call(_)
                    | Body::Connect(_)
                    | Body::Publish(_)
                    | Body::Timer(_)
                    | Body::RegisterDatabase(_)
                    | Body::SetIssuer(_)
                    | Body::WantIssuer(_)
                    | Body::Write(_)
                    | Body::Turn(_)
                    | Body::Load(_)
            )
        )
    }

    /// How many positions it takes in its entry.
    pub(crate) fn positions(&self) -> usize {
        match &self.body {
            Some(Body::Timer(_)) => 2,
            Some(Body::Load(load)) => 1 + load.departed.len(),
            _ => 1,
        }
    }
}

impl From<Body> for Command {
    fn from(body: Body) -> Self {
        // A node that passed over the claims would have other rows than the others; one that passed over births or a
        // condition, other databases, names or sessions. One that passed over the token would refuse what the others take,
        // or leave clients with the rows of another module. One that did not look at when a row is due, or who has seen that,
        // would run what the others refuse; one that knew of no calls at once would refuse what they run. One that passed over
        // a key would run what the others have run before.
        let version = match &body {
            Body::Call(Call { key: Some(_), .. })
            | Body::Write(Write { key: Some(_), .. })
            | Body::Outcomes(_) => KEYS_LEVEL,
            Body::SetIssuer(_) | Body::WantIssuer(_) => ISSUERS_LEVEL,
            Body::Load(_) => RESTORE_LEVEL,
            Body::Publish(publish) if publish.loads => RESTORE_LEVEL,
            Body::Write(_) => WRITE_LEVEL,
            Body::Timer(timer) if timer.schedule == IMMEDIATE_SCHEDULE => IMMEDIATE_LEVEL,
            Body::Timer(timer) if timer.at.is_some() => DUE_LEVEL,
            Body::Transaction(it) if it.claim.is_some() => CLAIM_LEVEL,
            Body::Transaction(_) | Body::Turn(_) => TRANSACTION_LEVEL,
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
