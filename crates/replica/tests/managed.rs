//! A managed server's life, with a program that only looks like SpacetimeDB: this test itself, started again.

// Tests have time and tasks of their own.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::disallowed_types
)]
#![allow(clippy::unwrap_used)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rtdb_replica::{Keys, LocalServer, ServerConfig, ServerLimits};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// No step of a test may take longer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The variable that tells the program where to listen.
const ADDR: &str = "FAKE_SERVER_ADDR";
/// The variable that tells the program, and a node that is to die, which folder is the node's.
const FOLDER: &str = "FAKE_NODE_FOLDER";
/// The file in that folder that tells the program what to do.
const MODE: &str = "mode";

/// Writes a program that answers `--version` as SpacetimeDB does, and is [`fake_server`] else.
fn program(folder: &Path) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n\
         case \"$1 $2\" in\n\
         --version*) echo 'spacetimedb tool version 1.2.0;'; exit;;\n\
         *--help) exit;;\n\
         esac\n\
         export {ADDR}=\"$5\" {FOLDER}='{}'\n\
         exec '{}' --exact fake_server --ignored --nocapture\n",
        folder.display(),
        this.display()
    );
    let program = folder.join("program");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// Not a test: what the program does.
#[test]
#[ignore = "is the server of the other tests"]
fn fake_server() {
    let (Ok(addr), Ok(folder)) = (std::env::var(ADDR), std::env::var(FOLDER)) else {
        return;
    };
    let listener = TcpListener::bind(addr).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        match std::fs::read_to_string(Path::new(&folder).join(MODE)).as_deref() {
            Ok("hang") => loop {
                std::thread::sleep(TIMEOUT);
            },
            Ok("eat") => {
                let memory = std::hint::black_box(vec![1_u8; 512 << 20]);
                std::thread::sleep(TIMEOUT);
                drop(memory);
            }
            _ => {}
        }
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}

struct Node {
    folder: tempfile::TempDir,
    server: LocalServer,
}

async fn start(folder: &Path, limits: ServerLimits) -> LocalServer {
    let config = ServerConfig::Managed {
        program: program(folder),
        data_dir: folder.to_owned(),
        limits,
    };
    let server = LocalServer::start(config, &Keys::generate().unwrap())
        .await
        .unwrap();
    tokio::time::timeout(TIMEOUT, server.up()).await.unwrap();
    server
}

fn pid(folder: &Path) -> Option<i32> {
    let pid = std::fs::read_to_string(folder.join("spacetimedb/pid")).ok()?;
    pid.parse().ok()
}

impl Node {
    async fn start(limits: ServerLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = start(folder.path(), limits).await;
        Self { folder, server }
    }

    /// Does what makes the server end, and waits until another one is up.
    async fn restarted(&self, end: impl FnOnce(&Self)) {
        let (pid, life) = (pid(self.folder.path()), self.server.life());
        end(self);
        let another = async {
            while self.server.life() == life {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            self.mode("serve");
            self.server.up().await;
        };
        tokio::time::timeout(TIMEOUT, another).await.unwrap();
        assert_ne!(self::pid(self.folder.path()), pid);
    }

    fn mode(&self, mode: &str) {
        std::fs::write(self.folder.path().join(MODE), mode).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_killed_and_started_again() {
    let limits = ServerLimits {
        idle_hang_max: Duration::from_millis(500),
        ..ServerLimits::default()
    };
    let node = Node::start(limits).await;
    node.restarted(|node| node.mode("hang")).await;
    node.restarted(|node| {
        let pid = Pid::from_raw(pid(node.folder.path()).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
    })
    .await;
    node.server.stop().await;
    assert_eq!(pid(node.folder.path()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_too_much_memory_is_killed_and_started_again() {
    let limits = ServerLimits {
        memory_max: Some(256 << 20),
        ..ServerLimits::default()
    };
    let node = Node::start(limits).await;
    node.restarted(|node| node.mode("eat")).await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_life_is_ended_once() {
    let node = Node::start(ServerLimits::default()).await;
    let life = node.server.life();
    node.restarted(|node| assert!(node.server.end_life(life, "a call takes too long".into())))
        .await;
    // It is over: the present one goes on.
    let present = (node.server.life(), pid(node.folder.path()));
    node.server.end_life(life, "again".into());
    node.server.http().get_text("/v1/ping").await.unwrap();
    assert_eq!((node.server.life(), pid(node.folder.path())), present);
    node.server.stop().await;
}

#[tokio::test]
async fn an_external_servers_life_is_not_ours() {
    let url = "http://127.0.0.1:1".to_owned();
    let server = LocalServer::start(ServerConfig::External { url }, &Keys::generate().unwrap())
        .await
        .unwrap();
    assert!(!server.end_life(server.life(), "a call takes too long".into()));
    server.stop().await;
}

/// Not a test: a node that is killed.
#[test]
#[ignore = "is the node of the test below"]
fn fake_node() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _server = runtime.block_on(start(Path::new(&folder), ServerLimits::default()));
    std::fs::write(Path::new(&folder).join("started"), "").unwrap();
    std::thread::sleep(TIMEOUT);
}

/// Whether a process is there, not counting one that has ended and waits for its parent to notice.
fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn until(is: impl Fn() -> bool) {
    let waited = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, waited).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_dies_with_its_node_whatever_that_dies_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fake_node", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until(|| folder.path().join("started").exists()).await;
    let server = pid(folder.path()).unwrap();
    assert!(lives(server));
    node.kill().unwrap();
    node.wait().unwrap();
    until(|| !lives(server)).await;
}
