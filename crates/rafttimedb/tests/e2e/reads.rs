//! Reads that show what their callers want to see, whatever node they ask.

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::{Api, Response};
use serde_json::Value;

use crate::support::{DATABASE, Scene, run};

const WRITES: usize = 40;

async fn sql(api: &Api, wanted: &str, text: &str) -> Result<Response> {
    let path = format!("/v1/database/{DATABASE}/sql?{wanted}");
    api.send(Method::POST, &path, text.to_owned()).await
}

/// Adds a row; its position.
async fn add(api: &Api, text: usize) -> Result<String> {
    let insert = format!("INSERT INTO secret (id, text) VALUES (0, '{text}')");
    let answer = sql(api, "", &insert).await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.text());
    let position = answer.headers.get("rafttimedb-position").context("no position")?;
    Ok(position.to_str()?.to_owned())
}

/// How many rows there are.
async fn count(api: &Api, wanted: &str) -> Result<u64> {
    let answer = sql(api, wanted, "SELECT COUNT(*) AS n FROM secret").await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.text());
    let body: Value = serde_json::from_slice(&answer.body)?;
    let count = body.pointer("/0/rows/0/0").and_then(Value::as_u64);
    count.with_context(|| format!("no count: {body}"))
}

#[test]
fn a_read_on_any_node_shows_what_was_acknowledged_on_another_if_it_asks() {
    run(async {
        let scene = Scene::start(3).await?;
        let nodes = [1, 2, 3].map(|node| scene.cluster.node(node).api().with_token(&scene.owner));
        for number in 1..=WRITES {
            let position = add(&nodes[number % 3], number).await?;
            let after = format!("after={position}");
            let (one, other) = (&nodes[(number + 1) % 3], &nodes[(number + 2) % 3]);
            let (after, linearizable) =
                tokio::try_join!(count(one, &after), count(other, "consistency=linearizable"))?;
            ensure!(
                (after, linearizable) == (number as u64, number as u64),
                "after write {number}: {after} and {linearizable} rows"
            );
        }

        // One that can't show it says so.
        scene.cluster.node(2).pause_server(true)?;
        let position = add(&nodes[0], 0).await?;
        let refused = sql(&nodes[1], &format!("after={position}"), "SELECT * FROM secret").await?;
        scene.cluster.node(2).pause_server(false)?;
        ensure!(
            refused.status == StatusCode::SERVICE_UNAVAILABLE && refused.text().contains("has not applied"),
            "{} {}",
            refused.status,
            refused.text()
        );
        scene.end().await
    });
}
