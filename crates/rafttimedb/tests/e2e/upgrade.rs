//! SpacetimeDB is exchanged node by node while clients work.

use std::path::PathBuf;

use anyhow::Result;
use rtdb_testkit::clients::Clients;

use crate::support::{PATIENCE, Scene, answered, run};

/// Calls between two steps.
const SOME: u64 = 300;

/// The server that the nodes get: `$RTDB_NEXT_SPACETIMEDB_BIN`, another build of it or a newer one, or else the same once
/// more, under another name. One whose data is of another kind gets everything from the log (`$RTDB_NEXT_FRESH`).
fn next(scene: &Scene) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("RTDB_NEXT_SPACETIMEDB_BIN") {
        return Ok(path.into());
    }
    let copy = scene.folder().join("spacetimedb-next");
    std::fs::copy(rtdb_testkit::server::binary()?, &copy)?;
    Ok(copy)
}

#[test]
fn spacetimedb_is_exchanged_node_by_node() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let next = next(&scene)?;
        let clients = Clients::start(scene.loads(0, 2));
        answered(&clients, SOME).await?;
        for node in 1..=3 {
            let data = scene.cluster.node(node).data_dir().join("spacetimedb/data");
            scene.cluster.node_mut(node).stop().await?;
            if std::env::var_os("RTDB_NEXT_FRESH").is_some() {
                std::fs::remove_dir_all(data)?;
            }
            scene.cluster.node_mut(node).use_server(next.clone());
            scene.cluster.restart(node)?;
            scene.cluster.wait_ready(PATIENCE).await?;
            answered(&clients, SOME).await?;
        }
        let histories = clients.stop().await?;
        scene.settled(&histories).await?;
        scene.end().await
    });
}
