//! What the outside may get wrong: clear errors, no panic, nothing lost, nobody else harmed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rtdb_replica::Keys;
use rtdb_testkit::client::{Client, Connect, Wire};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::demo_module::{ADD, add};
use rtdb_testkit::{kill9, ports};
use serde_json::json;
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, answered, program, run, undisturbed};

/// Acknowledged calls that show that others go on unharmed.
const SOME: u64 = 200;

const MIB: usize = 1 << 20;

#[test]
fn what_one_client_gets_wrong_harms_no_other() {
    run(async {
        let scene = Scene::start(1).await?;
        let clients = Clients::start(scene.loads(0, 4));
        answered(&clients, SOME).await?;
        uploads(&scene).await?;
        answered(&clients, SOME).await?;
        frames(&scene).await?;
        answered(&clients, SOME).await?;
        tokens(&scene).await?;
        answered(&clients, SOME).await?;
        statements(&scene).await?;
        answered(&clients, SOME).await?;
        let histories = clients.stop().await?;
        undisturbed(&histories, |_| true)?;
        let verdict = scene.settled(&histories).await?;
        ensure!(verdict.unknown == 0, "{verdict:?}");
        scene.end().await
    });
}

/// Modules that are none.
async fn uploads(scene: &Scene) -> Result<()> {
    let api = scene.cluster.node(1).api().with_token(&scene.owner);
    let module = |wat: &str| wat::parse_str(wat).expect("a module");
    let exports = r#"
        (memory (export "memory") 1)
        (func (export "__describe_module__") (param i32))
        (func (export "__call_reducer__") (param i32 i64 i64 i64 i64 i64 i64 i64 i32 i32) (result i32) i32.const 0)"#;
    let other_abi = format!(
        r#"(module (import "spacetime_99.0" "table_id_from_name" (func (param i32 i32 i32) (result i32))) {exports})"#
    );
    let host = format!(r#"(module (import "env" "random" (func (result i32))) {exports})"#);
    let silent = format!("(module {exports})");
    let uploads = [
        (Vec::new(), "not a WebAssembly module"),
        (b"console.log('hello')".to_vec(), ""),
        (b"\x7fELF\x02\x01\x01\xff".to_vec(), "not a WebAssembly module"),
        (b"\0asm\x01\0\0\0\xff\xff\xff\xff".to_vec(), ""),
        (module("(module)"), "not a SpacetimeDB module"),
        (module(&other_abi), "spacetime_99.0"),
        (module(&host), "env"),
        (module(&silent), ""),
    ];
    for (wasm, why) in uploads {
        // As a new database, and over the one that is in use.
        for name in ["other", DATABASE] {
            let answer = api
                .send(Method::PUT, &format!("/v1/database/{name}"), wasm.clone())
                .await?;
            ensure!(
                answer.status == StatusCode::BAD_REQUEST,
                "{} {}",
                answer.status,
                answer.text()
            );
            ensure!(
                answer.text().len() > 20 && answer.text().contains(why),
                "{}",
                answer.text()
            );
        }
    }
    let other = api.send(Method::GET, "/v1/database/other", "").await?;
    ensure!(
        other.status == StatusCode::NOT_FOUND,
        "a refused upload left a database"
    );
    Ok(())
}

/// SQL that can't be served, or that asks for what is not the client's.
async fn statements(scene: &Scene) -> Result<()> {
    let api = scene.cluster.node(1).api().with_token(&scene.owner);
    let path = format!("/v1/database/{DATABASE}/sql");
    let refused = [
        ("SELECT * FROM rtdb_state", StatusCode::BAD_REQUEST, "table"),
        (
            "SELECT * FROM st_module",
            StatusCode::NOT_IMPLEMENTED,
            "st_module",
        ),
        ("DELETE FROM rtdb_state", StatusCode::BAD_REQUEST, "table"),
        (
            "/* /* */ SELECT ' */ DELETE FROM st_table --'",
            StatusCode::NOT_IMPLEMENTED,
            "st_table",
        ),
        ("SET row_limit = 1", StatusCode::NOT_IMPLEMENTED, "SET"),
        ("make me a sandwich", StatusCode::BAD_REQUEST, "make"),
        ("SELECT * FROM", StatusCode::BAD_REQUEST, ""),
    ];
    for (sql, status, why) in refused {
        let answer = api.send(Method::POST, &path, sql).await?;
        let text = answer.text();
        ensure!(
            answer.status == status && text.contains(why),
            "{sql}: {} {text}",
            answer.status
        );
        ensure!(!text.is_empty(), "{sql}: refused without a word");
    }
    Ok(())
}

/// Frames that are no messages: each ends its own connection, with a reason.
async fn frames(scene: &Scene) -> Result<()> {
    let to = Connect::new(scene.cluster.node(1).client_addr(), DATABASE);
    let closed_by = async |frame: Bytes, wire: Wire| {
        let mut client = Client::connect(&Connect { wire, ..to.clone() }).await?;
        // The server may hang up before it has read all.
        let _ = client.send_raw(frame).await;
        let frame = timeout(PATIENCE, client.closed()).await?;
        anyhow::Ok(frame.map(|frame| (u16::from(frame.code), frame.reason.to_string())))
    };
    let (code, reason) = closed_by(vec![0; 40 * MIB].into(), Wire::V1)
        .await?
        .context("40 MiB: no close frame")?;
    ensure!(code == 1009 && reason.contains("bytes"), "{code} {reason}");

    let call = |request: &[u8]| Bytes::copy_from_slice(request);
    let garbage = [
        call(&[]),
        call(&[0xff]),
        call(&[0]),
        call(&[0xff; 1000]),
        // A call whose reducer's name is said to be 4 GiB long.
        call(&[0, 0xff, 0xff, 0xff, 0xff, b'a', b'd', b'd']),
        // One whose name is not UTF-8, and one with bytes behind it.
        call(&[0, 1, 0, 0, 0, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
        call(&[0, 1, 0, 0, 0, b'x', 0, 0, 0, 0, 1, 0, 0, 0, 0, 9, 9, 9]),
        call(&noise(1)),
        call(&noise(300)),
        call(&noise(70_000)),
    ];
    for frame in garbage {
        let shown = format!("{:?}", &frame[..frame.len().min(16)]);
        let (code, reason) = closed_by(frame, Wire::V1)
            .await?
            .with_context(|| format!("{shown}: no close frame"))?;
        ensure!(code == 1011 && !reason.is_empty(), "{shown}: {code} {reason}");
    }

    let mut client = Client::connect(&to).await?;
    client.send_text("{\"CallReducer\":{}}").await?;
    let frame = timeout(PATIENCE, client.closed())
        .await?
        .context("text: no close frame")?;
    ensure!(
        u16::from(frame.code) == 1003 && frame.reason.contains("text"),
        "{frame:?}"
    );

    // Arguments that do not fit the reducer are an error of that call alone.
    let mut client = Client::connect(&to).await?;
    let short = client
        .call_and_wait(ADD, &rtdb_testkit::client::Args::new())
        .await?;
    ensure!(short.result.is_err(), "{short:?}");
    let unknown = client.call_and_wait("no_such_reducer", &add("x", 1)).await?;
    ensure!(unknown.result.is_err(), "{unknown:?}");
    // So is what only the log may call.
    for reducer in ["init", "connected", "rtdb_mark"] {
        let refused = client.call_and_wait(reducer, &add("x", 1)).await?;
        ensure!(refused.result.is_err(), "{reducer}: {refused:?}");
    }
    let good = client.call_and_wait(ADD, &add("", 1)).await?;
    ensure!(good.result == Err("name required".to_string()), "{good:?}");
    client.close().await;
    Ok(())
}

/// Bytes without sense, the same at every run; the first is no message's tag.
fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u64;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    })
    .take(len)
    .collect();
    bytes[0] = 0x77;
    bytes
}

