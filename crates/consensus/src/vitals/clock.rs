//! What time it is, as a quorum sees it.
//!
//! The leader's clock is every module's `ctx.timestamp`, and the log's time never goes back: a single entry with a stamp
//! of the year 2106 would hold it there for good. So nodes compare their clocks all the time ([`Clock::note`]), and a node
//! stamps only while its own agrees with the median of a quorum's; a follower refuses a new entry whose stamp is far
//! ahead of its own, good clock.
//!
//! With an odd number of clocks the median decides. Of two halves that differ nobody can say which one is wrong: the
//! slower one counts as good, since a log's time can always go on later, and never back.
//!
//! A stamp is the wall clock at the last comparison that found it good, and the time that has passed since by the
//! monotonic clock: a wall clock that jumps is not followed before it was compared again. What others' clocks show is
//! kept by the monotonic clock too, so that no comparison from before a jump vouches for the clock after it.
//!
//! A refusal ends: what is still sent after [`VETO`] by one and the same leader is of a time at which all clocks were
//! ahead, or is committed already, since a leader whose clock is wrong has given way by then.

use crate::group_id::GroupId;
use crate::types::Vote;
use parking_lot::Mutex;
use rtdb_runtime::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How far a node's clock may be from the median of a quorum's, beside the error of the comparison. (As much as
/// CockroachDB's `--max-offset`.)
pub const CLOCK_OFFSET_MAX: Duration = Duration::from_millis(500);

/// How far ahead of this node's clock the stamp of a new entry may be: two clocks that are good, one at each end.
pub(crate) const STAMP_AHEAD_MAX: Duration = Duration::from_millis(2_000);

/// How long entries of one leader are refused for their time.
pub(crate) const VETO: Duration = Duration::from_secs(10);

/// How long a comparison counts.
const COMPARISON_AGE_MAX: Duration = Duration::from_secs(5);

/// A source of the time of day. Tests have their own.
pub trait WallClock: Debug + Send + Sync + 'static {
    /// Microseconds since the Unix epoch.
    fn now_us(&self) -> u64;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now_us(&self) -> u64 {
        rtdb_runtime::wall_us()
    }
}

/// How far another clock is ahead of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    us: i64,
    /// By how much that may be wrong, in microseconds.
    error_us: i64,
}

/// What a quorum says of this node's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockVerdict {
    /// Fewer than a majority of the voters were heard lately.
    #[default]
    Unverified,
    /// It agrees with the median.
    Good,
    /// It does not.
    Off {
        /// How far the median is ahead of it, in microseconds.
        offset_us: i64,
    },
}

/// The verdict on the clock of node `me`, a clock with offset 0 among the voters' that are known.
fn judge(me: u64, voters: &BTreeSet<u64>, offsets: &BTreeMap<u64, Offset>) -> ClockVerdict {
    let mut known: Vec<Offset> = voters
        .iter()
        .filter(|voter| **voter != me)
        .filter_map(|voter| offsets.get(voter).copied())
        .collect();
    if voters.contains(&me) {
        known.push(Offset { us: 0, error_us: 0 });
    }
    if known.len() * 2 <= voters.len() {
        return ClockVerdict::Unverified;
    }
    known.sort_by_key(|offset| offset.us);
    // If there are two in the middle, the faster half is the one that gives way.
    let low = known[(known.len() - 1) / 2];
    let max = CLOCK_OFFSET_MAX.as_micros() as i64;
    match low.us.abs() > max + low.error_us {
        true => ClockVerdict::Off { offset_us: low.us },
        false => ClockVerdict::Good,
    }
}

/// What another clock showed, in microseconds since the Unix epoch.
struct Shown {
    us: u64,
    /// By how much that may be wrong.
    error_us: i64,
    at: Instant,
}

impl Shown {
    /// How far it is ahead of a clock that shows `wall_us` now.
    fn offset(&self, wall_us: u64, now: Instant) -> Offset {
        let theirs_us = i128::from(self.us) + now.duration_since(self.at).as_micros() as i128;
        let max = i128::from(i64::MAX / 2);
        Offset {
            us: (theirs_us - i128::from(wall_us)).clamp(-max, max) as i64,
            error_us: self.error_us,
        }
    }
}

#[derive(Default)]
struct State {
    /// What each node's clock showed last.
    clocks: BTreeMap<u64, Shown>,
    /// When each node answered last, and whether it was fit to lead.
    heard: BTreeMap<u64, (Instant, bool)>,
    /// The wall clock when it was found good, and when that was.
    anchor: Option<(u64, Instant)>,
    vetoes: BTreeMap<GroupId, Veto>,
}

