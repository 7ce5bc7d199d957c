//! A backup as files: a snapshot's bytes, cut into parts, each compressed; and the [manifest](super::manifest).

use super::BackupError;
use super::manifest::{LAYOUT, MANIFEST, Manifest, Part, Table, folder_of, identity};
use super::store::Store;
use rtdb_snapshot::{Header, Piece, Reader};
use std::io::{self, Read};

/// The bytes of a part, before it is compressed.
const PART_BYTES: usize = 4 << 20;

/// How hard zstd tries: harder makes rows a tenth smaller and takes three times as long.
const LEVEL: i32 = 1;

/// A backup that is there.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) folder: String,
    pub(crate) manifest: Manifest,
}

/// Backups that are there.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The oldest first.
    pub(crate) whole: Vec<Backup>,
    /// Folders without a manifest.
    pub(crate) half: Vec<String>,
    /// Folders whose manifest is of no use, and why: the others are, all the same.
    pub(crate) unreadable: Vec<(String, BackupError)>,
}

/// Writes a snapshot as it comes, and checks it on the way. `told` hears of the bytes that have come, and how many rows are to.
/// What does not become a backup goes again: a full disk is not made fuller.
pub(crate) fn write(
    store: &Store,
    snapshot: impl Read,
    told: impl FnMut(u64, u64),
) -> Result<Backup, BackupError> {
    let mut folder = String::new();
    write_to(store, &mut folder, snapshot, told).inspect_err(|_| {
        if !folder.is_empty() {
            // The next one that is kept removes it otherwise.
            let _ = store.remove(&folder, MANIFEST);
        }
    })
}

fn write_to(
    store: &Store,
    folder: &mut String,
    mut snapshot: impl Read,
    mut told: impl FnMut(u64, u64),
) -> Result<Backup, BackupError> {
    let mut reader = Reader::default();
    let mut buffer = vec![0; 256 << 10];
    let (mut part, mut parts) = (Vec::with_capacity(PART_BYTES), Vec::new());
    let mut header: Option<Header> = None;
    let (mut bytes, mut tables) = (0, Vec::new());
    loop {
        let count = snapshot.read(&mut buffer).map_err(BackupError::Received)?;
        if count == 0 {
            break;
        }
        let came = buffer.get(..count).unwrap_or_default();
        reader.push(came);
        part.extend_from_slice(came);
        bytes += count as u64;
        while let Some(piece) = reader.piece()? {
            match piece {
                Piece::Header(it) => {
                    *folder = format!("{}/{}", identity(&it.database), folder_of(it.taken_us));
                    header = Some(Header {
                        module: Default::default(),
                        ..it
                    });
                }
                Piece::Rows(_) | Piece::Clients(_) => {}
                Piece::End(end) => {
                    let ends = end.tables.into_iter().filter(|it| it.table != STATE_TABLE);
                    tables = ends
                        .map(|it| Table {
                            name: it.table,
                            rows: it.rows,
                            bytes: it.bytes,
                        })
                        .collect();
                }
            }
        }
        if part.len() >= PART_BYTES && header.is_some() {
            parts.push(put(store, folder, parts.len(), &part)?);
            part.clear();
        }
        told(bytes, header.as_ref().map_or(0, |header| header.rows));
    }
    reader.finish()?;
    let header = header.ok_or(BackupError::NoHeader)?;
    if !part.is_empty() {
        parts.push(put(store, folder, parts.len(), &part)?);
    }
    let manifest = Manifest::new(&header, tables, parts);
    let written = serde_json::to_vec_pretty(&manifest).map_err(|error| BackupError::Store(error.into()))?;
    store
        .put(folder, MANIFEST, &written)
        .map_err(BackupError::Store)?;
    Ok(Backup {
        folder: folder.clone(),
        manifest,
    })
}

/// The table that says how far the database has come: no rows that anybody counts.
const STATE_TABLE: &str = "rtdb_state";

fn put(store: &Store, folder: &str, nth: usize, bytes: &[u8]) -> Result<Part, BackupError> {
    let packed = zstd::bulk::compress(bytes, LEVEL).map_err(BackupError::Store)?;
    let file = format!("{nth:06}.zst");
    store.put(folder, &file, &packed).map_err(BackupError::Store)?;
    Ok(Part {
        file,
        bytes: bytes.len() as u64,
        stored: packed.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    })
}

