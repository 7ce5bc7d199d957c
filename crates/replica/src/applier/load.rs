//! Restoring a database: after its publication its rows come by the log, and go to the server as they are. The row of `rtdb_state`
//! goes last: a server that has none was broken off, and begins again with the publication.

use super::publish::{Publication, call};
use super::{Applier, Connection, ConnectionError, Interrupt};
use crate::applier::window::Failure;
use crate::snapshot::{self, SnapshotError, kept_tables};
use bytes::Bytes;
use rtdb_consensus::command::{Load, Publish};
use rtdb_consensus::{Position, Refusal, ResolvedCommand};
use rtdb_determinism::header::{self, CallHeader};
use rtdb_determinism::{
    CLAIMS_TABLE, Claims, HIDDEN_PREFIX, IMMEDIATE, LOAD, Module, SEQUENCE_TABLE, STATE_TABLE, StateRow,
    calls_at_once,
};
use rtdb_snapshot::Sum;
use std::sync::Arc;

/// A database that is being restored.
pub(super) struct Loading {
    /// Its publication, which was taken.
    command: ResolvedCommand,
    publish: Publish,
    module: Module,
    connection: Connection,
}

impl Loading {
    /// Nothing is to be sent for a while: answers the server's pings, which would close the connection otherwise. Ends with the
    /// connection. May be dropped and called again.
    pub(super) async fn lost(&mut self) -> ConnectionError {
        loop {
            if let Err(error) = self.connection.next().await {
                return error;
            }
        }
    }
}

impl Applier {
    /// The module is there, and rows follow.
    pub(super) fn begin_loading(&mut self, publication: Publication<'_>, connection: Connection) {
        self.core.set_active(None);
        self.core.published(Ok(()));
        tracing::info!(
            database = self.hex(),
            position = %publication.command.position,
            "restoring begins"
        );
        self.loading = Some(Loading {
            command: publication.command.clone(),
            publish: publication.publish.clone(),
            module: publication.module.clone(),
            connection,
        });
    }

    /// Rows have come. Gives the connection to go on with, once they are all there.
    pub(super) async fn load(
        &mut self,
        command: &ResolvedCommand,
        load: &Load,
        connection: Option<Connection>,
    ) -> Result<Option<Connection>, Interrupt> {
        self.core.loading(command);
        let is_it = |loading: &mut Loading| loading.command.position == Position(load.of);
        let Some(mut loading) = self.loading.take_if(is_it) else {
            // The module was refused, or rows that came before.
            self.core.published(Err(Failure::Refused(Refusal::NotRestoring)));
            return Ok(connection);
        };
        let failed = self.verdict.failed(command.position).map(ToString::to_string);
        let loaded = match failed {
            Some(why) => {
                self.passed_over.insert(command.position);
                Err(why)
            }
            None => self.put_rows(command, load, &mut loading).await?,
        };
        match loaded {
            Err(text) => {
                self.remove().await?;
                Ok(self.refused(text, None))
            }
            Ok(()) if !load.last => {
                self.loading = Some(loading);
                self.core.published(Ok(()));
                Ok(None)
            }
            Ok(()) => {
                let Loading {
                    command,
                    publish,
                    module,
                    connection,
                } = loading;
                self.opened(command.position, &publish, module).await?;
                tracing::info!(database = self.hex(), "restored");
                Ok(Some(connection))
            }
        }
    }

