//! [`Local`] over the node's replica and server: the one place where the gateway meets them.

use crate::local::{Claims, Local, LocalDatabase, SetAside, TokenError, Tokens};
use crate::reach::Reach;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_consensus::LogIndex;
use rtdb_protocol::Subprotocol;
use rtdb_replica::{Became, LocalServer, Procedures, Replica, Server, ServerState, Views};
use rtdb_runtime::{Home, JoinHandle};
use spacetimedb_lib::{ConnectionId, Hash, Identity};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a token lives that stands in for a client's own when its upstream is opened.
const MINTED_LIFETIME: Duration = Duration::from_secs(60);

/// The node's replica, its server, and the cluster's key.
pub struct OverReplica {
    replica: Arc<Replica>,
    server: Arc<dyn Server>,
    how: How,
    tokens: Arc<dyn Tokens>,
    home: Home,
}

/// How the server is reached in clients' names.
enum How {
    Network(LocalServer),
    Other(Arc<dyn Reach>),
}

impl OverReplica {
    /// Serves from `replica`, whose server is `server` and whose key makes `tokens`, and which runs where this is called.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(replica: Arc<Replica>, server: LocalServer, tokens: rtdb_replica::Tokens) -> Self {
        Self {
            replica,
            server: server.named(tokens.clone()),
            how: How::Network(server),
            tokens: Arc::new(ClusterTokens(tokens)),
            home: Home::here(),
        }
    }

    /// The same over a server that is not reached over the network.
    ///
    /// # Panics
    /// Where nothing runs tasks.
    pub fn reaching(
        replica: Arc<Replica>,
        server: Arc<dyn Server>,
        reach: Arc<dyn Reach>,
        tokens: Arc<dyn Tokens>,
    ) -> Self {
        Self {
            replica,
            server,
            how: How::Other(reach),
            tokens,
            home: Home::here(),
        }
    }
}

impl Local for OverReplica {
    fn address(&self) -> Option<String> {
        match &self.how {
            How::Network(server) if *server.state().borrow() == ServerState::Up => Some(server.authority()),
            How::Network(_) | How::Other(_) => None,
        }
    }

    fn reach(&self) -> Option<Arc<dyn Reach>> {
        match &self.how {
            How::Network(_) => None,
            How::Other(reach) => Some(reach.clone()),
        }
    }

    /// v1 until 1.x, and all from 2.2 on; where the version is unknown, it is taken for a new one.
    fn newest_subprotocol(&self) -> Subprotocol {
        match self.server.version().and_then(|version| version.numbers()) {
            Some((..2, _)) => Subprotocol::V1,
            Some((2, ..2)) => Subprotocol::V2,
            _ => Subprotocol::V3,
        }
    }

    fn database(&self, identity: &Identity) -> Option<LocalDatabase> {
        let active = self.replica.database(&identity.to_byte_array())?;
        Some(LocalDatabase {
            module: active.module.clone(),
            program: active.program,
            position: active.position,
            reads_claims: active.claims == rtdb_determinism::Claims::Read,
        })
    }

    fn original(&self, identity: &Identity, prepared: Hash) -> Option<Hash> {
        self.replica.original(&identity.to_byte_array(), prepared)
    }

    fn publications(&self, identity: &Identity) -> Option<watch::Receiver<u64>> {
        self.replica.publications(&identity.to_byte_array())
    }

    /// Plans came with 1.4; where the version is unknown, it is taken for a new one.
    fn plans_updates(&self) -> bool {
        let version = self.server.version().and_then(|version| version.numbers());
        version.is_none_or(|version| version >= (1, 4))
    }

