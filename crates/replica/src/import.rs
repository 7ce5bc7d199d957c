//! A database of a plain SpacetimeDB, as it is there: its rows, the numbers that its generated columns go on with, and who is
//! connected.

use crate::server::foreign::Foreign;
use crate::snapshot::{self, SnapshotError};
use crate::tokens::unverified;
use crate::{Admin, AdminError, DatabaseId, SqlError, SqlTable};
use bytes::Bytes;
use http::Method;
use rtdb_consensus::command::Owner;
use rtdb_determinism::{Module, Numbers, StateRow, numbers};
use rtdb_protocol::server::RowList;
use serde_json::Value;
use spacetimedb_lib::{Hash, Identity};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long the other server may take for a call that is under way.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// The server's table of who is connected.
const CLIENTS: &str = "st_client";

/// The other server, and whom it is asked as.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its address, `host:port`.
    pub authority: String,
    /// The token of the database's owner there.
    pub token: String,
    /// The database's name or identity.
    pub database: String,
}

/// What was found there.
#[derive(Debug)]
pub struct Imported {
    /// The database's identity.
    pub identity: DatabaseId,
    /// Its owner.
    pub owner: Owner,
    /// The rows of its tables.
    pub tables: Vec<(String, RowList)>,
    /// The row of `rtdb_state` that it begins with here.
    pub state: StateRow,
    /// That of `rtdb_sequence`, if it needs one.
    pub sequence: Option<Bytes>,
    /// Who is connected there: identity and connection id.
    pub clients: Vec<([u8; 32], [u8; 16])>,
}

/// Why there is nothing to import.
#[derive(Debug, Error)]
pub enum ImportError {
    /// It has no such database.
    #[error("the SpacetimeDB at {authority} has no database `{database}`")]
    NoSuchDatabase {
        /// Where it was looked for.
        authority: String,
        /// What was looked for.
        database: String,
    },
    /// It does not answer as it should.
    #[error("the SpacetimeDB at {authority}: {source}")]
    Server {
        /// Where it is.
        authority: String,
        /// What it has said.
        source: AdminError,
    },
    /// Its rows can't be read.
    #[error(transparent)]
    Rows(#[from] SnapshotError),
    /// The token says nothing.
    #[error(
        "that is no token of SpacetimeDB's: give that of the database's owner (`spacetime login show --token`)"
    )]
    NoToken,
    /// Another's token.
    #[error("the token is that of {0}, who does not own the database: only its owner may read all of it")]
    NotOwner(Identity),
    /// Another module.
    #[error("the database runs another module than this one: give the very file that was published last")]
    OtherModule,
}

/// Reads a database.
///
/// # Errors
/// [`ImportError`].
pub async fn import(source: &Source, module: &Module, program: Hash) -> Result<Imported, ImportError> {
    let owner = unverified(&source.token).ok_or(ImportError::NoToken)?;
    let server = Arc::new(Foreign::new(source.authority.clone(), source.token.clone()));
    let admin = Admin::new(server, CALL_TIME_MAX);
    let lost = |error: AdminError| match error {
        AdminError::NoSuchDatabase => ImportError::NoSuchDatabase {
            authority: source.authority.clone(),
            database: source.database.clone(),
        },
        error => ImportError::Server {
            authority: source.authority.clone(),
            source: error,
        },
    };
    let info = admin.info(&owner, &source.database).await.map_err(lost)?;
    let [identity, owned_by] = info.ok_or_else(|| lost(AdminError::NoSuchDatabase))?;
    if owned_by[..] != owner.identity[..] {
        let me = owner.identity.as_ref().try_into().unwrap_or_default();
        return Err(ImportError::NotOwner(Identity::from_byte_array(me)));
    }
    if admin.runs(&owner, &identity, program).await.map_err(lost)? != Some(true) {
        return Err(ImportError::OtherModule);
    }
    let mut names = snapshot::own_tables(module);
    // In the same transaction: whoever reads counts as a client, too, and the module has been told.
    names.push(CLIENTS.to_owned());
    let mut tables = snapshot::read(&admin, &owner, &identity, &names).await?;
    let clients = tables.extract_if(.., |(table, _)| table == CLIENTS);
    let clients =
        clients.flat_map(|(_, rows)| rows.iter().filter_map(|row| client(&row)).collect::<Vec<_>>());
    let clients = clients.collect();
    // After the rows: a number is given out before its row is there.
    let next = next_numbers(&admin, &owner, &identity).await.map_err(lost)?;
    let Numbers { state, sequence } = numbers(module, |table, column| {
        next.get(&(table.to_owned(), column)).copied()
    });
    Ok(Imported {
        identity,
        owner,
        tables,
        state,
        sequence: sequence.map(Bytes::from),
        clients,
    })
}

