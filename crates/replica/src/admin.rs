//! What a replica asks of the local server over HTTP, in a database owner's name.

mod sql;

pub use sql::{SqlError, SqlTable};

use crate::DatabaseId;
use crate::migration::UpdatePlan;
use crate::server::{HttpError, Server, until_up};
use crate::tokens::TokenError;
use bytes::Bytes;
use http::{Method, StatusCode};
use rtdb_consensus::command::Owner;
use rtdb_determinism::Successes;
use spacetimedb_lib::{Hash, Identity};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long publishing may take, beside a call that is under way: the server compiles the module, and may have to rewrite tables.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(300);
/// How long any other request may take, beside a call that is under way. A server that has just started replays its commit log first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks the local server in owners' names. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    server: Arc<dyn Server>,
    call_time_max: Duration,
}

/// Why the local server did not do what it was asked.
#[derive(Debug, Error)]
pub enum AdminError {
    /// It has no such database.
    #[error("SpacetimeDB has no such database")]
    NoSuchDatabase,
    /// It refused, in its own words.
    #[error("SpacetimeDB refused: {text}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// Its words.
        text: String,
    },
    /// It did not answer: it may or may not have done it.
    #[error(transparent)]
    Http(HttpError),
    /// It answered a query with something else than tables.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// It answered with something else than a plan.
    #[error("SpacetimeDB's plan of an update can't be read: {0}")]
    Plan(serde_json::Error),
    /// No token can be made for the owner.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// What a database says of itself: the row of its hidden table `rtdb_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseState {
    /// The position of the last command that is part of the database.
    pub index: u64,
    /// The digest of all that was written: equal on replicas at the same index.
    pub digest: u64,
    /// The position of the `Publish` whose module is running.
    pub module: u64,
    /// Which calls are part of the database.
    pub successes: Successes,
}

impl Admin {
    /// Asks `server`. A call that is under way may keep it from answering for up to `call_time_max`.
    pub fn new(server: Arc<dyn Server>, call_time_max: Duration) -> Self {
        Self {
            server,
            call_time_max,
        }
    }

    /// How long one call may run.
    pub fn call_time_max(&self) -> Duration {
        self.call_time_max
    }

    /// The server that is asked.
    pub fn server(&self) -> &dyn Server {
        &*self.server
    }

    /// Waits until the server answers. Never returns if it is stopped before.
    pub async fn up(&self) {
        until_up(self.server.state()).await;
    }

    /// Publishes a prepared module: creates the database under that identity, or replaces its module. What would break
    /// clients the server does only if it gets the token of its own plan.
    ///
    /// # Errors
    /// [`AdminError`]; [`AdminError::Refused`] carries the compiler's or the migration's words.
    pub(crate) async fn publish(
        &self,
        owner: &Owner,
        database: &DatabaseId,
        wasm: Bytes,
        token: Option<Hash>,
    ) -> Result<(), AdminError> {
        // SpacetimeDB's own way to write it: in hexadecimal digits, the last byte first.
        let query = token.map(|token| format!("?policy=BreakClients&token={:#x}", token.to_u256()));
        let query = query.unwrap_or_default();
        self.ask(Method::PUT, owner, database, &query, wasm, PUBLISH_TIMEOUT)
            .await
            .map(drop)
    }

