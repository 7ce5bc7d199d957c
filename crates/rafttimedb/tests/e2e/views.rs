//! Views: what one does on the node where a client looks at it decides nothing but what that client sees.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use rtdb_testkit::client::{Args, Client, Connect, Event, TableChange, Wire};
use rtdb_testkit::{demo_module, server, sql};
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, run};

/// As `modules/views-2x` has them: a view fails, or never ends, while there is a switch of this number.
const STUCK: u8 = 1;
const BROKEN: u8 = 2;

/// How long anything may be awaited.
const STUCK_MAX: Duration = Duration::from_secs(150);

/// How long a call or a view may run. A view that never ends is ended by its own code, after a second or so.
const CALL_TIME_MAX_S: &str = "60";

/// Runs a scenario on three nodes with `modules/views-2x`.
fn run_with_views(scenario: impl AsyncFnOnce(&mut Scene) -> Result<()>) {
    run(async {
        if server::major()? < 2 {
            eprintln!("skipped: SPACETIMEDB_BIN names a server without views, of 1.x");
            return Ok(());
        }
        let mut scene = Scene::publishing(demo_module::wasm_named("views-2x")?, 3, |config| {
            let arguments = ["--call-time-max-s", CALL_TIME_MAX_S, "--scrub-interval-s", "1"];
            config.arguments = arguments.map(str::to_owned).to_vec();
        })
        .await?;
        scenario(&mut scene).await?;
        scene.end().await
    });
}

/// A client on a node, and what its calls have changed that nobody has asked about.
struct Player(Client, Vec<TableChange>);

impl Player {
    async fn on(scene: &Scene, node: usize) -> Result<Self> {
        let mut to = Connect::new(scene.cluster.client_addrs()[node - 1].clone(), DATABASE);
        to.wire = Wire::V3;
        Ok(Self(Client::connect(&to).await?, Vec::new()))
    }

    /// A call that succeeds.
    async fn call(&mut self, reducer: &str, args: Args) -> Result<()> {
        let reply = timeout(PATIENCE, self.0.call_and_wait(reducer, &args)).await??;
        let committed = reply.result.map_err(anyhow::Error::msg);
        self.1 = committed.with_context(|| reducer.to_owned())?.tables;
        Ok(())
    }

    async fn switch(&mut self, reducer: &str, id: u8) -> Result<()> {
        self.call(reducer, Args::new().raw(&[id])).await
    }

    /// Subscribes to a view: the rows that it shows, or why not.
    async fn subscribe(&mut self, view: &str, query_set: u32) -> Result<Result<usize, String>> {
        let query = format!("SELECT * FROM {view}");
        self.0.subscribe(&[&query], query_set).await?;
        self.until("an answer", |event| match event {
            Event::Subscribed { tables, .. } => {
                Some(Ok(tables.iter().map(|table| table.inserts.len()).sum()))
            }
            Event::SubscribeFailed(why) => Some(Err(why)),
            _ => None,
        })
        .await
    }

    async fn until<T>(&mut self, what: &str, mut found: impl FnMut(Event) -> Option<T>) -> Result<T> {
        let look = async {
            loop {
                if let Some(found) = found(self.0.event().await?) {
                    return anyhow::Ok(found);
                }
            }
        };
        timeout(STUCK_MAX, look)
            .await
            .with_context(|| format!("waited for {what}"))?
    }

    /// Waits until the server ends a subscription.
    async fn until_failed(&mut self) -> Result<String> {
        self.until("the end of a subscription", |event| match event {
            Event::SubscribeFailed(why) => Some(why),
            _ => None,
        })
        .await
    }

    /// Waits for a change of a view's rows, unless the last call has brought one.
    async fn until_changed(&mut self, view: &str) -> Result<TableChange> {
        let mut brought = self.1.drain(..);
        if let Some(change) = brought.find(|change| change.table == view) {
            return Ok(change);
        }
        drop(brought);
        self.until(view, |event| match event {
            Event::Update(tables) => tables.into_iter().find(|table| table.table == view),
            _ => None,
        })
        .await
    }
}

/// All replicas have the same rows: of the tables, for views are each node's own.
async fn alike(scene: &Scene) -> Result<()> {
    let replicas = scene.cluster.wait_level(DATABASE, PATIENCE).await?;
    ensure!(
        replicas
            .iter()
            .all(|replica| replica.digest == replicas[0].digest),
        "digests differ: {replicas:?}"
    );
    let dumps = scene.cluster.dumps(DATABASE, &scene.owner).await?;
    ensure!(
        dumps.len() == 3 && dumps.iter().all(|dump| *dump == dumps[0]),
        "{dumps:?}"
    );
    let players = dumps[0].iter().find(|(table, _)| table == "player");
    ensure!(players.is_some(), "no table of players");
    Ok(())
}

