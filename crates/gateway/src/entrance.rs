//! Where clients of a database wait to be let in: what holds up one of them, such as a `client_connected` that takes long,
//! holds up all behind it, and those who come and go meanwhile must not fill the log.

use crate::limits::ENTERING_MAX;
use spacetimedb_lib::Identity;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The databases whose clients are on their way in.
#[derive(Default)]
pub(crate) struct Entrance(Mutex<BTreeMap<Identity, Weak<Semaphore>>>);

/// A client is on its way in, until it is known whether it is let in: also if it leaves before.
pub(crate) type Entering = Option<OwnedSemaphorePermit>;

impl Entrance {
    /// Resolves when a client of the database may be proposed, one after the other.
    pub(crate) async fn enter(&self, database: &Identity) -> Entering {
        // It is never closed.
        self.of(database).acquire_owned().await.ok()
    }

    fn of(&self, database: &Identity) -> Arc<Semaphore> {
        let mut databases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = databases.get(database).and_then(Weak::upgrade) {
            return places;
        }
        databases.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(ENTERING_MAX));
        databases.insert(*database, Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn enter(entrance: &Entrance, database: &str) -> Option<Entering> {
        let database = Identity::from_claims("test", database);
        entrance.enter(&database).now_or_never()
    }

    #[test]
    fn each_database_has_its_places_as_long_as_they_are_taken() {
        let entrance = Entrance::default();
        let mut taken: Vec<_> = (0..ENTERING_MAX)
            .map(|_| enter(&entrance, "slow").expect("a place"))
            .collect();
        assert!(enter(&entrance, "slow").is_none());
        assert!(enter(&entrance, "other").is_some());
        taken.pop();
        assert!(enter(&entrance, "slow").is_some());
        taken.clear();
        let _another = enter(&entrance, "another");
        assert_eq!(entrance.0.lock().expect("the databases").len(), 1);
    }
}
