//! Rows that the database's owner changes by SQL.
//!
//! Which rows a statement is about, each replica asks its own server, at the command's position, with nothing else under
//! way: there all replicas hold the same rows, and so all change the same ones. What is to be done then goes to the module,
//! row by row, in one call that is applied exactly once like any other.

use super::{Applier, Connection, Interrupt, args};
use crate::applier::window::Failure;
use crate::{ActiveDatabase, AdminError};
use bytes::Bytes;
use rtdb_consensus::command::{Assignment, DeleteRows, InsertRows, UpdateRows, Write, WriteKind};
use rtdb_consensus::{Position, Refusal, Reply, ResolvedCommand};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{APPLY, RowChanges, Table, encode_changes};
use rtdb_protocol::MESSAGE_BYTES_MAX;
use spacetimedb_sats::ProductType;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of the rows of one statement, those that go and those that come: less than a call and an answer may have.
const WRITE_BYTES_MAX: usize = 24 << 20;
/// Rows that one statement may change.
pub const WRITE_ROWS_MAX: usize = 500_000;
const _: () = assert!(WRITE_BYTES_MAX + 12 * WRITE_ROWS_MAX + (1 << 20) < MESSAGE_BYTES_MAX);

/// What the writer hears if the module can't do it.
const OLD_MODULE: &str = "the database's module was prepared by an earlier version of RaftTimeDB, and takes no SQL that \
                          writes: publish it again";

/// Rows that come are counted: one that is there already does not come again.
#[derive(Clone)]
pub(super) struct Counting {
    position: Position,
    table: String,
    /// How many rows the table has had.
    before: u64,
}

/// What a statement does, row by row.
struct Planned {
    deleted: Vec<Bytes>,
    inserted: Vec<Bytes>,
    reply: Reply,
}

impl Applier {
    /// Begins what changes rows with nothing else under way. If there is no database, or the log has decided that the command has
    /// failed, that is its outcome, and it is over.
    pub(super) fn begin_write(
        &mut self,
        command: &ResolvedCommand,
        connection: Option<Connection>,
    ) -> Result<(Arc<ActiveDatabase>, Connection), Option<Connection>> {
        self.core.writing(command);
        let (Some(active), Some(connection)) = (self.core.active(), connection) else {
            self.core.unwritten_here();
            return Err(None);
        };
        if let Some(why) = self.verdict.failed(command.position) {
            self.passed_over.insert(command.position);
            self.core.unwritten(Failure::trapped(why.to_owned()));
            return Err(Some(connection));
        }
        Ok((active, connection))
    }

    /// Changes rows, with nothing else under way.
    pub(super) async fn write(
        &mut self,
        command: &ResolvedCommand,
        write: &Write,
        connection: Option<Connection>,
    ) -> Result<Option<Connection>, Interrupt> {
        let (active, mut connection) = match self.begin_write(command, connection) {
            Ok(begun) => begun,
            Err(connection) => return Ok(connection),
        };
        let table = match table(write, &active) {
            Ok(table) => table,
            Err(why) => {
                self.core.unwritten(why);
                return Ok(Some(connection));
            }
        };
        match self.plan(write, table, &active, &mut connection).await? {
            Ok(planned) => {
                self.apply(command, write, planned, table, &mut connection)
                    .await?
            }
            Err(why) => self.core.unwritten(why),
        }
        Ok(Some(connection))
    }

