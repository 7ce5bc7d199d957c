//! The local SpacetimeDB's process: started and kept running by us, or somebody else's.

pub(crate) mod foreign;
mod http;
mod leftover;
mod line;
mod managed;
mod named;
mod seam;
mod version;
mod watchdog;

use crate::keys::{KeyError, Keys};
use crate::tokens::Tokens;
pub use http::{Body, BodyError, Http, HttpError};
pub use seam::{Connecting, Line, LineError, Server};
pub use version::{TESTED, Version};
pub use watchdog::ServerLimits;

use managed::Managed;
use named::Named;
use parking_lot::Mutex;
use rtdb_protocol::Subprotocol;
use rtdb_runtime::Instant;
use rtdb_runtime::JoinHandle;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a running server is asked whether it is alive.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// How often a server that does not answer is asked again.
const PING_RETRY: Duration = Duration::from_millis(50);
/// How long a server may take to answer that it is alive.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Which SpacetimeDB to use.
#[derive(Clone, Debug)]
pub enum ServerConfig {
    /// One that we start on a loopback port of its own, keep running, and stop with the node.
    Managed {
        /// The `spacetimedb-standalone` program.
        program: PathBuf,
        /// The node's data directory: the server's data, its keys and its output go to `spacetimedb` in it.
        data_dir: PathBuf,
        /// What it may do before it is killed and started again.
        limits: ServerLimits,
    },
    /// One that somebody else runs, at a `ws://` or `http://` URL.
    External {
        /// Where it is.
        url: String,
    },
}

/// How the local server is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// It has not answered yet.
    Starting,
    /// It answers.
    Up,
    /// It answered once, and does not any more.
    Down {
        /// Since when.
        since: Instant,
        /// What is wrong.
        error: String,
    },
}

/// Why a local server can't be used.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The URL is not one that we can use.
    #[error("`{0}` is not the URL of a SpacetimeDB: expected http://host:port or ws://host:port")]
    Url(String),
    /// TLS towards the local server is not supported.
    #[error(
        "`{0}`: TLS towards the local SpacetimeDB is not supported; give it a loopback address and http://"
    )]
    Tls(String),
    /// The program is not a SpacetimeDB.
    #[error("{program}: not a usable SpacetimeDB: {reason}")]
    Program {
        /// The program.
        program: PathBuf,
        /// What it did.
        reason: String,
    },
    /// Its folder can't be prepared.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server of an earlier run of this node does not end.
    #[error("process {pid} of an earlier run of this node still uses {data_dir} and does not end")]
    Leftover {
        /// Its process id.
        pid: i32,
        /// The server's data.
        data_dir: PathBuf,
    },
    /// The keys can't be written.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The server's key is another one, so that it would not accept the cluster's tokens.
    #[error(
        "the SpacetimeDB at {url} signs with another key than the cluster: start it with \
         --jwt-pub-key-path and --jwt-priv-key-path naming the cluster's key pair"
    )]
    OtherKey {
        /// Where the server is.
        url: String,
    },
    /// It does not answer.
    #[error("the SpacetimeDB at {url} does not answer as one: {source}")]
    Http {
        /// Where the server is.
        url: String,
        /// What happened.
        source: HttpError,
    },
}

/// The local SpacetimeDB. Cheap to clone.
#[derive(Clone)]
pub struct LocalServer {
    shared: Arc<Shared>,
}

