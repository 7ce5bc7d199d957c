//! What is written: changes, and how they stand in a batch.
//!
//! Each begins with its kind; lengths stand before bodies; numbers are little endian. A kind is never given another
//! meaning.

use crate::group_id::GroupId;

/// One of the two parts of what is kept by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Space {
    /// Votes and the like, and what is bound to the directory.
    Meta,
    /// The resolver's state.
    State,
}

/// One of the two sequences that a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Sequence {
    /// The log's entries, without gaps.
    Entries,
    /// What the resolver decided about them; not every entry has one.
    Decisions,
}

/// A piece of a sequence that stands in one segment: the records from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) segment: u64,
}

/// A change of what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A record becomes the last of its sequence: whatever stood there or behind it is gone.
    Append {
        group: GroupId,
        sequence: Sequence,
        index: u64,
        record: Vec<u8>,
    },
    /// A group's entries and decisions from `from` on are gone.
    Truncate { group: GroupId, from: u64 },
    /// A group's entries and decisions before `before` are gone.
    Purge { group: GroupId, before: u64 },
    /// A name has a value, or none any more.
    Set {
        space: Space,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    /// A piece of a sequence stands in an older segment. Only in checkpoints.
    Known {
        group: GroupId,
        sequence: Sequence,
        run: Run,
    },
}

/// A record in a segment: where its body stands in the segment's content, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u32,
    pub(super) len: u32,
}

const APPEND: u8 = 1;
const TRUNCATE: u8 = 2;
const PURGE: u8 = 3;
const SET: u8 = 4;
const REMOVE: u8 = 5;
const KNOWN: u8 = 6;

impl Space {
    fn code(self) -> u8 {
        match self {
            Self::Meta => 1,
            Self::State => 2,
        }
    }
}

impl Sequence {
    fn code(self) -> u8 {
        match self {
            Self::Entries => 1,
            Self::Decisions => 2,
        }
    }
}

impl Change {
    /// A value for a name.
    pub(crate) fn set(space: Space, key: Vec<u8>, value: Vec<u8>) -> Self {
        let value = Some(value);
        Self::Set { space, key, value }
    }

    /// The bytes it takes in a batch.
    pub(super) fn size(&self) -> usize {
        self.head_size() + self.tail().map_or(0, <[u8]>::len)
    }

    fn head_size(&self) -> usize {
        match self {
            Self::Append { .. } => 22,
            Self::Truncate { .. } | Self::Purge { .. } => 17,
            Self::Set { key, value, .. } => 6 + key.len() + value.as_ref().map_or(0, |_| 4),
            Self::Known { .. } => 34,
        }
    }

    /// Where its body stands, if it ends at `end` of its segment's content.
    pub(super) fn span_before(&self, end: u64) -> Span {
        let len = self.tail().map_or(0, <[u8]>::len);
        Span {
            // A segment is far smaller than 4 GiB, unless a single write is not.
            offset: u32::try_from(end - len as u64).unwrap_or(u32::MAX),
            len: len as u32,
        }
    }

    /// What is written last: where the body of a record stands.
    fn tail(&self) -> Option<&[u8]> {
        match self {
            Self::Append { record, .. } => Some(record),
            Self::Set { value, .. } => value.as_deref(),
            _ => None,
        }
    }