/// Tokens that nobody should believe.
async fn tokens(scene: &Scene) -> Result<()> {
    let node = scene.cluster.node(1);
    let ours = keys_of(node.data_dir())?;
    let foreign = Keys::generate()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let token = |keys: &Keys, issuer: &str, expires: Option<u64>| {
        let claims = json!({ "iss": issuer, "sub": "somebody", "aud": ["spacetimedb"], "iat": now - 7_200, "exp": expires });
        let key = EncodingKey::from_ec_pem(keys.private_pem().as_bytes())?;
        anyhow::Ok(jsonwebtoken::encode(
            &Header::new(Algorithm::ES256),
            &claims,
            &key,
        )?)
    };
    // One that is good, to see that the others are refused for what is wrong with them.
    let good = token(&ours, "localhost", Some(now + 3_600))?;
    let to = Connect::new(node.client_addr(), DATABASE);
    Client::connect(&to.clone().with_token(good.clone()))
        .await?
        .close()
        .await;

    let nobody = format!("http://127.0.0.1:{}", ports::free(0)?);
    let mut forged = good.clone().into_bytes();
    let middle = good.find('.').context("a token has dots")? + 10;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let bad = [
        token(&ours, "localhost", Some(now - 3_600))?,
        token(&foreign, "localhost", None)?,
        token(&foreign, &nobody, Some(now + 3_600))?,
        String::from_utf8(forged)?,
        good[..good.len() - 10].to_string(),
        "nonsense".to_string(),
        "a.b.c".to_string(),
    ];
    for token in bad {
        let refused = Client::connect(&to.clone().with_token(token.clone())).await;
        let why = format!(
            "{:#}",
            refused.err().with_context(|| format!("{token} was believed"))?
        );
        ensure!(why.contains("401"), "{token}: {why}");
        let api = node.api().with_token(&token);
        let answer = api
            .send(
                Method::POST,
                &format!("/v1/database/{DATABASE}/sql"),
                "SELECT * FROM secret",
            )
            .await?;
        ensure!(
            answer.status == StatusCode::UNAUTHORIZED,
            "{token}: {} {}",
            answer.status,
            answer.text()
        );
    }
    Ok(())
}