    /// Hands the rows to the server. The inner error is the same on every node: the rows do not fit the module.
    async fn put_rows(
        &mut self,
        command: &ResolvedCommand,
        load: &Load,
        loading: &mut Loading,
    ) -> Result<Result<(), String>, Interrupt> {
        let mut state = None;
        for rows in &load.tables {
            let (table, ours) = (rows.table.as_str(), rows.table.starts_with(HIDDEN_PREFIX));
            match (table, &*rows.rows) {
                (STATE_TABLE, [row]) if load.last => state = StateRow::read(row),
                (SEQUENCE_TABLE | IMMEDIATE, rows) => {
                    if let Err(text) = put(&mut loading.connection, table, rows).await? {
                        return Ok(Err(text));
                    }
                }
                _ if ours => return Ok(Err(format!("rows of `{table}` are the cluster's own"))),
                (_, rows) => {
                    if let Err(text) = put(&mut loading.connection, table, rows).await? {
                        return Ok(Err(text));
                    }
                }
            }
        }
        if Claims::of(&loading.publish.module) != Claims::Ignored {
            let kept = load.departed.iter().zip(1..);
            let kept = kept.filter(|(departed, _)| !departed.claims.is_empty());
            let rows: Vec<Bytes> = kept
                .map(|(departed, nth)| {
                    let [session, index] =
                        [command.position.0 + nth, command.position.0].map(u64::to_le_bytes);
                    let claims = departed.claims.as_bytes();
                    [&session[..], &index, &(claims.len() as u32).to_le_bytes(), claims]
                        .concat()
                        .into()
                })
                .collect();
            if let Err(text) = put(&mut loading.connection, CLAIMS_TABLE, &rows).await? {
                return Ok(Err(text));
            }
        }
        if !load.last {
            return Ok(Ok(()));
        }
        let Some(state) = state else {
            return Ok(Err("the rows come without the database's own record".to_owned()));
        };
        if let Err(text) = self.compare(load, loading).await? {
            return Ok(Err(text));
        }
        let state = state.moved(command.position.0, load.of);
        let row = Bytes::copy_from_slice(state.bytes());
        put(&mut loading.connection, STATE_TABLE, &[row]).await
    }

    /// Whether the server holds what it was given.
    async fn compare(&mut self, load: &Load, loading: &mut Loading) -> Result<Result<(), String>, Interrupt> {
        let tables = kept_tables(&loading.module, calls_at_once(&loading.publish.module));
        let (shared, owner) = (Arc::clone(&self.shared), self.owner.clone());
        let reading = async {
            let turn = shared.comparing.lock().await;
            (
                turn,
                snapshot::read(&shared.admin, &owner, &self.database, &tables).await,
            )
        };
        let (_turn, read) = rtdb_runtime::select! {
            read = reading => read,
            error = loading.lost() => return Err(error.into()),
        };
        let read = match read {
            Ok(read) => read,
            Err(SnapshotError::Server(error)) => return Err(error.into()),
            // It is no larger than where it was taken.
            Err(error) => return Err(Interrupt::Untaken(error.to_string())),
        };
        for table in &tables {
            let mut sum = Sum::default();
            let rows = read.iter().filter(|(name, _)| name == table);
            for row in rows.flat_map(|(_, rows)| rows.iter()) {
                sum.add(&row);
            }
            let held = sum.of_table(table.clone());
            let meant = load.sums.iter().find(|it| it.table == *table);
            let (rows, sum) = meant.map_or((0, &[0; 16][..]), |it| (it.rows, &it.sum));
            if (held.rows, &held.sum[..]) != (rows, sum) {
                return Ok(Err(format!(
                    "table `{table}` holds {} rows and should hold {rows}, or others than it should",
                    held.rows
                )));
            }
        }
        Ok(Ok(()))
    }
}

/// Whether the server takes a call with the row alone.
pub(crate) fn load_fits(table: &str, row: &[u8]) -> bool {
    let around = [0; header::LEN + 3 * size_of::<u32>()];
    super::calls::fits(LOAD, &[&around, table.as_bytes(), row])
}

async fn put(
    connection: &mut Connection,
    table: &str,
    rows: &[Bytes],
) -> Result<Result<(), String>, Interrupt> {
    if rows.is_empty() {
        return Ok(Ok(()));
    }
    let bytes: usize = rows.iter().map(|row| row.len() + size_of::<u32>()).sum();
    let mut args = Vec::with_capacity(bytes + 128);
    args.extend_from_slice(&CallHeader::default().encode());
    put_bytes(&mut args, table.as_bytes());
    args.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    rows.iter().for_each(|row| put_bytes(&mut args, row));
    if !super::calls::fits(LOAD, &[&args]) {
        return Ok(Err(format!(
            "a row of `{table}` is larger than SpacetimeDB takes in a call"
        )));
    }
    call(connection, LOAD, args.into()).await
}

fn put_bytes(args: &mut Vec<u8>, bytes: &[u8]) {
    args.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    args.extend_from_slice(bytes);
}
