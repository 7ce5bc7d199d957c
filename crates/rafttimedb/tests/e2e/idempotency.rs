//! Calls with an `Idempotency-Key` that are sent again, after the node that took them has died: once, and with one answer.

use anyhow::{Context, Result, bail, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::Response;
use rtdb_testkit::client::{Args, Client, Connect, Wire};
use rtdb_testkit::{Api, demo_module};
use serde_json::{Value, json};

use crate::support::{DATABASE, PATIENCE, Scene, run, until};

/// What a reducer's own error is answered with.
const FAILED: u16 = 530;

/// Calls that are under way when their node dies.
const UNDER_WAY: usize = 20;

/// A call or a statement with a key of its own.
#[derive(Clone)]
struct Keyed {
    key: String,
    path: String,
    body: String,
    /// What is heard of it.
    status: u16,
    text: &'static str,
}

impl Keyed {
    fn call(key: &str, reducer: &str, args: &Value, status: u16, text: &'static str) -> Self {
        Self {
            key: key.to_owned(),
            path: format!("/v1/database/{DATABASE}/call/{reducer}"),
            body: args.to_string(),
            status,
            text,
        }
    }

    fn add(key: &str) -> Self {
        Self::call(key, demo_module::ADD, &json!([key, 1]), 200, "")
    }

    fn sql(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            path: format!("/v1/database/{DATABASE}/sql"),
            body: format!("INSERT INTO secret (id, text) VALUES (0, '{key}')"),
            status: 200,
            text: r#""rows_inserted":1"#,
        }
    }

    async fn send(&self, api: &Api) -> Result<Response> {
        let api = api.with_key(&self.key);
        match self.path.ends_with("/sql") {
            true => api.send(Method::POST, &self.path, self.body.clone()).await,
            false => {
                api.post_json(&self.path, &serde_json::from_str(&self.body)?)
                    .await
            }
        }
    }

    /// Sends it until it is known what came of it, and gives its position back.
    async fn settle(&self, api: &Api) -> Result<Option<String>> {
        let answer = until("it is known what came of it", async || {
            let answer = self.send(api).await?;
            let is_open =
                [StatusCode::GATEWAY_TIMEOUT, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status);
            ensure!(!is_open, "{} {}", answer.status, answer.text());
            Ok(answer)
        })
        .await?;
        let (status, text) = (answer.status.as_u16(), answer.text());
        if status != self.status || !text.contains(self.text) {
            bail!("{}: {status} {text}, not {} {}", self.key, self.status, self.text);
        }
        let position = answer.headers.get("rafttimedb-position");
        Ok(position.map(|it| it.to_str().map(str::to_owned)).transpose()?)
    }
}

#[test]
fn a_call_that_is_sent_again_counts_once_whatever_dies() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let apis: Vec<Api> = scene.cluster.client_addrs().into_iter().map(Api::new).collect();
        let apis: Vec<Api> = apis.iter().map(|api| api.with_token(&scene.owner)).collect();
        let mut calls = vec![
            Keyed::add("added"),
            Keyed::call("failed", "fail", &json!(["too large"]), FAILED, "too large"),
            Keyed::sql("written"),
        ];
        let mut positions = Vec::new();
        for call in &calls {
            positions.push(call.settle(&apis[0]).await?);
        }
        ensure!(positions[0].is_some() && positions[2].is_some(), "{positions:?}");

        // What is under way when the node dies is there or not: nobody has heard.
        let under_way: Vec<Keyed> = (0..UNDER_WAY)
            .map(|number| Keyed::add(&format!("under way {number}")))
            .collect();
        let sent = under_way.iter().map(|call| {
            let (call, api) = (call.clone(), apis[0].clone());
            tokio::spawn(async move { call.send(&api).await })
        });
        let sent: Vec<_> = sent.collect();
        scene.cluster.node_mut(1).kill9().await?;
        drop(sent);
        calls.extend(under_way);

        for (place, call) in calls.iter().enumerate() {
            let position = call.settle(&apis[1]).await?;
            if let Some(first) = positions.get(place) {
                ensure!(position == *first, "{}: {position:?}, not {first:?}", call.key);
            }
            let mut other = call.clone();
            other.body = match call.path.ends_with("/sql") {
                true => "INSERT INTO secret (id, text) VALUES (0, 'other')".to_owned(),
                false => json!(["other", 1]).to_string(),
            };
            let refused = other.send(&apis[2]).await?;
            ensure!(
                refused.status == StatusCode::UNPROCESSABLE_ENTITY,
                "{}: {} {}",
                call.key,
                refused.status,
                refused.text()
            );
        }

        // It is in the log, and so is what came of it: no node need remember.
        for node in [2, 3] {
            scene.cluster.node_mut(node).kill9().await?;
        }
        for node in 1..=3 {
            scene.cluster.restart(node)?;
        }
        scene.cluster.wait_ready(PATIENCE).await?;
        for (place, call) in calls.iter().enumerate() {
            let position = call.settle(&apis[place % apis.len()]).await?;
            if let Some(first) = positions.get(place) {
                ensure!(position == *first, "{}: {position:?}, not {first:?}", call.key);
            }
        }

        scene.identical().await?;
        let (server, database) = scene.server(1).await?;
        let rows = demo_module::rows(&server, &database).await?;
        let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        names.sort_unstable();
        let mut expected: Vec<&str> = calls
            .iter()
            .filter(|call| call.path.ends_with(demo_module::ADD))
            .map(|call| call.key.as_str())
            .collect();
        expected.sort_unstable();
        ensure!(names == expected, "{names:?}");
        let texts = rtdb_testkit::sql::select(&server, &database, "SELECT text FROM secret").await?;
        let texts = texts.column("text")?;
        ensure!(texts.len() == 1, "{texts:?}");
        texts.first().context("no row")?;
        scene.end().await
    });
}