/// The key pair that a node has written for its SpacetimeDB.
fn keys_of(data_dir: &Path) -> Result<Keys> {
    let folder = data_dir.join("spacetimedb");
    let mut pem = std::fs::read_dir(folder)?
        .filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok())
        .filter(|text| text.starts_with("-----BEGIN"))
        .collect::<Vec<_>>();
    pem.sort_by_key(|text| text.contains("PUBLIC"));
    ensure!(pem.len() == 2, "{} keys", pem.len());
    let public = pem.pop().context("no public key")?;
    let private = pem.pop().context("no private key")?;
    Ok(Keys::from_pem(private, public)?)
}

/// A node started by hand, without a cluster's harness.
struct Lone {
    id: u64,
    raft: u16,
    peers: String,
    data_dir: PathBuf,
}

impl Lone {
    /// Runs it until it gives up.
    async fn refused(&self) -> Result<String> {
        let Self {
            id,
            raft,
            peers,
            data_dir,
        } = self;
        let args = [
            "--node-id".to_string(),
            id.to_string(),
            "--peers".to_string(),
            peers.clone(),
            "--listen-addr".to_string(),
            format!("127.0.0.1:{}", ports::free(0)?),
            "--raft-addr".to_string(),
            format!("127.0.0.1:{raft}"),
            "--data-dir".to_string(),
            data_dir.display().to_string(),
            "--stdb-bin".to_string(),
            std::env::var("SPACETIMEDB_BIN")?,
        ];
        let ended = program("rafttimedb", args).await;
        if ended.is_err()
            && let Ok(pid) = std::fs::read_to_string(data_dir.join("spacetimedb/pid"))
        {
            // It ran on, and was killed: its server must not stay.
            pid.trim().parse().into_iter().for_each(kill9);
        }
        let Output { status, stderr, .. } = ended?;
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        ensure!(!stderr.contains("panicked"), "{stderr}");
        ensure!(
            status.code().is_some_and(|code| code != 0),
            "ended with {status}: {stderr}"
        );
        Ok(stderr)
    }
}

#[test]
fn two_nodes_with_one_id_are_told() {
    run(async {
        let folder = tempfile::tempdir()?;
        let ports = [ports::free(0)?, ports::free(0)?];
        let lone = |own: usize| Lone {
            id: 1,
            raft: ports[own],
            peers: format!("127.0.0.1:{}", ports[1 - own]),
            data_dir: folder.path().join(own.to_string()),
        };
        let (first, second) = (lone(0), lone(1));
        // Whoever hears of the other first ends; then there is only one.
        let told = tokio::select! {
            told = first.refused() => told?,
            told = second.refused() => told?,
        };
        ensure!(told.contains("two nodes have the id 1"), "{told}");

        // A second node 2, beside a cluster that serves.
        let scene = Scene::start(3).await?;
        let clients = Clients::start(scene.loads(0, 1));
        answered(&clients, SOME).await?;
        let peers: Vec<&str> = scene
            .cluster
            .nodes()
            .iter()
            .map(|node| node.raft_addr())
            .collect();
        let imposter = Lone {
            id: 2,
            raft: ports::free(0)?,
            peers: peers.join(","),
            data_dir: folder.path().join("imposter"),
        };
        let told = imposter.refused().await?;
        ensure!(told.contains("two nodes have the id 2"), "{told}");
        answered(&clients, SOME).await?;
        let histories = clients.stop().await?;
        undisturbed(&histories, |_| true)?;
        scene.settled(&histories).await?;
        scene.end().await
    });
}

