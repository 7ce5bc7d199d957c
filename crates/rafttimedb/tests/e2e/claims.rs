//! What callers' tokens say, seen by a module on every node. SpacetimeDB 1.x knows of no such thing.

use anyhow::{Context, Result, ensure};
use rtdb_testkit::client::{Args, Client, Connect, Wire};
use rtdb_testkit::issuer::Issuer;
use rtdb_testkit::{server, sql};

use crate::support::{DATABASE, PATIENCE, Scene, run, until};

/// Inserts what its caller's token says into the table `said`.
const ASKING: &[u8] = include_bytes!("../../../determinism/tests/suite/asking.wasm");

#[test]
fn every_replica_sees_what_the_callers_token_says() {
    run(async {
        if server::major()? < 2 {
            eprintln!("skipped: SpacetimeDB 1.x has no claims");
            return Ok(());
        }
        let issuer = Issuer::start().await?;
        let named = issuer.url().to_owned();
        let scene = Scene::publishing(ASKING.to_vec(), 3, |config| {
            config.arguments.extend(["--issuers".to_owned(), named]);
        })
        .await?;
        // Once every node has said that it knows of claims.
        until("claims are proposed", async || {
            call_over_http(&scene, 1, &scene.owner).await?;
            ensure!(
                said(&scene, 1).await?.contains(&payload(&scene.owner)?),
                "none are"
            );
            Ok(())
        })
        .await?;
        let mut expected = vec![payload(&scene.owner)?];
        for node in 1..=3 {
            let to = Connect {
                wire: Wire::usual()?,
                ..Connect::new(scene.cluster.node(node).client_addr(), DATABASE)
            };
            let mut client = Client::connect(&to).await?;
            let token = client.hello().token.clone();
            for _ in 0..2 {
                let reply = client.call_and_wait("own", &Args::new()).await?;
                ensure!(reply.result.is_ok(), "{reply:?}");
            }
            expected.push(payload(&token)?);
            client.close().await;
            let other = scene.cluster.node(node).api().new_token().await?;
            call_over_http(&scene, node, &other).await?;
            expected.push(payload(&other)?);
            let outside = issuer.token(&format!("of-{node}"));
            call_over_http(&scene, node, &outside).await?;
            expected.push(payload(&outside)?);
        }
        expected.sort();
        scene.cluster.wait_level(DATABASE, PATIENCE).await?;
        for node in 1..=3 {
            let mut said = said(&scene, node).await?;
            // From before the nodes had said what they know.
            said.retain(|said| !said.is_empty());
            said.sort();
            ensure!(said == expected, "node {node}: {said:?}, not {expected:?}");
            until("nothing is kept of sessions that have ended", async || {
                let kept = scene.count(node, "rtdb_claims").await?;
                ensure!(kept <= 1, "{kept} rows are");
                Ok(())
            })
            .await?;
        }
        scene.end().await
    });
}

async fn call_over_http(scene: &Scene, node: u64, token: &str) -> Result<()> {
    let api = scene.cluster.node(node).api().with_token(token);
    let path = format!("/v1/database/{DATABASE}/call/own");
    let answer = api.post_json(&path, &serde_json::json!([])).await?;
    ensure!(answer.status.is_success(), "{}", answer.status);
    Ok(())
}

/// What the module has seen, as the node's SpacetimeDB has it.
async fn said(scene: &Scene, node: u64) -> Result<Vec<String>> {
    let (server, database) = scene.server(node).await?;
    let rows = sql::select(&server, &database, "SELECT * FROM said").await?;
    let texts = rows.column("c0")?.into_iter().map(|value| {
        let digits = value.as_str().context("bytes in hex")?.trim_start_matches("0x");
        Ok(String::from_utf8(hex::decode(digits)?)?)
    });
    texts.collect()
}

/// A token's second part.
fn payload(token: &str) -> Result<String> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = token.split('.').nth(1).context("a token has three parts")?;
    Ok(String::from_utf8(URL_SAFE_NO_PAD.decode(part)?)?)
}
