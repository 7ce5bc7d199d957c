//! Leaders that are sick and not dead: they give leadership to a healthy node by themselves, once.

use anyhow::{Context, Result, ensure};
use rtdb_testkit::client::{Client, Connect};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::demo_module::{ADD, add};

use crate::support::{DATABASE, Scene, answered, run, until};

/// Calls that are answered while the old leader is sick, and after.
const SOME: u64 = 100;

/// Who leads the default shard, and since which term, by all nodes.
async fn reign(scene: &Scene) -> Result<(u64, u64)> {
    let mut reigns = Vec::new();
    for node in scene.cluster.running() {
        let status = node.status().await?;
        let leader = status.shard_leader().context("no leader")?;
        let shard = status.groups.iter().find(|group| group.group == "shard-0");
        reigns.push((leader, shard.context("no shard")?.term));
    }
    ensure!(reigns.windows(2).all(|two| two[0] == two[1]), "{reigns:?}");
    Ok(reigns[0])
}

/// Makes the leader sick; another one leads, however little there is to do, and goes on doing so when the old one is well again.
async fn gives_way_once(scene: &Scene, sick: impl Fn(u64, bool) -> Result<()>) -> Result<()> {
    let (old, _) = until("there is one leader", async || reign(scene).await).await?;
    let other = scene.cluster.node(old % 3 + 1);
    let mut few = Client::connect(&Connect::new(other.client_addr(), DATABASE)).await?;
    sick(old, true)?;
    let (leader, term) = until("another node leads", async || {
        let reply = few.call_and_wait(ADD, &add("few", 1)).await?;
        ensure!(reply.result.is_ok(), "{:?}", reply.result);
        let (leader, term) = reign(scene).await?;
        ensure!(leader != old);
        Ok((leader, term))
    })
    .await?;
    few.close().await;
    let elsewhere = scene.loads(0, 2).into_iter();
    let clients = Clients::start(elsewhere.filter(|load| load.first as u64 + 1 != old));
    answered(&clients, SOME).await?;
    sick(old, false)?;
    answered(&clients, SOME).await?;
    scene.settled_beside(&clients.stop().await?, &["few"]).await?;
    let now = reign(scene).await?;
    ensure!(now == (leader, term), "{leader} since {term}, then {now:?}");
    Ok(())
}

#[test]
fn a_leader_whose_server_hangs() {
    run(async {
        let scene = Scene::start(3).await?;
        gives_way_once(&scene, |node, is_sick| {
            scene.cluster.node(node).pause_server(is_sick)
        })
        .await?;
        scene.end().await
    });
}

#[test]
fn a_leader_whose_disk_is_slow() {
    run(async {
        let scene = Scene::with(3, |config| config.slow_disks = true).await?;
        gives_way_once(&scene, |node, is_sick| {
            scene.cluster.node(node).slow_disk(is_sick)
        })
        .await?;
        scene.end().await
    });
}
