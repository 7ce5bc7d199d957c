//! A process's memory in the course of time, as a line of text.

use std::fmt;

use crate::latencies::median;

/// Of the picture, in characters.
const WIDTH: usize = 60;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What the last quarter may be above the second: a part of it, and some MiB that no process can help.
const GROWTH_MAX: f64 = 0.05;
const GROWTH_MAX_MIB: f64 = 2.0;

/// Resident memory in MiB, at equal distances of time.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) name: String,
    mib: Vec<f64>,
}

impl Curve {
    /// Adds a point to the curve of this name among `curves`.
    #[expect(clippy::cast_precision_loss, reason = "KiB of memory are far below 2^52")]
    pub(super) fn add(curves: &mut Vec<Self>, name: &str, kib: u64) {
        let mib = kib as f64 / 1024.0;
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.mib.push(mib),
            None => curves.push(Self {
                name: name.to_string(),
                mib: vec![mib],
            }),
        }
    }

    /// Whether memory has stopped growing: the first quarter, in which everything fills, does not count.
    pub(super) fn is_flat(&self) -> bool {
        let [second, last] = self.quarters();
        self.mib.len() < 4 || last <= second * (1.0 + GROWTH_MAX) + GROWTH_MAX_MIB
    }

    /// The medians of the second and the last quarter.
    fn quarters(&self) -> [f64; 2] {
        let at = |quarter: usize| self.mib.len() * quarter / 4;
        [at(1)..at(2), at(3)..at(4)].map(|quarter| median(self.mib[quarter].to_vec()))
    }

    fn most(&self) -> f64 {
        self.mib.iter().copied().fold(0.0, f64::max)
    }

    /// From nothing at the bottom to the most at the top.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "one of eight levels"
    )]
    fn picture(&self) -> String {
        let columns = WIDTH.min(self.mib.len());
        let column = |column: usize| {
            let points =
                &self.mib[self.mib.len() * column / columns..self.mib.len() * (column + 1) / columns];
            let level = median(points.to_vec()) / self.most() * LEVELS.len() as f64;
            LEVELS[(level as usize).min(LEVELS.len() - 1)]
        };
        (0..columns).map(column).collect()
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.mib.first().copied().unwrap_or_default();
        let last = self.mib.last().copied().unwrap_or_default();
        let [second, fourth] = self.quarters();
        let flat = if self.is_flat() { "flat" } else { "not flat" };
        write!(
            f,
            "  {:<26}{first:>7.1} {:<WIDTH$} {last:>6.1} {:>5.1}  {flat}: {second:.1}, then {fourth:.1}",
            self.name,
            self.picture(),
            self.most()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(mib: impl IntoIterator<Item = f64>) -> Curve {
        Curve {
            name: "node 1".into(),
            mib: mib.into_iter().collect(),
        }
    }

    #[test]
    fn what_fills_at_first_and_stays_is_flat() {
        assert!(curve((0..400).map(|n| f64::from(n.min(90)))).is_flat());
        assert!(curve((0..400).map(|n| 100.0 + f64::from(n % 40))).is_flat());
        assert!(!curve((0..400).map(|n| 100.0 + f64::from(n) / 10.0)).is_flat());
        assert!(curve([7.0]).is_flat());
    }

    #[test]
    fn the_picture_goes_from_nothing_to_the_most() {
        assert_eq!(curve([0.0, 2.0, 4.0, 8.0]).picture(), "▁▃▅█");
        let long = curve((0..1_000).map(f64::from)).picture();
        assert_eq!(long.chars().count(), WIDTH);
        assert!(long.starts_with("▁▁") && long.ends_with("██"), "{long}");
    }
}
