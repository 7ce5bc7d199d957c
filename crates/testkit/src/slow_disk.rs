//! Disks that can be made slow: a library that nodes are started with, and which gets between them and the kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where the library is told which file makes the disk slow.
pub(crate) const VARIABLE: &str = "RTDB_SLOW_DISK";

/// Builds the library, with the system's C compiler.
pub(crate) fn build(folder: &Path) -> Result<PathBuf> {
    let (source, library) = (folder.join("slow_disk.c"), folder.join("slow_disk.so"));
    std::fs::write(&source, include_str!("slow_disk.c"))?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source);
    let output = cc.arg("-ldl").output().context("there is no C compiler `cc`")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(library)
}
