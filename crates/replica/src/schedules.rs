//! The rows of a database's schedule tables, as they come and go on the local server.

use crate::applier::{Connection, ConnectionError, columns};
use crate::{ActiveDatabase, Admin};
use rtdb_determinism::{Module, Schedule};
use rtdb_protocol::FrameError;
use rtdb_protocol::server::{Changes, RowList, ServerMessage};
use spacetimedb_sats::ProductType;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use thiserror::Error;

/// The largest message that the server may send, in bytes: all rows of a database's schedule tables, which are asked for at once.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// When a row is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Again and again, after so many microseconds each.
    Interval(i64),
    /// Once, at this time in microseconds since the Unix epoch.
    Time(i64),
}

/// A row of a schedule table, as a transaction has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleRow {
    /// The schedule's place among the module's.
    pub schedule: u32,
    /// The row's primary key.
    pub id: u64,
    /// When it is due; `None` if it is gone.
    pub when: Option<When>,
}

/// A connection that watches them, in the owner's name: the tables may be private.
pub struct ScheduleWatch {
    connection: Connection,
    database: Arc<ActiveDatabase>,
    /// What has come and was not taken yet, a transaction each.
    received: VecDeque<Vec<ScheduleRow>>,
}

/// Why they are not watched (any more).
#[derive(Debug, Error)]
pub enum WatchError {
    /// The connection is lost, or there is none.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The server can't be understood.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The server refuses to show the tables.
    #[error("SpacetimeDB does not show the schedule tables")]
    Refused,
    /// A row is not of its table's type.
    #[error("a row of `{0}` can't be read")]
    Row(String),
}

impl ScheduleWatch {
    /// Watches all schedule tables of a database. Their rows are what is taken first.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn open(admin: &Admin, database: Arc<ActiveDatabase>) -> Result<Self, WatchError> {
        let mut connection =
            Connection::open_for(admin, &database.owner, &database.identity, MESSAGE_BYTES_MAX).await?;
        let tables = database.module.schedules().iter();
        let queries: Vec<_> = tables
            .map(|schedule| format!("SELECT * FROM \"{}\"", schedule.table))
            .collect();
        let queries: Vec<_> = queries.iter().map(String::as_str).collect();
        connection.subscribe(&queries);
        let mut watch = Self {
            connection,
            database,
            received: VecDeque::new(),
        };
        while watch.received.is_empty() {
            watch.receive().await?;
        }
        Ok(watch)
    }

    /// What the next transaction has changed; at first, all rows. May be dropped and called again.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn next(&mut self) -> Result<Vec<ScheduleRow>, WatchError> {
        loop {
            if let Some(rows) = self.received.pop_front() {
                return Ok(rows);
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), WatchError> {
        let payload = self.connection.next().await?;
        for message in self.connection.split(payload) {
            let rows = match message? {
                ServerMessage::SubscribeReply {
                    error: false,
                    changes,
                    ..
                } => read(&self.database.module, &changes)?,
                ServerMessage::Update(update) => read(&self.database.module, update.changes())?,
                ServerMessage::SubscribeReply { .. } | ServerMessage::SubscriptionLost { .. } => {
                    return Err(WatchError::Refused);
                }
                _ => continue,
            };
            self.received.push_back(rows);
        }
        Ok(())
    }
}

/// What becomes of the rows: of one that goes and comes in the same transaction, what it is then.
fn read(module: &Module, changes: &Changes) -> Result<Vec<ScheduleRow>, WatchError> {
    let mut rows = BTreeMap::new();
    let all: Vec<_> = changes.iter().collect();
    let tables = || {
        all.iter().flat_map(|change| {
            let schedules = module.schedules().iter().zip(0..);
            let named = schedules.filter(move |(schedule, _)| schedule.table == *change.table);
            named.map(move |(schedule, place)| (change, schedule, place))
        })
    };
    for (change, schedule, place) in tables() {
        for (id, _) in each(module, schedule, &change.deletes)? {
            rows.insert((place, id), None);
        }
    }
    for (change, schedule, place) in tables() {
        for (id, when) in each(module, schedule, &change.inserts)? {
            rows.insert((place, id), Some(when));
        }
    }
    let rows = rows.into_iter();
    Ok(rows
        .map(|((schedule, id), when)| ScheduleRow { schedule, id, when })
        .collect())
}

/// The rows of a list: each one's primary key, and when it is due.
fn each(module: &Module, schedule: &Schedule, rows: &RowList) -> Result<Vec<(u64, When)>, WatchError> {
    let table = module.tables().iter().find(|table| table.name == schedule.table);
    let types = module.typespace();
    let row_type = table.and_then(|table| types.get(table.row)?.as_product());
    let unreadable = || WatchError::Row(schedule.table.clone());
    let row_type = row_type.ok_or_else(unreadable)?;
    let (id, at) = (usize::from(schedule.id_column), usize::from(schedule.at_column));
    // What stands behind both of them is of no interest.
    let head = row_type.elements.iter().take(id.max(at) + 1).cloned();
    let head: ProductType = head.collect();
    let row = |row: bytes::Bytes| {
        let columns = columns(types, &head, &row).ok()?;
        let id = u64::from_le_bytes((*columns.get(id)?).try_into().ok()?);
        Some((id, when(columns.get(at)?)?))
    };
    rows.iter().map(|it| row(it).ok_or_else(unreadable)).collect()
}

/// A `ScheduleAt`.
fn when(column: &[u8]) -> Option<When> {
    let (tag, micros) = column.split_first()?;
    let micros = i64::from_le_bytes(micros.try_into().ok()?);
    match tag {
        0 => Some(When::Interval(micros)),
        1 => Some(When::Time(micros)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_and_an_interval_are_told_apart() {
        let of = |tag: u8| when(&[&[tag][..], &7_i64.to_le_bytes()].concat());
        assert_eq!(of(0), Some(When::Interval(7)));
        assert_eq!(of(1), Some(When::Time(7)));
        assert_eq!((of(2), when(&[1, 0]), when(&[])), (None, None, None));
    }
}
