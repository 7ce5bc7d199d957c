//! All rows of a database as they are at one position, in the server's own encoding.

use crate::applier::{Connection, ConnectionError, load_fits};
use crate::{ActiveDatabase, Admin, DatabaseId};
use rtdb_consensus::Position;
use rtdb_consensus::command::{Owner, Publish};
use rtdb_determinism::{
    CLAIMS_TABLE, Claims, IMMEDIATE, Module, SEQUENCE_TABLE, SESSION_TABLE, STATE_TABLE, StateRow,
};
use rtdb_protocol::FrameError;
use rtdb_protocol::server::{RowList, ServerMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thiserror::Error;

/// The most bytes of rows that are read at once, and held until they are sent: all of a database's.
pub const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

/// How long the server may take to hand them out.
const READ_MAX: Duration = Duration::from_secs(600);

/// A database at one position.
#[derive(Debug)]
pub struct Snapshot {
    /// The publication of the module that runs.
    pub publish: Publish,
    /// The row of `rtdb_state`.
    pub state: StateRow,
    /// The rows of the module's tables, and of ours that say how it goes on.
    pub tables: Vec<(String, RowList)>,
    /// The sessions that the rows know of, and what the tokens of those said who came with one.
    pub sessions: BTreeMap<u64, String>,
}

/// Why there is none.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The database is not served here.
    #[error("this node does not serve the database (yet): try again, or another node")]
    Absent,
    /// The server is gone, or can't be understood.
    #[error("SpacetimeDB does not hand the rows out: {0}")]
    Server(#[from] ConnectionError),
    /// The server says no.
    #[error("SpacetimeDB refuses to hand the rows out: {0}")]
    Refused(String),
    /// There are more than are held at once.
    #[error("the database has more than {} MiB of rows, and that much can't be taken at once yet", SNAPSHOT_BYTES_MAX >> 20)]
    TooLarge,
    /// A row is larger than a call may be: it could never be loaded again.
    #[error("a row of `{table}` has more than {} MiB, and can't be put into a backup", rtdb_protocol::MESSAGE_BYTES_MAX >> 20)]
    RowTooLarge {
        /// Its table.
        table: String,
    },
    /// It took too long.
    #[error("SpacetimeDB has not handed the rows out within {} s", READ_MAX.as_secs())]
    TooSlow,
    /// The module is being exchanged.
    #[error("the database's module has just been replaced: try again")]
    Replaced,
    /// What is there is not what it should be.
    #[error("the database's own record can't be read")]
    NoState,
}

impl From<FrameError> for SnapshotError {
    fn from(error: FrameError) -> Self {
        Self::Server(error.into())
    }
}

impl Snapshot {
    /// Takes one, in one transaction of the server's.
    pub(crate) async fn take(
        admin: &Admin,
        active: &ActiveDatabase,
        publish: Publish,
    ) -> Result<Self, SnapshotError> {
        let keeps_claims = Claims::of(&publish.module) != Claims::Ignored;
        let mut names = kept_tables(&active.module, active.calls_at_once);
        names.extend([STATE_TABLE, SESSION_TABLE].map(str::to_owned));
        if keeps_claims {
            names.push(CLAIMS_TABLE.to_owned());
        }
        let mut tables = read(admin, &active.owner, &active.identity, &names).await?;
        let mut of = |name: &str| {
            tables
                .extract_if(.., |(table, _)| table == name)
                .map(|(_, rows)| rows)
                .next()
        };
        let state = of(STATE_TABLE).and_then(|rows| StateRow::read(&rows.iter().next()?));
        let state = state.ok_or(SnapshotError::NoState)?;
        if Position(state.module()) != active.position {
            return Err(SnapshotError::Replaced);
        }
        let mut sessions = BTreeMap::new();
        for row in of(SESSION_TABLE).iter().flat_map(RowList::iter) {
            if let Some(session) = row.first_chunk() {
                sessions.entry(u64::from_le_bytes(*session)).or_default();
            }
        }
        for row in of(CLAIMS_TABLE).iter().flat_map(RowList::iter) {
            let (session, claims) = claims_of(&row).ok_or(SnapshotError::NoState)?;
            sessions.insert(session, claims);
        }
        let too_large = |(table, rows): &(String, RowList)| {
            let mut rows = rows.iter();
            rows.any(|row| !load_fits(table, &row)).then(|| table.clone())
        };
        if let Some(table) = tables.iter().find_map(too_large) {
            return Err(SnapshotError::RowTooLarge { table });
        }
        // That of a call without a session is for that call alone.
        sessions.remove(&0);
        Ok(Self {
            publish,
            state,
            tables,
            sessions,
        })
    }
}

/// The tables whose rows make the database what it is, as far as its module may see: its own, and those of ours that the next call
/// goes on from.
pub(crate) fn kept_tables(module: &Module, calls_at_once: bool) -> Vec<String> {
    let own = own_tables(module).into_iter();
    let ours = [Some(SEQUENCE_TABLE), calls_at_once.then_some(IMMEDIATE)];
    let ours = ours.into_iter().flatten().map(str::to_owned);
    let all: BTreeSet<String> = own.chain(ours).collect();
    all.into_iter().collect()
}

/// The module's own tables that keep rows.
pub(crate) fn own_tables(module: &Module) -> Vec<String> {
    let own = module.tables().iter().filter(|table| !table.event);
    own.map(|table| table.name.clone()).collect()
}

/// Reads all rows of tables, in one transaction; tables without any are left out.
pub(crate) async fn read(
    admin: &Admin,
    owner: &Owner,
    database: &DatabaseId,
    tables: &[String],
) -> Result<Vec<(String, RowList)>, SnapshotError> {
    let answer = async {
        let mut connection = Connection::open_for(admin, owner, database, SNAPSHOT_BYTES_MAX).await?;
        let queries: Vec<String> = tables
            .iter()
            .map(|table| format!("SELECT * FROM \"{table}\""))
            .collect();
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        connection.subscribe(&queries);
        loop {
            let payload = match connection.next().await {
                Err(error) if error.is_too_large() => return Err(SnapshotError::TooLarge),
                payload => payload?,
            };
            for message in connection.split(payload) {
                match message? {
                    ServerMessage::SubscribeReply {
                        error: false,
                        changes,
                        ..
                    } => {
                        let all = changes.iter();
                        return Ok(all.map(|it| (it.table.to_string(), it.inserts.clone())).collect());
                    }
                    ServerMessage::SubscribeReply { .. } | ServerMessage::SubscriptionLost { .. } => {
                        return Err(SnapshotError::Refused("it does not show the tables".into()));
                    }
                    _ => {}
                }
            }
        }
    };
    rtdb_runtime::timeout(READ_MAX, answer)
        .await
        .unwrap_or(Err(SnapshotError::TooSlow))
}

/// What a row of `rtdb_claims` says: the session, an index, and a text.
fn claims_of(row: &[u8]) -> Option<(u64, String)> {
    let (session, rest) = row.split_first_chunk()?;
    let (_index, rest) = rest.split_first_chunk::<8>()?;
    let (len, text) = rest.split_first_chunk()?;
    let text = text.get(..u32::from_le_bytes(*len) as usize)?;
    Some((
        u64::from_le_bytes(*session),
        String::from_utf8(text.to_vec()).ok()?,
    ))
}
