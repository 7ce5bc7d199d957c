//! The cluster's databases, as the gateway asks for them.

use crate::kinds;
use rtdb_consensus::command::{CLAIMS_LEVEL, ENDS_LEVEL, JUDGEMENT_LEVEL, MIGRATION_LEVEL};
use rtdb_consensus::{Database, Group};
use rtdb_gateway::{Catalog, DatabaseRecord};
use spacetimedb_lib::Identity;
use std::sync::Arc;

/// The databases that the meta group's log knows.
pub(crate) struct MetaCatalog(pub(crate) Arc<Group>);

impl Catalog for MetaCatalog {
    fn ready(&self) -> bool {
        self.0.meta().cluster().is_some()
    }

    fn takes_claims(&self) -> bool {
        self.0.feature_level() >= CLAIMS_LEVEL
    }

    fn judges(&self) -> bool {
        self.0.feature_level() >= JUDGEMENT_LEVEL
    }

    fn migrates(&self) -> bool {
        self.0.feature_level() >= MIGRATION_LEVEL
    }

    fn ends(&self) -> bool {
        self.0.feature_level() >= ENDS_LEVEL
    }

    fn has_mixed_processors(&self) -> bool {
        kinds::has_mixed_processors(self.0.meta().nodes())
    }

    fn by_identity(&self, identity: &Identity) -> Option<DatabaseRecord> {
        record(self.0.meta().database(&identity.to_byte_array())?)
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        identity(self.0.meta().identity(name)?)
    }
}

fn identity(bytes: &[u8]) -> Option<Identity> {
    Some(Identity::from_byte_array(bytes.try_into().ok()?))
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
