//! The prebuilt WASM fixtures under `modules/`, and the check that they match their source.
//!
//! `modules/<name>/<name>.wasm` is committed beside its source, because building it takes a WASM toolchain that a
//! developer of the other crates needn't have. `modules/<name>/.source-hash` has a line `<sha256>  <path>` for every
//! source file and for the fixture itself, so `sha256sum -c .source-hash` says the same as `cargo xtask modules --check`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::shell::{cargo, root, run, step, succeeds};

const TARGET: &str = "wasm32-unknown-unknown";
/// From the package `cargo-web`; it finds its own `rustc` beside it.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const RECORD: &str = ".source-hash";

/// Builds every module whose fixture doesn't match its source, and records the hashes.
pub(crate) fn build() -> Result<()> {
    for module in all()? {
        if module.is_current()? {
            eprintln!("{}: up to date", module.name);
            continue;
        }
        module.build()?;
        fs::write(module.folder.join(RECORD), module.hashes()?)?;
    }
    Ok(())
}

/// Fails unless every fixture matches its source.
pub(crate) fn check() -> Result<()> {
    let mut stale = Vec::new();
    for module in all()? {
        if !module.is_current()? {
            stale.push(module.name);
        }
    }
    if !stale.is_empty() {
        bail!(
            "modules/{{{}}}: the .wasm is not of this source; run `cargo xtask modules`",
            stale.join(",")
        );
    }
    Ok(())
}

struct Module {
    name: String,
    folder: PathBuf,
}

/// Every folder under `modules/` with a `Cargo.toml`, by name.
fn all() -> Result<Vec<Module>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(root().join("modules")).context("modules/")? {
        let folder = entry?.path();
        if folder.join("Cargo.toml").is_file() {
            let name = folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            modules.push(Module { name, folder });
        }
    }
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(modules)
}

impl Module {
    fn fixture(&self) -> String {
        format!("{}.wasm", self.name)
    }

    fn is_current(&self) -> Result<bool> {
        if !self.folder.join(self.fixture()).is_file() {
            return Ok(false);
        }
        let recorded = fs::read_to_string(self.folder.join(RECORD)).unwrap_or_default();
        Ok(recorded == self.hashes()?)
    }

    /// `<sha256>  <path>` of every source file and of the fixture, in path order.
    fn hashes(&self) -> Result<String> {
        let mut paths = vec!["Cargo.toml".to_string(), self.fixture()];
        if self.folder.join("Cargo.lock").is_file() {
            paths.push("Cargo.lock".to_string());
        }
        sources(&self.folder, Path::new("src"), &mut paths)?;
        paths.sort();
        let mut hashes = String::new();
        for path in paths {
            let bytes = fs::read(self.folder.join(&path)).with_context(|| format!("{}/{path}", self.name))?;
            writeln!(hashes, "{:x}  {path}", Sha256::digest(bytes))?;
        }
        Ok(hashes)
    }

    fn build(&self) -> Result<()> {
        let target = root().join("target/modules").join(&self.name);
        let mut build = toolchain()?;
        build
            .args(["--release", "--target", TARGET, "--target-dir"])
            .arg(&target)
            .current_dir(&self.folder);
        step(&format!("building modules/{}", self.name), &mut build)?;
        // The package may be called anything; a module is one cdylib.
        let release = target.join(TARGET).join("release");
        let mut built = fs::read_dir(&release)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let wasm = built.find(|path| path.extension().is_some_and(|ext| ext == "wasm"));
        let wasm = wasm.with_context(|| format!("no .wasm in {}", release.display()))?;
        // Not a copy: a fixture is no executable.
        fs::write(self.folder.join(self.fixture()), fs::read(&wasm)?)?;
        Ok(())
    }
}

fn sources(module: &Path, folder: &Path, paths: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(module.join(folder)).with_context(|| folder.display().to_string())? {
        let path = folder.join(entry?.file_name());
        if module.join(&path).is_dir() {
            sources(module, &path, paths)?;
        } else {
            paths.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// `cargo build` with a toolchain that can build for WASM: rustup's, else Debian's `rustc-web`.
fn toolchain() -> Result<Command> {
    let mut sysroot = Command::new("rustc");
    sysroot.args(["--print", "target-libdir", "--target", TARGET]);
    let libraries = sysroot.output().context("rustc")?.stdout;
    let libraries = PathBuf::from(String::from_utf8_lossy(&libraries).trim());
    if libraries.is_dir() || succeeds(Command::new("rustup").args(["target", "add", TARGET])) {
        return Ok(cargo(["build"]));
    }
    if !Path::new(DEBIAN_CARGO).exists() || !succeeds(Command::new("wasm-ld-19").arg("--version")) {
        if !succeeds(Command::new("apt-get").arg("--version")) {
            bail!("no toolchain for {TARGET}: run `rustup target add {TARGET}`");
        }
        let packages = [
            "install",
            "-y",
            "--no-install-recommends",
            "rustc-web",
            "rust-web-src",
            "cargo-web",
            "lld-19",
        ];
        run(Command::new("apt-get").arg("update"))?;
        run(Command::new("apt-get").args(packages)).context("installing Debian's toolchain for WASM")?;
    }
    // Debian ships the standard library's source for this target, so it is built along.
    let mut build = Command::new(DEBIAN_CARGO);
    build.args(["build", "-Zbuild-std=std,panic_abort"]);
    build.env("PATH", "/usr/bin:/bin").env("RUSTC_BOOTSTRAP", "1");
    build.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld-19");
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        build.env_remove(variable);
    }
    Ok(build)
}
