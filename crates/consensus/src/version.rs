//! Which versions of what was written this program understands.
//!
//! Most changes of a record need no version: what is new stands in new fields, and older programs pass over fields that
//! they do not know. Where that would be a misunderstanding, the record says in tag 15 which version its reader must
//! know; a record that everybody understands leaves it out, so it costs nothing. Commands, memberships, the resolver's
//! state and its decisions are such records. An entry says its version always, in tag 1, and messages between nodes go by
//! the protocol's version, in their header.

use crate::{COMMANDS_PER_ENTRY_MAX, LOG_INDEX_MAX, LogIndex};
use bytes::Bytes;
use prost::Message;
use thiserror::Error;

/// The version of [`Entry`](crate::Entry) that this node writes, and the newest it reads.
pub const ENTRY_VERSION: u32 = 2;

/// The oldest version of an entry that it reads. In version 1 a position had no generation, and the default shard was
/// shard 1.
pub(crate) const ENTRY_VERSION_MIN: u32 = 2;

/// The newest version of all other records that this node knows.
pub(crate) const RECORD_VERSION: u32 = 11;

/// A record that can't be understood.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Not what this node, or an older one, wrote.
    #[error("a record is damaged: {0}")]
    Damaged(#[from] prost::DecodeError),
    /// A field that must be there is missing.
    #[error("a record is damaged: {0} is missing")]
    Missing(&'static str),
    /// Written by a newer program.
    #[error("the log holds a record of version {found}, and this program reads up to {known}: update it")]
    Newer {
        /// The record's version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// Written by a program from before the first release, whose data is not kept.
    #[error(
        "the log holds an entry of version {found}, and this program reads none before {ENTRY_VERSION_MIN}, which is older \
         than anybody's data: start with an empty --data-dir"
    )]
    Older {
        /// The entry's version.
        found: u32,
    },
    /// An entry too far along the log, or with too many commands.
    #[error(
        "entry {index} holds {count} commands, and a log ends at entry {LOG_INDEX_MAX}, each of at most \
         {COMMANDS_PER_ENTRY_MAX} commands: no sound leader writes such an entry"
    )]
    BeyondPositions {
        /// The entry's index.
        index: LogIndex,
        /// Its commands.
        count: usize,
    },
    /// A command of a newer version.
    #[error("the log holds a command that this program does not know: update it")]
    UnknownCommand,
}

impl From<RecordError> for std::io::Error {
    fn from(error: RecordError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Any record, as far as its version.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Versioned {
    #[prost(uint32, tag = "15")]
    version: u32,
}

/// Checks the version of an entry.
///
/// # Errors
/// [`RecordError::Newer`] and [`RecordError::Older`].
pub(crate) fn check_entry(found: u32) -> Result<(), RecordError> {
    match found {
        ..ENTRY_VERSION_MIN => Err(RecordError::Older { found }),
        ENTRY_VERSION_MIN..=ENTRY_VERSION => Ok(()),
        _ => Err(RecordError::Newer {
            found,
            known: ENTRY_VERSION,
        }),
    }
}

/// Checks the version that the reader of a record must know.
///
/// # Errors
/// [`RecordError::Newer`].
pub(crate) fn check(found: u32) -> Result<(), RecordError> {
    let known = RECORD_VERSION;
    match found {
        ..=RECORD_VERSION => Ok(()),
        _ => Err(RecordError::Newer { found, known }),
    }
}

/// Reads a record, if this program understands it: looks at the version first, so that a newer record is not taken for a
/// damaged one, whatever else is in it.
///
/// # Errors
/// [`RecordError::Newer`] and [`RecordError::Damaged`].
pub(crate) fn decode<M: Message + Default>(record: Bytes) -> Result<M, RecordError> {
    check(Versioned::decode(record.clone())?.version)?;
    Ok(M::decode(record)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Proposal;
    use crate::record::{LogRecord, MembershipRecord};
    use crate::resolver::Resolution;
    use crate::types::RaftEntry;
    use crate::{Command, Entry};

    /// Tag 15, and a version.
    fn tagged(version: u32) -> Vec<u8> {
        Versioned { version }.encode_to_vec()
    }

    #[test]
    fn a_record_is_read_up_to_the_version_that_is_known() {
        let record = Resolution::new(77);
        let with = |version| Bytes::from([record.encode_to_vec(), tagged(version)].concat());
        for version in 0..=RECORD_VERSION {
            assert_eq!(decode::<Resolution>(with(version)).unwrap(), record);
        }
        for version in [RECORD_VERSION + 1, u32::MAX] {
            let error = decode::<Resolution>(with(version)).unwrap_err();
            assert!(matches!(error, RecordError::Newer { found, .. } if found == version));
            assert!(error.to_string().contains("update it"), "{error}");
        }
        // Tag 1 as a number, which is a time of eight bytes today.
        let retyped = [&[0x08, 0x07][..], &tagged(RECORD_VERSION + 1)].concat();
        let error = decode::<Resolution>(retyped.into()).unwrap_err();
        assert!(matches!(error, RecordError::Newer { .. }), "{error}");
        let damaged = decode::<Resolution>(Bytes::from_static(&[0x08, 0x07])).unwrap_err();
        assert!(matches!(damaged, RecordError::Damaged(_)), "{damaged}");
    }

    #[test]
    fn an_entry_is_read_from_the_oldest_version_to_the_newest() {
        let read = |version| {
            let entry = Entry {
                version,
                ..Entry::default()
            };
            Proposal(entry.encode_to_vec().into()).decode()
        };
        assert!(read(ENTRY_VERSION).is_ok() && read(ENTRY_VERSION_MIN).is_ok());
        for version in [0, 1] {
            let error = read(version).unwrap_err();
            assert!(matches!(error, RecordError::Older { found } if found == version));
            assert!(error.to_string().contains("empty --data-dir"), "{error}");
        }
        let error = read(ENTRY_VERSION + 1).unwrap_err();
        assert!(matches!(error, RecordError::Newer { .. }), "{error}");
    }

    #[test]
    fn an_entry_with_a_newer_command_is_not_read() {
        let read = |version| {
            let known = Command {
                version,
                ..crate::command::Body::Call(Default::default()).into()
            };
            let batch = crate::Batch {
                commands: vec![known],
                ..Default::default()
            };
            let entry = Entry {
                version: ENTRY_VERSION,
                batches: vec![batch],
                ..Entry::default()
            };
            Proposal(entry.encode_to_vec().into()).decode()
        };
        assert!(read(0).is_ok() && read(RECORD_VERSION).is_ok());
        let error = read(RECORD_VERSION + 1).unwrap_err();
        assert!(matches!(error, RecordError::Newer { .. }), "{error}");
    }

    #[test]
    fn a_newer_membership_is_not_read_in_the_state_and_in_the_log() {
        let membership = |version| MembershipRecord {
            version,
            ..MembershipRecord::default()
        };
        let logged = |version| {
            RaftEntry::try_from(LogRecord {
                log_id: Some(Default::default()),
                membership: Some(membership(version)),
                ..LogRecord::default()
            })
        };
        assert!(membership(RECORD_VERSION).stored().is_ok() && logged(RECORD_VERSION).is_ok());
        let newer = RECORD_VERSION + 1;
        assert!(matches!(
            membership(newer).stored(),
            Err(RecordError::Newer { .. })
        ));
        assert!(matches!(logged(newer), Err(RecordError::Newer { .. })));
    }
}
