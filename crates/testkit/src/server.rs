//! A plain SpacetimeDB server: what a cluster is compared with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::process::resident_kib;
use crate::{Api, ports};

/// How long a server may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(30);

/// The server binary that the tests run with: `$SPACETIMEDB_BIN`, which `cargo xtask test` sets.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("SPACETIMEDB_BIN").map(PathBuf::from);
    path.context("SPACETIMEDB_BIN is not set: run the tests with `cargo xtask test`")
}

/// The major version of [`binary`]: what it prints is `spacetimedb … version 1.2.0; …`.
pub fn major() -> Result<u32> {
    let binary = binary()?;
    let output = std::process::Command::new(&binary).arg("--version").output();
    let output = output.with_context(|| binary.display().to_string())?;
    let output = String::from_utf8_lossy(&output.stdout);
    let version = output.split_once("version ").map(|(_, version)| version);
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    major.with_context(|| format!("{}: `--version` says `{}`", binary.display(), output.trim()))
}

/// A running server, ended with SIGKILL when dropped.
#[derive(Debug)]
pub struct PlainServer {
    addr: String,
    child: Child,
}

impl PlainServer {
    /// Starts a server on a free loopback port with its data and keys under `folder`.
    pub async fn start(binary: &Path, folder: &Path) -> Result<Self> {
        Self::configured(binary, folder, "").await
    }

    /// The same, with more lines in its `config.toml`.
    pub async fn configured(binary: &Path, folder: &Path, config: &str) -> Result<Self> {
        let data = folder.join("data");
        fs::create_dir_all(&data)?;
        // The default level, debug, slows the server down; a managed server runs at this one too.
        fs::write(
            data.join("config.toml"),
            format!("[logs]\nlevel = \"warn\"\n{config}"),
        )?;
        let addr = format!("127.0.0.1:{}", ports::free(0)?);
        let log = fs::File::create(folder.join("server.log"))?;
        let mut start = Command::new(binary);
        start
            .args(["start", "--listen-addr", &addr, "--data-dir"])
            .arg(&data);
        start.arg("--jwt-pub-key-path").arg(folder.join("id.pub"));
        start.arg("--jwt-priv-key-path").arg(folder.join("id.key"));
        start
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        let child = start.spawn().with_context(|| binary.display().to_string())?;
        let mut server = Self { addr, child };
        server
            .answers()
            .await
            .with_context(|| format!("see {}", folder.join("server.log").display()))?;
        Ok(server)
    }

    /// `host:port`
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Ends it with SIGKILL, so that another one can take its folder.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Its HTTP API.
    pub fn api(&self) -> Api {
        Api::new(&self.addr)
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        resident_kib(self.pid()?)
    }

    async fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at its start with {status}");
            }
            match self.api().send(Method::GET, "/v1/ping", "").await {
                Ok(response) if response.status.is_success() => return Ok(()),
                _ if Instant::now() >= deadline => bail!("the server didn't answer within {START_MAX:?}"),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}