#[test]
fn a_failing_view_ends_its_own_subscriptions_and_nothing_else() {
    run_with_views(async |scene| {
        let mut ann = Player::on(scene, 1).await?;
        let mut bob = Player::on(scene, 2).await?;
        ann.call("join", Args::new().str("ann")).await?;
        ensure!(ann.subscribe("my_player", 1).await? == Ok(1));
        ensure!(ann.subscribe("team", 2).await? == Ok(1));
        ensure!(ann.subscribe("broken", 3).await? == Ok(1));
        ensure!(ann.subscribe("notes", 4).await? == Ok(0));
        bob.call("join", Args::new().str("bob")).await?;
        ensure!(ann.until_changed("team").await?.inserts.len() == 1);
        bob.call("write", Args::new().str("hello")).await?;
        ensure!(ann.until_changed("notes").await?.inserts.len() == 1);
        ann.call("score", Args::new().i64(3)).await?;
        let change = ann.until_changed("my_player").await?;
        ensure!(
            (change.inserts.len(), change.deletes.len()) == (1, 1),
            "{change:?}"
        );

        // Natively this call fails, on this node.
        ann.call("leave", Args::new()).await?;
        let why = ann.until_failed().await?;
        ensure!(why.contains("`my_player` failed"), "{why}");
        bob.switch("switch_on", BROKEN).await?;
        let why = ann.until_failed().await?;
        ensure!(why.contains("`broken` failed"), "{why}");
        // Asked for, it fails again; others go on.
        let why = ann.subscribe("my_player", 5).await?;
        ensure!(
            why.as_ref().is_err_and(|why| why.contains("`my_player` failed")),
            "{why:?}"
        );
        bob.call("score", Args::new().i64(3)).await?;
        let change = ann.until_changed("team").await?;
        ensure!(!change.deletes.is_empty(), "{change:?}");
        ann.call("join", Args::new().str("ann")).await?;
        ensure!(ann.subscribe("my_player", 6).await? == Ok(1));
        ann.call("score", Args::new().i64(4)).await?;
        ann.until_changed("my_player").await?;
        alike(scene).await
    });
}

/// As natively: a view shows what each call has left, and that comes with the call's own rows.
#[test]
fn what_a_call_changes_in_views_comes_with_its_result() {
    const CALLS: usize = 10;
    run_with_views(async |scene| {
        let mut ann = Player::on(scene, 1).await?;
        ensure!(ann.subscribe("player", 1).await? == Ok(0));
        ensure!(ann.subscribe("team", 2).await? == Ok(0));
        // Where the machine is slow for a moment, refreshes are not waited for.
        let mut whole = 0;
        for _ in 0..CALLS {
            ann.call("join", Args::new().str("ann")).await?;
            let shown = |table: &str| ann.1.iter().any(|change| change.table == table);
            ensure!(shown("player"));
            whole += usize::from(shown("team"));
            ann.call("leave", Args::new()).await?;
        }
        ensure!(whole > CALLS / 2, "{whole} of {CALLS} results had the view's row");
        ann.1.clear();

        // Calls that are sent together, each of which undoes what the one before has done.
        let mut seen = 0;
        for _ in 0..CALLS {
            for reducer in ["join", "leave"] {
                let args = Args::new();
                let args = if reducer == "join" { args.str("ann") } else { args };
                ann.0.call(reducer, &args).await?;
            }
            ann.0.flush().await?;
            let mut replies = 0;
            while replies < 2 {
                let tables = ann
                    .until("a reply", |event| match event {
                        Event::Reply(reply) => {
                            replies += 1;
                            reply.result.ok().map(|committed| committed.tables)
                        }
                        Event::Update(tables) => Some(tables),
                        _ => None,
                    })
                    .await?;
                let changes = tables.iter().filter(|change| change.table == "team");
                seen += changes.map(|change| change.inserts.len()).sum::<usize>();
            }
        }
        ensure!(seen > CALLS / 2, "the view has shown {seen} of {CALLS} rows");
        alike(scene).await
    });
}

