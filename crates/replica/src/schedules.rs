//! The rows of a database's schedule tables of one kind, as they come and go on the local server.

use crate::applier::{Connection, ConnectionError, columns};
use crate::{ActiveDatabase, Admin};
use rtdb_determinism::{IMMEDIATE, IMMEDIATE_SCHEDULE, Module, Schedule, ScheduleKind, When};
use rtdb_protocol::FrameError;
use rtdb_protocol::server::{Changes, RowList, ServerMessage};
use spacetimedb_sats::ProductType;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use thiserror::Error;

/// The largest message that the server may send, in bytes: all rows of a database's schedule tables, which are asked for at
/// once.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// The bytes of a `ScheduleAt`.
const AT_BYTES: usize = 9;

/// A row of a schedule table, as a transaction has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleRow {
    /// The schedule's place among the module's, or [`IMMEDIATE_SCHEDULE`].
    pub schedule: u32,
    /// The row's primary key.
    pub id: u64,
    /// When it is due; `None` if it is gone.
    pub when: Option<When>,
}

/// Which rows are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Those that call functions of this kind.
    pub kind: ScheduleKind,
    /// The calls that the module asks for at once, too, if it does.
    pub immediate: bool,
}

/// A connection that watches them, in the owner's name: the tables may be private.
pub struct ScheduleWatch {
    connection: Connection,
    database: Arc<ActiveDatabase>,
    rows: Watched,
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
    /// Watches these rows of all of a database's schedule tables. Those that are there are what is taken first.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn open(
        admin: &Admin,
        database: Arc<ActiveDatabase>,
        rows: Watched,
    ) -> Result<Self, WatchError> {
        let mut connection =
            Connection::open_for(admin, &database.owner, &database.identity, MESSAGE_BYTES_MAX).await?;
        let tables = database.module.schedules().iter();
        let tables = tables.filter(|schedule| schedule.kind == rows.kind);
        let tables = tables.map(|schedule| schedule.table.as_str());
        let queries: Vec<_> = tables
            .chain(rows.immediate.then_some(IMMEDIATE))
            .map(|table| format!("SELECT * FROM \"{table}\""))
            .collect();
        let queries: Vec<_> = queries.iter().map(String::as_str).collect();
        connection.subscribe(&queries);
        let mut watch = Self {
            connection,
            database,
            rows,
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
                } => read(&self.database.module, self.rows, &changes)?,
                ServerMessage::Update(update) => read(&self.database.module, self.rows, update.changes())?,
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
fn read(module: &Module, watched: Watched, changes: &Changes) -> Result<Vec<ScheduleRow>, WatchError> {
    let mut rows = BTreeMap::new();
    let all: Vec<_> = changes.iter().collect();
    let tables = || {
        all.iter().flat_map(|change| {
            let own = module.schedules().iter().zip(0..);
            let own = own.filter(move |(schedule, _)| schedule.kind == watched.kind);
            let own = own.map(|(schedule, place)| (schedule.table.as_str(), Some(schedule), place));
            let ours = (IMMEDIATE, None, IMMEDIATE_SCHEDULE);
            let named = own.chain(watched.immediate.then_some(ours));
            named
                .filter(|(table, ..)| *table == &*change.table)
                .map(move |(_, schedule, place)| (change, schedule, place))
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
/// are. Without a schedule they are of [`IMMEDIATE`].
fn each(
    module: &Module,
    schedule: Option<&Schedule>,
    rows: &RowList,
    mut tell: impl FnMut(u64, When),
) -> Result<(), WatchError> {
    let head = schedule.map(|schedule| Head::of(module, schedule)).transpose()?;
    let row = |row: bytes::Bytes| match &head {
        Some(head) => head.read(module, &row),
        None => {
            let (id, rest) = row.split_first_chunk()?;
            Some((u64::from_le_bytes(*id), when(rest.get(..AT_BYTES)?)?))
        }
    };
    for read in rows.iter().map(row) {
        match read {
            Some((id, when)) => tell(id, when),
            None => tracing::error!(
                table = schedule.map_or(IMMEDIATE, |schedule| &schedule.table),
                "a row that is scheduled can't be read, and is never due"
            ),
        }
    }
    Ok(())
}

/// A row as far as it is read: what stands behind the key and the time is of no interest.
struct Head {
    columns: ProductType,
    id: usize,
    at: usize,
}

impl Head {
    fn of(module: &Module, schedule: &Schedule) -> Result<Self, WatchError> {
        let table = module.tables().iter().find(|table| table.name == schedule.table);
        let row_type = table.and_then(|table| module.typespace().get(table.row)?.as_product());
        let row_type = row_type.ok_or_else(|| WatchError::Table(schedule.table.clone()))?;
        let (id, at) = (usize::from(schedule.id_column), usize::from(schedule.at_column));
        let columns = row_type.elements.iter().take(id.max(at) + 1).cloned();
        Ok(Self {
            columns: columns.collect(),
            id,
            at,
        })
    }

    fn read(&self, module: &Module, row: &bytes::Bytes) -> Option<(u64, When)> {
        let columns = columns(module.typespace(), &self.columns, row).ok()?;
        let id = u64::from_le_bytes((*columns.get(self.id)?).try_into().ok()?);
        Some((id, when(columns.get(self.at)?)?))
    }
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
