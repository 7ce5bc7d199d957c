//! Running other programs, with what they print shown as it comes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The workspace's root folder. Cargo says at each run which one it is: with a target folder that several clones share, this
/// program may have been built in another one.
pub(crate) fn root() -> &'static Path {
    static MANIFEST: LazyLock<PathBuf> = LazyLock::new(|| {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR");
        manifest.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
    });
    MANIFEST.parent().unwrap_or(Path::new("."))
}

/// A cargo command that runs in the workspace's root, by the cargo that runs this program.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs `command` under a heading; an exit status other than 0 is an error.
pub(crate) fn step(heading: &str, command: &mut Command) -> Result<()> {
    eprintln!("── {heading}");
    let started = Instant::now();
    run(command).with_context(|| heading.to_string())?;
    eprintln!("   {heading}: {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `command`; an exit status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot run `{program}`"))?;
    if !status.success() {
        bail!("`{program}` ended with {status}");
    }
    Ok(())
}

/// Whether `command` runs and exits with 0; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Where `program` is in `$PATH`.
pub(crate) fn find_in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
