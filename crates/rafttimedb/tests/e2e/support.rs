//! What every scenario stands on: a cluster with the demo module, its clients, and the check of what came of it.

use std::future::Future;
use std::path::Path;
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use rtdb_testkit::client::Wire;
use rtdb_testkit::clients::Clients;
use rtdb_testkit::cluster::{Cluster, ClusterConfig, Dump, built};
use rtdb_testkit::history::{History, Verdict, check};
use rtdb_testkit::load::{Load, Work};
use rtdb_testkit::{Api, demo_module, sql};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// The database of every scenario.
pub(crate) const DATABASE: &str = "demo";

/// How long any one condition may be awaited on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a whole scenario may take.
const SCENARIO_MAX: Duration = Duration::from_secs(200);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Lines of a node's log that are shown when a scenario fails.
const LOG_TAIL_LINES: usize = 30;

/// Clusters take the whole machine: one at a time, also under plain `cargo test`.
static TURN: Mutex<()> = Mutex::new(());

/// Runs a scenario when its turn comes, bounded in time; skips it where there is no server.
pub(crate) fn run(scenario: impl Future<Output = Result<()>>) {
    if std::env::var_os("SPACETIMEDB_BIN").is_none() {
        assert!(
            !in_ci(),
            "SPACETIMEDB_BIN is not set: CI runs these tests with `cargo xtask test`"
        );
        eprintln!("skipped: no SPACETIMEDB_BIN; `cargo xtask test` obtains a server");
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ended = runtime.block_on(async { timeout(SCENARIO_MAX, scenario).await });
    runtime.shutdown_background();
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(_) => panic!("not done after {SCENARIO_MAX:?}"),
    }
}

/// Whether nothing may be left out.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Looks again and again until `look` succeeds.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {PATIENCE:?} until {what}")));
            }
            Err(_) => sleep(POLL).await,
        }
    }
}

/// Waits until `more` further calls of `clients` are answered with success.
pub(crate) async fn answered(clients: &Clients, more: u64) -> Result<()> {
    let goal = clients.acknowledged() + more;
    until(&format!("{more} more calls are acknowledged"), async || {
        let now = clients.acknowledged();
        ensure!(now >= goal, "{} are missing", goal - now);
        Ok(())
    })
    .await
}

