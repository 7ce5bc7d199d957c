//! `rtdb backup`, `backups` and `restore`.

mod archive;
mod manifest;
mod progress;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use manifest::parse_moment;

use self::archive::{Backup, Found};
use self::manifest::MANIFEST;
use self::progress::{Progress, mib};
use self::store::Store;
use crate::admin::{Admin, AdminError, in_url};
use crate::status::table;
use rtdb_snapshot::Unreadable;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use thiserror::Error;

/// Which databases.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    Named(String),
    All,
}

/// Why a backup is not made, or of no use.
#[derive(Debug, Error)]
pub(crate) enum BackupError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("the place for backups can't be used: {0}")]
    Store(#[source] io::Error),
    #[error("the node has not sent all of it: {0}")]
    Received(#[source] io::Error),
    #[error(transparent)]
    Snapshot(#[from] Unreadable),
    #[error("the node has sent nothing that could be kept")]
    NoHeader,
    #[error("the backup in {folder} can't be used: {why}")]
    Manifest { folder: String, why: String },
    #[error("the backup in {folder} was written by a newer rtdb (layout {layout}): use that")]
    Newer { folder: String, layout: u32 },
    #[error("{why}\n  The one before was taken {taken}: --at names it")]
    NewerUnreadable { why: Box<Self>, taken: String },
    #[error("{file} is damaged: {why}")]
    Part { file: String, why: String },
    #[error("{path}: {source}")]
    Module { path: PathBuf, source: io::Error },
    #[error("there is no backup of `{database}` in {place}{}", before.as_ref().map(|at| format!(" that was taken by {at}")).unwrap_or_default())]
    None {
        database: String,
        place: String,
        before: Option<String>,
    },
    #[error(
        "`{database}` is what two databases in {place} are, or were, called: name one by its identity ({first} or {second})"
    )]
    TwoDatabases {
        database: String,
        place: String,
        first: String,
        second: String,
    },
}

/// Makes backups, again and again if `every` says so; keeps the newest `keep` of each database.
pub(crate) fn make(
    admin: &Admin,
    which: &Which,
    to: &str,
    every: Option<Duration>,
    keep: Option<usize>,
) -> Result<(), BackupError> {
    let store = Store::new(to).map_err(BackupError::Store)?;
    loop {
        let made = make_each(admin, which, &store, keep);
        let Some(every) = every else { return made };
        if let Err(error) = made {
            eprintln!("rtdb: {error}\n  It is tried again in {} s.", every.as_secs());
        }
        std::thread::sleep(every);
    }
}

