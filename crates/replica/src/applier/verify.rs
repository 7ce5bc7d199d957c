//! Reading all rows at one position, when the log asks for it.

use super::{Applier, Interrupt};
use crate::contents::{
    CONTENTS_BYTES_MAX, CONTENTS_ROWS_MAX, Contents, SCRUB_BYTES_MAX, SCRUB_ROWS_MAX, TableContents,
};
use crate::replica::Found;
use crate::{Admin, AdminError, DatabaseId};
use rtdb_consensus::command::{Owner, Verify};
use rtdb_consensus::{Holding, Position, ResolvedCommand};
use rtdb_determinism::is_nodes_own;
use serde::Deserialize;
use std::sync::Arc;

/// How many entries behind the log's end a replica still reads what nobody has asked for.
const SCRUB_BEHIND_MAX: u64 = 1_000;

/// How often the server may be lost while its rows are read: then they are not, here.
const READS_MAX: u32 = 2;
/// What is said then.
const NOT_SURVIVED: &str = "SpacetimeDB did not live to answer";

/// What the server says of its tables.
#[derive(Deserialize)]
struct Schema {
    tables: Vec<Table>,
}

#[derive(Deserialize)]
struct Table {
    name: String,
}

impl Applier {
    /// Reads what the database holds, with nothing else under way.
    pub(super) async fn verify(
        &mut self,
        command: &ResolvedCommand,
        verify: &Verify,
        exists: bool,
    ) -> Result<(), Interrupt> {
        // Where the others have been long ago, nobody asks any more.
        let behind = self.reader.end().saturating_sub(command.position.index());
        if exists && !(verify.scrub && behind > SCRUB_BEHIND_MAX) {
            let (of, reads) = self.reads;
            let reads = if of == command.position { reads + 1 } else { 1 };
            self.reads = (command.position, reads);
            let contents = match reads > READS_MAX {
                true => Contents {
                    position: command.position,
                    unread: Some(NOT_SURVIVED),
                    ..Contents::default()
                },
                false => self.contents(command.position, Limits::of(verify)).await?,
            };
            if let Some(digest) = contents.hash() {
                let position = command.position.0;
                let held = Holding { position, digest };
                self.slot.hold(Found {
                    held,
                    of_rows: true,
                    place: None,
                });
            }
            self.slot.set_contents(Arc::new(contents));
        }
        self.core.verified(command);
        Ok(())
    }

    async fn contents(&mut self, position: Position, limits: Limits) -> Result<Contents, Interrupt> {
        let (admin, owner, database) = (self.shared.admin.clone(), self.owner.clone(), self.database);
        let schema = admin.schema(&owner, &database, 9).await?;
        let schema: Schema = serde_json::from_slice(&schema).map_err(|e| AdminError::Sql(e.into()))?;
        let (mut tables, mut bytes) = (std::collections::BTreeMap::new(), 0);
        // What a view shows is each node's own business.
        let active = self.core.active();
        let is_view = |name: &str| {
            let mut views = active.iter().flat_map(|active| active.module.views());
            views.any(|view| view.name == name)
        };
        for Table { name } in schema.tables.into_iter().filter(|table| !is_view(&table.name)) {
            // As on nodes that know nothing of these, and have none.
            let read = match is_nodes_own(&name) {
                true => Ok(TableContents::default()),
                false => table(&admin, &owner, &database, &name, limits, &mut bytes).await?,
            };
            tables.insert(name, read);
        }
        Ok(Contents {
            position,
            tables,
            unread: None,
        })
    }
}

/// What is read at most.
#[derive(Clone, Copy)]
struct Limits {
    /// Of one table.
    rows: usize,
    /// Of all together.
    bytes: usize,
}

impl Limits {
    fn of(verify: &Verify) -> Self {
        match verify.scrub {
            true => Self {
                rows: SCRUB_ROWS_MAX,
                bytes: SCRUB_BYTES_MAX,
            },
            false => Self {
                rows: CONTENTS_ROWS_MAX,
                bytes: CONTENTS_BYTES_MAX,
            },
        }
    }
}

/// A table's rows; the inner error is why they are not compared.
async fn table(
    admin: &Admin,
    owner: &Owner,
    database: &DatabaseId,
    name: &str,
    limits: Limits,
    bytes: &mut usize,
) -> Result<Result<TableContents, String>, AdminError> {
    let (name, limit) = (name.replace('"', "\"\""), limits.rows + 1);
    let query = format!("SELECT * FROM \"{name}\" LIMIT {limit}");
    let read = match admin.sql(owner, database, &query).await {
        Ok(read) => read,
        Err(AdminError::Http(e @ crate::server::HttpError::TooLarge)) => return Ok(Err(e.to_string())),
        Err(AdminError::Refused { status, text }) if status.is_client_error() => return Ok(Err(text)),
        Err(e) => return Err(e),
    };
    let rows = read.into_iter().flat_map(|table| table.rows);
    let mut texts = Vec::new();
    for row in rows {
        let values: Vec<&str> = row.iter().map(|value| value.get()).collect();
        let text = format!("[{}]", values.join(", "));
        *bytes += text.len();
        if *bytes > limits.bytes {
            let max = limits.bytes;
            return Ok(Err(format!("the database has more than {max} bytes of rows")));
        }
        texts.push(text);
    }
    if texts.len() > limits.rows {
        return Ok(Err(format!("the table has more than {} rows", limits.rows)));
    }
    Ok(Ok(TableContents::new(texts)))
}