/// What the generated columns go on with, by table and column: behind all that the server has set aside for it.
async fn next_numbers(
    admin: &Admin,
    owner: &Owner,
    database: &DatabaseId,
) -> Result<BTreeMap<(String, u16), i64>, AdminError> {
    let query = async |query: &str| -> Result<SqlTable, AdminError> {
        let tables = admin.sql(owner, database, query).await?;
        Ok(tables.into_iter().next().ok_or(SqlError::NoTable)?)
    };
    let tables = query("SELECT table_id, table_name FROM st_table").await?;
    let mut names = BTreeMap::new();
    for (row, values) in tables.rows.iter().enumerate() {
        let name = values
            .get(1)
            .and_then(|name| serde_json::from_str::<String>(name.get()).ok());
        names.insert(tables.number::<u32>(row, "table_id")?, name.unwrap_or_default());
    }
    let sequences = query("SELECT * FROM st_sequence").await?;
    let mut next = BTreeMap::new();
    for row in 0..sequences.rows.len() {
        let table: u32 = sequences.number(row, "table_id")?;
        let column: u16 = sequences.number(row, "col_pos")?;
        let [start, increment, allocated] = [
            sequences.number::<i128>(row, "start")?,
            sequences.number(row, "increment")?,
            sequences.number(row, "allocated")?,
        ];
        // That stands at the start, or before it, as long as nothing was set aside. What comes after a restart is the number
        // itself with some versions, and the one behind it with others.
        let is_begun = match increment > 0_i128 {
            true => allocated > start,
            false => allocated < start,
        };
        let number = if is_begun {
            allocated.saturating_add(increment)
        } else {
            start
        };
        if let (Some(name), Ok(number)) = (names.get(&table), i64::try_from(number)) {
            next.insert((name.clone(), column), number);
        }
    }
    Ok(next)
}

/// What a row of [`CLIENTS`] says: an identity and a connection id.
fn client(row: &[u8]) -> Option<([u8; 32], [u8; 16])> {
    let (identity, rest) = row.split_first_chunk()?;
    let connection = rest.try_into().ok()?;
    Some((*identity, connection))
}

impl Admin {
    /// The identities of a database, by whatever it is called, and of its owner; `None` if the answer is not understood.
    async fn info(&self, asker: &Owner, database: &str) -> Result<Option<[DatabaseId; 2]>, AdminError> {
        let path = format!("/v1/database/{database}");
        let asked = self
            .server()
            .ask(asker, Method::GET, path, Bytes::new(), CALL_TIME_MAX);
        let info: Option<Value> = serde_json::from_slice(&asked.await?).ok();
        let identity = |field: &str| {
            let hex = info.as_ref()?[field]["__identity__"].as_str()?;
            let identity = Identity::from_hex(hex.trim_start_matches("0x")).ok()?;
            Some(identity.to_byte_array())
        };
        Ok(identity("database_identity")
            .zip(identity("owner_identity"))
            .map(|(it, owner)| [it, owner]))
    }
}
