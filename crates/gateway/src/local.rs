//! What the gateway asks of the node's own SpacetimeDB and of the replica that feeds it.

use crate::reach::Reach;
use futures::future::BoxFuture;
use rtdb_consensus::{LogIndex, Position};
use rtdb_determinism::Module;
use rtdb_protocol::Subprotocol;
use rtdb_replica::{Became, Procedures, Views};
use spacetimedb_lib::{ConnectionId, Hash, Identity};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::watch;

/// A database that runs on this node.
#[derive(Clone)]
pub struct LocalDatabase {
    /// The module that runs, as its author wrote it.
    pub module: Arc<Module>,
    /// The hash that stands for it in tokens.
    pub program: Hash,
    /// Where the log has published it.
    pub position: Position,
    /// Whether it reads what its callers' tokens say.
    pub reads_claims: bool,
}

/// A database that this node does not serve, since its replica here can't be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Why.
    pub reason: String,
    /// A node to turn to, as close frames name it: `leader=<id>:<addr>`; `None` if there is none.
    pub hint: Option<String>,
}

/// The node's own SpacetimeDB.
pub trait Local: Send + Sync {
    /// Where it listens, `host:port`; `None` while it does not answer.
    fn address(&self) -> Option<String>;

    /// How it is reached in clients' names; `None`: at its [address](Local::address), over HTTP and WebSockets.
    fn reach(&self) -> Option<Arc<dyn Reach>> {
        None
    }

    /// The newest subprotocol it speaks. A 1.2 server knows [`Subprotocol::V1`] alone.
    fn newest_subprotocol(&self) -> Subprotocol;

    /// The database of that identity, once the replica has published it to the local server.
    fn database(&self, identity: &Identity) -> Option<LocalDatabase>;

    /// The hash of the module as its author wrote it, of one that was ever published to a database, by that of the prepared
    /// module, which the local server tells. `None` if nobody knows.
    fn original(&self, _identity: &Identity, _prepared: Hash) -> Option<Hash> {
        None
    }

    /// Changes with every publication to a database that exists, refused or not: connections to the local server from
    /// before it may hang on a module that nobody else sees. `None` if there is no such database.
    fn publications(&self, identity: &Identity) -> Option<watch::Receiver<u64>>;

    /// Whether it plans updates, and takes some only from who agrees to that plan. 1.3 and older do not.
    fn plans_updates(&self) -> bool;

    /// Resolves when a publication is in place on this node that breaks clients, and stands behind the arrival of
    /// `session` in the log.
    fn until_broken(&self, identity: &Identity, session: u64) -> BoxFuture<'static, ()>;

    /// Where clients of a database should turn instead, if its replica on this node is set aside.
    fn set_aside(&self, identity: &Identity) -> Option<SetAside>;

    /// Resolves when the replica of a database is set aside on this node.
    fn until_set_aside(&self, identity: &Identity) -> BoxFuture<'static, ()>;

    /// Resolves when a database is deleted: as soon as that is in the log.
    fn until_deleted(&self, identity: &Identity) -> BoxFuture<'static, ()>;

    /// The views of a database that clients of this node look at. `None` if there is no such database, or nothing that
    /// would refresh its views.
    fn views(&self, identity: &Identity) -> Option<Arc<Views>>;

    /// How many commands of a database are at the local server, whose updates are about to come: told only when there are none any
    /// more, or some again. `None` if there is no such database, or nobody knows.
    fn in_flight(&self, _identity: &Identity) -> Option<watch::Receiver<usize>> {
        None
    }

    /// The procedures of a database that run for clients of this node. `None` if there is no such database, or nothing that
    /// would carry out their transactions.
    fn procedures(&self, identity: &Identity) -> Option<Arc<Procedures>>;

    /// What became of the reducer's call that a client's last session with that connection id has given a number, as far as it is
    /// applied here.
    fn became(
        &self,
        identity: &Identity,
        sender: &Identity,
        connection: ConnectionId,
        request_id: u32,
    ) -> Became;

    /// Resolves when the local server has all of a database that stands in the log up to `index`, and again all that it may
    /// have shown anybody until now: it may have died since, and have lost its last transactions.
    fn caught_up(&self, identity: &Identity, index: LogIndex) -> BoxFuture<'static, ()>;

    /// The cluster's key; `None` until the cluster has been initialised.
    fn tokens(&self) -> Option<Arc<dyn Tokens>>;
}

/// Whom a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The identity, derived from issuer and subject.
    pub identity: Identity,
    /// Who issued the token.
    pub issuer: String,
    /// Whom it was issued to.
    pub subject: String,
    /// Whether the token ends on its own one day.
    pub expires: bool,
    /// All that the token says, in JSON, letter by letter.
    pub payload: String,
}

/// A caller whose token is good, or who got a new one.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated {
    pub(crate) claims: Claims,
    /// The token, as the caller knows it.
    pub(crate) token: String,
    /// One of the cluster's that says the same, if another issuer has made the caller's: the local server must not ask that.
    pub(crate) stand_in: Option<String>,
}

impl Authenticated {
    /// What the local server is shown.
    pub(crate) fn local_token(&self) -> &str {
        self.stand_in.as_ref().unwrap_or(&self.token)
    }
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is no token, or says what it must not. In SpacetimeDB's words.
    #[error("Invalid token: {0}")]
    Malformed(String),
    /// Another key signed it: whether it is good is for its issuer to say.
    #[error("Invalid token: InvalidSignature")]
    Foreign(Claims),
    /// Its time is over.
    #[error("Invalid token: ExpiredSignature")]
    Expired,
}

/// Tokens signed with the cluster's key.
pub trait Tokens: Send + Sync {
    /// Whom the token stands for.
    ///
    /// # Errors
    /// [`TokenError`]
    fn verify(&self, token: &str) -> Result<Claims, TokenError>;

    /// A new identity and a token for it, as the server itself makes them; `None` if signing fails.
    fn fresh(&self) -> Option<(Claims, String)>;

    /// A short-lived token for an identity whose issuer and subject are known, with the same payload if there is one; `None`
    /// if signing fails.
    fn mint(&self, claims: &Claims) -> Option<String>;
}
