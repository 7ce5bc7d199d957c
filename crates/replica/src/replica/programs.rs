//! Which modules were prepared from which: SpacetimeDB tells the prepared one's hash, and clients mean that of their own.

use crate::DatabaseId;
use spacetimedb_lib::Hash;
use std::collections::BTreeMap;

/// Modules of a database that are remembered: the first ones.
const MODULES_MAX: usize = 1_024;

/// The original's hash by that of the prepared module, of all that was ever published to a database.
#[derive(Debug, Default)]
pub(super) struct Programs(BTreeMap<DatabaseId, BTreeMap<Hash, Hash>>);

impl Programs {
    /// Takes a publication, whether it is refused or not.
    pub(super) fn note(&mut self, database: DatabaseId, prepared: Hash, original: Hash) {
        let originals = self.0.entry(database).or_default();
        if originals.len() < MODULES_MAX {
            originals.insert(prepared, original);
        }
    }

    /// The database is deleted.
    pub(super) fn forget(&mut self, database: &DatabaseId) {
        self.0.remove(database);
    }

    pub(super) fn original(&self, database: &DatabaseId, prepared: Hash) -> Option<Hash> {
        self.0.get(database)?.get(&prepared).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spacetimedb_lib::hash_bytes;

    #[test]
    fn the_originals_of_all_that_was_published_are_known_until_the_database_is_deleted() {
        let mut programs = Programs::default();
        let prepared = |number: usize| hash_bytes(format!("prepared {number}"));
        let original = |number: usize| hash_bytes(format!("original {number}"));
        for number in 0..=MODULES_MAX {
            programs.note([7; 32], prepared(number), original(number));
        }
        for number in [0, MODULES_MAX - 1] {
            let known = programs.original(&[7; 32], prepared(number));
            assert_eq!(known, Some(original(number)));
        }
        assert_eq!(programs.original(&[7; 32], prepared(MODULES_MAX)), None);
        assert_eq!(programs.original(&[8; 32], prepared(0)), None);
        programs.forget(&[7; 32]);
        assert_eq!(programs.original(&[7; 32], prepared(0)), None);
    }
}