    /// Writes it; `write` is called with one piece after the other.
    pub(super) fn encode(&self, mut write: impl FnMut(&[u8])) {
        let mut head = Vec::with_capacity(self.head_size());
        let len = |len: usize| (len as u32).to_le_bytes();
        match self {
            Self::Append {
                group,
                sequence,
                index,
                record,
            } => {
                head.extend_from_slice(&[APPEND, sequence.code()]);
                head.extend_from_slice(&group.0.to_le_bytes());
                head.extend_from_slice(&index.to_le_bytes());
                head.extend_from_slice(&len(record.len()));
            }
            Self::Truncate { group, from: index } | Self::Purge { group, before: index } => {
                head.push(if matches!(self, Self::Purge { .. }) {
                    PURGE
                } else {
                    TRUNCATE
                });
                head.extend_from_slice(&group.0.to_le_bytes());
                head.extend_from_slice(&index.to_le_bytes());
            }
            Self::Set { space, key, value } => {
                head.extend_from_slice(&[if value.is_some() { SET } else { REMOVE }, space.code()]);
                head.extend_from_slice(&len(key.len()));
                head.extend_from_slice(key);
                if let Some(value) = value {
                    head.extend_from_slice(&len(value.len()));
                }
            }
            Self::Known { group, sequence, run } => {
                head.extend_from_slice(&[KNOWN, sequence.code()]);
                for number in [group.0, run.first, run.last, run.segment] {
                    head.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        debug_assert_eq!(head.len(), self.head_size());
        write(&head);
        self.tail().into_iter().for_each(write);
    }
}

/// Reads the changes of a batch whose content begins at `offset` of its segment's content; with each, where its body
/// stands. `None` if they can't be understood: all of a batch was checked, so that a newer version must have written it.
pub(super) fn decode(offset: u64, content: &[u8]) -> Option<Vec<(Change, Span)>> {
    let mut reader = Reader { content, at: 0 };
    let mut changes = Vec::new();
    while reader.at < content.len() {
        let change = reader.change()?;
        let span = change.span_before(offset + reader.at as u64);
        changes.push((change, span));
    }
    Some(changes)
}

struct Reader<'a> {
    content: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(len)?;
        let bytes = self.content.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        Some(self.take(len as usize)?.to_vec())
    }

    fn group(&mut self) -> Option<GroupId> {
        self.number().map(GroupId)
    }

    fn space(&mut self) -> Option<Space> {
        let code = self.byte()?;
        [Space::Meta, Space::State]
            .into_iter()
            .find(|space| space.code() == code)
    }

    fn sequence(&mut self) -> Option<Sequence> {
        let code = self.byte()?;
        [Sequence::Entries, Sequence::Decisions]
            .into_iter()
            .find(|sequence| sequence.code() == code)
    }

    fn change(&mut self) -> Option<Change> {
        Some(match self.byte()? {
            APPEND => Change::Append {
                sequence: self.sequence()?,
                group: self.group()?,
                index: self.number()?,
                record: self.bytes()?,
            },
            TRUNCATE => Change::Truncate {
                group: self.group()?,
                from: self.number()?,
            },
            PURGE => Change::Purge {
                group: self.group()?,
                before: self.number()?,
            },
            SET => Change::Set {
                space: self.space()?,
                key: self.bytes()?,
                value: Some(self.bytes()?),
            },
            REMOVE => Change::Set {
                space: self.space()?,
                key: self.bytes()?,
                value: None,
            },
            KNOWN => Change::Known {
                sequence: self.sequence()?,
                group: self.group()?,
                run: Run {
                    first: self.number()?,
                    last: self.number()?,
                    segment: self.number()?,
                },
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changes() -> impl Strategy<Value = Change> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let sequence = || prop_oneof![Just(Sequence::Entries), Just(Sequence::Decisions)];
        let space = prop_oneof![Just(Space::Meta), Just(Space::State)];
        let group = || any::<u64>().prop_map(GroupId);
        prop_oneof![
            (group(), sequence(), any::<u64>(), bytes()).prop_map(|(group, sequence, index, record)| {
                Change::Append {
                    group,
                    sequence,
                    index,
                    record,
                }
            }),
            (group(), any::<u64>()).prop_map(|(group, from)| Change::Truncate { group, from }),
            (group(), any::<u64>()).prop_map(|(group, before)| Change::Purge { group, before }),
            (space, bytes(), proptest::option::of(bytes())).prop_map(|(space, key, value)| Change::Set {
                space,
                key,
                value
            }),
            (group(), sequence(), any::<[u64; 3]>()).prop_map(|(group, sequence, [first, last, segment])| {
                let run = Run { first, last, segment };
                Change::Known { group, sequence, run }
            }),
        ]
    }

    proptest! {
        #[test]
        fn changes_come_back(changes in proptest::collection::vec(changes(), 0..9)) {
            let mut bytes = Vec::new();
            changes.iter().for_each(|change| change.encode(|piece| bytes.extend_from_slice(piece)));
            prop_assert_eq!(bytes.len(), changes.iter().map(Change::size).sum::<usize>());
            let decoded = decode(1000, &bytes).unwrap();
            for (change, span) in &decoded {
                let at = span.offset as usize - 1000;
                prop_assert_eq!(&bytes[at..at + span.len as usize], change.tail().unwrap_or_default());
            }
            prop_assert_eq!(decoded.into_iter().map(|(change, _)| change).collect::<Vec<_>>(), changes);
        }

        #[test]
        fn whatever_is_read_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            decode(0, &bytes);
        }
    }
}
