//! Times by the million: counted in buckets a thirty-second wide.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Buckets for each power of two.
const PARTS: u64 = 32;
const PARTS_LOG2: u32 = PARTS.ilog2();

/// Up to some 12 days in microseconds; what is longer counts as that.
const BUCKETS: usize = 36 * PARTS as usize;

/// Times that several threads add to.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<AtomicU32>);

impl Default for Latencies {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Latencies {
    pub(crate) fn add(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0[bucket(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// All times so far of several, which are empty then.
    pub(crate) fn take<'a>(all: impl IntoIterator<Item = &'a Self>) -> Percentiles {
        let mut counts = vec![0; BUCKETS];
        for latencies in all {
            for (sum, count) in counts.iter_mut().zip(&latencies.0) {
                *sum += u64::from(count.swap(0, Ordering::Relaxed));
            }
        }
        Percentiles(counts)
    }
}

/// Times that were counted.
#[derive(Debug)]
pub(crate) struct Percentiles(Vec<u64>);

impl Percentiles {
    /// The time that `part` of all do not exceed, in ms; 0 of none.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of events are far below 2^52"
    )]
    pub(crate) fn ms(&self, part: f64) -> f64 {
        let all: u64 = self.0.iter().sum();
        let rank = ((all as f64 * part).ceil() as u64).max(1);
        let mut below = 0;
        let reached = self.0.iter().position(|count| {
            below += count;
            below >= rank
        });
        reached.map_or(0.0, |bucket| middle_us(bucket as u64) / 1e3)
    }
}

/// Of each power of two from [`PARTS`] on as many parts; below, each microsecond is one.
fn bucket(us: u64) -> usize {
    let bucket = match us.checked_ilog2() {
        Some(log2) if log2 >= PARTS_LOG2 => {
            let shift = log2 - PARTS_LOG2;
            u64::from(shift) * PARTS + (us >> shift)
        }
        _ => us,
    };
    usize::try_from(bucket).map_or(BUCKETS - 1, |bucket| bucket.min(BUCKETS - 1))
}

#[expect(clippy::cast_precision_loss, reason = "a bucket's bounds are a few bits long")]
fn middle_us(bucket: u64) -> f64 {
    let shift = (bucket / PARTS).saturating_sub(1);
    let low = (bucket - shift * PARTS) << shift;
    low as f64 + ((1_u64 << shift) - 1) as f64 / 2.0
}

/// The one in the middle, as they are sorted.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_near_its_middle() {
        for us in (0..200_000).chain([1 << 30, (1 << 31) + 12_345]) {
            let middle = middle_us(bucket(us) as u64);
            let off = (middle - us as f64).abs();
            assert!(off <= us as f64 / 32.0, "{us} µs are counted as {middle}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_all_that_was_added() {
        let parts = [Latencies::default(), Latencies::default()];
        for ms in 1..=1_000 {
            parts[ms % 2].add(Duration::from_millis(ms as u64));
        }
        let all = Latencies::take(&parts);
        for (part, expected) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let ms = all.ms(part);
            assert!((ms - expected).abs() <= expected / 32.0, "{part}: {ms}");
        }
        assert!(Latencies::take(&parts).ms(0.5).abs() < f64::EPSILON, "not empty");
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).abs() < f64::EPSILON);
    }
}
