//! What a backup says of itself. Written last: without it there is no backup.

use rtdb_snapshot::Header;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// The file's name.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The version of the layout: of this file, and of the parts beside it.
pub(crate) const LAYOUT: u32 = 1;

/// A backup: one database at one position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The layout's version.
    pub(crate) layout: u32,
    /// The database's identity, as people write it.
    pub(crate) database: String,
    pub(crate) names: Vec<String>,
    /// The owner's identity.
    pub(crate) owner: String,
    /// The log's position, of the cluster that it was taken of.
    pub(crate) position: u64,
    /// When it was taken.
    pub(crate) taken: String,
    pub(crate) taken_us: i64,
    pub(crate) written_by: String,
    pub(crate) spacetimedb: String,
    pub(crate) tables: Vec<Table>,
    /// The snapshot, in parts that are compressed by zstd.
    pub(crate) parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) file: String,
    /// Its bytes, before they were compressed.
    pub(crate) bytes: u64,
    /// Its bytes as it lies here.
    pub(crate) stored: u64,
    /// Their blake3 hash, before they were compressed.
    pub(crate) blake3: String,
}

impl Manifest {
    pub(crate) fn new(header: &Header, tables: Vec<Table>, parts: Vec<Part>) -> Self {
        let owner = header.owner.as_ref().map(|owner| identity(&owner.identity));
        Self {
            layout: LAYOUT,
            database: identity(&header.database),
            names: header.names.clone(),
            owner: owner.unwrap_or_default(),
            position: header.position,
            taken: moment(header.taken_us).format(&Rfc3339).unwrap_or_default(),
            taken_us: header.taken_us,
            written_by: header.written_by.clone(),
            spacetimedb: header.spacetimedb.clone(),
            tables,
            parts,
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    pub(crate) fn stored(&self) -> u64 {
        self.parts.iter().map(|part| part.stored).sum()
    }

    /// Whether that is what somebody calls the database.
    pub(crate) fn is_of(&self, database: &str) -> bool {
        self.database.eq_ignore_ascii_case(database) || self.names.iter().any(|name| name == database)
    }
}

/// An identity as people write it.
pub(crate) fn identity(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the folder of a backup that was taken then: later ones come later in order.
pub(crate) fn folder_of(taken_us: i64) -> String {
    let name = format_description!("[year][month][day]T[hour][minute][second].[subsecond digits:6]Z");
    moment(taken_us)
        .format(name)
        .unwrap_or_else(|_| taken_us.to_string())
}

/// A moment as people write it, in microseconds since the Unix epoch.
pub(crate) fn parse_moment(text: &str) -> Result<i64, String> {
    let moment = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|error| format!("{error}: write 2026-11-24T18:30:00Z"))?;
    i64::try_from(moment.unix_timestamp_nanos() / 1_000).map_err(|_| "that is too far away".to_owned())
}

fn moment(us: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
