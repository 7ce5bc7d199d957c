//! Lets the replicas compare what they have stored, again and again: a server that has lost or changed rows by itself, or a
//! disk that has, shows in no digest of what was written.

use crate::kinds;
use rtdb_consensus::command::{Body, JUDGEMENT_LEVEL, Verify};
use rtdb_consensus::{Manager, Propose, Role};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// The least pause between two databases.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How long a comparison may take before the next one begins all the same.
const VERIFY_MAX: Duration = Duration::from_secs(60);

/// The task that asks for comparisons while this node leads.
pub(crate) struct Scrubber {
    pub(crate) manager: Arc<Manager>,
    /// How often each database is compared; never, if it is zero.
    pub(crate) interval: Duration,
}

impl Scrubber {
    /// Asks for as long as it is polled.
    pub(crate) async fn run(self) {
        let mut last = Vec::new();
        loop {
            let count = self.databases(|databases| databases.len());
            let pause = self.interval / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
            if self.interval.is_zero() {
                return std::future::pending().await;
            }
            tokio::time::sleep(pause.max(PAUSE_MIN)).await;
            if !self.may_ask() {
                continue;
            }
            let next = self.databases(|databases| next(&databases, &last));
            let Some(next) = next else { continue };
            let body = Body::Verify(Verify {
                database: next.clone().into(),
                scrub: true,
            });
            if let Ok(pending) = self.manager.shard().submit(body.into()) {
                // Whatever comes of it, the replicas say in the log.
                let _ = tokio::time::timeout(VERIFY_MAX, pending).await;
            }
            last = next;
        }
    }

    /// Servers of different versions may write the same rows differently.
    fn may_ask(&self) -> bool {
        self.manager.shard().status().role == Role::Leader
            && self.manager.feature_level() >= JUDGEMENT_LEVEL
            && !kinds::has_mixed_servers(&self.manager.meta().announced())
    }

    fn databases<T>(&self, of: impl FnOnce(Vec<Vec<u8>>) -> T) -> T {
        let databases = self.manager.shard().with_shard(|shard| {
            let databases = shard.databases();
            databases.map(|database| database.to_vec()).collect()
        });
        of(databases.unwrap_or_default())
    }
}

/// The one behind `last`, round and round.
fn next(databases: &[Vec<u8>], last: &[u8]) -> Option<Vec<u8>> {
    let all: std::collections::BTreeSet<&[u8]> = databases.iter().map(Vec::as_slice).collect();
    let behind = all
        .range::<[u8], _>((Bound::Excluded(last), Bound::Unbounded))
        .next();
    behind.or_else(|| all.first()).map(|next| next.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_has_its_turn() {
        let databases = [vec![2], vec![1], vec![3]];
        let mut last = Vec::new();
        let mut turns = Vec::new();
        for _ in 0..4 {
            last = next(&databases, &last).unwrap();
            turns.push(last[0]);
        }
        assert_eq!(turns, [1, 2, 3, 1]);
        assert_eq!(next(&databases, &[9]), Some(vec![1]));
        assert_eq!(next(&[], &[9]), None);
    }
}
