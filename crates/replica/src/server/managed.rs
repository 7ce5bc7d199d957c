//! A SpacetimeDB that we start, keep running, and stop.

use super::watchdog::{ServerLimits, watch_answers, watch_memory};
use super::{Http, Lives, ServerError, ServerState, Version, down, leftover};
use crate::keys::{KeyFiles, Keys};
use nix::sys::signal::Signal;
use rtdb_runtime::Instant;
use rtdb_spawn::Process;
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The pause before a server that died is started again: doubles from the first to the second.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// A server that ran for this long starts with the shortest pause again.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// How long a server may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// By so much nicer (`nice(2)`) than the node is its server. An endless call must not have the log's writes and the peers wait
/// for a processor, the kernel's threads among them.
const NICENESS: u8 = 10;
/// How long the program may take to say what it is.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The server's output is kept in a file, and one older one of at least this many bytes.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;

/// The server's own settings: the default logs every call.
const CONFIG_TOML: &str = "[logs]\nlevel = \"warn\"\n";

/// The options whose presence depends on the version.
const NON_INTERACTIVE: &str = "--non-interactive";

/// A server that is ready to be started.
pub(super) struct Managed {
    program: PathBuf,
    version: Version,
    non_interactive: bool,
    data_dir: PathBuf,
    key_files: KeyFiles,
    pid_file: PathBuf,
    output: PathBuf,
    limits: ServerLimits,
    lives: Arc<Lives>,
}

/// Why a running server is not run any more.
enum End {
    Stopped,
    Died(String),
}

impl Managed {
    /// Inspects the program, lays out `spacetimedb` in the node's `node_dir` and ends a server left behind.
    pub(super) async fn prepare(
        program: PathBuf,
        node_dir: &Path,
        keys: &Keys,
        limits: ServerLimits,
        lives: Arc<Lives>,
    ) -> Result<Self, ServerError> {
        let root = absolute(&node_dir.join("spacetimedb"))?;
        let (data_dir, pid_file) = (root.join("data"), root.join("pid"));
        create_dir(&data_dir)?;
        leftover::end(&pid_file, &data_dir).await?;
        let config = data_dir.join("config.toml");
        fs::write(&config, CONFIG_TOML).map_err(|source| ServerError::File { path: config, source })?;
        let key_files = keys.write(&root)?;

        let version = inspect(&program, &["--version"]).await?;
        let version = Version::from_output(&version).ok_or_else(|| ServerError::Program {
            program: program.clone(),
            reason: format!("`--version` says `{}`", version.trim()),
        })?;
        let non_interactive = inspect(&program, &["start", "--help"])
            .await?
            .contains(NON_INTERACTIVE);
        let output = root.join("output.log");
        Ok(Self {
            program,
            version,
            non_interactive,
            data_dir,
            key_files,
            pid_file,
            output,
            limits,
            lives,
        })
    }

    pub(super) fn version(&self) -> Version {
        self.version.clone()
    }

