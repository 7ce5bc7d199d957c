//! The keys and values in which the resolver's state is written. In every value, tag 15 is for the
//! [version](crate::version) that a reader must know.

use crate::command::{ENDS_LEVEL, RESTORE_LEVEL};
use crate::{Origin, Session};
use bytes::Bytes;
use rtdb_runtime::{planted, reached};

/// The name of a part of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StateKey {
    /// The last timestamp given out.
    Timestamp,
    /// A node's stream of proposals.
    Origin(u64),
    /// A client's session.
    Session(u64),
    /// A database: of a shard, that it exists; of the meta group, who owns it and what it is called.
    Database(Bytes),
    /// What a shard's log knows of a database's replicas.
    Audit(Bytes),
    /// The same of rows as they are stored.
    Rows(Bytes),
    /// The same of what they hold at places of the log.
    Places(Bytes),
    /// The cluster's settings.
    Cluster,
    /// A node: where and what it is.
    Node(u64),
    /// An outside issuer of tokens.
    Issuer(String),
    /// A node's replica of a database that is stuck at a command.
    Stuck(u64, Bytes),
    /// A call with a key, by its position.
    Keyed(u64),
}

impl StateKey {
    /// Writes the key, after what is in `out` already.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Timestamp => out.push(b't'),
            Self::Origin(node) => numbered(out, b'o', *node),
            Self::Session(id) => numbered(out, b's', *id),
            Self::Database(identity) => {
                out.push(b'd');
                out.extend_from_slice(identity);
            }
            Self::Audit(identity) => {
                out.push(b'a');
                out.extend_from_slice(identity);
            }
            Self::Rows(identity) => {
                out.push(b'r');
                out.extend_from_slice(identity);
            }
            Self::Places(identity) => {
                out.push(b'l');
                out.extend_from_slice(identity);
            }
            Self::Cluster => out.push(b'c'),
            Self::Node(node) => numbered(out, b'n', *node),
            Self::Keyed(position) => numbered(out, b'k', *position),
            Self::Issuer(name) => {
                out.push(b'i');
                out.extend_from_slice(name.as_bytes());
            }
            Self::Stuck(node, database) => {
                numbered(out, b'p', *node);
                out.extend_from_slice(database);
            }
        }
    }

    /// Reads a key back; `None` if it is not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let number = || rest.try_into().ok().map(u64::from_be_bytes);
        match tag {
            b't' => Some(Self::Timestamp),
            b'o' => number().map(Self::Origin),
            b's' => number().map(Self::Session),
            b'd' => Some(Self::Database(Bytes::copy_from_slice(rest))),
            b'a' => Some(Self::Audit(Bytes::copy_from_slice(rest))),
            b'r' => Some(Self::Rows(Bytes::copy_from_slice(rest))),
            b'l' => Some(Self::Places(Bytes::copy_from_slice(rest))),
            b'c' => Some(Self::Cluster),
            b'n' => number().map(Self::Node),
            b'k' => number().map(Self::Keyed),
            b'i' => Some(Self::Issuer(String::from_utf8(rest.to_vec()).ok()?)),
            b'p' => {
                let (node, database) = rest.split_first_chunk()?;
                Some(Self::Stuck(
                    u64::from_be_bytes(*node),
                    Bytes::copy_from_slice(database),
                ))
            }
            _ => None,
        }
    }
}

fn numbered(out: &mut Vec<u8>, tag: u8, number: u64) {
    out.push(tag);
    out.extend_from_slice(&number.to_be_bytes());
}

/// How far a node's stream of proposals has come.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct OriginRecord {
    /// The newest epoch.
    #[prost(fixed64, tag = "1")]
    pub(crate) epoch: u64,
    /// The last command of that epoch that was taken; 0 for none.
    #[prost(uint64, tag = "2")]
    pub(crate) last_seq: u64,
    /// The last epoch that has been expired; 0 for none.
    #[prost(fixed64, tag = "3")]
    pub(crate) expired: u64,
}

