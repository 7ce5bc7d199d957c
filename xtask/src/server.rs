//! The SpacetimeDB server that the tests, the demo and the benchmark run against.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

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

/// `$SPACETIMEDB_BIN`, else the one in `$PATH`, else the newest that SpacetimeDB's installer has put there, else one built
/// into the cache. Says which one it is.
pub(crate) fn obtain() -> Result<PathBuf> {
    let program = match env::var_os("SPACETIMEDB_BIN").map(PathBuf::from) {
        Some(path) if !path.is_file() => bail!("SPACETIMEDB_BIN is {}, which is no file", path.display()),
        Some(path) => std::path::absolute(path)?,
        None => match find_in_path(SERVER.binary).or_else(installed) {
            Some(path) => path,
            None => SERVER.obtain()?,
        },
    };
    eprintln!("SpacetimeDB {}: {}", version(&program), program.display());
    Ok(program)
}

/// Where SpacetimeDB's own installer puts versions: `$XDG_DATA_HOME/spacetime/bin/<version>`, by default in
/// `~/.local/share`. The newest.
fn installed() -> Option<PathBuf> {
    let data = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(env::home_dir()?.join(".local/share")))?;
    newest(&data.join("spacetime/bin"))
}

fn newest(versions: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(versions).ok()?.flatten();
    let programs = folders.filter_map(|folder| {
        let version = numbers(folder.file_name().to_str()?)?;
        let program = folder.path().join(SERVER.binary);
        program.is_file().then_some((version, program))
    });
    programs.max().map(|(_, program)| program)
}

/// `2.8.3` in numbers. Versions under way, `2.9.0-rc1`, are passed over, and so is `current`, a link to one of the others.
fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

/// What a server says of its version.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let version = text
        .split("version ")
        .nth(1)
        .and_then(|rest| rest.split([';', ' ', '\n']).next());
    version.unwrap_or("of an unknown version").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_has_a_server_is_taken() {
        let folder = env::temp_dir().join(format!("xtask-versions-{}", std::process::id()));
        for version in ["2.8.3", "2.10.0", "2.9.1", "current", "3.0.0-rc1"] {
            fs::create_dir_all(folder.join(version)).unwrap();
            fs::write(folder.join(version).join(SERVER.binary), b"").unwrap();
        }
        // An installation that was broken off.
        fs::create_dir_all(folder.join("2.11.0")).unwrap();
        assert_eq!(newest(&folder), Some(folder.join("2.10.0").join(SERVER.binary)));
        assert_eq!(newest(&folder.join("nowhere")), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