#[test]
fn a_data_directory_that_is_not_this_nodes_is_left_alone() {
    run(async {
        let ours = Scene::start(1).await?;
        let mut theirs = Scene::bare(2, |_| {}).await?;
        theirs.cluster.init(PATIENCE).await?;
        theirs.cluster.wait_ready(PATIENCE).await?;
        let clients = Clients::start(ours.loads(0, 2));
        answered(&clients, SOME).await?;
        theirs.cluster.node_mut(2).terminate().await?;
        let lone = |id, data_dir: &Path| {
            anyhow::Ok(Lone {
                id,
                raft: ports::free(0)?,
                peers: format!("1={}", ours.cluster.node(1).raft_addr()),
                data_dir: data_dir.to_owned(),
            })
        };

        // Their node, pointed at our cluster.
        let data_dir = theirs.cluster.node(2).data_dir().to_owned();
        let told = lone(2, &data_dir)?.refused().await?;
        ensure!(
            told.contains("belongs to another cluster") && told.contains("--peers"),
            "{told}"
        );

        // Another id on its data.
        let told = lone(3, &data_dir)?.refused().await?;
        ensure!(told.contains("belongs to node 2, not to node 3"), "{told}");

        // Data that is in use.
        let in_use = theirs.cluster.node(1).data_dir().to_owned();
        let told = lone(1, &in_use)?.refused().await?;
        ensure!(told.contains("in use by another process"), "{told}");

        // Data of a program yet to come, and data of another program.
        let format = data_dir.join("FORMAT");
        let before = std::fs::read_to_string(&format)?;
        std::fs::write(&format, "rafttimedb 99\n")?;
        let told = lone(2, &data_dir)?.refused().await?;
        ensure!(told.contains("written by a newer version"), "{told}");
        std::fs::write(&format, "something else\n")?;
        let told = lone(2, &data_dir)?.refused().await?;
        ensure!(told.contains("is damaged"), "{told}");

        // None of that has changed it.
        std::fs::write(&format, before)?;
        theirs.cluster.restart(2)?;
        theirs.cluster.wait_ready(PATIENCE).await?;
        theirs.end().await?;
        answered(&clients, SOME).await?;
        let histories = clients.stop().await?;
        undisturbed(&histories, |_| true)?;
        ours.settled(&histories).await?;
        ours.end().await
    });
}

/// A small file system of its own; taken away when dropped.
struct Disk(PathBuf);

impl Disk {
    const BYTES: usize = 192 * MIB;

    /// `None` where this process may not mount.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let size = format!("size={}", Self::BYTES);
        let mut mount = Command::new("mount");
        let mounted = mount
            .args(["-t", "tmpfs", "-o", &size, "rafttimedb-e2e"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|mounted| mounted.status.success())
            .then(|| Self(at.to_owned()))
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> Result<PathBuf> {
        use std::io::Write;
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path)?;
        for chunk in [vec![0; MIB], vec![0; 512]] {
            while file.write_all(&chunk).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a node that is being killed may still hold files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_node_whose_disk_is_full_stops_and_loses_nothing() {
    run(async {
        let mut disk = None;
        let mut scene = Scene::with(3, |config| {
            disk = Disk::mount(&config.folder.join("node-3"));
            // The disk is small: less than what is kept free by default.
            let arguments = ["--disk-reserve-mb", "0", "--stdb-damage-wait-s", "3"];
            config.arguments = arguments.map(str::to_owned).to_vec();
        })
        .await?;
        let Some(disk) = disk else {
            eprintln!("skipped: no tmpfs can be mounted here");
            return scene.end().await;
        };
        let clients = Clients::start(scene.loads(0, 2));
        answered(&clients, SOME).await?;
        let filler = disk.fill()?;
        let status = scene.cluster.node_mut(3).ended(PATIENCE).await?;
        ensure!(
            status.code().is_some_and(|code| code != 0),
            "the node ended with {status}"
        );
        let log = std::fs::read_to_string(scene.cluster.node(3).log())?;
        ensure!(
            log.contains("No space left"),
            "{}",
            log.lines().last().unwrap_or_default()
        );
        scene.no_panics()?;
        answered(&clients, SOME).await?;

        std::fs::remove_file(filler)?;
        scene.cluster.restart(3)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        answered(&clients, SOME).await?;
        let histories = clients.stop().await?;
        undisturbed(&histories, |node| node != 3)?;
        scene.settled(&histories).await?;
        scene.end().await?;
        drop(disk);
        Ok(())
    });
}
