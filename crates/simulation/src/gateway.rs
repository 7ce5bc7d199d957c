//! A node's gateway: the product's own, without HTTP and the WebSocket's library, over a server that is a model.

use crate::module::{DATABASE, owner};
use crate::spacetime::SpacetimeDb;
use rtdb_consensus::Manager;
use rtdb_consensus::command::CallKey;
use rtdb_gateway::limits::Gather;
use rtdb_gateway::{
    Catalog, Claims, Client, ClientLimits, CloseReason, DatabaseRecord, FirstCall, Gateway, GatewayMetrics,
    OverReplica, TokenError, Tokens,
};
use rtdb_replica::Replica;
use rtdb_runtime::sim;
use spacetimedb_lib::Identity;
use std::sync::Arc;

/// Who issues the clients' tokens.
const ISSUER: &str = "simulation";

/// The database's identity.
pub fn database() -> Identity {
    Identity::from_byte_array(DATABASE.as_ref().try_into().unwrap_or_default())
}

/// Starts a node's gateway, which closes its clients when the others have given the node up.
pub fn start(
    manager: &Arc<Manager>,
    replica: &Arc<Replica>,
    server: &SpacetimeDb,
    gather: Gather,
) -> Gateway {
    let server = Arc::new(server.clone());
    let local = OverReplica::reaching(replica.clone(), server.clone(), server, Arc::new(Names));
    let gateway = Gateway::new(
        manager.shard().clone(),
        manager.meta().clone(),
        Arc::new(One),
        Arc::new(local),
        GatewayMetrics::new().expect("metrics"),
        ClientLimits {
            gather,
            ..ClientLimits::default()
        },
    );
    let closes = gateway.clone();
    let mut epoch = manager.shard().epoch();
    epoch.mark_unchanged();
    rtdb_runtime::spawn(async move {
        while epoch.changed().await.is_ok() {
            closes.close_sessions(CloseReason::restart());
        }
    });
    gateway
}

/// How updates wait for each other: there are few clients, so that they do it all the same in most worlds, and for about as many
/// of those that follow as where there are some, or very many.
pub fn draw_gather() -> Gather {
    let usual = Gather::default();
    match sim::draw(4) {
        0 => usual,
        _ => Gather {
            members_min: 1,
            members_half: [0, 2][sim::draw(2) as usize],
            a_member: [usual.max / 10, usual.max][sim::draw(2) as usize],
            ..usual
        },
    }
}

/// The one database that there is.
struct One;

impl Catalog for One {
    fn ready(&self) -> bool {
        true
    }

    fn takes_claims(&self) -> bool {
        false
    }

    fn judges(&self) -> bool {
        true
    }

    fn migrates(&self) -> bool {
        true
    }

    fn ends(&self) -> bool {
        true
    }

    fn writes(&self) -> bool {
        true
    }

    fn runs_procedures(&self) -> bool {
        true
    }

    fn calls_at_once(&self) -> bool {
        false
    }

    fn takes_keys(&self) -> bool {
        false
    }

    fn has_mixed_servers(&self) -> bool {
        false
    }

    fn has_mixed_processors(&self) -> bool {
        false
    }

    fn by_identity(&self, identity: &Identity) -> Option<DatabaseRecord> {
        (*identity == database()).then(|| DatabaseRecord {
            identity: *identity,
            owner: owner(),
            names: Vec::new(),
            shard: 1,
            locked: false,
            born: 0,
        })
    }

    fn owned_by(&self, owner: &Identity) -> Vec<DatabaseRecord> {
        let all = self.by_identity(&database()).into_iter();
        all.filter(|record| record.is_owned_by(owner)).collect()
    }

    fn identity(&self, _name: &str) -> Option<Identity> {
        None
    }

    fn keyed(&self, _: &Identity, _: &CallKey) -> Option<FirstCall> {
        None
    }

    fn clients(&self, _database: &Identity) -> Vec<Client> {
        Vec::new()
    }
}

/// Tokens that are names.
struct Names;

impl Tokens for Names {
    fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        Ok(claims(token))
    }

    fn fresh(&self) -> Option<(Claims, String)> {
        let token = format!("{:x}", rtdb_runtime::random());
        Some((claims(&token), token))
    }

    fn mint(&self, claims: &Claims) -> Option<String> {
        Some(claims.subject.clone())
    }
}

fn claims(name: &str) -> Claims {
    Claims {
        identity: Identity::from_claims(ISSUER, name),
        issuer: ISSUER.to_owned(),
        subject: name.to_owned(),
        expires: false,
        payload: String::new(),
    }
}