impl OriginRecord {
    /// Notes a newer epoch: its stream begins.
    pub(crate) fn announce(&mut self, epoch: u64) {
        if epoch > self.epoch && epoch > self.expired {
            self.epoch = epoch;
            self.last_seq = 0;
        }
    }

    /// Whether commands of the epoch are accepted.
    pub(crate) fn is_live(&self, epoch: u64) -> bool {
        epoch == self.epoch && (epoch > self.expired || planted("expired epochs go on"))
    }

    /// Takes the next command of the epoch; `false` if it is not the next one.
    pub(crate) fn take(&mut self, epoch: u64, seq: u64) -> bool {
        let is_live = self.is_live(epoch);
        let next = is_live && Some(seq) == self.last_seq.checked_add(1)
            || is_live && planted("duplicates count") && seq <= self.last_seq
            || is_live && planted("gaps are skipped") && seq > self.last_seq;
        match () {
            () if next => self.last_seq = seq,
            () if !is_live => reached("commands of streams that are over"),
            () if seq <= self.last_seq => reached("commands that came twice"),
            () => reached("commands that came before others"),
        }
        next
    }
}

/// The last timestamp given out.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct TimestampRecord {
    #[prost(sfixed64, tag = "1")]
    pub(crate) last_us: i64,
}

/// A database of a shard, as it is written.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct BirthRecord {
    /// Its birth; 0 for a database of before there were births.
    #[prost(fixed64, tag = "1")]
    pub(crate) born: u64,
    /// While it is restored, the position of the publication that has begun it; else 0.
    #[prost(fixed64, tag = "2")]
    pub(crate) restoring: u64,
    /// How many of its loads have come.
    #[prost(uint64, tag = "3")]
    pub(crate) loads: u64,
    /// Whose they are.
    #[prost(uint64, tag = "4")]
    pub(crate) node: u64,
    #[prost(fixed64, tag = "5")]
    pub(crate) epoch: u64,
    #[prost(uint32, tag = "15")]
    pub(crate) version: u32,
}

impl BirthRecord {
    pub(crate) fn new(born: u64, restoring: Option<Restoring>) -> Self {
        let version = match restoring {
            Some(_) => RESTORE_LEVEL,
            None if born == 0 => 0,
            None => ENDS_LEVEL,
        };
        let Restoring { of, loads, by } = restoring.unwrap_or_default();
        Self {
            born,
            restoring: of,
            loads,
            node: by.node,
            epoch: by.epoch,
            version,
        }
    }

    pub(crate) fn restoring(self) -> Option<Restoring> {
        (self.restoring != 0).then_some(Restoring {
            of: self.restoring,
            loads: self.loads,
            by: Origin {
                node: self.node,
                epoch: self.epoch,
            },
        })
    }
}

/// How far the restoring of a database has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restoring {
    /// The position of the publication that has begun it.
    pub(crate) of: u64,
    /// How many loads have come.
    pub(crate) loads: u64,
    /// Whose they are: nobody else goes on with them.
    pub(crate) by: Origin,
}

/// A replica that is stuck, as it is written.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct StuckRecord {
    #[prost(fixed64, tag = "1")]
    pub(crate) position: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) attempts: u32,
}

/// A session, as it is written.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) node: u64,
    #[prost(fixed64, tag = "2")]
    pub(crate) epoch: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) database: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) sender: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) connection: Bytes,
}

impl From<&Session> for SessionRecord {
    fn from(session: &Session) -> Self {
        Self {
            node: session.origin.node,
            epoch: session.origin.epoch,
            database: session.database.clone(),
            sender: session.sender.clone(),
            connection: session.connection.clone(),
        }
    }
}

impl SessionRecord {
    pub(crate) fn session(self, id: u64) -> Session {
        Session {
            id,
            origin: Origin {
                node: self.node,
                epoch: self.epoch,
            },
            database: Bytes::copy_from_slice(&self.database),
            sender: Bytes::copy_from_slice(&self.sender),
            connection: Bytes::copy_from_slice(&self.connection),
        }
    }
}
