//! How a prepared module calls what is scheduled. The module says so itself, in a section of its own.

use crate::section;

/// The section's name. Its contents are one byte, or none in modules of before there was one.
pub(crate) const SECTION: &str = "rtdb_timers";
pub(crate) const BY_TIME: u8 = 2;

/// What the hidden reducers [`SCHEDULED`](crate::SCHEDULED) and [`UNSCHEDULED`](crate::UNSCHEDULED) are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firing {
    /// It has none: it was prepared by an earlier version of this program.
    Never,
    /// Which row it is.
    ByKey,
    /// When it is due, too.
    ByTime,
}

impl Firing {
    /// What a prepared module says.
    pub fn of(wasm: &[u8]) -> Self {
        match section::of(wasm, SECTION) {
            None => Self::Never,
            Some([]) => Self::ByKey,
            Some(_) => Self::ByTime,
        }
    }
}

/// The section by which a prepared module says that it may ask for calls at once. Its contents are one byte.
pub(crate) const IMMEDIATE_SECTION: &str = "rtdb_immediate";
pub(crate) const MAY_ASK: u8 = 1;

/// Whether a prepared module may leave rows in [`IMMEDIATE`](crate::IMMEDIATE).
pub fn calls_at_once(wasm: &[u8]) -> bool {
    section::of(wasm, IMMEDIATE_SECTION) == Some(&[MAY_ASK])
}

/// When a row is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Again and again, after so many microseconds each.
    Interval(i64),
    /// Once, at this time in microseconds since the Unix epoch.
    Time(i64),
}

/// The own arguments of [`SCHEDULED`](crate::SCHEDULED) and [`UNSCHEDULED`](crate::UNSCHEDULED). The row is not due if it says
/// something else by then than what is known of it.
pub fn encode_timer(firing: Firing, schedule: u32, id: u64, known: Option<When>) -> Vec<u8> {
    let mut args = [&schedule.to_le_bytes()[..], &id.to_le_bytes()].concat();
    if firing == Firing::ByTime {
        let (tag, micros) = match known {
            Some(When::Interval(micros)) => (INTERVAL, micros),
            Some(When::Time(micros)) => (TIME, micros),
            None => (ANY, 0),
        };
        args.push(tag);
        args.extend(micros.to_le_bytes());
    }
    args
}

/// The tags of `ScheduleAt`, and none of them.
pub(crate) const INTERVAL: u8 = 0;
pub(crate) const TIME: u8 = 1;
pub(crate) const ANY: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_modules_of_earlier_versions_are_told() {
        let with = |contents: Option<&[u8]>| {
            let mut module = walrus::Module::default();
            section::put(&mut module, SECTION, contents);
            Firing::of(&module.emit_wasm())
        };
        let all = [None, Some(&[][..]), Some(&[BY_TIME][..])].map(with);
        assert_eq!(all, [Firing::Never, Firing::ByKey, Firing::ByTime]);
        let args = |firing| encode_timer(firing, 1, 2, Some(When::Time(3)));
        assert_eq!(args(Firing::ByKey), [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(args(Firing::ByTime)[12..], [TIME, 3, 0, 0, 0, 0, 0, 0, 0]);
    }
}