/// The refusal of a leader's entries for their time.
struct Veto {
    leader: Vote,
    since: Instant,
    last: Instant,
}

/// This node's clock, and what the others say of it.
pub(crate) struct Clock {
    me: u64,
    wall: Arc<dyn WallClock>,
    state: Mutex<State>,
    verdict: watch::Sender<ClockVerdict>,
}

impl Clock {
    pub(crate) fn new(me: u64, wall: Arc<dyn WallClock>) -> Self {
        Self {
            me,
            wall,
            state: Mutex::default(),
            verdict: watch::Sender::default(),
        }
    }

    /// The wall clock, whatever the others say of it.
    pub(crate) fn now_us(&self) -> u64 {
        self.wall.now_us()
    }

    /// What the quorum says; changes.
    pub(crate) fn verdict(&self) -> watch::Receiver<ClockVerdict> {
        self.verdict.subscribe()
    }

    /// The time for an entry, in microseconds; `None` while this node must not stamp.
    pub(crate) fn stamp_us(&self) -> Option<i64> {
        if rtdb_runtime::planted("clocks are not compared") {
            return i64::try_from(self.wall.now_us()).ok();
        }
        let (wall_us, since) = self.state.lock().anchor?;
        let elapsed = since.elapsed();
        let now_us = wall_us.saturating_add(elapsed.as_micros() as u64);
        i64::try_from(now_us)
            .ok()
            .filter(|_| elapsed <= COMPARISON_AGE_MAX)
    }

    /// The latest stamp that a good clock could make, in microseconds. `None` if this node's own is not known to be good:
    /// it refuses nothing.
    pub(crate) fn stamp_us_max(&self) -> Option<i64> {
        let now = self.stamp_us()?;
        Some(now.saturating_add(STAMP_AHEAD_MAX.as_micros() as i64))
    }

