//! How many calls a second: pure.

use crate::limits::SPENT_MIN;
use rtdb_runtime::Instant;
use spacetimedb_lib::Identity;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;
use thiserror::Error;

/// How many calls may come at once after a pause: those of so long a time.
const BURST: Duration = Duration::from_secs(1);

/// How many calls a second this node takes; `None` for as many as come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// To one database, of all its callers.
    pub database: Option<NonZeroU32>,
    /// Of one identity, to all databases.
    pub identity: Option<NonZeroU32>,
}

/// A quota is spent for the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Spent {
    #[error("this node takes {0} calls a second to one database, and they are spent: try again in a second")]
    Database(NonZeroU32),
    #[error("this node takes {0} calls a second of one identity, and they are spent: try again in a second")]
    Identity(NonZeroU32),
}

impl Spent {
    /// As the metrics name it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Database(_) => "database_quota",
            Self::Identity(_) => "identity_quota",
        }
    }
}

/// What the quotas have left.
#[derive(Default)]
pub(super) struct Accounts {
    databases: Option<Buckets>,
    identities: Option<Buckets>,
}

impl Accounts {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self {
            databases: quotas.database.map(Buckets::new),
            identities: quotas.identity.map(Buckets::new),
        }
    }

    /// Takes a call of both accounts, or of none.
    pub(super) fn spend(
        &mut self,
        database: &Identity,
        caller: &Identity,
        now: Instant,
    ) -> Result<(), Spent> {
        if let Some(identities) = self.identities.as_ref().filter(|all| !all.has(caller, now)) {
            return Err(Spent::Identity(identities.quota));
        }
        if let Some(databases) = self.databases.as_ref().filter(|all| !all.has(database, now)) {
            return Err(Spent::Database(databases.quota));
        }
        if let Some(identities) = &mut self.identities {
            identities.take(caller, now);
        }
        if let Some(databases) = &mut self.databases {
            databases.take(database, now);
        }
        Ok(())
    }
}

/// Token buckets, by when each is full again: one that is not known is full.
struct Buckets {
    quota: NonZeroU32,
    /// In which a token comes.
    interval: Duration,
    full_at: BTreeMap<Identity, Instant>,
    /// With so many the full ones are forgotten. So there are never more than twice those of a second's calls.
    sweep_at: usize,
}

impl Buckets {
    fn new(quota: NonZeroU32) -> Self {
        Self {
            quota,
            interval: Duration::from_secs(1) / quota.get(),
            full_at: BTreeMap::new(),
            sweep_at: SPENT_MIN,
        }
    }

    /// When it is full again after one more call.
    fn next(&self, of: &Identity, now: Instant) -> Instant {
        self.full_at.get(of).map_or(now, |at| now.max(*at)) + self.interval
    }

    fn has(&self, of: &Identity, now: Instant) -> bool {
        self.next(of, now) <= now + BURST
    }

    fn take(&mut self, of: &Identity, now: Instant) {
        let next = self.next(of, now);
        self.full_at.insert(*of, next);
        if self.full_at.len() >= self.sweep_at {
            self.full_at.retain(|_, at| *at > now);
            self.sweep_at = (2 * self.full_at.len()).max(SPENT_MIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> Identity {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        Identity::from_byte_array(bytes)
    }

    fn accounts(database: u32, identity: u32) -> Accounts {
        Accounts::new(Quotas {
            database: NonZeroU32::new(database),
            identity: NonZeroU32::new(identity),
        })
    }

    #[test]
    fn without_quotas_all_calls_pass() {
        let (mut accounts, now) = (accounts(0, 0), Instant::now());
        assert!((0..100_000).all(|_| accounts.spend(&id(1), &id(2), now).is_ok()));
    }

    #[test]
    fn a_second_is_there_at_once_and_then_so_many_a_second() {
        for quota in [1, 3, 7, 1_000] {
            let (mut accounts, start) = (accounts(0, quota), Instant::now());
            let mut passed = 0;
            for ms in 0..10_000 {
                let now = start + Duration::from_millis(ms);
                while accounts.spend(&id(1), &id(2), now).is_ok() {
                    passed += 1;
                }
                if ms == 0 {
                    assert_eq!(passed, quota);
                }
            }
            let expected = 11 * quota;
            assert!(
                (expected - 1..=expected).contains(&passed),
                "{passed} of {expected}"
            );
        }
    }

    #[test]
    fn one_quota_does_not_pay_for_the_other() {
        let (mut accounts, now) = (accounts(3, 2), Instant::now());
        let mut spend = |database, caller| accounts.spend(&id(database), &id(caller), now);
        assert_eq!((spend(1, 7), spend(1, 7)), (Ok(()), Ok(())));
        let (two, three) = (
            NonZeroU32::MIN.saturating_add(1),
            NonZeroU32::MIN.saturating_add(2),
        );
        assert_eq!(spend(1, 7), Err(Spent::Identity(two)));
        assert_eq!(spend(1, 8), Ok(()), "what was refused is not counted");
        assert_eq!(spend(1, 8), Err(Spent::Database(three)));
        assert_eq!(spend(2, 8), Ok(()), "nor here");
        assert_eq!(spend(2, 7), Err(Spent::Identity(two)), "in all databases");
    }

    #[test]
    fn who_has_all_again_is_forgotten() {
        let (mut accounts, start) = (accounts(0, 5), Instant::now());
        for n in 0..20 * SPENT_MIN as u32 {
            let now = start + Duration::from_millis(n.into());
            assert!(accounts.spend(&id(0), &id(n), now).is_ok());
        }
        assert!(accounts.identities.unwrap().full_at.len() <= SPENT_MIN);
    }
}
