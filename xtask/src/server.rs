//! The SpacetimeDB server that the tests, the demo and the benchmark run against.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cache::Installed;
use crate::shell::find_in_path;

/// The newest server that the registry has and that builds without a prebuilt V8.
const SERVER: Installed = Installed {
    package: "spacetimedb-standalone",
    folder: "spacetimedb",
    version: "1.2.0",
    binary: "spacetimedb-standalone",
    takes: "10 to 20 minutes on two cores",
};

/// `$SPACETIMEDB_BIN`, else the one in `$PATH`, else one built into the cache.
pub(crate) fn obtain() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SPACETIMEDB_BIN").map(PathBuf::from) {
        if !path.is_file() {
            bail!("SPACETIMEDB_BIN is {}, which is no file", path.display());
        }
        return Ok(std::path::absolute(path)?);
    }
    find_in_path(SERVER.binary).map_or_else(|| SERVER.obtain(), Ok)
}