/// Runs a program of this build to its end.
pub(crate) async fn program<S: AsRef<std::ffi::OsStr>>(
    name: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<Output> {
    let mut command = Command::new(built(name)?);
    let output = command.args(args).kill_on_drop(true).output();
    Ok(timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{name} runs on"))??)
}

/// A cluster that serves, with the demo module published.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    /// The token of the database's owner.
    pub(crate) owner: String,
    /// Kept, and told about, unless the scenario comes to its end.
    folder: Option<TempDir>,
}

impl Scene {
    /// `nodes` nodes at the default settings.
    pub(crate) async fn start(nodes: u16) -> Result<Self> {
        Self::with(nodes, |_| {}).await
    }

    /// `nodes` nodes, and whatever `change` makes of them.
    pub(crate) async fn with(nodes: u16, change: impl FnOnce(&mut ClusterConfig)) -> Result<Self> {
        Self::publishing(demo_module::wasm()?, nodes, change).await
    }

    /// Nodes with this module as the database's.
    pub(crate) async fn publishing(
        module: Vec<u8>,
        nodes: u16,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> Result<Self> {
        let mut scene = Self::bare(nodes, change).await?;
        scene.cluster.init(PATIENCE).await?;
        scene.cluster.wait_ready(PATIENCE).await?;
        let publisher = scene.cluster.node(1).api();
        scene.owner = publisher.new_token().await?;
        publisher
            .with_token(&scene.owner)
            .publish(DATABASE, module)
            .await?;
        Ok(scene)
    }

    /// Nodes that wait for `rtdb init`; without owner or database.
    pub(crate) async fn bare(nodes: u16, change: impl FnOnce(&mut ClusterConfig)) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("rafttimedb-e2e-").tempdir()?;
        let mut config = ClusterConfig::new(nodes, folder.path())?;
        change(&mut config);
        Ok(Self {
            cluster: Cluster::start(&config).await?,
            owner: String::new(),
            folder: Some(folder),
        })
    }

    /// Where nodes keep their data and logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// `per_node` clients for each node, numbered from `from`; every second one subscribes to its own rows.
    pub(crate) fn loads(&self, from: u32, per_node: u32) -> Vec<Load> {
        let addrs = self.cluster.client_addrs();
        (0..per_node * addrs.len() as u32)
            .map(|client| Load {
                client: from + client,
                addrs: addrs.clone(),
                first: client as usize % addrs.len(),
                database: DATABASE.to_string(),
                wire: Wire::V1,
                window: 16,
                invalid_every: 50,
                subscribed: client as usize / addrs.len() % 2 == 1,
                work: Work::Add,
            })
            .collect()
    }

    /// The node's SpacetimeDB itself, as the database's owner, and the database's identity.
    pub(crate) async fn server(&self, node: u64) -> Result<(Api, String)> {
        let status = self.cluster.node(node).status().await?;
        let identity = status.database(DATABASE).context("no database")?.identity.clone();
        Ok((Api::new(status.server_addr()).with_token(&self.owner), identity))
    }

    /// The rows of `table` in the node's SpacetimeDB.
    pub(crate) async fn count(&self, node: u64, table: &str) -> Result<usize> {
        let (server, database) = self.server(node).await?;
        Ok(sql::select(&server, &database, &format!("SELECT * FROM {table}"))
            .await?
            .len())
    }

    /// Waits until exactly `clients` clients are connected, as the module's own table has it on `node`.
    pub(crate) async fn present(&self, node: u64, clients: usize) -> Result<()> {
        until(
            &format!("{clients} clients are present on node {node}"),
            async || {
                let present = self.count(node, "presence").await?;
                ensure!(present == clients, "{present} are");
                Ok(())
            },
        )
        .await
    }

    /// Waits until all replicas stand at the same command, and checks that they are the same in every row. All clients
    /// must be gone.
    pub(crate) async fn identical(&self) -> Result<Dump> {
        self.cluster.wait_ready(PATIENCE).await?;
        for node in self.cluster.running() {
            self.present(node.id(), 0).await?;
        }
        self.level_and_identical().await
    }

    /// The same of a module that does not say who is connected.
    pub(crate) async fn level_and_identical(&self) -> Result<Dump> {
        self.cluster.wait_ready(PATIENCE).await?;
        let replicas = self.cluster.wait_level(DATABASE, PATIENCE).await?;
        ensure!(
            replicas
                .iter()
                .all(|replica| replica.digest == replicas[0].digest),
            "digests differ: {replicas:?}"
        );
        let mut dumps = self.cluster.dumps(DATABASE, &self.owner).await?;
        let all = self.cluster.nodes().iter().filter(|node| !node.is_retired());
        ensure!(dumps.len() == all.count(), "not all nodes run");
        let first = dumps.swap_remove(0);
        for other in &dumps {
            for (ours, theirs) in first.iter().zip(other) {
                ensure!(ours == theirs, "table {} differs", ours.0);
            }
            ensure!(&first == other, "not the same tables");
        }
        Ok(first)
    }

    /// [`Self::identical`], and holds what the clients were told against the rows.
    pub(crate) async fn settled(&self, histories: &[History]) -> Result<Verdict> {
        self.settled_beside(histories, &[]).await
    }

    /// The same, with rows of these names that somebody else has added.
    pub(crate) async fn settled_beside(&self, histories: &[History], others: &[&str]) -> Result<Verdict> {
        self.identical().await?;
        self.no_alarms()?;
        let (server, database) = self.server(1).await?;
        let mut rows = demo_module::rows(&server, &database).await?;
        rows.retain(|row| !others.contains(&row.name.as_str()));
        let verdict = check(histories, &rows);
        let wrong: Vec<_> = histories.iter().flat_map(|history| &history.wrong).collect();
        ensure!(
            verdict.holds(),
            "{verdict:?}\n{:?}",
            &wrong[..wrong.len().min(10)]
        );
        Ok(verdict)
    }

    /// Fails if a node has taken a replica for a wrong one.
    pub(crate) fn no_alarms(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            let log = std::fs::read_to_string(node.log())?;
            let alarm = log
                .lines()
                .find(|line| line.contains("has diverged") || line.contains("replicas differ"));
            ensure!(
                alarm.is_none(),
                "node {}: {}",
                node.id(),
                alarm.unwrap_or_default()
            );
        }
        Ok(())
    }

    /// Fails if a node has panicked.
    pub(crate) fn no_panics(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            let log = std::fs::read_to_string(node.log())?;
            let panic = log.lines().find(|line| line.contains("panicked"));
            ensure!(
                panic.is_none(),
                "node {}: {}",
                node.id(),
                panic.unwrap_or_default()
            );
        }
        Ok(())
    }

    /// Everything went well: stops the nodes in order, and lets go of their data.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.cluster.stop().await?;
        self.no_panics()?;
        self.folder = None;
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else {
            return;
        };
        for node in self.cluster.nodes() {
            eprintln!("── the end of node {}'s log", node.id());
            eprintln!("{}", tail(&node.log()));
        }
        eprintln!("── logs and data are in {}", folder.keep().display());
    }
}

fn tail(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// Fails unless every client that began on one of `nodes` has stayed connected from its beginning to its end.
pub(crate) fn connected(histories: &[History], nodes: impl Fn(u64) -> bool) -> Result<()> {
    for history in histories {
        let home = history.home as u64 + 1;
        ensure!(
            !nodes(home) || history.reconnects == 0,
            "a client of node {home} lost its connection: {:?}",
            history.ends
        );
    }
    Ok(())
}

/// [`connected`], and each answer came with the call's row.
pub(crate) fn undisturbed(histories: &[History], nodes: impl Fn(u64) -> bool) -> Result<()> {
    connected(histories, &nodes)?;
    for history in histories.iter().filter(|history| nodes(history.home as u64 + 1)) {
        ensure!(
            history.rows_apart == 0 && history.rows_missing == 0,
            "{} rows came apart from their answers",
            history.rows_apart
        );
    }
    Ok(())
}

/// Calls a reducer as the owner; anything but success is an error.
pub(crate) async fn call(scene: &Scene, node: u64, reducer: &str, args: Value) -> Result<()> {
    let api: Api = scene.cluster.node(node).api().with_token(&scene.owner);
    let path = format!("/v1/database/{DATABASE}/call/{reducer}");
    let answer = api.post_json(&path, &args).await?;
    ensure!(
        answer.status == StatusCode::OK,
        "{reducer}: {} {}",
        answer.status,
        answer.text()
    );
    Ok(())
}
