//! `rtdb status`: a node's view of the cluster, as tables.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Deserialize;

use crate::admin::{Admin, AdminError};

/// What `GET /cluster/status` answers.
#[derive(Debug, Deserialize)]
struct Status {
    node_id: u64,
    #[serde(default)]
    cluster_id: Option<String>,
    version: String,
    ready: bool,
    #[serde(default)]
    waiting_for: Option<String>,
    #[serde(default)]
    troubles: Vec<String>,
    spacetimedb: SpacetimeDb,
    groups: Vec<Group>,
    databases: Vec<Database>,
    nodes: Vec<Node>,
    sessions: u64,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct SpacetimeDb {
    url: Option<String>,
    version: Option<String>,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Group {
    group: String,
    term: u64,
    state: String,
    leader: Option<Leader>,
    last_log_index: u64,
    committed_index: u64,
    applied_index: u64,
    voters: Vec<u64>,
    #[serde(default)]
    learners: Vec<u64>,
}

#[derive(Debug, Deserialize)]
struct Leader {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct Database {
    identity: String,
    #[serde(default)]
    names: Vec<String>,
    applied: String,
    /// None while the node's SpacetimeDB is down.
    #[serde(default)]
    digest: Option<String>,
    in_flight: u64,
    #[serde(default)]
    lag_commands: u64,
    #[serde(default)]
    lag_ms: u64,
    #[serde(default)]
    slowed: bool,
    #[serde(default)]
    stuck: Option<Stuck>,
    #[serde(default)]
    set_aside: Option<String>,
    #[serde(default)]
    diverged: Vec<Diverged>,
    #[serde(default)]
    split: Option<Split>,
}

#[derive(Debug, Deserialize)]
struct Diverged {
    node: u64,
    after: String,
    by: String,
}

#[derive(Debug, Deserialize)]
struct Split {
    after: String,
    by: String,
    nodes: Vec<u64>,
}

/// A command that stops the node's server each time.
#[derive(Debug, Deserialize)]
struct Stuck {
    position: String,
    attempts: u32,
    nodes: Vec<u64>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: u64,
    raft_addr: String,
    #[serde(default)]
    client_addr: Option<String>,
    #[serde(default)]
    spacetimedb_version: String,
    #[serde(default)]
    cpu: String,
}

/// Prints the status; the exit status says whether the node is ready.
pub(crate) fn run(admin: &Admin, json: bool) -> Result<ExitCode, AdminError> {
    let answer = admin.get("/cluster/status")?;
    if !answer.status.is_success() {
        return Err(admin.refused(&answer));
    }
    let status: Status = serde_json::from_str(&answer.body).map_err(|error| admin.not_a_node(error))?;
    if json {
        println!("{}", answer.body.trim_end());
    } else {
        print!("{}{}", render(&status), elsewhere(&status));
    }
    Ok(if status.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints what the node is in each group, a line each.
pub(crate) fn state(admin: &Admin) -> Result<(), AdminError> {
    let status: Status = admin.json(admin.get("/cluster/status")?)?;
    for group in &status.groups {
        println!("{} {}", group.group, group.state);
    }
    Ok(())
}

/// What other nodes have set aside: each alone knows of itself. One that does not answer is no news of this.
fn elsewhere(status: &Status) -> String {
    let others = status.nodes.iter().filter(|node| node.id != status.node_id);
    let mut text = String::new();
    for Node { id, raft_addr, .. } in others {
        let admin = Admin::new(raft_addr);
        let other = admin
            .get("/cluster/status")
            .and_then(|answer| admin.json::<Status>(answer));
        for database in other.iter().flat_map(|other| &other.databases) {
            if let Some(reason) = &database.set_aside {
                let name = database.names.first().unwrap_or(&database.identity);
                let _ = writeln!(text, "\nSET ASIDE: node {id} does not serve {name}: {reason}");
            }
        }
    }
    text
}

fn render(status: &Status) -> String {
    let cluster = status
        .cluster_id
        .as_deref()
        .map_or("no cluster yet: run `rtdb init`".to_string(), |id| {
            format!("cluster {id}")
        });
    let server = &status.spacetimedb;
    let (url, version) = (
        server.url.as_deref().unwrap_or("-"),
        server.version.as_deref().unwrap_or("version unknown"),
    );
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut text = format!(
        "node {} ({ready}), {cluster}\nrafttimedb {}, SpacetimeDB {version} at {url} ({}), {} client sessions\n",
        status.node_id, status.version, server.state, status.sessions
    );
    for warning in &status.warnings {
        let _ = writeln!(text, "WARNING: {warning}");
    }
    for trouble in &status.troubles {
        let _ = writeln!(text, "NOT FIT TO LEAD: {trouble}");
    }
    if let Some(waiting_for) = &status.waiting_for {
        let _ = writeln!(text, "waiting for {waiting_for}");
    }
    let nodes = status.nodes.iter().map(|node| {
        let leads: Vec<&str> = status
            .groups
            .iter()
            .filter(|group| is_leader(group, node.id))
            .map(|group| group.group.as_str())
            .collect();
        vec![
            node.id.to_string(),
            node.raft_addr.clone(),
            node.client_addr.clone().unwrap_or_else(dash),
            or_dash(leads.join(" ")),
            or_dash(node.spacetimedb_version.clone()),
            or_dash(node.cpu.clone()),
        ]
    });
    table(
        &mut text,
        ["NODE", "RAFT", "CLIENTS", "LEADS", "SPACETIMEDB", "CPU"],
        nodes,
    );
    let groups = status.groups.iter().map(|group| {
        let leader = group
            .leader
            .as_ref()
            .map_or_else(|| "none".to_string(), |leader| leader.id.to_string());
        let indexes =
            [group.last_log_index, group.committed_index, group.applied_index].map(|index| index.to_string());
        let [log, committed, applied] = indexes;
        let mut members = list(&group.voters);
        if !group.learners.is_empty() {
            let _ = write!(members, " (learning: {})", list(&group.learners));
        }
        vec![
            group.group.clone(),
            group.state.clone(),
            leader,
            group.term.to_string(),
            log,
            committed,
            applied,
            members,
        ]
    });
    table(
        &mut text,
        [
            "GROUP",
            "THIS NODE",
            "LEADER",
            "TERM",
            "LOG",
            "COMMITTED",
            "APPLIED",
            "MEMBERS",
        ],
        groups,
    );
    let name = |database: &Database| match database.names.is_empty() {
        true => database.identity.clone(),
        false => database.names.join(" "),
    };
    let databases = status.databases.iter().map(|database| {
        vec![
            name(database),
            database.applied.clone(),
            database.in_flight.to_string(),
            match database.lag_commands {
                0 => dash(),
                commands => format!("{commands} ({} ms)", database.lag_ms),
            },
            database.digest.clone().unwrap_or_else(dash),
        ]
    });
    table(
        &mut text,
        ["DATABASE", "APPLIED", "IN FLIGHT", "BEHIND", "DIGEST"],
        databases,
    );
    for database in &status.databases {
        differences(&mut text, database);
        if database.slowed {
            let _ = writeln!(
                text,
                "\nSLOWED: {}: most of its replicas are far behind, and its calls wait for them",
                name(database)
            );
        }
        if let Some(stuck) = &database.stuck {
            let _ = writeln!(
                text,
                "\nSTUCK: {}: the command at {} has stopped SpacetimeDB {} times (nodes stuck there: {})",
                name(database),
                stuck.position,
                stuck.attempts,
                list(&stuck.nodes)
            );
        }
    }
    text
}

/// What is wrong with a database's replicas, and what to do.
fn differences(text: &mut String, database: &Database) {
    let name = database.names.first().unwrap_or(&database.identity);
    if let Some(reason) = &database.set_aside {
        let _ = writeln!(text, "\nSET ASIDE: this node does not serve {name}: {reason}");
    }
    for Diverged { node, after, by } in &database.diverged {
        let _ = writeln!(
            text,
            "\nDIVERGED: node {node}'s replica of {name}, after {after} and by {by}"
        );
    }
    if let Some(Split { after, by, nodes }) = &database.split {
        let _ = writeln!(
            text,
            "\nSPLIT: the replicas of {name} on nodes {} differ after {after} and by {by}, without a majority. It takes no \
             calls until `rtdb resolve --database {name} --node N` says whose is right.",
            list(nodes)
        );
    }
}

fn is_leader(group: &Group, node: u64) -> bool {
    group.leader.as_ref().is_some_and(|leader| leader.id == node)
}

fn dash() -> String {
    "-".to_string()
}

fn or_dash(text: String) -> String {
    if text.is_empty() { dash() } else { text }
}

fn list(ids: &[u64]) -> String {
    or_dash(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

/// Columns as wide as their widest cell. No rows, no table.
pub(crate) fn table<const N: usize>(
    out: &mut String,
    heads: [&str; N],
    rows: impl Iterator<Item = Vec<String>>,
) {
    let mut rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return;
    }
    rows.insert(0, heads.iter().map(ToString::to_string).collect());
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    out.push('\n');
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{
        "node_id": 2, "cluster_id": "c0ffee", "version": "0.1.0", "ready": true,
        "spacetimedb": {"url": "http://127.0.0.1:3010", "version": "1.2.0", "state": "running"},
        "groups": [
            {"group": "meta", "term": 3, "state": "follower", "leader": {"id": 1, "raft_addr": "n1:4001", "client_addr": "n1:3001"},
             "last_log_index": 9, "committed_index": 9, "applied_index": 9, "voters": [1, 2], "learners": [3]},
            {"group": "shard-0", "term": 4, "state": "candidate", "leader": null,
             "last_log_index": 120, "committed_index": 118, "applied_index": 118, "voters": [1, 2], "learners": []}
        ],
        "databases": [{"identity": "c200", "names": ["demo"], "applied": "118.3", "index": 7733251, "digest": "00ff00ff00ff00ff", "in_flight": 4,
             "lag_commands": 40000, "lag_ms": 5200, "slowed": true,
             "set_aside": "it has diverged", "diverged": [{"node": 2, "after": "90.1", "by": "118.0"}]},
            {"identity": "c201", "names": [], "applied": "9.0", "index": 589824, "in_flight": 0,
             "stuck": {"position": "10.1", "attempts": 3, "nodes": [1, 2]},
             "split": {"after": "0.0", "by": "9.0", "nodes": [1, 3]}}],
        "nodes": [{"id": 1, "raft_addr": "n1:4001", "client_addr": "n1:3001", "spacetimedb_version": "1.2.0", "cpu": "x86_64"}, {"id": 2, "raft_addr": "n2:4001", "client_addr": null}],
        "sessions": 12
    }"#;

    #[test]
    fn a_status_is_shown_as_tables() {
        let status: Status = serde_json::from_str(STATUS).unwrap();
        let expected = "\
node 2 (ready), cluster c0ffee
rafttimedb 0.1.0, SpacetimeDB 1.2.0 at http://127.0.0.1:3010 (running), 12 client sessions

NODE  RAFT     CLIENTS  LEADS  SPACETIMEDB  CPU
1     n1:4001  n1:3001  meta   1.2.0        x86_64
2     n2:4001  -        -      -            -

GROUP    THIS NODE  LEADER  TERM  LOG  COMMITTED  APPLIED  MEMBERS
meta     follower   1       3     9    9          9        1 2 (learning: 3)
shard-0  candidate  none    4     120  118        118      1 2

DATABASE  APPLIED  IN FLIGHT  BEHIND           DIGEST
demo      118.3    4          40000 (5200 ms)  00ff00ff00ff00ff
c201      9.0      0          -                -

SET ASIDE: this node does not serve demo: it has diverged

DIVERGED: node 2's replica of demo, after 90.1 and by 118.0

SLOWED: demo: most of its replicas are far behind, and its calls wait for them

SPLIT: the replicas of c201 on nodes 1 3 differ after 0.0 and by 9.0, without a majority. It takes no calls until `rtdb resolve --database c201 --node N` says whose is right.

STUCK: c201: the command at 10.1 has stopped SpacetimeDB 3 times (nodes stuck there: 1 2)
";
        assert_eq!(render(&status), expected);
    }
}
