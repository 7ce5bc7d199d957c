//! A database is deleted: it is gone on every node, whatever dies meanwhile.

use anyhow::{Context, Result, ensure};
use http::Method;
use rtdb_testkit::client::{Client, Connect};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::{Api, demo_module};
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, answered, run, until};

/// Acknowledged calls that show that work goes on.
const SOME: u64 = 200;

const PATH: &str = "/v1/database/demo";

impl Scene {
    fn owners_api(&self, node: u64) -> Api {
        self.cluster.node(node).api().with_token(&self.owner)
    }

    async fn identity(&self) -> Result<String> {
        let body = self
            .owners_api(1)
            .expect(Method::GET, &format!("{PATH}/identity"), "")
            .await?;
        Ok(String::from_utf8(body.to_vec())?)
    }

    /// Waits until no running node knows the database any more, and no server has it.
    async fn gone(&self, identity: &str) -> Result<()> {
        until("the database is gone everywhere", async || {
            for node in self.cluster.running() {
                let status = node.status().await?;
                ensure!(status.databases.is_empty(), "node {} has it", node.id());
                let server = Api::new(status.server_addr());
                let found = server
                    .send(Method::GET, &format!("/v1/database/{identity}"), "")
                    .await?;
                ensure!(found.status == 404, "node {}'s server has it", node.id());
                let answer = node.api().send(Method::GET, PATH, "").await?;
                ensure!(answer.status == 404, "{} {}", answer.status, answer.text());
                ensure!(answer.text() == "No such database.", "{}", answer.text());
            }
            Ok(())
        })
        .await
    }
}

#[test]
fn a_deleted_database_is_gone_everywhere_and_comes_again_empty() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let identity = scene.identity().await?;
        let clients = Clients::start(scene.loads(0, 1));
        answered(&clients, SOME).await?;
        let mut watcher =
            Client::connect(&Connect::new(scene.cluster.node(2).client_addr(), DATABASE)).await?;
        watcher.subscribe(&["SELECT * FROM counter"], 1).await?;
        scene.owners_api(3).expect(Method::DELETE, PATH, "").await?;
        let close = timeout(PATIENCE, watcher.closed()).await?;
        let close = close.context("the connection broke without a close frame")?;
        ensure!(
            u16::from(close.code) == 1001 && close.reason.as_str() == "module exited",
            "{close:?}"
        );
        clients.stop().await?;
        scene.gone(&identity).await?;

        // Again by its name, under the same identity; and whoever is to delete it dies over it.
        scene
            .owners_api(1)
            .publish(DATABASE, demo_module::wasm()?)
            .await?;
        ensure!(scene.identity().await? == identity, "another identity");
        let clients = Clients::start(scene.loads(100, 1));
        answered(&clients, SOME).await?;
        let leader = scene.cluster.wait_leader(PATIENCE).await?;
        let doomed = scene.owners_api(leader);
        let deletion = tokio::spawn(async move { doomed.send(Method::DELETE, PATH, "").await });
        scene.cluster.node_mut(leader).kill9().await?;
        drop(deletion.await);
        let survivor = scene.owners_api(leader % 3 + 1);
        until("the database is deleted", async || {
            survivor.expect(Method::DELETE, PATH, "").await
        })
        .await?;
        clients.stop().await?;
        scene.gone(&identity).await?;
        scene.cluster.restart(leader)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        scene.gone(&identity).await?;

        scene
            .owners_api(leader)
            .publish(DATABASE, demo_module::wasm()?)
            .await?;
        let clients = Clients::start(scene.loads(200, 1));
        answered(&clients, SOME).await?;
        let histories = clients.stop().await?;
        scene.settled(&histories).await?;
        scene.end().await
    });
}
