//! What is expensive to obtain is kept outside `target/`, in one folder per program and version.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};

use crate::shell::{cargo, step};

/// A program that `cargo install` builds from the registry.
pub(crate) struct Installed {
    /// The package, and the folder's name in the cache.
    pub(crate) package: &'static str,
    pub(crate) folder: &'static str,
    pub(crate) version: &'static str,
    pub(crate) binary: &'static str,
    /// What to tell a person who wonders why nothing else happens.
    pub(crate) takes: &'static str,
}

impl Installed {
    /// The program's path, built first if this version is not in the cache yet.
    ///
    /// The install goes to a folder of its own and is moved into place when complete, so an interrupted one leaves
    /// nothing that looks finished; the next run goes on where it stopped.
    pub(crate) fn obtain(&self) -> Result<PathBuf> {
        let cache = folder()?;
        let name = format!("{}-{}", self.folder, self.version);
        let home = cache.join(&name);
        let program = home.join("bin").join(self.binary);
        if program.is_file() {
            return Ok(program);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        // Held until the end of this function: a second run waits here, and then finds the program.
        let lock = File::create(cache.join(format!(".{name}.lock")))?;
        lock.lock()?;
        if !program.is_file() {
            let partial = cache.join(format!(".{name}.partial"));
            self.install(&partial)?;
            fs::rename(partial.join("root"), &home)?;
            fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        Ok(program)
    }

    fn install(&self, partial: &Path) -> Result<()> {
        fs::create_dir_all(partial).with_context(|| format!("cannot create {}", partial.display()))?;
        let package = format!("{}@{}", self.package, self.version);
        let mut install = cargo(["install", &package, "--locked", "--no-track", "--force", "--root"]);
        install.arg(partial.join("root"));
        // Not the workspace's: its target folder, flags and lock have nothing to do with this program.
        install
            .env("CARGO_TARGET_DIR", partial.join("target"))
            .current_dir(partial);
        step(
            &format!("building {package}, once ({})", self.takes),
            &mut install,
        )
    }
}

/// `$XDG_CACHE_HOME/rafttimedb`, or `~/.cache/rafttimedb`.
fn folder() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let base = base.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    Ok(base
        .context("no home folder: set XDG_CACHE_HOME")?
        .join("rafttimedb"))
}