    /// Whether to refuse a leader's entry that is stamped later than [`stamp_us_max`](Self::stamp_us_max).
    pub(crate) fn refuses(&self, group: GroupId, leader: Vote) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let (since, last) = (now, now);
        let veto = state.vetoes.entry(group).or_insert(Veto { leader, since, last });
        if veto.leader != leader || now.duration_since(veto.last) > VETO {
            *veto = Veto { leader, since, last };
        }
        veto.last = now;
        rtdb_runtime::reached("entries from the future");
        now.duration_since(veto.since) <= VETO
    }

    /// When a node answered last.
    pub(crate) fn heard(&self, node: u64) -> Option<Instant> {
        self.state.lock().heard.get(&node).map(|(heard, _)| *heard)
    }

    /// Whether a node has said lately that it is fit to lead.
    pub(crate) fn is_fit(&self, node: u64) -> bool {
        let state = self.state.lock();
        let said = state.heard.get(&node);
        said.is_some_and(|(heard, is_fit)| *is_fit && heard.elapsed() <= COMPARISON_AGE_MAX)
    }

    /// Takes in what a node answered to a question that took `round_trip`: what its clock shows, and whether it is fit to lead.
    pub(crate) fn note(&self, node: u64, round_trip: Duration, clock_us: u64, is_fit: bool) {
        let (now, half) = (Instant::now(), round_trip.as_micros() as u64 / 2);
        let mut state = self.state.lock();
        state.heard.insert(node, (now, is_fit));
        let shown = Shown {
            us: clock_us.saturating_add(half),
            error_us: half as i64,
            at: now,
        };
        state.clocks.insert(node, shown);
    }

    /// Judges anew, by what was heard lately of the voters.
    pub(crate) fn judge(&self, voters: &BTreeSet<u64>) -> ClockVerdict {
        let verdict = {
            let mut state = self.state.lock();
            let (now, wall_us) = (Instant::now(), self.wall.now_us());
            let lately = |shown: &Shown| now.duration_since(shown.at) <= COMPARISON_AGE_MAX;
            state.clocks.retain(|_, shown| lately(shown));
            let clocks = state.clocks.iter();
            let offsets = clocks.map(|(node, shown)| (*node, shown.offset(wall_us, now)));
            let verdict = judge(self.me, voters, &offsets.collect());
            match verdict {
                ClockVerdict::Good => state.anchor = Some((wall_us, now)),
                ClockVerdict::Off { .. } => state.anchor = None,
                // What was found good lately is still good; it ages.
                ClockVerdict::Unverified => {}
            }
            verdict
        };
        self.verdict.send_if_modified(|known| {
            let kind = std::mem::discriminant::<ClockVerdict>;
            let changed = kind(known) != kind(&verdict);
            *known = verdict;
            changed
        });
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000_000;

    fn verdict(voters: u64, offsets: &[(u64, i64)]) -> ClockVerdict {
        let offsets = offsets.iter().map(|(node, us)| {
            (
                *node,
                Offset {
                    us: *us,
                    error_us: 1_000,
                },
            )
        });
        judge(1, &(1..=voters).collect(), &offsets.collect())
    }

    #[test]
    fn the_median_decides() {
        use ClockVerdict::{Good, Off, Unverified};
        assert_eq!(verdict(1, &[]), Good);
        assert_eq!(verdict(3, &[]), Unverified);
        assert_eq!(verdict(3, &[(2, 300_000), (3, -200_000)]), Good);
        assert_eq!(verdict(3, &[(2, HOUR), (3, 0)]), Good, "the other one is wrong");
        assert_eq!(verdict(3, &[(2, HOUR), (3, HOUR + 7)]), Off { offset_us: HOUR });
        assert_eq!(verdict(3, &[(2, -HOUR), (3, -HOUR)]), Off { offset_us: -HOUR });
        assert_eq!(
            verdict(3, &[(2, HOUR)]),
            Good,
            "nobody can say which of the two is wrong"
        );
        assert_eq!(
            verdict(3, &[(2, 501_000), (3, 502_000)]),
            Good,
            "within the error"
        );
        assert_eq!(verdict(5, &[(2, HOUR), (3, HOUR)]), Off { offset_us: HOUR });
        assert_eq!(verdict(5, &[(2, HOUR), (3, HOUR), (4, 0), (5, 9)]), Good);
        assert_eq!(
            verdict(5, &[(9, HOUR), (2, 0)]),
            Unverified,
            "a stranger does not count"
        );
    }

    proptest! {
        /// Where a majority of the clocks agree, each of them is good, and none that is far from them.
        #[test]
        fn a_majority_that_agrees_is_right(
            near in proptest::collection::vec(-200_000i64..200_000, 3..5),
            far in proptest::collection::vec(prop_oneof![HOUR..9 * HOUR, -9 * HOUR..-HOUR], 0..3),
        ) {
            let clocks: Vec<i64> = near.iter().chain(&far).copied().collect();
            let voters: BTreeSet<u64> = (0..clocks.len() as u64).collect();
            for (me, mine) in clocks.iter().enumerate() {
                let offsets = clocks.iter().enumerate().filter(|(node, _)| *node != me);
                let offsets = offsets.map(|(node, clock)| (node as u64, Offset { us: clock - mine, error_us: 0 }));
                let verdict = judge(me as u64, &voters, &offsets.collect());
                prop_assert_eq!(verdict == ClockVerdict::Good, me < near.len(), "{:?} of {:?}", me, clocks);
            }
        }
    }

    #[derive(Debug)]
    struct Set(Mutex<u64>);

    impl WallClock for Set {
        fn now_us(&self) -> u64 {
            *self.0.lock()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_is_not_followed() {
        let wall = Arc::new(Set(Mutex::new(1_000_000_000)));
        let clock = Clock::new(1, wall.clone());
        let voters = (1..=3).collect();
        assert_eq!(
            (clock.judge(&voters), clock.stamp_us()),
            (ClockVerdict::Unverified, None)
        );
        let compare = |theirs: u64| {
            for node in [2, 3] {
                clock.note(node, Duration::ZERO, theirs, true);
            }
            clock.judge(&voters)
        };
        assert_eq!(compare(1_000_000_000), ClockVerdict::Good);
        *wall.0.lock() += 4_000_000_000;
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.stamp_us(), Some(1_001_000_000));
        let max = clock.stamp_us_max().unwrap();
        assert!((1_002_500_000..1_004_000_000).contains(&max));
        assert!(matches!(compare(1_001_000_000), ClockVerdict::Off { .. }));
        assert_eq!(clock.stamp_us(), None);
        assert_eq!(clock.stamp_us_max(), None, "who is off refuses nothing");
        *wall.0.lock() = 1_001_500_000;
        assert_eq!(compare(1_001_500_000), ClockVerdict::Good);
        tokio::time::advance(COMPARISON_AGE_MAX * 2).await;
        assert_eq!(clock.stamp_us(), None, "it was not compared for long");
    }
}
