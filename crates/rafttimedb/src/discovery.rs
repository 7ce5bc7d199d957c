//! How a node comes into a cluster: whom it looks for, and where.

use crate::config::Config;
use crate::dns::{self, Resolver};
use crate::keys;
use crate::node::Node;
use anyhow::anyhow;
use rtdb_consensus::Bootstrap;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks into DNS.
const LOOK: Duration = Duration::from_secs(2);

/// How often a name is not found until that is said.
const SAID_AFTER: u32 = 5;

/// An element of `--discovery`: `dns:NAME[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discovery {
    name: String,
    /// If there is none, the name may be a service's, which says the ports.
    port: Option<u16>,
}

impl FromStr for Discovery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no way to find nodes: give dns:NAME or dns:NAME:PORT");
        let name = text.trim().strip_prefix("dns:").ok_or_else(wrong)?;
        let (name, port) = match name.split_once(':') {
            Some((name, port)) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (name, Some(port.ok_or_else(wrong)?))
            }
            None => (name, None),
        };
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(wrong());
        }
        let name = name.to_owned();
        Ok(Self { name, port })
    }
}

impl Discovery {
    /// `host:port` of whoever has the name now.
    async fn look(&self, resolver: &Resolver, port_else: u16) -> std::io::Result<BTreeSet<String>> {
        if let Some(port) = self.port {
            return dns::hosts(&self.name, port).await;
        }
        let services = resolver.services(&self.name).await;
        match services {
            Ok(found) if !found.is_empty() => Ok(found),
            // It may be hosts' name.
            services => match dns::hosts(&self.name, port_else).await {
                Ok(found) => Ok(found),
                Err(error) => Err(services.err().unwrap_or(error)),
            },
        }
    }
}

/// Has the node find a cluster or found one, if it is to, and ends only if it never will.
pub(crate) async fn bootstrap(node: &Node) -> anyhow::Result<()> {
    let config = &node.config;
    let (found, addrs) = watch::channel(config.looks_at());
    let settings = || keys::for_new_cluster(&config.server).map_err(|error| error.to_string());
    let founded = node.manager.bootstrap(plan(config), addrs, settings);
    tokio::select! {
        founded = founded => founded?,
        () = discover(config, &found) => return Err(anyhow!("nodes are not looked for any more")),
    }
    std::future::pending().await
}

fn plan(config: &Config) -> Bootstrap {
    let electors = config.electors();
    let me = config.node_id;
    if !electors.is_empty() && !electors.contains(&me) {
        tracing::info!(
            "this node is not one of {electors:?}, who found the cluster (--bootstrap-expect, --peers): it joins theirs"
        );
    }
    Bootstrap {
        looks: config.looks(),
        electors,
        window: Duration::from_millis(config.bootstrap_timeout_ms),
        share: config.bootstrap_threshold,
        alone: config.force_bootstrap,
    }
}

/// Looks into DNS, again and again.
async fn discover(config: &Config, found: &watch::Sender<BTreeSet<String>>) {
    if config.discovery.is_empty() {
        return std::future::pending().await;
    }
    let resolver = Resolver::new(config.dns_server);
    let mut failures = 0;
    loop {
        let mut addrs = config.looks_at();
        for discovery in &config.discovery {
            match discovery.look(&resolver, config.raft_addr.port()).await {
                Ok(more) => {
                    failures = 0;
                    addrs.extend(more);
                }
                Err(error) => {
                    failures += 1;
                    if failures % SAID_AFTER == 0 {
                        tracing::warn!("DNS finds nobody by the name {}: {error}", discovery.name);
                    }
                }
            }
        }
        found.send_if_modified(|known| {
            let is_new = *known != addrs;
            *known = addrs;
            is_new
        });
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ports_are_read() {
        let read = |text: &str| text.parse::<Discovery>().map(|it| (it.name, it.port));
        assert_eq!(read("dns:db.svc:4001"), Ok(("db.svc".to_owned(), Some(4001))));
        assert_eq!(read("dns:_raft._tcp.db"), Ok(("_raft._tcp.db".to_owned(), None)));
        for wrong in [
            "db",
            "dns:",
            "dns:a:0",
            "dns:a:x",
            "dns:a b",
            "srv:a",
            "dns:[::1]:1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
