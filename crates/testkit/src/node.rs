//! One `rafttimedb` as a process, with the SpacetimeDB it manages.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};

use crate::Api;
use crate::process::{children, ended, kill9, resident_kib, send};
use crate::slow_disk;
use crate::status::Status;

/// A node is given 5 s to drain, and its SpacetimeDB 5 s more to stop.
const STOP_MAX: Duration = Duration::from_secs(15);

/// What a node is started with, the same at every start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) client_addr: String,
    /// What it listens on.
    pub(crate) raft_listen: String,
    /// What the others reach it by: the same, or a proxy's address.
    pub(crate) raft_advertised: String,
    pub(crate) peers: String,
    pub(crate) arguments: Vec<String>,
    /// The library that makes its disk slow.
    pub(crate) slow_disk: Option<PathBuf>,
}

/// A node. Dropping it kills it and its SpacetimeDB.
#[derive(Debug)]
pub struct Node {
    id: u64,
    launch: Launch,
    child: Option<Child>,
    is_retired: bool,
}

impl Node {
    pub(crate) fn new(id: u64, launch: Launch) -> Self {
        Self {
            id,
            launch,
            child: None,
            is_retired: false,
        }
    }

    /// Its number in the cluster, from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is to run no more.
    pub fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// It is to run no more.
    pub fn retire(&mut self) {
        self.is_retired = true;
    }

    /// Where clients connect, as `host:port`.
    pub fn client_addr(&self) -> &str {
        &self.launch.client_addr
    }

    /// Where the others and the operator reach it, as `host:port`.
    pub fn raft_addr(&self) -> &str {
        &self.launch.raft_advertised
    }

    /// Its SpacetimeDB-shaped API.
    pub fn api(&self) -> Api {
        Api::new(self.client_addr())
    }

    /// Its admin API, past any proxy.
    pub fn admin(&self) -> Api {
        Api::new(&self.launch.raft_listen)
    }

    /// `GET /cluster/status`
    pub async fn status(&self) -> Result<Status> {
        self.admin().get("/cluster/status").await
    }

    /// The SpacetimeDB beside it, past the gateway.
    pub async fn server_api(&self) -> Result<Api> {
        Ok(Api::new(self.status().await?.server_addr()))
    }

    /// Whether its process was started and has not been stopped or killed here.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The SpacetimeDB servers it has started and that run: one, or none while it restarts one.
    pub fn server_pids(&self) -> Result<Vec<u32>> {
        self.pid().map_or_else(|| Ok(Vec::new()), children)
    }

    /// Its resident memory, in KiB, that of its SpacetimeDB not included.
    pub fn resident_kib(&self) -> Result<u64> {
        resident_kib(self.pid().context("the node is not running")?)
    }

    /// Where its output goes.
    pub fn log(&self) -> PathBuf {
        self.launch.data_dir.with_extension("log")
    }

    /// Stops its SpacetimeDB, or lets it go on.
    pub fn pause_server(&self, paused: bool) -> Result<()> {
        for pid in self.server_pids()? {
            send(pid, if paused { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
        Ok(())
    }

    /// Makes its disk slow for what is written to the log, or as fast as it is.
    pub fn slow_disk(&self, slow: bool) -> Result<()> {
        ensure!(self.launch.slow_disk.is_some(), "not started for it");
        match slow {
            true => fs::write(self.slow_disk_flag(), "")?,
            false => fs::remove_file(self.slow_disk_flag())?,
        }
        Ok(())
    }

    fn slow_disk_flag(&self) -> PathBuf {
        self.launch.data_dir.with_extension("slow")
    }

    /// Its `--data-dir`.
    pub fn data_dir(&self) -> &Path {
        &self.launch.data_dir
    }

    /// Starts it, on the data it may have from before.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "node {} runs already", self.id);
        fs::create_dir_all(&self.launch.data_dir)?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let launch = &self.launch;
        let mut start = Command::new(&launch.program);
        start.args(["--node-id", &self.id.to_string(), "--peers", &launch.peers]);
        start.args([
            "--listen-addr",
            &launch.client_addr,
            "--raft-addr",
            &launch.raft_listen,
        ]);
        start
            .arg("--data-dir")
            .arg(&launch.data_dir)
            .arg("--stdb-bin")
            .arg(&launch.server);
        start.args(&launch.arguments);
        if let Some(library) = &launch.slow_disk {
            start.env("LD_PRELOAD", library);
            start.env(slow_disk::VARIABLE, self.slow_disk_flag());
        }
        // A group of its own: Ctrl-C in a terminal reaches only the test program, which then ends its nodes in order.
        start
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        self.child = Some(
            start
                .spawn()
                .with_context(|| launch.program.display().to_string())?,
        );
        Ok(())
    }

    /// `kill -9` of the node, which its SpacetimeDB does not outlive; an error if it does.
    pub async fn kill9(&mut self) -> Result<()> {
        let servers = self.server_pids()?;
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        for pid in servers {
            if !ended(pid, STOP_MAX).await {
                kill9(pid);
                bail!("SpacetimeDB, process {pid}, has outlived node {}", self.id);
            }
        }
        Ok(())
    }

    /// `kill -9` of its SpacetimeDB alone.
    pub async fn kill9_server(&mut self) -> Result<()> {
        for pid in self.server_pids()? {
            kill9(pid);
            ensure!(ended(pid, STOP_MAX).await, "process {pid} survived SIGKILL");
        }
        Ok(())
    }

    /// From its next start on, another SpacetimeDB: it finds the data of the one before.
    pub fn use_server(&mut self, server: PathBuf) {
        self.launch.server = server;
    }

    /// SIGTERM, and the wait for the end; SIGKILL and an error if it takes too long.
    pub async fn stop(&mut self) -> Result<()> {
        if self.is_running() {
            self.terminate().await?;
        }
        Ok(())
    }

    /// SIGTERM, and how it ended; SIGKILL and an error if it takes too long.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        send(self.pid().context("the node is not running")?, Signal::SIGTERM);
        self.ended(STOP_MAX).await
    }

    /// Waits for its end, and for that of its SpacetimeDB, which is not left behind; SIGKILL and an error if it runs
    /// for longer than `max`.
    pub async fn ended(&mut self, max: Duration) -> Result<ExitStatus> {
        let servers = self.server_pids()?;
        let mut child = self.child.take().context("the node is not running")?;
        let stopped = tokio::time::timeout(max, child.wait()).await;
        if stopped.is_err() {
            child.kill().await?;
        }
        for &pid in &servers {
            if !ended(pid, Duration::from_secs(1)).await {
                kill9(pid);
            }
        }
        let status = stopped.with_context(|| format!("node {} did not end within {max:?}", self.id))?;
        Ok(status?)
    }

    /// Lets it run on after this program's end.
    pub fn leave_running(&mut self) {
        if let Some(child) = self.child.take() {
            // A child that isn't waited for is only killed when its handle is dropped.
            std::mem::forget(child);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let servers = self.server_pids().unwrap_or_default();
        // The node first: it would start its server again.
        self.pid().into_iter().chain(servers).for_each(kill9);
    }
}