    /// Finds out what is to be done; the inner error is the same on all replicas.
    async fn plan(
        &mut self,
        write: &Write,
        table: &Table,
        active: &ActiveDatabase,
        connection: &mut Connection,
    ) -> Result<Result<Planned, Failure>, Interrupt> {
        let query = match &write.kind {
            Some(WriteKind::Insert(InsertRows { rows })) => return Ok(inserting(rows, table)),
            Some(WriteKind::Update(UpdateRows { query, .. }) | WriteKind::Delete(DeleteRows { query })) => {
                query
            }
            None => return Ok(Err(Failure::trapped("the write says nothing".to_owned()))),
        };
        let rows = match self.rows(query, connection).await? {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(why)),
        };
        Ok(match &write.kind {
            Some(WriteKind::Update(update)) => updating(rows, &update.assignments, table, active),
            _ => deleting(rows),
        })
    }

    /// The rows that a query gives to the connection that the calls go through: another server may have lost some of them.
    /// With an answer that is too long the connection ends, and there is a new one.
    async fn rows(
        &mut self,
        query: &str,
        connection: &mut Connection,
    ) -> Result<Result<Vec<Bytes>, Failure>, Interrupt> {
        match connection.query(query).await {
            Ok(Ok(rows)) => Ok(Ok(sorted(rows))),
            // Its own word, for the others to confirm.
            Ok(Err(error)) => Ok(Err(Failure::ended(error))),
            Err(error) if error.is_too_large() => {
                let index = self.state().await?.map_or(0, |state| state.index);
                *connection = self.connect(index, None).await?;
                Ok(Err(too_large()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Has the module do it.
    async fn apply(
        &mut self,
        command: &ResolvedCommand,
        write: &Write,
        planned: Planned,
        table: &Table,
        connection: &mut Connection,
    ) -> Result<(), Interrupt> {
        let header = CallHeader {
            sender: write.sender.as_ref().try_into().unwrap_or_default(),
            timestamp_us: command.timestamp_us,
            index: command.position.0,
            ..CallHeader::default()
        };
        let changes = [RowChanges {
            table: write.table,
            deleted: planned.deleted,
            inserted: planned.inserted,
        }];
        let args = [header.encode().as_slice(), &encode_changes(&changes)].concat();
        drop(changes);
        // Somebody may wait for it here, unless it was told before.
        let is_own = command.origin.node == self.shared.node && command.position > self.core.completed();
        let inserts = matches!(planned.reply, Reply::Rows { inserted: 1.., .. });
        if is_own && inserts && !table.event {
            let (position, table) = (command.position, table.name.clone());
            let before = self.count(&table).await?;
            self.counting = Some(Counting {
                position,
                table,
                before,
            });
        } else {
            self.core.writes(command.position, planned.reply);
        }
        let result = connection.call(APPLY, &args).await?;
        self.count_inserted(command.position, connection).await?;
        self.core.result(result)?;
        Ok(())
    }

    /// Finds out how many rows a write has inserted, if it was the last command that was applied.
    pub(super) async fn count_inserted(
        &mut self,
        last: Position,
        connection: &mut Connection,
    ) -> Result<(), Interrupt> {
        if let Some(counting) = self.counting.clone().filter(|it| it.position == last) {
            let after = self.count(&counting.table).await?;
            connection.check().await?;
            let (inserted, deleted, updated) = (after.saturating_sub(counting.before), 0, 0);
            self.core.writes(
                last,
                Reply::Rows {
                    inserted,
                    deleted,
                    updated,
                },
            );
        }
        self.counting = None;
        Ok(())
    }

    async fn count(&mut self, table: &str) -> Result<u64, AdminError> {
        let table = table.replace('"', "\"\"");
        let query = format!("SELECT COUNT(*) AS n FROM \"{table}\"");
        self.shared.admin.count(&self.owner, &self.database, &query).await
    }
}

/// The table of the module that runs; or why the write can't be carried out.
fn table<'a>(write: &Write, active: &'a ActiveDatabase) -> Result<&'a Table, Failure> {
    let refuse = |why: &str| Err(Failure::trapped(why.to_owned()));
    // The database that the statement was for may have ended, and come again.
    if active.owner.identity != write.sender {
        return Err(Failure::Refused(Refusal::NotOwner));
    }
    if active.program.data[..] != write.program[..] {
        return Err(Failure::Refused(Refusal::OtherModule));
    }
    if !active.takes_rows {
        return refuse(OLD_MODULE);
    }
    match active.module.tables().get(write.table as usize) {
        Some(table) => Ok(table),
        None => refuse("the module has no such table"),
    }
}

fn inserting(rows: &[Bytes], table: &Table) -> Result<Planned, Failure> {
    // Events are not there afterwards, to be counted; and the same one comes once.
    let inserted = match table.event && table.auto_inc.is_empty() {
        true => rows.iter().collect::<BTreeSet<_>>().len(),
        false => rows.len(),
    };
    checked(Planned {
        deleted: Vec::new(),
        inserted: rows.to_vec(),
        reply: Reply::Rows {
            inserted: inserted as u64,
            deleted: 0,
            updated: 0,
        },
    })
}

fn deleting(rows: Vec<Bytes>) -> Result<Planned, Failure> {
    checked(Planned {
        reply: Reply::Rows {
            inserted: 0,
            deleted: rows.len() as u64,
            updated: 0,
        },
        deleted: rows,
        inserted: Vec::new(),
    })
}

fn updating(
    rows: Vec<Bytes>,
    assignments: &[Assignment],
    table: &Table,
    active: &ActiveDatabase,
) -> Result<Planned, Failure> {
    let types = active.module.typespace();
    let Some(ty) = types.get(table.row).and_then(|ty| ty.as_product()) else {
        return Err(Failure::trapped("the table has no row type".to_owned()));
    };
    let mut inserted = Vec::with_capacity(rows.len());
    let mut bytes = 0;
    for row in &rows {
        let row = updated(row, assignments, active, ty)?;
        bytes += row.len();
        if bytes > WRITE_BYTES_MAX {
            return Err(too_large());
        }
        inserted.push(row);
    }
    checked(Planned {
        reply: Reply::Rows {
            inserted: 0,
            deleted: 0,
            updated: rows.len() as u64,
        },
        deleted: rows,
        inserted,
    })
}

/// A row with other values in some columns.
fn updated(
    row: &[u8],
    assignments: &[Assignment],
    active: &ActiveDatabase,
    ty: &ProductType,
) -> Result<Bytes, Failure> {
    let columns = args::columns(active.module.typespace(), ty, row)
        .map_err(|error| Failure::ended(format!("SpacetimeDB has rows that can't be read: {error}")))?;
    let mut new = Vec::with_capacity(row.len());
    for (number, column) in (0..).zip(columns) {
        let assigned = assignments.iter().find(|it| it.column == number);
        new.extend_from_slice(assigned.map_or(column, |it| &it.value));
    }
    Ok(new.into())
}

/// In an order that depends on the rows alone.
fn sorted(mut rows: Vec<Bytes>) -> Vec<Bytes> {
    rows.sort_unstable();
    rows
}

fn checked(planned: Planned) -> Result<Planned, Failure> {
    let Planned {
        deleted, inserted, ..
    } = &planned;
    let bytes: usize = deleted.iter().chain(inserted).map(Bytes::len).sum();
    match deleted.len().max(inserted.len()) <= WRITE_ROWS_MAX && bytes <= WRITE_BYTES_MAX {
        true => Ok(planned),
        false => Err(too_large()),
    }
}

fn too_large() -> Failure {
    Failure::trapped(write_too_large())
}

/// What is said of a statement that changes more than it may.
pub fn write_too_large() -> String {
    format!(
        "the statement changes too much at once: at most {WRITE_ROWS_MAX} rows, and {} MiB of rows as they were and as they \
         become; split it by its WHERE",
        WRITE_BYTES_MAX >> 20
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::command::Owner;
    use rtdb_determinism::{Claims, Firing, Module};
    use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9Builder;
    use spacetimedb_lib::{Hash, RawModuleDef};
    use spacetimedb_sats::{AlgebraicType, bsatn};
    use std::sync::Arc;

    fn active() -> ActiveDatabase {
        let mut def = RawModuleDefV9Builder::new();
        let row = ProductType::from([
            ("id", AlgebraicType::U32),
            ("name", AlgebraicType::String),
            ("on", AlgebraicType::Bool),
        ]);
        def.build_table_with_new_type("player", row, true).finish();
        let def = bsatn::to_vec(&RawModuleDef::V9(def.finish())).unwrap();
        ActiveDatabase {
            identity: [1; 32],
            owner: Owner {
                identity: vec![9; 32].into(),
                ..Owner::default()
            },
            module: Arc::new(Module::from_def(&def).unwrap()),
            claims: Claims::Ignored,
            firing: Firing::ByTime,
            calls_at_once: false,
            takes_rows: true,
            refreshes_briefly: true,
            runs_procedures: false,
            position: Position(7),
            program: Hash::from_byte_array([5; 32]),
        }
    }

    fn row(id: u32, name: &str, on: bool) -> Bytes {
        bsatn::to_vec(&(id, name.to_owned(), on)).unwrap().into()
    }

    fn update(rows: &[Bytes], assignments: &[(u32, Vec<u8>)]) -> Result<Planned, Failure> {
        let active = active();
        let assignments: Vec<_> = assignments
            .iter()
            .map(|(column, value)| Assignment {
                column: *column,
                value: value.clone().into(),
            })
            .collect();
        updating(rows.to_vec(), &assignments, &active.module.tables()[0], &active)
    }

    #[test]
    fn columns_get_their_new_values_and_others_keep_theirs() {
        let rows = [row(1, "ann", true), row(2, "", false)];
        let name = bsatn::to_vec("a longer name").unwrap();
        let planned = update(&rows, &[(1, name.clone()), (2, vec![1]), (1, vec![9])]).unwrap();
        assert_eq!(planned.deleted, rows);
        assert_eq!(
            planned.inserted,
            [row(1, "a longer name", true), row(2, "a longer name", true)]
        );
        let (inserted, deleted, updated) = (0, 0, 2);
        assert_eq!(
            planned.reply,
            Reply::Rows {
                inserted,
                deleted,
                updated
            }
        );
    }

    #[test]
    fn too_much_at_once_is_refused() {
        let too_large = Some(too_large());
        let long = vec![row(1, &"x".repeat(WRITE_BYTES_MAX / 2), true); 3];
        assert_eq!(deleting(long).err(), too_large);
        let text = bsatn::to_vec(&"x".repeat(50_000)).unwrap();
        let short = vec![row(1, "", true); 1_000];
        assert_eq!(update(&short, &[(1, text)]).err(), too_large);
        assert_eq!(deleting(vec![Bytes::new(); WRITE_ROWS_MAX + 1]).err(), too_large);
        assert!(deleting(vec![Bytes::new(); WRITE_ROWS_MAX]).is_ok());
    }

    #[test]
    fn a_write_for_another_module_or_owner_is_refused() {
        let of = |program: u8, place| Write {
            program: vec![program; 32].into(),
            sender: vec![9; 32].into(),
            table: place,
            ..Write::default()
        };
        let others = Write {
            sender: vec![8; 32].into(),
            ..of(5, 0)
        };
        let active = active();
        assert_eq!(table(&of(5, 0), &active).map(|it| it.name.as_str()), Ok("player"));
        for (write, active) in [
            (others, active.clone()),
            (of(6, 0), active.clone()),
            (of(5, 1), active.clone()),
            (
                of(5, 0),
                ActiveDatabase {
                    takes_rows: false,
                    ..active.clone()
                },
            ),
        ] {
            assert!(table(&write, &active).is_err());
        }
    }
}
