//! Nodes that find each other, without `rtdb init`.

use anyhow::{Context, Result, ensure};
use rtdb_testkit::cluster::ClusterConfig;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;

use crate::support::{PATIENCE, Scene, program, run, until};

fn founded_by(config: &mut ClusterConfig, more: &[&str]) {
    let all = [
        "--bootstrap-expect",
        "3",
        "--preset",
        "local",
        "--election-timeout-ms",
        "1000",
    ];
    config
        .arguments
        .extend(all.iter().chain(more).map(|it| (*it).to_owned()));
}

async fn members(scene: &Scene, node: u64) -> Result<Vec<u64>> {
    let members: Value = scene.cluster.node(node).admin().get("/cluster/members").await?;
    let members = members["members"].as_array().context("no list")?;
    let voters = members.iter().filter(|member| member["votes"] == true);
    Ok(voters.filter_map(|member| member["id"].as_u64()).collect())
}

async fn has(scene: &Scene, voters: &[u64]) -> Result<()> {
    until(&format!("{voters:?} vote"), async || {
        let found = members(scene, voters[0]).await?;
        ensure!(found == voters, "{found:?} do");
        Ok(())
    })
    .await?;
    scene.cluster.wait_ready(PATIENCE).await
}

#[test]
fn three_nodes_are_a_cluster_and_others_join_it() {
    run(async {
        let mut scene = Scene::bare(3, |config| founded_by(config, &[])).await?;
        // One dies while it is founded.
        until("node 2 answers", async || scene.cluster.node(2).status().await).await?;
        scene.cluster.node_mut(2).kill9().await?;
        scene.cluster.restart(2)?;
        has(&scene, &[1, 2, 3]).await?;

        let late = scene.cluster.start_spare()?;
        has(&scene, &[1, 2, 3, late]).await?;

        // A node that was removed asks to be taken in again, once its directory is empty.
        let url = format!("http://{}", scene.cluster.node(1).raft_addr());
        let removed = program("rtdb", ["remove-node", "--node-id", "3", "--cluster", &url]).await?;
        ensure!(removed.status.success(), "{removed:?}");
        scene.cluster.node_mut(3).ended(Duration::from_secs(30)).await?;
        std::fs::remove_dir_all(scene.cluster.node(3).data_dir())?;
        scene.cluster.restart(3)?;
        has(&scene, &[1, 2, 3, late]).await?;
        scene.end().await
    });
}

/// Answers every question with the nodes' ports, as SRV records.
async fn dns(socket: UdpSocket, ports: Arc<Mutex<Vec<u16>>>) -> Result<()> {
    let mut question = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut question).await?;
        let ports = ports.lock().expect("no panic").clone();
        // The question ends where the record of 11 bytes begins that says how much is taken.
        let mut answer = question[..length - 11].to_vec();
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[6..8].copy_from_slice(&(ports.len() as u16).to_be_bytes());
        answer[10..12].copy_from_slice(&[0, 0]);
        for port in ports {
            let host = b"\x03127\x010\x010\x011\0";
            answer.extend([
                0xc0,
                12,
                0,
                33,
                0,
                1,
                0,
                0,
                0,
                5,
                0,
                6 + host.len() as u8,
                0,
                0,
                0,
                0,
            ]);
            answer.extend(port.to_be_bytes());
            answer.extend(host);
        }
        socket.send_to(&answer, from).await?;
    }
}

#[test]
fn nodes_find_each_other_by_dns() {
    run(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let (server, ports) = (socket.local_addr()?, Arc::<Mutex<Vec<u16>>>::default());
        let serving = tokio::spawn(dns(socket, ports.clone()));
        let scene = Scene::bare(3, |config| {
            let server = server.to_string();
            let discovery = [
                "--discovery",
                "dns:_raft._tcp.rafttimedb.test.",
                "--dns-server",
                &server,
            ];
            founded_by(config, &discovery);
            config.lists_peers = false;
        })
        .await?;
        let addrs = scene.cluster.nodes().iter().map(|node| node.raft_addr().parse());
        let found: Vec<SocketAddr> = addrs.collect::<Result<_, _>>()?;
        *ports.lock().expect("no panic") = found.iter().map(SocketAddr::port).collect();
        has(&scene, &[1, 2, 3]).await?;
        serving.abort();
        scene.end().await
    });
}