struct Shared {
    http: Http,
    state: watch::Receiver<ServerState>,
    version: Mutex<Option<Version>>,
    lives: Arc<Lives>,
    stop: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl LocalServer {
    /// Starts a managed server, or turns to an external one. Returns at once after the first start: wait for
    /// [`LocalServer::up`] before using it.
    ///
    /// # Errors
    /// [`ServerError`] if the configuration can't work.
    pub async fn start(config: ServerConfig, keys: &Keys) -> Result<Self, ServerError> {
        let (report, state) = watch::channel(ServerState::Starting);
        let stop = CancellationToken::new();
        let lives = Arc::new(Lives::default());
        let (http, version, keeper) = match config {
            ServerConfig::Managed {
                program,
                data_dir,
                limits,
            } => {
                let managed = Managed::prepare(program, &data_dir, keys, limits, lives.clone()).await?;
                let http = Http::new(String::new());
                let version = managed.version();
                (
                    http.clone(),
                    Some(version),
                    rtdb_runtime::spawn(managed.keep(http, report, stop.clone())),
                )
            }
            ServerConfig::External { url } => {
                let http = Http::new(authority(&url)?);
                (
                    http.clone(),
                    None,
                    rtdb_runtime::spawn(watch_external(http, report, stop.clone())),
                )
            }
        };
        if let Some(version) = &version {
            version.warn_if_untested();
        }
        let keeper = Mutex::new(Some(keeper));
        Ok(Self {
            shared: Arc::new(Shared {
                http,
                state,
                version: Mutex::new(version),
                lives,
                stop,
                keeper,
            }),
        })
    }

    /// As replicas ask it: in owners' names, with tokens made by `tokens`.
    pub fn named(&self, tokens: Tokens) -> Arc<dyn Server> {
        Arc::new(Named {
            server: self.clone(),
            tokens,
        })
    }

    /// Where the server is now, as `http://host:port`. A managed server may come back on another port.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// Where the server is now, as `host:port`.
    pub fn authority(&self) -> String {
        self.shared.http.authority()
    }

    /// How the server is doing.
    pub fn state(&self) -> watch::Receiver<ServerState> {
        self.shared.state.clone()
    }

    /// Waits until the server answers. Never returns if it is stopped before.
    pub async fn up(&self) {
        until_up(self.shared.state.clone()).await;
    }

    /// Which of a managed server's lives this is: each process is another one. 0 for an external server, and before the
    /// first start.
    pub fn life(&self) -> u64 {
        *self.shared.lives.begun.lock()
    }

    /// Kills a managed server if `life` is its present one; it is started again. `false` for an external one.
    pub fn end_life(&self, life: u64, why: String) -> bool {
        self.shared.lives.ended.send_replace((life, why));
        life > 0
    }

    /// Waits until nobody watches over the server any more: after [`LocalServer::stop`], or since the task that does has
    /// failed, which the node must not live on from.
    pub async fn unwatched(&self) {
        let mut state = self.shared.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// The server's version: known at once for a managed server, after [`LocalServer::check`] for an external one.
    pub fn version(&self) -> Option<Version> {
        self.shared.version.lock().clone()
    }

    /// The newest subprotocol that the server speaks; v1 while its version is not known.
    pub fn newest_subprotocol(&self) -> Subprotocol {
        self.version()
            .map_or(Subprotocol::V1, |version| version.newest_subprotocol())
    }

    /// Requests to the server, over connections that are used again.
    pub fn http(&self) -> &Http {
        &self.shared.http
    }

    /// Checks a server that is [up](LocalServer::up): its key must be the cluster's; an untested version is warned
    /// about.
    ///
    /// # Errors
    /// [`ServerError::OtherKey`], or [`ServerError::Http`] if it does not answer as a SpacetimeDB does.
    pub async fn check(&self, keys: &Keys) -> Result<(), ServerError> {
        let failed = |source| ServerError::Http {
            url: self.url(),
            source,
        };
        let public_pem = self
            .shared
            .http
            .get_text("/v1/identity/public-key")
            .await
            .map_err(failed)?;
        if !keys.is_public_half(&public_pem)? {
            return Err(ServerError::OtherKey { url: self.url() });
        }
        if self.version().is_none() {
            let health = self.shared.http.get_text("/v1/health").await.map_err(failed)?;
            let version = Version::from_health(&health);
            version.warn_if_untested();
            *self.shared.version.lock() = Some(version);
        }
        Ok(())
    }

    /// Stops a managed server and waits for its end; leaves an external one alone.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        let keeper = self.shared.keeper.lock().take();
        if let Some(keeper) = keeper
            && let Err(e) = keeper.await
        {
            tracing::error!(error = %e, "the task that keeps SpacetimeDB running failed");
        }
    }
}

/// The lives of a managed server, one for each process.
struct Lives {
    begun: Mutex<u64>,
    /// The life that somebody wants ended, and why.
    ended: watch::Sender<(u64, String)>,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            begun: Mutex::default(),
            ended: watch::Sender::new((0, String::new())),
        }
    }
}

impl Lives {
    /// A process has been started. Gives its life.
    fn begin(&self) -> u64 {
        let mut begun = self.begun.lock();
        *begun += 1;
        *begun
    }

    /// Waits until somebody wants this life ended; says why.
    async fn unwanted(&self, life: u64) -> String {
        let mut ended = self.ended.subscribe();
        let unwanted = ended.wait_for(|(unwanted, _)| *unwanted == life).await;
        // The sender is here.
        unwanted.map(|unwanted| unwanted.1.clone()).unwrap_or_default()
    }
}

/// `host:port` of a URL.
fn authority(url: &str) -> Result<String, ServerError> {
    let uri: ::http::Uri = url.parse().map_err(|_| ServerError::Url(url.to_owned()))?;
    match uri.scheme_str() {
        Some("http" | "ws") => {}
        Some("https" | "wss") => return Err(ServerError::Tls(url.to_owned())),
        _ => return Err(ServerError::Url(url.to_owned())),
    }
    let authority = uri.authority().ok_or_else(|| ServerError::Url(url.to_owned()))?;
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none() && !authority.as_str().contains('@');
    if !bare {
        return Err(ServerError::Url(url.to_owned()));
    }
    Ok(match authority.port() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:80"),
    })
}

/// Watches a server that somebody else runs, until `stop`.
async fn watch_external(http: Http, report: watch::Sender<ServerState>, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        loop {
            let pause = match http.ping(PING_TIMEOUT).await {
                Ok(()) => {
                    up(&report);
                    PING_INTERVAL
                }
                Err(e) => {
                    down(&report, e.to_string());
                    PING_RETRY
                }
            };
            rtdb_runtime::sleep(pause).await;
        }
    })
    .await;
}

/// Waits until a server answers. Never returns if it is stopped before.
pub(crate) async fn until_up(mut state: watch::Receiver<ServerState>) {
    if state.wait_for(|state| *state == ServerState::Up).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn up(report: &watch::Sender<ServerState>) {
    report.send_if_modified(|state| {
        let changed = *state != ServerState::Up;
        *state = ServerState::Up;
        changed
    });
}

/// Reports an error. A server that has not been up stays `Starting`; one that is down stays down since it was.
fn down(report: &watch::Sender<ServerState>, error: String) {
    report.send_if_modified(|state| {
        let changed = *state == ServerState::Up;
        if changed {
            tracing::warn!(error, "SpacetimeDB does not answer");
            *state = ServerState::Down {
                since: Instant::now(),
                error,
            };
        }
        changed
    });
}

#[cfg(test)]
mod tests;
