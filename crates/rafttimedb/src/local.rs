//! The node's own SpacetimeDB, as the gateway asks for it.

use rtdb_gateway::{Claims, Local, LocalDatabase, TokenError};
use rtdb_protocol::Subprotocol;
use rtdb_replica::{LocalServer, Replica, ServerState, Tokens};
use spacetimedb_lib::Identity;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a token lives that the gateway made for a connection to the local server.
const MINTED_LIFETIME: Duration = Duration::from_secs(60);

/// What runs once the cluster has its settings: the local server, and the replica that feeds it.
pub(crate) struct Running {
    pub(crate) server: LocalServer,
    pub(crate) replica: Replica,
    pub(crate) tokens: Arc<ClusterTokens>,
}

/// The node's own SpacetimeDB: nothing at first, then [`Running`].
#[derive(Default)]
pub(crate) struct LocalNode {
    running: OnceLock<Running>,
}

impl LocalNode {
    /// What runs, if it does already.
    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    /// Says that it runs now. Later calls change nothing.
    pub(crate) fn run(&self, running: Running) -> &Running {
        self.running.get_or_init(|| running)
    }

    fn version(&self) -> Option<(u32, u32)> {
        self.running()?.server.version()?.numbers()
    }
}

impl Local for LocalNode {
    fn address(&self) -> Option<String> {
        let server = &self.running()?.server;
        (*server.state().borrow() == ServerState::Up).then(|| server.authority())
    }

    fn newest_subprotocol(&self) -> Subprotocol {
        match self.version() {
            Some((1, _)) => Subprotocol::V1,
            Some((2, 0 | 1)) => Subprotocol::V2,
            // An unknown version is newer than we are.
            _ => Subprotocol::V3,
        }
    }

    fn database(&self, identity: &Identity) -> Option<LocalDatabase> {
        let active = self.running()?.replica.database(&identity.to_byte_array())?;
        Some(LocalDatabase { module: active.module.clone() })
    }

    fn tokens(&self) -> Option<Arc<dyn rtdb_gateway::Tokens>> {
        Some(self.running()?.tokens.clone())
    }
}

/// The cluster's tokens, as the gateway uses them.
pub(crate) struct ClusterTokens(pub(crate) Tokens);

impl rtdb_gateway::Tokens for ClusterTokens {
    fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        self.0.verify(token).map(claims).map_err(|error| match error {
            rtdb_replica::TokenError::Expired => TokenError::Expired,
            rtdb_replica::TokenError::Foreign(of) => TokenError::Foreign(claims(of)),
            rtdb_replica::TokenError::Malformed(_) | rtdb_replica::TokenError::Signing(_) => TokenError::Malformed,
        })
    }

    fn fresh(&self) -> Option<(Claims, String)> {
        let minted = self.0.fresh().ok()?;
        Some((self.verify(&minted.token).ok()?, minted.token))
    }

    fn mint(&self, claims: &Claims) -> Option<String> {
        Some(self.0.mint(&claims.issuer, &claims.subject, Some(MINTED_LIFETIME)).ok()?.token)
    }
}

fn claims(claims: rtdb_replica::Claims) -> Claims {
    Claims {
        identity: Identity::from_byte_array(claims.identity),
        issuer: claims.issuer,
        subject: claims.subject,
        expires: claims.expires_s.is_some(),
    }
}