    /// Keeps a server running until `stop`, then ends it.
    pub(super) async fn keep(self, http: Http, report: watch::Sender<ServerState>, stop: CancellationToken) {
        let mut pause = BACK_OFF_MIN;
        loop {
            let started = Instant::now();
            let error = match self.run(&http, &report, &stop).await {
                Ok(End::Stopped) => return,
                Ok(End::Died(status)) => status,
                Err(e) => e.to_string(),
            };
            down(&report, error.clone());
            if started.elapsed() >= STEADY_AFTER {
                pause = BACK_OFF_MIN;
            }
            tracing::error!(error, ?pause, output = %self.output.display(), "SpacetimeDB ended; starting it again");
            if stop
                .run_until_cancelled(rtdb_runtime::sleep(pause))
                .await
                .is_none()
            {
                return;
            }
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    /// Runs a server once.
    async fn run(
        &self,
        http: &Http,
        report: &watch::Sender<ServerState>,
        stop: &CancellationToken,
    ) -> Result<End, ServerError> {
        let authority = free_authority().map_err(|source| ServerError::File {
            path: "127.0.0.1".into(),
            source,
        })?;
        let mut process = self.spawn(&authority).await?;
        let pid = process.id();
        leftover::record(&self.pid_file, pid)?;
        http.set_authority(authority);
        let life = self.lives.begin();
        let unwanted = rtdb_runtime::select! {
            status = process.wait() => Err(End::Died(match status {
                Ok(status) => status.to_string(),
                Err(e) => e.to_string(),
            })),
            why = watch_answers(pid, self.limits, http, report) => Ok(why),
            why = watch_memory(pid, self.limits) => Ok(why),
            why = self.lives.unwanted(life) => Ok(why),
            () = stop.cancelled() => Err(End::Stopped),
        };
        let end = match unwanted {
            Ok(why) => {
                down(report, why.clone());
                tracing::error!(pid, "killing SpacetimeDB: {why}");
                end(&mut process, Signal::SIGKILL).await;
                End::Died(format!("it was killed: {why}"))
            }
            Err(End::Stopped) => {
                end(&mut process, Signal::SIGINT).await;
                End::Stopped
            }
            Err(died) => died,
        };
        // The process is known to be gone, so its number may become another's.
        if let Err(e) = fs::remove_file(&self.pid_file) {
            tracing::warn!(error = %e, path = %self.pid_file.display(), "can't remove the process id");
        }
        Ok(end)
    }

    async fn spawn(&self, authority: &str) -> Result<Process, ServerError> {
        let output = open_output(&self.output).map_err(|source| ServerError::File {
            path: self.output.clone(),
            source,
        })?;
        let errors = output.try_clone().map_err(|source| ServerError::File {
            path: self.output.clone(),
            source,
        })?;
        let mut command = std::process::Command::new(&self.program);
        command
            .arg("start")
            .args([OsStr::new("--data-dir"), self.data_dir.as_os_str()])
            .args(["--listen-addr", authority])
            .args([
                OsStr::new("--jwt-pub-key-path"),
                self.key_files.public.as_os_str(),
            ])
            .args([
                OsStr::new("--jwt-priv-key-path"),
                self.key_files.private.as_os_str(),
            ])
            .args(self.non_interactive.then_some(NON_INTERACTIVE))
            .env("SPACETIMEDB_DISABLE_DISK_LOGGING", "1")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // A terminal's Ctrl-C is for the node: it stops the server once its clients are gone.
            .process_group(0);
        Process::spawn(command, NICENESS)
            .await
            .map_err(|e| ServerError::Program {
                program: self.program.clone(),
                reason: e.to_string(),
            })
    }
}

/// Ends a server: by a signal, and if that is not enough, kills it. Two must not use one data directory, so that its end
/// is waited for.
async fn end(process: &mut Process, mut signal: Signal) {
    loop {
        if let Err(e) = process.signal(signal) {
            tracing::error!(error = %e, "SpacetimeDB can't be sent {signal}");
        }
        if rtdb_runtime::timeout(STOP_TIMEOUT, process.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(
            pid = process.id(),
            "SpacetimeDB did not end within {STOP_TIMEOUT:?} of {signal}"
        );
        signal = Signal::SIGKILL;
    }
}

/// A loopback address whose port nobody uses at the moment. Should somebody take it before the server does, the server
/// ends at once and is started again on another.
fn free_authority() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// What the program prints.
async fn inspect(program: &Path, args: &[&str]) -> Result<String, ServerError> {
    let failed = |reason: String| ServerError::Program {
        program: program.to_owned(),
        reason,
    };
    let output = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = rtdb_runtime::timeout(INSPECT_TIMEOUT, output)
        .await
        .map_err(|_| {
            failed(format!(
                "`{}` takes longer than {INSPECT_TIMEOUT:?}",
                args.join(" ")
            ))
        })?
        .map_err(|e| failed(e.to_string()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Opens the output's file at its end, setting it aside first if it has grown.
fn open_output(path: &Path) -> io::Result<fs::File> {
    if fs::metadata(path).is_ok_and(|it| it.len() >= OUTPUT_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    fs::OpenOptions::new().append(true).create(true).open(path)
}

fn create_dir(path: &Path) -> Result<(), ServerError> {
    fs::create_dir_all(path).map_err(|source| ServerError::File {
        path: path.to_owned(),
        source,
    })
}

fn absolute(path: &Path) -> Result<PathBuf, ServerError> {
    std::path::absolute(path).map_err(|source| ServerError::File {
        path: path.to_owned(),
        source,
    })
}
