//! What nodes are made of, and what may differ between them for that.

use rtdb_consensus::command::SetNode;
use std::collections::BTreeMap;

/// The nodes of each kind, where it is known.
type Groups<'a> = BTreeMap<&'a str, Vec<u64>>;

/// In what the nodes differ although their replicas must not, for people: nothing, if they are all alike.
pub(crate) fn differences(nodes: &[SetNode]) -> Vec<String> {
    let (mut servers, mut cpus) = (Groups::new(), Groups::new());
    for node in nodes {
        let (server, cpu) = (node.spacetimedb_version.as_str(), node.cpu.as_str());
        for (groups, kind) in [(&mut servers, server), (&mut cpus, cpu)] {
            if !kind.is_empty() {
                groups.entry(kind).or_default().push(node.node);
            }
        }
    }
    let mut differences = Vec::new();
    if servers.len() > 1 {
        differences.push(format!(
            "the nodes run different versions of SpacetimeDB ({}): the fuel a call may use, the texts of errors and how \
             floating-point numbers are computed may differ between them; finish the upgrade soon",
            shown(&servers)
        ));
    }
    if cpus.len() > 1 {
        differences.push(format!(
            "the nodes have different kinds of CPU ({}): the bits of a NaN may differ between them in modules that were \
             published when they had not; publish those again",
            shown(&cpus)
        ));
    }
    differences
}

/// Whether the nodes have processors of different kinds, as far as that is known.
pub(crate) fn has_mixed_processors(nodes: &[SetNode]) -> bool {
    let mut cpus = nodes
        .iter()
        .map(|node| node.cpu.as_str())
        .filter(|cpu| !cpu.is_empty());
    let first = cpus.next();
    cpus.any(|cpu| Some(cpu) != first)
}

/// Whether the nodes run different versions of SpacetimeDB, as far as that is known.
pub(crate) fn has_mixed_servers(nodes: &[SetNode]) -> bool {
    let mut servers = nodes
        .iter()
        .map(|node| node.spacetimedb_version.as_str())
        .filter(|it| !it.is_empty());
    let first = servers.next();
    servers.any(|server| Some(server) != first)
}

fn shown(groups: &Groups<'_>) -> String {
    let shown: Vec<String> = groups
        .iter()
        .map(|(kind, nodes)| {
            let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
            format!("{kind} on {}", nodes.join(", "))
        })
        .collect();
    shown.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u64, server: &str, cpu: &str) -> SetNode {
        SetNode {
            node,
            spacetimedb_version: server.to_owned(),
            cpu: cpu.to_owned(),
            ..SetNode::default()
        }
    }

    #[test]
    fn only_what_differs_is_said() {
        let alike = [
            node(1, "2.8.3", "x86_64"),
            node(2, "2.8.3", "x86_64"),
            node(3, "", ""),
        ];
        assert!(differences(&alike).is_empty());
        assert!(!has_mixed_processors(&alike) && !has_mixed_servers(&alike));
        let mixed = [
            node(1, "2.8.3", "x86_64"),
            node(2, "2.8.1", "x86_64"),
            node(3, "2.8.3", "aarch64"),
        ];
        assert!(has_mixed_processors(&mixed) && has_mixed_servers(&mixed));
        let said = differences(&mixed);
        assert!(said[0].contains("(2.8.1 on 2; 2.8.3 on 1, 3)"), "{said:?}");
        assert!(said[1].contains("(aarch64 on 3; x86_64 on 1, 2)"), "{said:?}");
    }
}
