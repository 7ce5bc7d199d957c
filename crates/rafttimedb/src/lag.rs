//! How far this node is behind: pure.

use rtdb_consensus::Lag;
use rtdb_replica::DatabaseId;

/// What of the log is not applied here.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    /// How long ago the oldest entry was resolved that was not even looked through, in milliseconds.
    pub(crate) unread_ms: u64,
    /// How far the databases' replicas lag.
    pub(crate) lags: Vec<(DatabaseId, Lag)>,
}

impl Behind {
    /// For how long the oldest command waits, in milliseconds.
    pub(crate) fn ms(&self) -> u64 {
        let ages = self.lags.iter().map(|(_, lag)| lag.age_ms);
        ages.fold(self.unread_ms, u64::max)
    }

    /// The same, if it is more than `max` and clients should turn to another node for it. Who turns away because of a long
    /// call, or of a database that is as slow elsewhere, finds nothing better.
    pub(crate) fn exceeds(&self, max: u64, is_common: impl Fn(&DatabaseId) -> bool) -> Option<u64> {
        let lags = self.lags.iter();
        let alone = lags.filter(|(database, lag)| !lag.is_little() && !is_common(database));
        let worst = alone.map(|(_, lag)| lag.age_ms).fold(self.unread_ms, u64::max);
        (worst > max).then_some(worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::LAG_POSITIONS_MIN;

    fn behind(unread_ms: u64, lags: &[(u64, u64)]) -> Behind {
        let lag = |(at, (commands, age_ms)): (usize, &(u64, u64))| {
            let applied = 0;
            let (commands, age_ms) = (*commands, *age_ms);
            (
                [at as u8; 32],
                Lag {
                    commands,
                    age_ms,
                    applied,
                },
            )
        };
        Behind {
            unread_ms,
            lags: lags.iter().enumerate().map(lag).collect(),
        }
    }

    #[test]
    fn clients_turn_elsewhere_for_what_is_better_there() {
        const MANY: u64 = LAG_POSITIONS_MIN + 1;
        // What waits unread or in databases, of which those are as slow elsewhere; how old it is, and what clients go by.
        for (unread_ms, lags, common, ms, exceeds) in [
            (0, &[][..], &[][..], 0, None),
            (20, &[(MANY, 90)], &[], 90, None),
            (101, &[], &[], 101, Some(101)),
            (0, &[(MANY, 101)], &[], 101, Some(101)),
            // A long call.
            (0, &[(1, 500)], &[], 500, None),
            (102, &[(1, 500)], &[], 500, Some(102)),
            // A start: nobody knows how much it is.
            (0, &[(0, 500)], &[], 500, Some(500)),
            (0, &[(MANY, 500)], &[0], 500, None),
            (0, &[(MANY, 500), (MANY, 300)], &[0], 500, Some(300)),
        ] {
            let behind = behind(unread_ms, lags);
            assert_eq!(behind.ms(), ms, "{behind:?}");
            let is_common = |database: &DatabaseId| common.contains(&database[0]);
            assert_eq!(behind.exceeds(100, is_common), exceeds, "{behind:?}");
        }
    }
}