impl Backup {
    /// All that there are.
    pub(crate) fn all(store: &Store) -> Result<Found, BackupError> {
        let mut found = Found::default();
        for database in store.folders("").map_err(BackupError::Store)? {
            // Others, such as `lost+found`, are none of ours.
            if database.len() != 64 || !database.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                continue;
            }
            for taken in store.folders(&database).map_err(BackupError::Store)? {
                let folder = format!("{database}/{taken}");
                let read = match store.get(&folder, MANIFEST) {
                    Ok(bytes) => Self::read(folder.clone(), &bytes),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        found.half.push(folder);
                        continue;
                    }
                    Err(error) => Err(BackupError::Manifest {
                        folder: folder.clone(),
                        why: error.to_string(),
                    }),
                };
                match read {
                    Ok(backup) => found.whole.push(backup),
                    Err(error) => found.unreadable.push((folder, error)),
                }
            }
        }
        found.whole.sort_by_key(|backup: &Self| backup.manifest.taken_us);
        Ok(found)
    }

    fn read(folder: String, bytes: &[u8]) -> Result<Self, BackupError> {
        #[derive(serde::Deserialize)]
        struct Versioned {
            layout: u32,
        }
        let unreadable = |error: serde_json::Error| BackupError::Manifest {
            folder: folder.clone(),
            why: error.to_string(),
        };
        let Versioned { layout } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if layout > LAYOUT {
            return Err(BackupError::Newer { folder, layout });
        }
        let manifest = serde_json::from_slice(bytes).map_err(unreadable)?;
        Ok(Self { folder, manifest })
    }

    /// Reads all of it, and checks that it is as it was written. `told` hears of the bytes.
    pub(crate) fn verify(&self, store: &Store, mut told: impl FnMut(u64)) -> Result<(), BackupError> {
        let mut reader = Reader::default();
        let (mut bytes, mut tables) = (0, Vec::new());
        for part in &self.manifest.parts {
            let unpacked = self.part(store, part)?;
            reader.push(&unpacked);
            while let Some(piece) = reader.piece()? {
                match piece {
                    Piece::Header(header) if identity(&header.database) != self.manifest.database => {
                        return Err(self.differs("is of another database"));
                    }
                    Piece::End(end) => tables = end.tables,
                    Piece::Header(_) | Piece::Rows(_) | Piece::Clients(_) => {}
                }
            }
            bytes += unpacked.len() as u64;
            told(bytes);
        }
        reader.finish()?;
        let rows = tables.iter().filter(|table| table.table != STATE_TABLE);
        let rows: Vec<_> = rows.map(|table| (&table.table, table.rows)).collect();
        let said: Vec<_> = self
            .manifest
            .tables
            .iter()
            .map(|table| (&table.name, table.rows))
            .collect();
        match rows == said {
            true => Ok(()),
            false => Err(self.differs("has other rows than its manifest says")),
        }
    }

    fn part(&self, store: &Store, part: &Part) -> Result<Vec<u8>, BackupError> {
        // A name that leads elsewhere is none of ours.
        if part.file.contains(['/', '\\']) || part.bytes > (PART_BYTES * 64) as u64 {
            return Err(self.differs("names a part that can be none"));
        }
        let lost = |error: io::Error| BackupError::Part {
            file: format!("{}/{}", self.folder, part.file),
            why: error.to_string(),
        };
        let packed = store.get(&self.folder, &part.file).map_err(lost)?;
        let bytes = zstd::bulk::decompress(&packed, part.bytes as usize).map_err(lost)?;
        let is_it = bytes.len() as u64 == part.bytes && blake3::hash(&bytes).to_hex().as_str() == part.blake3;
        match is_it {
            true => Ok(bytes),
            false => Err(lost(io::Error::other("it is not as it was written"))),
        }
    }

    fn differs(&self, why: &str) -> BackupError {
        BackupError::Manifest {
            folder: self.folder.clone(),
            why: why.to_owned(),
        }
    }

    /// The snapshot's bytes.
    pub(crate) fn bytes<'a>(&'a self, store: &'a Store, told: impl FnMut(u64) + 'a) -> impl Read + 'a {
        Parts {
            backup: self,
            store,
            next: 0,
            part: io::Cursor::default(),
            sent: 0,
            told,
        }
    }
}

struct Parts<'a, T> {
    backup: &'a Backup,
    store: &'a Store,
    next: usize,
    part: io::Cursor<Vec<u8>>,
    sent: u64,
    told: T,
}

impl<T: FnMut(u64)> Read for Parts<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.part.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                self.sent += count as u64;
                (self.told)(self.sent);
                return Ok(count);
            }
            let Some(part) = self.backup.manifest.parts.get(self.next) else {
                return Ok(0);
            };
            let bytes = self.backup.part(self.store, part).map_err(io::Error::other)?;
            self.part = io::Cursor::new(bytes);
            self.next += 1;
        }
    }
}
