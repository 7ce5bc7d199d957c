//! `rtdb verify`: are all replicas of a database the same, row for row?

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::admin::{Admin, AdminError};

/// Rows that are shown of a table, for each node.
const ROWS_SHOWN_MAX: usize = 20;

/// How long a replica may take to come to the position and read its rows.
const READ_MAX: Duration = Duration::from_secs(120);

/// What `rtdb verify` exits with if no difference was found, and not all tables or replicas could be compared.
const NOT_COMPARED: u8 = 3;

/// Between two questions whether it has.
const ASK: Duration = Duration::from_millis(200);

#[derive(Debug, Error)]
pub(crate) enum VerifyError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("it does not come to {position} within {} s: it is down, or behind", READ_MAX.as_secs())]
    Behind { position: String },
    #[error("only one replica could be read, that of node {0}: there is nothing to compare it with")]
    Alone(u64),
    #[error("no replica could be read")]
    None,
}

/// Where the replicas are compared.
#[derive(Debug, Deserialize)]
struct Begun {
    identity: String,
    position: String,
    index: u64,
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: u64,
    raft_addr: String,
}

/// A replica's tables.
#[derive(Debug, Deserialize)]
struct Contents {
    tables: BTreeMap<String, Table>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
struct Table {
    #[serde(default)]
    rows: u64,
    #[serde(default)]
    hash: String,
    /// Why it is not compared.
    #[serde(default)]
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Rows {
    rows: Vec<String>,
}

/// Compares, prints, and exits with 1 if the replicas differ, or with [`NOT_COMPARED`].
pub(crate) fn run(admin: &Admin, database: &str) -> Result<ExitCode, VerifyError> {
    let begun: Begun = admin.json(admin.post("/cluster/verify", &json!({ "database": database }))?)?;
    let mut replicas = BTreeMap::new();
    let mut missing = 0;
    let until = Instant::now() + READ_MAX;
    for node in &begun.nodes {
        let admin = Admin::new(&node.raft_addr);
        match wait(&admin, &begun, until) {
            Ok(contents) => {
                replicas.insert(node.id, (admin, contents));
            }
            Err(error) => {
                missing += 1;
                println!("node {}: not compared: {error}", node.id);
            }
        }
    }
    match replicas.keys().next() {
        None => return Err(VerifyError::None),
        Some(only) if replicas.len() == 1 => return Err(VerifyError::Alone(*only)),
        Some(_) => {}
    }
    let mut names: Vec<&String> = replicas.values().flat_map(|(_, it)| it.tables.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let (mut rows, mut differ, mut unread) = (0, 0, 0);
    for name in names {
        let tables: BTreeMap<u64, Table> = replicas
            .iter()
            .map(|(node, (_, it))| (*node, it.tables.get(name).cloned().unwrap_or_default()))
            .collect();
        if let Some(error) = tables.values().find_map(|table| table.error.as_ref()) {
            unread += 1;
            println!("{name}: not compared: {error}");
            continue;
        }
        let first = tables.values().next().cloned().unwrap_or_default();
        if tables.values().all(|table| *table == first) {
            rows += first.rows;
            continue;
        }
        differ += 1;
        println!("{name}: the replicas differ");
        let mut all = BTreeMap::new();
        for (node, (admin, _)) in &replicas {
            let path = format!("/cluster/contents/{}/{}/{name}", begun.identity, begun.index);
            let held: Rows = admin.json(admin.get(&path)?)?;
            all.insert(*node, held.rows);
        }
        print!("{}", differences(&all));
    }
    if differ == 0 {
        let nodes = replicas.keys().map(u64::to_string).collect::<Vec<_>>();
        let (nodes, position) = (nodes.join(", "), &begun.position);
        if unread > 0 {
            println!(
                "Whether the replicas of {database} on nodes {nodes} are the same at {position} is not known: {unread} tables \
                 were not compared. In the others they are: {rows} rows."
            );
            return Ok(NOT_COMPARED.into());
        }
        println!("The replicas of {database} on nodes {nodes} are the same at {position}: {rows} rows.");
        if missing > 0 {
            return Ok(NOT_COMPARED.into());
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "Compared at {}. If the digests agree all the same, a server has lost or changed rows by itself.",
        begun.position
    );
    Ok(ExitCode::FAILURE)
}

/// Waits until a node has read its rows.
fn wait(admin: &Admin, begun: &Begun, until: Instant) -> Result<Contents, VerifyError> {
    let path = format!("/cluster/contents/{}/{}", begun.identity, begun.index);
    loop {
        match admin.get(&path) {
            Ok(answer) if answer.status.is_success() => return Ok(admin.json(answer)?),
            Ok(answer) if answer.status.as_u16() != 404 => return Err(admin.refused(&answer).into()),
            Err(error) if Instant::now() >= until => return Err(error.into()),
            _ if Instant::now() >= until => {
                let position = begun.position.clone();
                return Err(VerifyError::Behind { position });
            }
            _ => std::thread::sleep(ASK),
        }
    }
}

/// The rows that not all nodes hold equally often, each with the nodes that do and how often.
fn differences(held: &BTreeMap<u64, Vec<String>>) -> String {
    let mut counts: BTreeMap<&str, BTreeMap<u64, usize>> = BTreeMap::new();
    for (node, rows) in held {
        for row in rows {
            *counts.entry(row).or_default().entry(*node).or_default() += 1;
        }
    }
    let differing: Vec<_> = counts
        .iter()
        .filter(|(_, nodes)| {
            let count = nodes.values().next();
            nodes.len() != held.len() || nodes.values().any(|other| Some(other) != count)
        })
        .collect();
    let mut text = String::new();
    for (row, nodes) in differing.iter().take(ROWS_SHOWN_MAX * held.len()) {
        let nodes: Vec<String> = nodes
            .iter()
            .map(|(node, count)| {
                if *count == 1 {
                    node.to_string()
                } else {
                    format!("{node} ({count} times)")
                }
            })
            .collect();
        text.push_str(&format!("  on node {} only: {row}\n", nodes.join(", ")));
    }
    let hidden = differing.len().saturating_sub(ROWS_SHOWN_MAX * held.len());
    if hidden > 0 {
        text.push_str(&format!("  and {hidden} more rows\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_not_all_hold_are_shown_with_who_does() {
        let rows = |rows: &[&str]| rows.iter().map(ToString::to_string).collect();
        let held = [
            (1, rows(&["[1]", "[2]", "[2]"])),
            (2, rows(&["[1]", "[2]", "[2]", "[3]"])),
            (3, rows(&["[1]", "[2]"])),
        ];
        let expected = "  on node 1 (2 times), 2 (2 times), 3 only: [2]\n  on node 2 only: [3]\n";
        assert_eq!(differences(&held.into()), expected);
    }
}
