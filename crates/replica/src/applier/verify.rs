//! Reading all rows at one position, when the log asks for it.

use super::{Applier, Interrupt};
use crate::contents::{CONTENTS_BYTES_MAX, Contents, TableContents};
use crate::{Admin, AdminError, DatabaseId};
use rtdb_consensus::command::Owner;
use rtdb_consensus::{Position, ResolvedCommand};
use serde::Deserialize;
use std::sync::Arc;

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
    pub(super) async fn verify(&mut self, command: &ResolvedCommand, exists: bool) -> Result<(), Interrupt> {
        if exists {
            let contents = self.contents(command.position).await?;
            self.slot.set_contents(Arc::new(contents));
        }
        self.core.verified(command);
        Ok(())
    }

    async fn contents(&mut self, position: Position) -> Result<Contents, Interrupt> {
        let (admin, owner, database) = (self.shared.admin.clone(), self.owner.clone(), self.database);
        let schema = admin.schema(&owner, &database, 9).await?;
        let schema: Schema = serde_json::from_slice(&schema).map_err(|e| AdminError::Sql(e.into()))?;
        let (mut tables, mut bytes) = (std::collections::BTreeMap::new(), 0);
        for Table { name } in schema.tables {
            let read = table(&admin, &owner, &database, &name, &mut bytes).await;
            tables.insert(name, read?);
        }
        Ok(Contents { position, tables })
    }
}

/// A table's rows; the inner error is why they are not compared.
async fn table(
    admin: &Admin,
    owner: &Owner,
    database: &DatabaseId,
    name: &str,
    bytes: &mut usize,
) -> Result<Result<TableContents, String>, AdminError> {
    let query = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
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
        if *bytes > CONTENTS_BYTES_MAX {
            return Ok(Err(format!(
                "the database has more than {CONTENTS_BYTES_MAX} bytes of rows"
            )));
        }
        texts.push(text);
    }
    Ok(Ok(TableContents::new(texts)))
}
