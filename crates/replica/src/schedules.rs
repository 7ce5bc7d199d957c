//! The rows of a database's schedule tables of one kind, as they come and go on the local server.

use crate::applier::{Connection, ConnectionError, columns};
use crate::{ActiveDatabase, Admin};
use rtdb_determinism::{Module, Schedule, ScheduleKind, When};
use rtdb_protocol::FrameError;
use rtdb_protocol::server::{Changes, RowList, ServerMessage};
use spacetimedb_sats::ProductType;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use thiserror::Error;

/// The largest message that the server may send, in bytes: all rows of a database's schedule tables, which are asked for at
/// once.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

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
    kind: ScheduleKind,
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
    /// There is more than a message may have.
    #[error(
        "its schedule tables have more than {} MiB of rows, or one transaction has changed that much of them: none of its \
         scheduled functions is called until there are fewer",
        MESSAGE_BYTES_MAX >> 20
    )]
    TooLarge,
    /// The module has no such table.
    #[error("the module has no table `{0}`")]
    Table(String),
}

impl ScheduleWatch {
    /// Watches all of a database's schedule tables whose rows call functions of this kind. Their rows are what is taken first.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn open(
        admin: &Admin,
        database: Arc<ActiveDatabase>,
        kind: ScheduleKind,
    ) -> Result<Self, WatchError> {
        let mut connection =
            Connection::open_for(admin, &database.owner, &database.identity, MESSAGE_BYTES_MAX).await?;
        let tables = database.module.schedules().iter();
        let queries: Vec<_> = tables
            .filter(|schedule| schedule.kind == kind)
            .map(|schedule| format!("SELECT * FROM \"{}\"", schedule.table))
            .collect();
        let queries: Vec<_> = queries.iter().map(String::as_str).collect();
        connection.subscribe(&queries);
        let mut watch = Self {
            connection,
            database,
            kind,
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
        let payload = match self.connection.next().await {
            Err(error) if error.is_too_large() => return Err(WatchError::TooLarge),
            received => received?,
        };
        for message in self.connection.split(payload) {
            let rows = match message? {
                ServerMessage::SubscribeReply {
                    error: false,
                    changes,
                    ..
                } => read(&self.database.module, self.kind, &changes)?,
                ServerMessage::Update(update) => read(&self.database.module, self.kind, update.changes())?,
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
fn read(module: &Module, kind: ScheduleKind, changes: &Changes) -> Result<Vec<ScheduleRow>, WatchError> {
    let mut rows = BTreeMap::new();
    let all: Vec<_> = changes.iter().collect();
    let tables = || {
        all.iter().flat_map(|change| {
            let schedules = module.schedules().iter().zip(0..);
            let named = schedules
                .filter(move |(schedule, _)| schedule.kind == kind && schedule.table == *change.table);
            named.map(move |(schedule, place)| (change, schedule, place))
        })
    };
    for (change, schedule, place) in tables() {
        each(module, schedule, &change.deletes, |id, _| {
            rows.insert((place, id), None);
        })?;
    }
    for (change, schedule, place) in tables() {
        each(module, schedule, &change.inserts, |id, when| {
            rows.insert((place, id), Some(when));
        })?;
    }
    let rows = rows.into_iter();
    Ok(rows
        .map(|((schedule, id), when)| ScheduleRow { schedule, id, when })
        .collect())
}

/// Tells of the rows of a list: each one's primary key, and when it is due. One that can't be read is never due, and the others
/// are.
fn each(
    module: &Module,
    schedule: &Schedule,
    rows: &RowList,
    mut tell: impl FnMut(u64, When),
) -> Result<(), WatchError> {
    let table = module.tables().iter().find(|table| table.name == schedule.table);
    let types = module.typespace();
    let row_type = table.and_then(|table| types.get(table.row)?.as_product());
    let row_type = row_type.ok_or_else(|| WatchError::Table(schedule.table.clone()))?;
    let (id, at) = (usize::from(schedule.id_column), usize::from(schedule.at_column));
    // What stands behind both of them is of no interest.
    let head = row_type.elements.iter().take(id.max(at) + 1).cloned();
    let head: ProductType = head.collect();
    let row = |row: bytes::Bytes| {
        let columns = columns(types, &head, &row).ok()?;
        let id = u64::from_le_bytes((*columns.get(id)?).try_into().ok()?);
        Some((id, when(columns.get(at)?)?))
    };
    for read in rows.iter().map(row) {
        match read {
            Some((id, when)) => tell(id, when),
            None => tracing::error!(
                schedule.table,
                "a row that is scheduled can't be read, and is never due"
            ),
        }
    }
    Ok(())
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
