//! HTTP handlers through every node: what they have written is there once, the same everywhere, though servers die.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use http::{Method, StatusCode};
use rtdb_testkit::{Api, demo_module, server, sql};

use crate::support::{DATABASE, Scene, run, until};

/// Requests to each node at a time.
const SOME: usize = 8;

fn path(route: &str) -> String {
    format!("/v1/database/{DATABASE}/route{route}")
}

/// Has every node insert items, all at once, until each is told that its one is there.
async fn insert(apis: &[Api], round: &str) -> Result<()> {
    let all = apis.iter().zip(1..).flat_map(|(api, node)| {
        (0..SOME).map(move |nth| async move {
            // Whoever is not told tries under another name.
            let mut attempt = 0;
            until("an item is there", async || {
                attempt += 1;
                let item = format!("{round}-{node}-{nth}-{attempt}");
                let answer = api.send(Method::POST, &path("/item"), item.clone()).await?;
                ensure!(
                    answer.status == StatusCode::CREATED && answer.text() == item,
                    "{}",
                    answer.text()
                );
                Ok(item)
            })
            .await
        })
    });
    let told: Vec<String> = try_join_all(all).await?;
    for api in apis {
        until("every node shows all items", async || {
            let there = api.send(Method::GET, &path("/item"), "").await?.text();
            for item in &told {
                let found = there.split(',').filter(|it| it == item).count();
                ensure!(found == 1, "{item} is there {found} times");
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[test]
fn handlers_write_once_on_every_replica_though_servers_die() {
    run(async {
        if server::major()? < 2 {
            eprintln!("skipped: SPACETIMEDB_BIN names a server without HTTP handlers, of 1.x");
            return Ok(());
        }
        let module = demo_module::wasm_named("handlers-2x")?;
        let mut scene = Scene::publishing(module, 3, |_| {}).await?;
        // Nobody has a token.
        let apis: Vec<_> = scene.cluster.client_addrs().into_iter().map(Api::new).collect();
        insert(&apis, "first").await?;
        for (api, node) in apis.iter().zip(1..) {
            let failed = api.send(Method::GET, &path("/explode"), "").await?;
            ensure!(
                failed.status == StatusCode::INTERNAL_SERVER_ERROR,
                "{}",
                failed.text()
            );
            scene.cluster.node_mut(node).kill9_server().await?;
        }
        insert(&apis, "second").await?;
        scene.level_and_identical().await?;
        scene.no_alarms()?;
        let (server, database) = scene.server(1).await?;
        let failed = sql::select(&server, &database, "SELECT id FROM item WHERE text = 'before'").await?;
        ensure!(
            failed.len() == 3,
            "{} transactions before the one that failed",
            failed.len()
        );
        let never = sql::select(&server, &database, "SELECT id FROM item WHERE text = 'never'").await?;
        ensure!(never.is_empty(), "a transaction that failed is there");
        scene.end().await
    });
}
