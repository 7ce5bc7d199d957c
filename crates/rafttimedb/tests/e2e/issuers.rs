//! Tokens of an outside issuer, which is there for a while.

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::client::{Client, Connect, Wire};
use rtdb_testkit::issuer::Issuer;
use spacetimedb_lib::Identity;

use crate::support::{DATABASE, PATIENCE, Scene, run, until};

#[test]
fn who_shows_a_token_of_an_issuer_that_is_gone_is_let_in_on_every_node() {
    run(async {
        let mut issuer = Issuer::start().await?;
        let strangers = Issuer::start().await?;
        let named = issuer.url().to_owned();
        let mut scene = Scene::with(3, |config| {
            config.arguments.extend(["--issuers".to_owned(), named]);
        })
        .await?;
        // Once every node has said that it knows of issuers, one of them asks for all.
        until("all nodes know the issuer's keys", async || {
            let_in(&scene, 1, &issuer, "bob").await?;
            for node in 1..=3 {
                let status: serde_json::Value =
                    scene.cluster.node(node).admin().get("/cluster/status").await?;
                ensure!(status["issuers"] == 1, "node {node} knows {}", status["issuers"]);
            }
            Ok(())
        })
        .await?;
        ensure!(issuer.asked() == 1, "it was asked {} times", issuer.asked());
        issuer.stop().await;
        for node in 1..=3 {
            let_in(&scene, node, &issuer, "bob")
                .await
                .with_context(|| format!("node {node}"))?;
        }
        // Nor is anything lost when a node starts anew.
        scene.cluster.node_mut(3).kill9().await?;
        scene.cluster.restart(3)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        let_in(&scene, 3, &issuer, "bob")
            .await
            .context("the node that is new")?;
        // Others' tokens are not taken, and their issuers not asked.
        let api = scene.cluster.node(1).api().with_token(strangers.token("bob"));
        let answer = api.send(Method::GET, "/v1/ping", "").await?;
        ensure!(answer.status == StatusCode::UNAUTHORIZED, "{}", answer.text());
        ensure!(strangers.asked() == 0, "a stranger's issuer was asked");
        scene.end().await
    });
}

/// Somebody is let in with a token of the issuer's, as who he is.
async fn let_in(scene: &Scene, node: u64, issuer: &Issuer, subject: &str) -> Result<()> {
    let to = Connect {
        wire: Wire::usual()?,
        ..Connect::new(scene.cluster.node(node).client_addr(), DATABASE)
    };
    let client = Client::connect(&to.with_token(issuer.token(subject))).await?;
    let identity = Identity::from_claims(issuer.url(), subject);
    ensure!(
        client.hello().identity == identity.to_byte_array(),
        "somebody else"
    );
    client.close().await;
    Ok(())
}
