//! Databases of a plain SpacetimeDB that move into a cluster.

use anyhow::{Context, ensure};
use http::StatusCode;
use rtdb_testkit::client::{Client, Connect};
use rtdb_testkit::server::{self, PlainServer};
use rtdb_testkit::{demo_module, poison_module, sql};
use serde_json::{Value, json};

use crate::support::{DATABASE, PATIENCE, Scene, program, run, until};

/// What tells who is connected, and what is done when somebody leaves.
const OF_CLIENTS: [&str; 2] = ["presence", "visit"];

#[test]
fn a_plain_servers_database_moves_in_with_its_rows_and_numbers() {
    run(async {
        let folder = tempfile::tempdir()?;
        let plain = PlainServer::start(&server::binary()?, folder.path()).await?;
        let owner = plain.api().new_token().await?;
        let there = plain.api().with_token(&owner);
        let module = folder.path().join("module.wasm");
        std::fs::write(&module, demo_module::wasm()?)?;
        there.publish(DATABASE, demo_module::wasm()?).await?;
        for nth in 0..50 {
            let path = format!("/v1/database/{DATABASE}/call/add");
            let answer = there
                .post_json(&path, &json!([format!("row {nth}"), nth]))
                .await?;
            ensure!(answer.status == StatusCode::OK, "{}", answer.text());
        }
        let _client = Client::connect(&Connect::new(plain.addr().to_owned(), DATABASE)).await?;
        let info: Value = there.get(&format!("/v1/database/{DATABASE}")).await?;
        let identity = info["database_identity"]["__identity__"]
            .as_str()
            .context("no identity")?;
        let identity = identity.trim_start_matches("0x").to_owned();
        until("the client is there", async || {
            let rows = sql::select(&there, DATABASE, "SELECT * FROM presence").await?;
            ensure!(rows.len() == 1);
            Ok(())
        })
        .await?;
        let before = sql::dump(&there, DATABASE).await?;

        // With its keys, its tokens are good here, too.
        let key = |name: &str| folder.path().join(name).display().to_string();
        let keys = [
            "--stdb-jwt-pub-key",
            &key("id.pub"),
            "--stdb-jwt-priv-key",
            &key("id.key"),
        ];
        let mut scene = Scene::bare(3, |config| config.arguments.extend(keys.map(str::to_owned))).await?;
        scene.cluster.init(PATIENCE).await?;
        scene.cluster.wait_ready(PATIENCE).await?;
        let url = format!("http://{}", scene.cluster.node(2).raft_addr());
        let from = format!("http://{}", plain.addr());
        let import = async |database: &str, module: &std::path::Path, token: &str| {
            let module = module.to_str().context("a path")?;
            let args = [
                "import",
                "--from",
                &from,
                "--database",
                database,
                "--module",
                module,
                "--token",
                token,
                "--cluster",
                &url,
            ];
            let output = program("rtdb", args).await?;
            let said = [output.stdout, output.stderr].concat();
            anyhow::Ok((
                output.status.success(),
                String::from_utf8_lossy(&said).into_owned(),
            ))
        };
        let other = folder.path().join("other.wasm");
        std::fs::write(&other, poison_module::eats_when_loaded()?)?;
        let stranger = plain.api().new_token().await?;
        for (database, module, token, says) in [
            (DATABASE, &module, stranger.as_str(), "does not own"),
            (DATABASE, &module, "nonsense", "no token"),
            ("nothing", &module, owner.as_str(), "has no database"),
        ] {
            let (well, said) = import(database, module, token).await?;
            ensure!(!well && said.contains(says), "{said}");
        }
        let (well, said) = import(DATABASE, &other, &owner).await?;
        ensure!(!well, "{said}");

        let (well, said) = import(DATABASE, &module, &owner).await?;
        ensure!(
            well && said.contains(&format!("Imported {DATABASE} ({identity})")),
            "{said}"
        );
        scene.owner = owner;
        let still = |dump: &[(String, Vec<String>)]| -> Vec<(String, Vec<String>)> {
            let own = dump.iter().filter(|(table, _)| !table.starts_with("rtdb_"));
            own.filter(|(table, _)| !OF_CLIENTS.contains(&table.as_str()))
                .cloned()
                .collect()
        };
        let dumps = until("the client of then counts as gone", async || {
            let dumps = scene.cluster.dumps(DATABASE, &scene.owner).await?;
            for dump in &dumps {
                let present = dump
                    .iter()
                    .find(|(table, _)| table == "presence")
                    .context("no such table")?;
                ensure!(present.1.is_empty(), "{present:?}");
            }
            Ok(dumps)
        })
        .await?;
        for dump in &dumps {
            ensure!(still(dump) == still(&before), "other rows");
        }

        // Numbers go on behind all that were ever given out.
        let stranger = scene.cluster.node(1).api().new_token().await?;
        let here = scene.cluster.node(1).api().with_token(&stranger);
        let answer = here
            .post_json(&format!("/v1/database/{DATABASE}/call/add"), &json!(["new", 1]))
            .await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.text());
        let rows = sql::select(&here, DATABASE, "SELECT id FROM counter WHERE name = 'new'").await?;
        let id: u64 = rows.sorted()[0].trim_matches(['[', ']']).trim().parse()?;
        ensure!(id > 51, "{id} was given out before");
        scene.no_alarms()?;
        scene.end().await
    });
}
