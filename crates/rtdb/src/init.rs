//! `rtdb init`.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::admin::{Admin, AdminError};

/// A node to be: `id=host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    id: u64,
    addr: String,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("write it as ID=HOST:PORT with a number from 1 and the raft port, such as 1=node1:4001")]
pub(crate) struct NotAMember;

impl FromStr for Member {
    type Err = NotAMember;

    fn from_str(text: &str) -> Result<Self, NotAMember> {
        let (id, addr) = text.split_once('=').ok_or(NotAMember)?;
        let id = id.parse().ok().filter(|&id| id > 0).ok_or(NotAMember)?;
        let (host, port) = addr.rsplit_once(':').ok_or(NotAMember)?;
        let port: u16 = port.parse().map_err(|_| NotAMember)?;
        if host.is_empty() || host.contains('/') || port == 0 {
            return Err(NotAMember);
        }
        Ok(Self {
            id,
            addr: addr.to_string(),
        })
    }
}

#[derive(Debug, Error)]
pub(crate) enum InitError {
    #[error("node {0} is listed twice")]
    Id(u64),
    #[error("{0} is listed twice")]
    Addr(String),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Asks the first of `members` to form the cluster.
pub(crate) fn run(members: &[Member]) -> Result<(), InitError> {
    let nodes = nodes(members)?;
    let Some(first) = members.first() else {
        return Ok(());
    };
    let admin = Admin::new(&first.addr);
    let answer = admin.post("/cluster/init", &json!({ "nodes": nodes }))?;
    if !answer.status.is_success() {
        return Err(admin.refused(&answer).into());
    }
    let answer: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let cluster = answer["cluster_id"]
        .as_str()
        .map(|id| format!(" {id}"))
        .unwrap_or_default();
    if answer["already"].as_bool() == Some(true) {
        println!("Cluster{cluster} is initialised already, with these nodes; nothing changed.");
    } else {
        println!(
            "Cluster{cluster} initialised with {} node{}.",
            nodes.len(),
            if nodes.len() == 1 { "" } else { "s" }
        );
    }
    Ok(())
}

/// The request's `nodes`: raft address by id, each only once.
fn nodes(members: &[Member]) -> Result<Map<String, Value>, InitError> {
    let mut by_addr = BTreeMap::new();
    let mut nodes = Map::new();
    for member in members {
        if nodes
            .insert(member.id.to_string(), member.addr.clone().into())
            .is_some()
        {
            return Err(InitError::Id(member.id));
        }
        if by_addr.insert(&member.addr, member.id).is_some() {
            return Err(InitError::Addr(member.addr.clone()));
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_and_checked() {
        assert_eq!(
            "2=node2:4001".parse(),
            Ok(Member {
                id: 2,
                addr: "node2:4001".to_string()
            })
        );
        assert_eq!(
            "3=[::1]:4001".parse(),
            Ok(Member {
                id: 3,
                addr: "[::1]:4001".to_string()
            })
        );
        for wrong in [
            "",
            "node2:4001",
            "0=node:4001",
            "x=node:4001",
            "1=node",
            "1=:4001",
            "1=node:x",
            "1=http://n:1",
        ] {
            assert_eq!(wrong.parse::<Member>(), Err(NotAMember), "{wrong}");
        }
    }

    #[test]
    fn a_node_is_listed_once() {
        let members = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        assert!(matches!(
            nodes(&members(&["1=a:1", "1=b:1"])),
            Err(InitError::Id(1))
        ));
        assert!(matches!(
            nodes(&members(&["1=a:1", "2=a:1"])),
            Err(InitError::Addr(_))
        ));
        assert_eq!(nodes(&members(&["1=a:1", "2=b:1"])).unwrap().len(), 2);
    }
}
