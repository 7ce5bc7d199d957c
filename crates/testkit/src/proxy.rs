//! The network between nodes: a proxy before each node's raft address, so that single links can be cut and slowed.
//!
//! A cut link loses no bytes and closes no connection: nothing passes until it is healed, as between machines whose
//! network is down for a while. All nodes reach a node by the same address, so the proxy tells the links apart by the
//! process that owns the other end of the connection, which `/proc` knows. So this works on Linux only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::sleep;

/// What is read from one side before it is written to the other, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks on their way in one direction of a connection.
const ON_ITS_WAY_MAX: usize = 64;

/// Delays from which on a millisecond more does not count.
const COARSE_FROM: Duration = Duration::from_millis(20);

/// How often the list of the machine's sockets is read for one that should be in it.
const LOOKUPS_MAX: usize = 5;

/// The links between the nodes of a cluster.
#[derive(Debug)]
pub struct Network {
    addrs: Vec<String>,
    shared: Arc<Shared>,
    listeners: Vec<AbortHandle>,
}

#[derive(Debug)]
struct Shared {
    links: watch::Sender<Links>,
    /// The process of each node.
    pids: Mutex<BTreeMap<u64, u32>>,
}

/// The condition of every link that isn't as it should be; a link has no direction.
#[derive(Clone, Debug, Default)]
struct Links {
    cut: BTreeSet<(u64, u64)>,
    delay: BTreeMap<(u64, u64), Duration>,
}

fn link(a: u64, b: u64) -> (u64, u64) {
    (a.min(b), a.max(b))
}

impl Network {
    /// A proxy before each of `targets`, the raft addresses of nodes 1, 2, ….
    pub(crate) async fn start(targets: &[String]) -> Result<Self> {
        let shared = Arc::new(Shared {
            links: watch::Sender::new(Links::default()),
            pids: Mutex::default(),
        });
        let mut network = Self {
            addrs: Vec::new(),
            shared,
            listeners: Vec::new(),
        };
        for (id, target) in (1..).zip(targets) {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            network.addrs.push(listener.local_addr()?.to_string());
            let serving = tokio::spawn(serve(listener, id, target.clone(), Arc::clone(&network.shared)));
            network.listeners.push(serving.abort_handle());
        }
        Ok(network)
    }

    pub(crate) fn addrs(&self) -> &[String] {
        &self.addrs
    }

    pub(crate) fn node_started(&self, id: u64, pid: u32) {
        self.shared
            .pids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, pid);
    }

    /// Nothing passes between `a` and `b` any more.
    pub fn cut(&self, a: u64, b: u64) {
        self.shared
            .links
            .send_if_modified(|links| links.cut.insert(link(a, b)));
    }

    /// Cuts `node` off from all others.
    pub fn isolate(&self, node: u64) {
        for other in (1..).take(self.addrs.len()).filter(|&other| other != node) {
            self.cut(node, other);
        }
    }

    /// Every chunk between `a` and `b` takes at least `delay`.
    pub fn delay(&self, a: u64, b: u64, delay: Duration) {
        self.shared
            .links
            .send_if_modified(|links| links.delay.insert(link(a, b), delay) != Some(delay));
    }

    /// All links are as they should be.
    pub fn heal(&self) {
        self.shared.links.send_replace(Links::default());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.listeners.iter().for_each(AbortHandle::abort);
    }
}

async fn serve(listener: TcpListener, to: u64, target: String, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        // Whose end can't be found might be a node's, which must not get past a cut: it has to connect again.
        let Some(socket) = stream.local_addr().ok().and_then(|ours| socket(peer, ours)) else {
            continue;
        };
        let from = owner(&socket, &shared);
        connections.spawn(carry(
            stream,
            target.clone(),
            from.map(|from| link(from, to)),
            Arc::clone(&shared),
        ));
    }
}

/// Carries one connection. `link` is none for one that comes from no node: the operator's, which is never cut.
async fn carry(stream: TcpStream, target: String, link: Option<(u64, u64)>, shared: Arc<Shared>) {
    let mut links = shared.links.subscribe();
    if links
        .wait_for(|links| link.is_none_or(|link| !links.cut.contains(&link)))
        .await
        .is_err()
    {
        return;
    }
    // A refused connection is shown to the other side by closing its own.
    let Ok(onward) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&stream, &onward] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let (from_read, from_write) = stream.into_split();
    let (to_read, to_write) = onward.into_split();
    tokio::join!(
        pump(from_read, to_write, link, links.clone()),
        pump(to_read, from_write, link, links)
    );
}

