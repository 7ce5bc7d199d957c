//! Updates of a database under its clients, through different nodes.

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::client::{Client, Connect, Event, Wire};
use rtdb_testkit::{Api, demo_module, server, variant};
use serde_json::Value;
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, run};

/// Asks for the plan of an update; `true` if it breaks clients, and the query that agrees to it.
async fn plan(node: &Api, module: &[u8]) -> Result<(bool, String)> {
    let path = format!("/v1/database/{DATABASE}/pre_publish");
    let plan = node.expect(Method::POST, &path, module.to_vec()).await?;
    let plan: Value = serde_json::from_slice(&plan)?;
    let plan = &plan["AutoMigrate"];
    let breaks = plan["break_clients"].as_bool().context("no plan")?;
    let token = plan["token"].as_str().context("no token")?;
    Ok((breaks, format!("?policy=BreakClients&token={token}")))
}

async fn subscribed(to: &Connect) -> Result<Client> {
    let mut client = Client::connect(to).await?;
    client.subscribe(&["SELECT * FROM counter"], 1).await?;
    let reply = client.event().await?;
    ensure!(matches!(reply, Event::Subscribed { .. }), "{reply:?}");
    Ok(client)
}

#[test]
fn an_update_disconnects_the_clients_of_all_nodes_if_it_breaks_them() {
    run(async {
        if server::major()? < 2 {
            eprintln!("passed over: SpacetimeDB 1.2 has no policies for updates");
            return Ok(());
        }
        let scene = Scene::start(3).await?;
        let node = |id| scene.cluster.node(id).api().with_token(&scene.owner);
        let path = format!("/v1/database/{DATABASE}");
        let mut clients = Vec::new();
        for id in 1..=3 {
            let mut to = Connect::new(scene.cluster.node(id).client_addr(), DATABASE);
            to.wire = Wire::usual()?;
            clients.push(subscribed(&to).await?);
        }

        // Planned on one node, published through another.
        let grown = variant::with_table(&demo_module::wasm()?, "dice", "die")?;
        let (breaks, agreed) = plan(&node(1), &grown).await?;
        ensure!(!breaks, "one table more breaks clients");
        node(2)
            .expect(Method::PUT, &format!("{path}{agreed}"), grown.clone())
            .await?;
        for client in &mut clients {
            let reply = client
                .call_and_wait(demo_module::ADD, &demo_module::add("kept", 1))
                .await?;
            ensure!(reply.result.is_ok(), "{reply:?}");
        }

        let ruled = variant::with_rule(&grown, "SELECT * FROM dice")?;
        // It takes a node a moment to hear that the database runs another module.
        scene.cluster.wait_level(DATABASE, PATIENCE).await?;
        let (breaks, agreed) = plan(&node(3), &ruled).await?;
        ensure!(breaks, "a new rule breaks nobody");
        let refused = node(1).send(Method::PUT, &path, ruled.clone()).await?;
        ensure!(refused.status == StatusCode::BAD_REQUEST, "{}", refused.text());
        node(1)
            .expect(Method::PUT, &format!("{path}{agreed}"), ruled)
            .await?;
        for client in &mut clients {
            let frame = timeout(PATIENCE, client.closed()).await?;
            let frame = frame.context("no close frame")?;
            ensure!(u16::from(frame.code) == 1001, "{frame:?}");
            ensure!(frame.reason.as_str() == "module exited", "{frame:?}");
        }
        // Each has gone once, on every node: `identical` wants nobody to be there.
        scene.identical().await?;
        scene.no_alarms()?;

        let to = Connect::new(scene.cluster.node(2).client_addr(), DATABASE);
        let mut back = subscribed(&to).await?;
        let reply = back
            .call_and_wait(demo_module::ADD, &demo_module::add("back", 1))
            .await?;
        ensure!(reply.result.is_ok(), "{reply:?}");
        back.close().await;
        scene.end().await
    });
}

#[test]
fn a_clear_disconnects_the_clients_of_all_nodes() {
    run(async {
        let scene = Scene::start(2).await?;
        let mut clients = Vec::new();
        for id in 1..=2 {
            let mut to = Connect::new(scene.cluster.node(id).client_addr(), DATABASE);
            to.wire = Wire::usual()?;
            clients.push(subscribed(&to).await?);
        }
        let owner = scene.cluster.node(2).api().with_token(&scene.owner);
        let path = format!("/v1/database/{DATABASE}?clear=true");
        owner.expect(Method::PUT, &path, demo_module::wasm()?).await?;
        for client in &mut clients {
            let frame = timeout(PATIENCE, client.closed()).await?;
            let frame = frame.context("no close frame")?;
            ensure!(u16::from(frame.code) == 1001, "{frame:?}");
        }
        scene.identical().await?;
        scene.end().await
    });
}