#[test]
fn queries_on_views_show_what_is() {
    run_with_views(async |scene| {
        let mut ann = Player::on(scene, 1).await?;
        ann.call("join", Args::new().str("ann")).await?;
        let api = scene.cluster.node(1).api().with_token(&ann.0.hello().token);
        for score in 1..4 {
            ann.call("score", Args::new().i64(1)).await?;
            let rows = sql::select(&api, DATABASE, "SELECT score FROM my_player").await?;
            ensure!(rows.sorted() == [format!("[{score}]")], "{rows:?}");
        }
        ann.switch("switch_on", BROKEN).await?;
        let path = format!("/v1/database/{DATABASE}/sql");
        let answer = api.send(Method::POST, &path, "SELECT * FROM broken").await?;
        ensure!(
            answer.status == 400 && answer.text().contains("`broken` failed"),
            "{answer:?}"
        );
        ann.call("score", Args::new().i64(1)).await?;
        alike(scene).await
    });
}

#[test]
fn a_view_that_never_ends_fails_and_its_server_goes_on() {
    run_with_views(async |scene| {
        let mut ann = Player::on(scene, 1).await?;
        let mut bob = Player::on(scene, 2).await?;
        let servers = scene.cluster.node(1).server_pids()?;
        ensure!(ann.subscribe("stuck", 1).await? == Ok(0));
        ensure!(ann.subscribe("team", 2).await? == Ok(0));
        bob.switch("switch_on", STUCK).await?;
        bob.call("join", Args::new().str("bob")).await?;
        let why = ann.until_failed().await?;
        ensure!(why.contains("`stuck` failed"), "{why}");
        ann.call("join", Args::new().str("ann")).await?;
        let why = ann.subscribe("stuck", 3).await?;
        ensure!(why.is_err_and(|why| why.contains("`stuck` failed")));
        for _ in 0..20 {
            ann.call("score", Args::new().i64(1)).await?;
        }
        bob.call("score", Args::new().i64(9)).await?;
        ann.until_changed("team").await?;
        ensure!(scene.cluster.node(1).server_pids()? == servers);
        alike(scene).await
    });
}

/// Calls that are sent together, of which the first lets a view run for as long as it may: that happens a few times, and not
/// behind each of them.
#[test]
fn a_view_that_never_ends_holds_up_no_burst_of_calls() {
    const CALLS: usize = 63;
    const TIMES: u32 = 20;
    run_with_views(async |scene| {
        let mut ann = Player::on(scene, 1).await?;
        let mut bob = Player::on(scene, 1).await?;
        ann.call("join", Args::new().str("ann")).await?;
        bob.call("join", Args::new().str("bob")).await?;
        ensure!(ann.subscribe("stuck", 1).await? == Ok(0));
        for _ in 0..5 {
            ann.call("score", Args::new().i64(1)).await?;
        }
        ann.0.call("switch_on", &Args::new().raw(&[STUCK])).await?;
        for _ in 0..CALLS {
            ann.0.call("score", &Args::new().i64(1)).await?;
        }
        let begun = Instant::now();
        ann.0.flush().await?;
        ann.until("the first reply", |event| {
            matches!(event, Event::Reply(_)).then_some(())
        })
        .await?;
        // Somebody else's call.
        timeout(STUCK_MAX, bob.0.call_and_wait("score", &Args::new().i64(1))).await??;
        let waited = begun.elapsed();
        ann.until_failed().await?;
        let begun = Instant::now();
        ensure!(ann.subscribe("stuck", 2).await?.is_err());
        let once = begun.elapsed();
        ensure!(
            waited < once * TIMES,
            "another client's call took {waited:?}, and the view takes {once:?}"
        );
        Ok(())
    });
}

#[test]
fn views_are_there_again_after_a_crash() {
    run_with_views(async |scene| {
        let mut ann = Player::on(scene, 1).await?;
        let mut bob = Player::on(scene, 2).await?;
        ann.call("join", Args::new().str("ann")).await?;
        ensure!(ann.subscribe("my_player", 1).await? == Ok(1));
        ensure!(ann.subscribe("team", 2).await? == Ok(1));
        scene.cluster.node_mut(1).kill9_server().await?;
        bob.call("join", Args::new().str("bob")).await?;
        // One update leads from what was shown to what is.
        let change = ann.until_changed("team").await?;
        ensure!(
            (change.inserts.len(), change.deletes.len()) == (1, 0),
            "{change:?}"
        );
        ann.call("score", Args::new().i64(3)).await?;
        let change = ann.until_changed("my_player").await?;
        ensure!(
            (change.inserts.len(), change.deletes.len()) == (1, 1),
            "{change:?}"
        );
        alike(scene).await
    });
}
