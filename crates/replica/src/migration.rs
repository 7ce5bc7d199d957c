//! The token by which a database's owner agrees to what an update does to clients.
//!
//! It is made as SpacetimeDB 2.x makes it, over the original modules: so it is the same on every node, and good only as
//! long as the database runs the module that the update was planned for.

use crate::DatabaseId;
use rtdb_consensus::command::Publish;
use serde::Deserialize;
use spacetimedb_lib::{Hash, Identity, hash_bytes};

/// The token for an update of `database` from the module `from` to the module `to`.
pub fn migration_token(database: &DatabaseId, from: Hash, to: Hash) -> Hash {
    let database = Identity::from_byte_array(*database);
    hash_bytes(format!("{}{}{}", database.to_hex(), from.to_hex(), to.to_hex()))
}

/// The hash that stands for a publication's module in tokens. Of one from before modules' hashes were in the log, it is that
/// of the prepared module.
pub(crate) fn program(publish: &Publish) -> Hash {
    match publish.program.as_ref().try_into() {
        Ok(hash) => Hash::from_byte_array(hash),
        Err(_) => hash_bytes(&publish.module),
    }
}

/// What a server answers that is asked what an update would do (2.8.3, `PrePublishResult`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum UpdatePlan {
    /// The server can do it.
    AutoMigrate {
        /// The token that it wants.
        token: Hash,
        /// Whether it breaks clients.
        break_clients: bool,
    },
    /// The server can't.
    ManualMigrate {},
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_publication_has_a_hash_too() {
        let old = Publish {
            module: b"prepared"[..].into(),
            ..Publish::default()
        };
        assert_eq!(program(&old), hash_bytes("prepared"));
        let new = Publish {
            program: vec![7; 32].into(),
            ..old
        };
        assert_eq!(program(&new), Hash::from_byte_array([7; 32]));
    }

    #[test]
    fn a_token_is_good_for_one_update_of_one_database() {
        let [a, b] = [hash_bytes("a"), hash_bytes("b")];
        let token = migration_token(&[1; 32], a, b);
        assert_ne!(token, migration_token(&[2; 32], a, b));
        assert_ne!(token, migration_token(&[1; 32], b, a));
    }
}