/// One direction. What is on its way is as late as the link makes it, not as late as what went before it and more.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: Option<(u64, u64)>,
    mut links: watch::Receiver<Links>,
) {
    let (sent, mut on_its_way) = mpsc::channel(ON_ITS_WAY_MAX);
    let reading = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            // The end of one side, orderly or not, becomes the end of the other, once the link lets it through.
            let read = from.read(&mut chunk).await.unwrap_or(0);
            chunk.truncate(read);
            if sent.send((Instant::now(), chunk)).await.is_err() || read == 0 {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((read_at, chunk)) = on_its_way.recv().await {
            let passes = links
                .wait_for(|links| link.is_none_or(|link| !links.cut.contains(&link)))
                .await;
            let delay = match (passes, link) {
                (Ok(links), Some(link)) => links.delay.get(&link).copied(),
                (Ok(_), None) => None,
                (Err(_), _) => return,
            };
            if let Some(delay) = delay {
                wait_until(read_at + delay).await;
            }
            if chunk.is_empty() || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = async { reading.await; pending().await } => {}
    }
}

/// To some ten microseconds: the runtime's timers are a millisecond apart, as much as a whole link may take.
async fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left >= COARSE_FROM {
        sleep(left).await;
    } else if !left.is_zero() {
        let slept = spawn_blocking(move || std::thread::sleep(due.saturating_duration_since(Instant::now())));
        // Only a runtime that ends does not let it.
        let _ = slept.await;
    }
}

/// The node whose process has `socket`.
fn owner(socket: &str, shared: &Shared) -> Option<u64> {
    let pids = shared.pids.lock().unwrap_or_else(PoisonError::into_inner);
    pids.iter()
        .find(|(_, pid)| holds(**pid, socket))
        .map(|(&id, _)| id)
}

/// The other end of a connection from `peer` to `ours`, as `/proc/<pid>/fd` names it: its inode is the tenth field of its
/// line in `/proc/net/tcp`. Other connections may use the same port, and a long list may be read with gaps.
fn socket(peer: SocketAddr, ours: SocketAddr) -> Option<String> {
    let address = |addr: SocketAddr| format!("0100007F:{:04X}", addr.port());
    let (local, remote) = (address(peer), address(ours));
    (0..LOOKUPS_MAX).find_map(|_| {
        let sockets = fs::read_to_string("/proc/net/tcp").ok()?;
        sockets.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let ends = (fields.get(1)?, fields.get(2)?);
            let inode = fields.get(9).filter(|inode| **inode != "0")?;
            (ends == (&local.as_str(), &remote.as_str())).then(|| format!("socket:[{inode}]"))
        })
    })
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files
        .filter_map(Result::ok)
        .any(|file| fs::read_link(file.path()).is_ok_and(|to| to == Path::new(socket)))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);

    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        addr
    }

    #[tokio::test]
    async fn a_cut_link_holds_bytes_back_and_a_healed_one_delivers_them() {
        let network = Network::start(&[echo().await, echo().await]).await.unwrap();
        // This process plays node 1, and talks to node 2.
        network.node_started(1, std::process::id());
        let mut stream = TcpStream::connect(&network.addrs()[1]).await.unwrap();
        let mut byte = [0];
        stream.write_all(b"a").await.unwrap();
        timeout(LONG, stream.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&byte, b"a");

        network.isolate(2);
        stream.write_all(b"b").await.unwrap();
        assert!(
            timeout(SHORT, stream.read_exact(&mut byte)).await.is_err(),
            "a cut link let a byte through"
        );

        network.heal();
        timeout(LONG, stream.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&byte, b"b");
    }

    #[tokio::test]
    async fn what_is_on_a_slow_link_is_late_together() {
        const BYTES: u32 = 20;
        let network = Network::start(&[echo().await, echo().await]).await.unwrap();
        network.node_started(1, std::process::id());
        let mut stream = TcpStream::connect(&network.addrs()[1]).await.unwrap();
        network.delay(1, 2, SHORT);
        let start = Instant::now();
        for _ in 0..BYTES {
            stream.write_all(b"a").await.unwrap();
            sleep(SHORT / 20).await;
        }
        let mut echoed = [0; BYTES as usize];
        timeout(LONG, stream.read_exact(&mut echoed))
            .await
            .unwrap()
            .unwrap();
        let took = start.elapsed();
        assert!(took >= 2 * SHORT, "an echo after {took:?}");
        assert!(took < BYTES * SHORT, "one after the other: {took:?}");
    }
}