fn make_each(admin: &Admin, which: &Which, store: &Store, keep: Option<usize>) -> Result<(), BackupError> {
    let databases = match which {
        Which::Named(name) => vec![name.clone()],
        Which::All => all(admin)?,
    };
    if databases.is_empty() {
        println!("The cluster has no databases.");
    }
    let mut failed = None;
    for database in &databases {
        // One that can't be had is no reason to go without the others.
        match make_one(admin, database, store) {
            Ok(backup) => {
                if let Some(keep) = keep {
                    thin_out(store, &backup, keep)?;
                }
            }
            Err(error) if databases.len() > 1 => {
                eprintln!("rtdb: {database}: {error}");
                failed = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn make_one(admin: &Admin, database: &str, store: &Store) -> Result<Backup, BackupError> {
    let snapshot = admin.stream(&format!("/cluster/databases/{}/snapshot", in_url(database)))?;
    let mut progress = Progress::new(format!("{database}: "));
    let backup = archive::write(store, snapshot, |bytes, rows| progress.came(bytes, rows))?;
    progress.done();
    let it = &backup.manifest;
    println!(
        "{database}: {} rows of {} tables, {} MiB ({} compressed), in {}/{}",
        it.rows(),
        it.tables.len(),
        mib(it.bytes()),
        mib(it.stored()),
        store.show(),
        backup.folder
    );
    Ok(backup)
}

/// Every database of the cluster, by its identity: names may change meanwhile.
fn all(admin: &Admin) -> Result<Vec<String>, BackupError> {
    #[derive(Deserialize)]
    struct Status {
        databases: Vec<Database>,
    }
    #[derive(Deserialize)]
    struct Database {
        identity: String,
    }
    let status: Status = admin.json(admin.get("/cluster/status")?)?;
    Ok(status.databases.into_iter().map(|it| it.identity).collect())
}

/// Removes what is older than the newest `keep` of a database, and what was broken off before the oldest of those. What was just
/// made stays, whatever the clocks have said that the others were made by.
fn thin_out(store: &Store, made: &Backup, keep: usize) -> Result<(), BackupError> {
    let Found { whole, half, .. } = Backup::all(store)?;
    let database = &made.manifest.database;
    let of_it: Vec<_> = whole
        .iter()
        .filter(|it| it.manifest.database == *database)
        .collect();
    let (old, kept) = of_it.split_at(of_it.len().saturating_sub(keep.max(1)));
    for backup in old.iter().filter(|it| it.folder != made.folder) {
        store
            .remove(&backup.folder, MANIFEST)
            .map_err(BackupError::Store)?;
        println!("{database}: removed {}", backup.folder);
    }
    let oldest = kept.first().map(|it| it.folder.as_str());
    let broken_off = half.iter().filter(|folder| folder.starts_with(database));
    for folder in broken_off.filter(|folder| oldest.is_some_and(|oldest| folder.as_str() < oldest)) {
        store.remove(folder, MANIFEST).map_err(BackupError::Store)?;
    }
    Ok(())
}

/// Lists backups.
pub(crate) fn list(from: &str, database: Option<&str>, json: bool) -> Result<(), BackupError> {
    let store = Store::new(from).map_err(BackupError::Store)?;
    let Found {
        whole,
        half,
        unreadable,
    } = Backup::all(&store)?;
    for (_, error) in &unreadable {
        eprintln!("rtdb: {error}");
    }
    let whole: Vec<_> = whole
        .into_iter()
        .filter(|it| database.is_none_or(|database| it.manifest.is_of(database)))
        .collect();
    if json {
        let all: BTreeMap<_, _> = whole.iter().map(|it| (&it.folder, &it.manifest)).collect();
        println!("{}", serde_json::to_string_pretty(&all).unwrap_or_default());
        return Ok(());
    }
    let rows = whole.iter().map(|backup| {
        let it = &backup.manifest;
        vec![
            it.names.first().unwrap_or(&it.database).clone(),
            it.taken.clone(),
            it.rows().to_string(),
            mib(it.stored()),
            it.spacetimedb.clone(),
            backup.folder.clone(),
        ]
    });
    let heads = ["DATABASE", "TAKEN", "ROWS", "MIB", "SPACETIMEDB", "FOLDER"];
    let mut out = String::new();
    table(&mut out, heads, rows);
    print!("{}", out.trim_start_matches('\n'));
    if whole.is_empty() {
        println!("There are no backups.");
    }
    if !half.is_empty() {
        println!(
            "{} folders hold no whole backup: one that was broken off, or is still being made.",
            half.len()
        );
    }
    Ok(())
}

/// Reads backups and checks that each is as it was written.
pub(crate) fn verify(from: &str, database: Option<&str>) -> Result<ExitCode, BackupError> {
    let store = Store::new(from).map_err(BackupError::Store)?;
    let Found {
        whole, unreadable, ..
    } = Backup::all(&store)?;
    for (_, error) in &unreadable {
        println!("{error}");
    }
    let mut sound = unreadable.is_empty();
    for backup in whole
        .iter()
        .filter(|it| database.is_none_or(|database| it.manifest.is_of(database)))
    {
        let mut progress = Progress::new(format!("{}: ", backup.folder));
        let verified = backup.verify(&store, |bytes| progress.of(bytes, backup.manifest.bytes()));
        progress.done();
        match verified {
            Ok(()) => println!("{}: sound", backup.folder),
            Err(error) => {
                println!("{}: {error}", backup.folder);
                sound = false;
            }
        }
    }
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is restored, and as what.
#[derive(Debug)]
pub(crate) struct Restore<'a> {
    pub(crate) from: &'a str,
    pub(crate) database: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) replace: bool,
    /// The newest backup that was taken by then.
    pub(crate) at: Option<&'a str>,
}

/// Restores a database from its newest backup. All of that is read first, before anything is changed.
pub(crate) fn restore(admin: &Admin, restore: &Restore<'_>) -> Result<(), BackupError> {
    let store = Store::new(restore.from).map_err(BackupError::Store)?;
    let backup = find(&store, restore)?;
    let it = &backup.manifest;
    println!(
        "Taken {}: {} rows of {} tables, {} MiB.",
        it.taken,
        it.rows(),
        it.tables.len(),
        mib(it.bytes())
    );
    let mut progress = Progress::new("checked ".to_owned());
    backup.verify(&store, |bytes| progress.of(bytes, it.bytes()))?;
    progress.done();
    let mut query = format!("/cluster/restore?replace={}", restore.replace);
    if let Some(name) = restore.name {
        query.push_str(&format!("&as={}", in_url(name)));
    }
    let mut progress = Progress::new("sent ".to_owned());
    let bytes = backup.bytes(&store, |bytes| progress.of(bytes, it.bytes()));
    let answer = admin.send(&query, &[], bytes)?;
    let restored: Restored = admin.json(answer)?;
    restored.tell("Restored");
    Ok(())
}

/// What a node says of a database that it has made of others' rows.
#[derive(Deserialize)]
struct Restored {
    identity: String,
    names: Vec<String>,
    rows: u64,
    position: String,
}

impl Restored {
    fn tell(&self, what: &str) {
        println!(
            "{what} {} ({}): {} rows, as of position {} of this cluster's log.",
            self.names.first().unwrap_or(&self.identity),
            self.identity,
            self.rows,
            self.position
        );
    }
}

/// What is taken over from where.
#[derive(Debug)]
pub(crate) struct Import<'a> {
    /// `host:port`.
    pub(crate) from: &'a str,
    pub(crate) database: &'a str,
    pub(crate) module: &'a Path,
    pub(crate) token: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) replace: bool,
}

/// Takes a database over from a plain SpacetimeDB.
pub(crate) fn import(admin: &Admin, import: &Import<'_>) -> Result<(), BackupError> {
    let module = File::open(import.module).map_err(|source| BackupError::Module {
        path: import.module.to_owned(),
        source,
    })?;
    let Import {
        from,
        database,
        replace,
        ..
    } = import;
    let mut query = format!(
        "/cluster/import?from={}&database={}&replace={replace}",
        in_url(from),
        in_url(database)
    );
    if let Some(name) = import.name {
        query.push_str(&format!("&as={}", in_url(name)));
    }
    let answer = admin.send(&query, &[("rafttimedb-source-token", import.token)], module)?;
    let restored: Restored = admin.json(answer)?;
    restored.tell("Imported");
    Ok(())
}

fn find(store: &Store, restore: &Restore<'_>) -> Result<Backup, BackupError> {
    let Found {
        whole, unreadable, ..
    } = Backup::all(store)?;
    let at_us = restore.at.and_then(|at| parse_moment(at).ok());
    let is_it = |it: &&Backup| {
        it.manifest.is_of(restore.database) && at_us.is_none_or(|at_us| it.manifest.taken_us <= at_us)
    };
    let found: Vec<_> = whole.iter().filter(is_it).collect();
    let newest = found.last().ok_or_else(|| BackupError::None {
        database: restore.database.to_owned(),
        place: store.show().to_owned(),
        before: restore.at.map(str::to_owned),
    })?;
    if let Some(other) = found
        .iter()
        .find(|it| it.manifest.database != newest.manifest.database)
    {
        return Err(BackupError::TwoDatabases {
            database: restore.database.to_owned(),
            place: store.show().to_owned(),
            first: newest.manifest.database.clone(),
            second: other.manifest.database.clone(),
        });
    }
    // One that can't be read may be newer, and is not passed over in silence.
    let until = at_us.map(manifest::folder_of);
    let newer = unreadable.into_iter().find(|(folder, _)| {
        let taken = folder.strip_prefix(&newest.manifest.database);
        let taken = taken.map(|taken| taken.trim_start_matches('/'));
        taken.is_some_and(|taken| {
            *folder > newest.folder && until.as_deref().is_none_or(|until| taken <= until)
        })
    });
    match newer {
        Some((_, why)) => Err(BackupError::NewerUnreadable {
            why: Box::new(why),
            taken: newest.manifest.taken.clone(),
        }),
        None => Ok((*newest).clone()),
    }
}
