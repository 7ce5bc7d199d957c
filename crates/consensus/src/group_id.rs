//! Which of a node's logs it is.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The largest id of a shard: 32 bits, so that every program reads it exactly, whatever its numbers are. What lies above
/// is for groups of the cluster's own.
pub const SHARD_ID_MAX: u64 = u32::MAX as u64;

/// A raft group on a node. The meta group comes before all shards, whatever its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The group of the cluster's own settings: nodes, databases, names.
    pub const META: Self = Self(u64::MAX);
    /// The shard that every database belongs to unless it is told otherwise.
    pub const SHARD: Self = Self(0);

    /// The shard of that id; `None` if no shard can have it.
    pub fn shard(id: u64) -> Option<Self> {
        (id <= SHARD_ID_MAX).then_some(Self(id))
    }
}

impl Ord for GroupId {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |id: &Self| (*id != Self::META, id.0);
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for GroupId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As operators see it, in the status and in the metrics.
impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::META => f.write_str("meta"),
            Self(id) if id > SHARD_ID_MAX => write!(f, "group-{id}"),
            Self(id) => write!(f, "shard-{id}"),
        }
    }
}

/// A text that names no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a group is called `meta` or `shard-N`, as `rtdb status` shows it")]
pub struct NotAGroup;

impl FromStr for GroupId {
    type Err = NotAGroup;

    fn from_str(text: &str) -> Result<Self, NotAGroup> {
        if text == "meta" {
            return Ok(Self::META);
        }
        let number = text.strip_prefix("shard-").and_then(|number| number.parse().ok());
        let shard = number.and_then(Self::shard).ok_or(NotAGroup)?;
        match shard.to_string() == text {
            true => Ok(shard),
            false => Err(NotAGroup),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_shard_is_the_first_and_no_shard_is_the_meta_group() {
        assert_eq!(GroupId::shard(0), Some(GroupId::SHARD));
        assert_eq!(GroupId::shard(SHARD_ID_MAX), Some(GroupId(SHARD_ID_MAX)));
        for id in [SHARD_ID_MAX + 1, GroupId::META.0] {
            assert_eq!(GroupId::shard(id), None);
        }
    }

    #[test]
    fn they_are_read_as_they_are_shown() {
        for group in [GroupId::META, GroupId::SHARD, GroupId(SHARD_ID_MAX)] {
            assert_eq!(group.to_string().parse(), Ok(group));
        }
        for wrong in [
            "",
            "shard-",
            "shard-01",
            "shard-x",
            "shard--1",
            "shard-4294967296",
            "group-4294967296",
            "Meta",
        ] {
            assert_eq!(wrong.parse::<GroupId>(), Err(NotAGroup), "{wrong}");
        }
    }

    #[test]
    fn groups_are_listed_with_the_meta_group_first() {
        let mut groups = [
            GroupId(SHARD_ID_MAX + 1),
            GroupId(12),
            GroupId::SHARD,
            GroupId::META,
        ];
        groups.sort();
        assert_eq!(
            groups.map(|group| group.to_string()),
            ["meta", "shard-0", "shard-12", "group-4294967296"]
        );
    }
}