    fn until_broken(&self, identity: &Identity, session: u64) -> BoxFuture<'static, ()> {
        let broken = self.replica.broken(&identity.to_byte_array());
        async move {
            let Some(mut broken) = broken else {
                return std::future::pending().await;
            };
            if broken.wait_for(|position| position.0 > session).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    fn set_aside(&self, identity: &Identity) -> Option<SetAside> {
        let why = self
            .replica
            .quarantine(&identity.to_byte_array())?
            .borrow()
            .clone()?;
        Some(SetAside {
            reason: why.to_string(),
            hint: None,
        })
    }

    fn until_set_aside(&self, identity: &Identity) -> BoxFuture<'static, ()> {
        let quarantine = self.replica.quarantine(&identity.to_byte_array());
        async move {
            let Some(mut quarantine) = quarantine else {
                return std::future::pending().await;
            };
            if quarantine.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    fn until_deleted(&self, identity: &Identity) -> BoxFuture<'static, ()> {
        let deleted = self.replica.deleted(&identity.to_byte_array());
        async move {
            // Where nobody can say it any more, it is deleted, too.
            let Some(mut deleted) = deleted else { return };
            let _ = deleted.wait_for(|deleted| *deleted).await;
        }
        .boxed()
    }

    fn views(&self, identity: &Identity) -> Option<Arc<Views>> {
        self.replica.views(&identity.to_byte_array())
    }

    fn in_flight(&self, identity: &Identity) -> Option<watch::Receiver<usize>> {
        self.replica.in_flight(&identity.to_byte_array())
    }

    fn procedures(&self, identity: &Identity) -> Option<Arc<Procedures>> {
        self.replica.procedures(&identity.to_byte_array())
    }

    fn became(
        &self,
        identity: &Identity,
        sender: &Identity,
        connection: ConnectionId,
        request_id: u32,
    ) -> Became {
        let (database, sender) = (identity.to_byte_array(), sender.to_byte_array());
        self.replica
            .became(&database, sender, connection.as_le_byte_array(), request_id)
    }

    fn caught_up(&self, identity: &Identity, index: LogIndex) -> BoxFuture<'static, ()> {
        // The replica asks the server over connections that it shares with the applier: these must not hang on clients.
        let (replica, identity) = (self.replica.clone(), identity.to_byte_array());
        let looking = Looking(
            self.home
                .spawn(async move { replica.caught_up(&identity, index).await }),
        );
        async move {
            let mut looking = looking;
            // It ends badly only with the node.
            if (&mut looking.0).await.is_err() {
                std::future::pending().await
            }
        }
        .boxed()
    }

    fn tokens(&self) -> Option<Arc<dyn Tokens>> {
        Some(self.tokens.clone())
    }
}

/// A look at where the replica is. It ends when nobody waits for it any more.
struct Looking(JoinHandle<()>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct ClusterTokens(rtdb_replica::Tokens);

impl Tokens for ClusterTokens {
    fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        use rtdb_replica::TokenError as Refused;
        match self.0.verify(token) {
            Ok(verified) => Ok(claims(verified, payload(token)?)),
            Err(Refused::Expired) => Err(TokenError::Expired),
            Err(Refused::Foreign(unproven)) => Err(TokenError::Foreign(claims(unproven, payload(token)?))),
            Err(Refused::Malformed(why) | Refused::Signing(why)) => Err(TokenError::Malformed(why)),
        }
    }

    fn fresh(&self) -> Option<(Claims, String)> {
        let token = self.0.fresh().ok()?.token;
        Some((self.verify(&token).ok()?, token))
    }

    fn mint(&self, claims: &Claims) -> Option<String> {
        let minted = match claims.payload.as_str() {
            "" => self
                .0
                .mint(&claims.issuer, &claims.subject, Some(MINTED_LIFETIME)),
            payload => self.0.mint_as(payload, MINTED_LIFETIME),
        };
        Some(minted.ok()?.token)
    }
}

/// A token's second part, as SpacetimeDB hands it to modules.
fn payload(token: &str) -> Result<String, TokenError> {
    let part = token.split('.').nth(1);
    let json = part.and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let text = json.and_then(|json| String::from_utf8(json).ok());
    text.ok_or_else(|| TokenError::Malformed("InvalidToken".to_owned()))
}

fn claims(claims: rtdb_replica::Claims, payload: String) -> Claims {
    Claims {
        identity: Identity::from_byte_array(claims.identity),
        issuer: claims.issuer,
        subject: claims.subject,
        expires: claims.expires_s.is_some(),
        payload,
    }
}
