//! The cluster's databases, as the gateway asks for them.

use crate::kinds;
use bytes::Bytes;
use rtdb_consensus::command::{
    CLAIMS_LEVEL, CallKey, ENDS_LEVEL, IMMEDIATE_LEVEL, JUDGEMENT_LEVEL, KEYS_LEVEL, MIGRATION_LEVEL,
    TRANSACTION_LEVEL, WRITE_LEVEL,
};
use rtdb_consensus::{Database, Group, Session, ShardState};
use rtdb_gateway::{Catalog, Client, DatabaseRecord, FirstCall};
use spacetimedb_lib::{ConnectionId, Identity};
use std::sync::Arc;

/// Sessions that are listed at once: the log is not resolved meanwhile.
const LISTED_MAX: usize = 512;

/// The databases that the meta group's log knows, and their clients, whom the shard's knows.
pub(crate) struct LogCatalog {
    pub(crate) meta: Arc<Group>,
    pub(crate) shard: Arc<Group>,
}

impl Catalog for LogCatalog {
    fn ready(&self) -> bool {
        self.meta.meta().cluster().is_some()
    }

    fn takes_claims(&self) -> bool {
        self.meta.feature_level() >= CLAIMS_LEVEL
    }

    fn judges(&self) -> bool {
        self.meta.feature_level() >= JUDGEMENT_LEVEL
    }

    fn migrates(&self) -> bool {
        self.meta.feature_level() >= MIGRATION_LEVEL
    }

    fn ends(&self) -> bool {
        self.meta.feature_level() >= ENDS_LEVEL
    }

    fn writes(&self) -> bool {
        self.meta.feature_level() >= WRITE_LEVEL
    }

    fn runs_procedures(&self) -> bool {
        self.meta.feature_level() >= TRANSACTION_LEVEL
    }

    fn has_heard_all(&self) -> bool {
        self.meta.feature_level() > 0
    }

    fn calls_at_once(&self) -> bool {
        self.meta.feature_level() >= IMMEDIATE_LEVEL
    }

    fn takes_keys(&self) -> bool {
        self.meta.feature_level() >= KEYS_LEVEL
    }

    fn has_mixed_processors(&self) -> bool {
        kinds::has_mixed_processors(&self.meta.announced())
    }

    fn has_mixed_servers(&self) -> bool {
        kinds::has_mixed_servers(&self.meta.announced())
    }

    fn by_identity(&self, identity: &Identity) -> Option<DatabaseRecord> {
        record(self.meta.meta().database(&identity.to_byte_array())?)
    }

    fn owned_by(&self, owner: &Identity) -> Vec<DatabaseRecord> {
        let meta = self.meta.meta();
        let mut owned: Vec<_> = meta.databases().filter_map(record).collect();
        owned.retain(|record| record.is_owned_by(owner));
        owned.sort_by_key(|record| record.born);
        owned
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        identity(self.meta.meta().identity(name)?)
    }

    fn clients(&self, database: &Identity) -> Vec<Client> {
        let mut sessions = sessions(&self.shard, &database.to_byte_array().to_vec().into());
        sessions.sort_unstable_by_key(|session| session.id);
        sessions.iter().filter_map(client).collect()
    }

    fn keyed(&self, database: &Identity, key: &CallKey) -> Option<FirstCall> {
        let first = |shard: &ShardState| {
            let (position, call) = shard.keyed(&database.to_byte_array(), &key.sender, &key.key)?;
            Some(FirstCall {
                position,
                timestamp_us: call.timestamp_us(),
                is_same: call.is_same(key),
                outcome: call.outcome(),
            })
        };
        self.shard.with_shard(first)?
    }
}

/// The sessions of a database's clients, by connection id.
pub(crate) fn sessions(shard: &Group, database: &Bytes) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    loop {
        let before = sessions.len();
        shard.with_shard(|shard| match sessions.last().cloned() {
            None => sessions.extend(shard.sessions_of(database).take(LISTED_MAX).cloned()),
            Some(last) => sessions.extend(shard.sessions_behind(&last).take(LISTED_MAX).cloned()),
        });
        if sessions.len() < before + LISTED_MAX {
            return sessions;
        }
    }
}

fn identity(bytes: &[u8]) -> Option<Identity> {
    Some(Identity::from_byte_array(bytes.try_into().ok()?))
}

/// `None` for a session without sound ids, which the log's rules do not let in.
fn client(session: &Session) -> Option<Client> {
    Some(Client {
        identity: identity(&session.sender)?,
        connection: ConnectionId::from_le_byte_array(session.connection.as_ref().try_into().ok()?),
    })
}

/// `None` for a record without a sound identity or an owner, which the log's rules do not let in.
fn record(database: &Database) -> Option<DatabaseRecord> {
    Some(DatabaseRecord {
        identity: identity(&database.identity)?,
        owner: database.owner.clone()?,
        names: database.names.clone(),
        shard: database.shard,
        locked: database.locked,
        born: database.born,
    })
}