/// A client's own connection id.
const CONNECTION: &str = "0123456789abcdef0123456789abcdef";

/// What a node says of one of its calls, once it is over: the word, and an error.
async fn outcome(api: &Api, request_id: u32) -> Result<(String, String)> {
    let path = format!("/v1/database/{DATABASE}/outcome?connection_id={CONNECTION}&request_id={request_id}");
    until("the connection is over", async || {
        let answer: Value = api.get(&path).await?;
        let word = answer["outcome"].as_str().context("no outcome")?.to_owned();
        ensure!(word != "open", "it goes on");
        Ok((word, answer["error"].as_str().unwrap_or_default().to_owned()))
    })
    .await
}

#[test]
fn who_has_lost_a_connection_hears_what_became_of_its_calls() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let addrs = scene.cluster.client_addrs();
        let connect = Connect {
            parameters: format!("&connection_id={CONNECTION}"),
            wire: Wire::usual()?,
            ..Connect::new(&addrs[0], DATABASE).with_token(&scene.owner)
        };
        let mut client = Client::connect(&connect).await?;
        let other = Api::new(&addrs[1]).with_token(&scene.owner);
        let added = client
            .call(demo_module::ADD, &demo_module::add("answered", 1))
            .await?;
        let failed = client.call("fail", &Args::new().str("too large")).await?;
        client.flush().await?;
        let known = async |request_id, word: &str, error: &str| {
            until("it is there", async || {
                let (said, why) = outcome(&other, request_id).await?;
                ensure!(said == word && why.contains(error), "{said} {why}");
                Ok(())
            })
            .await
        };
        known(added, "committed", "").await?;
        known(failed, "failed", "too large").await?;

        let mut under_way = Vec::new();
        for number in 0..UNDER_WAY {
            let name = format!("under way {number}");
            let request_id = client.call(demo_module::ADD, &demo_module::add(&name, 1)).await?;
            under_way.push((request_id, name));
        }
        client.flush().await?;
        scene.cluster.node_mut(1).kill9().await?;
        let mut expected = vec!["answered".to_owned()];
        for (request_id, name) in under_way {
            match outcome(&other, request_id).await?.0.as_str() {
                "committed" => expected.push(name),
                "none" => {}
                word => bail!("{name}: {word}"),
            }
        }
        ensure!(outcome(&other, u32::MAX).await?.0 == "none");
        let stranger = Api::new(&addrs[1]);
        let stranger = stranger.with_token(stranger.new_token().await?);
        ensure!(outcome(&stranger, added).await?.0 == "unknown", "it is another's");

        scene.cluster.restart(1)?;
        scene.identical().await?;
        let (server, database) = scene.server(1).await?;
        let rows = demo_module::rows(&server, &database).await?;
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        ensure!(names == expected, "{names:?}, not {expected:?}");
        scene.end().await
    });
}