    /// What replacing the module by another prepared one would do. `None` if the server knows no plans: 1.3 and older.
    ///
    /// # Errors
    /// [`AdminError`]; [`AdminError::Refused`] if the module can't be used.
    pub(crate) async fn plan(
        &self,
        owner: &Owner,
        database: &DatabaseId,
        wasm: Bytes,
    ) -> Result<Option<UpdatePlan>, AdminError> {
        let asked = self
            .ask(
                Method::POST,
                owner,
                database,
                "/pre_publish",
                wasm,
                PUBLISH_TIMEOUT,
            )
            .await;
        match asked {
            Ok(answer) => serde_json::from_slice(&answer)
                .map(Some)
                .map_err(AdminError::Plan),
            Err(AdminError::NoSuchDatabase) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The identity of a database's owner, 32 bytes, whoever asks for it; `None` if the answer is not understood.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn owner(&self, asker: &Owner, database: &DatabaseId) -> Result<Option<[u8; 32]>, AdminError> {
        let answer = self
            .ask(Method::GET, asker, database, "", Bytes::new(), REQUEST_TIMEOUT)
            .await?;
        let info: Option<serde_json::Value> = serde_json::from_slice(&answer).ok();
        let hex = info
            .as_ref()
            .and_then(|info| info["owner_identity"]["__identity__"].as_str());
        let owner = hex.and_then(|hex| Identity::from_hex(hex.trim_start_matches("0x")).ok());
        Ok(owner.map(|owner| owner.to_byte_array()))
    }

    /// Deletes a database; one that is not there is fine.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn delete(&self, owner: &Owner, database: &DatabaseId) -> Result<(), AdminError> {
        match self
            .ask(Method::DELETE, owner, database, "", Bytes::new(), REQUEST_TIMEOUT)
            .await
        {
            Ok(_) | Err(AdminError::NoSuchDatabase) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Runs SQL on what the server has committed, not waiting until that is on disk.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn sql(
        &self,
        owner: &Owner,
        database: &DatabaseId,
        query: &str,
    ) -> Result<Vec<SqlTable>, AdminError> {
        let query = Bytes::copy_from_slice(query.as_bytes());
        let path = "/sql?confirmed=false";
        let answer = self
            .ask(Method::POST, owner, database, path, query, REQUEST_TIMEOUT)
            .await?;
        Ok(sql::parse(&answer)?)
    }

    /// The number that a query asks for.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn count(
        &self,
        owner: &Owner,
        database: &DatabaseId,
        query: &str,
    ) -> Result<u64, AdminError> {
        let tables = self.sql(owner, database, query).await?;
        let table = tables.first().ok_or(SqlError::NoTable)?;
        Ok(table.number(0, "n")?)
    }

    /// The schema of the module that is running, in the server's JSON.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn schema(
        &self,
        owner: &Owner,
        database: &DatabaseId,
        version: u32,
    ) -> Result<Bytes, AdminError> {
        let path = format!("/schema?version={version}");
        self.ask(Method::GET, owner, database, &path, Bytes::new(), REQUEST_TIMEOUT)
            .await
    }

    /// Reads a database's state: `None` if it was created and nothing was applied to it yet.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn state(
        &self,
        owner: &Owner,
        database: &DatabaseId,
    ) -> Result<Option<DatabaseState>, AdminError> {
        let tables = self.sql(owner, database, "SELECT * FROM rtdb_state").await?;
        let table = tables.first().ok_or(SqlError::NoTable)?;
        if table.rows.is_empty() {
            return Ok(None);
        }
        let column = |name| table.number(0, name);
        let mut sums = [0; Successes::COLUMNS.len()];
        for (sum, name) in sums.iter_mut().zip(Successes::COLUMNS) {
            *sum = table.number(0, name)?;
        }
        Ok(Some(DatabaseState {
            index: column("index")?,
            digest: column("digest")?,
            module: column("module")?,
            successes: Successes::from_columns(sums),
        }))
    }

    /// Whether the database runs a prepared module of that hash; `None` if the answer is not understood.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn runs(
        &self,
        owner: &Owner,
        database: &DatabaseId,
        program: Hash,
    ) -> Result<Option<bool>, AdminError> {
        let tables = match self
            .sql(owner, database, "SELECT program_hash FROM st_module")
            .await
        {
            Err(AdminError::Refused { status, .. }) if status.is_client_error() => return Ok(None),
            tables => tables?,
        };
        let rows = tables.first().and_then(|table| table.rows.first());
        let told = rows.and_then(|row| row.first()).map(|told| told.get());
        let told = told.filter(|told| told.starts_with("\"0x"));
        Ok(told.map(|told| told == format!("\"{:#x}\"", program.to_u256())))
    }

    async fn ask(
        &self,
        method: Method,
        owner: &Owner,
        database: &DatabaseId,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, AdminError> {
        let path = format!(
            "/v1/database/{}{path}",
            Identity::from_byte_array(*database).to_hex()
        );
        let timeout = timeout + self.call_time_max;
        self.server.ask(owner, method, path, body, timeout).await
    }
}
