//! `rtdb add-node`, `remove-node`, `promote`, `demote`, `transfer-leader` and `members`.

use serde::Deserialize;
use serde_json::json;

use crate::admin::{Admin, AdminError, Answer};
use crate::status::table;

/// What `GET /cluster/members` answers, and what a change leaves.
#[derive(Debug, Deserialize)]
struct Members {
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    id: u64,
    raft_addr: String,
    client_addr: String,
    votes: bool,
    never_votes: bool,
    leads: Vec<String>,
}

pub(crate) fn add(admin: &Admin, node: u64, addr: &str, learner: bool) -> Result<(), AdminError> {
    let body = json!({ "node": node, "addr": addr, "learner": learner });
    let members = changed(admin, admin.post("/cluster/members", &body)?)?;
    let it = members.iter().find(|member| member.id == node);
    match it {
        Some(Member { votes: true, .. }) => println!("Node {node} is a member at {addr}, and votes."),
        _ if learner => println!("Node {node} is a member at {addr}. It never votes."),
        _ => {
            println!("Node {node} is a member at {addr}. It votes once it has caught up: see `rtdb members`.")
        }
    }
    Ok(())
}

pub(crate) fn remove(admin: &Admin, node: u64, force: bool) -> Result<(), AdminError> {
    let answer = admin.delete(&format!("/cluster/members/{node}?force={force}"))?;
    let members = changed(admin, answer)?;
    println!("Node {node} is no member. {} nodes remain.", members.len());
    Ok(())
}

pub(crate) fn promote(admin: &Admin, node: u64) -> Result<(), AdminError> {
    changed(
        admin,
        admin.post(&format!("/cluster/members/{node}/promote"), &json!({}))?,
    )?;
    println!("Node {node} votes as soon as it has caught up: see `rtdb members`.");
    Ok(())
}

pub(crate) fn demote(admin: &Admin, node: u64, force: bool) -> Result<(), AdminError> {
    let answer = admin.post(
        &format!("/cluster/members/{node}/demote?force={force}"),
        &json!({}),
    )?;
    changed(admin, answer)?;
    println!("Node {node} only follows from now on.");
    Ok(())
}

pub(crate) fn lead(admin: &Admin, node: u64, group: Option<&str>) -> Result<(), AdminError> {
    let query = group.map(|group| format!("?group={group}")).unwrap_or_default();
    let answer = admin.post(&format!("/cluster/members/{node}/lead{query}"), &json!({}))?;
    changed(admin, answer)?;
    println!("Node {node} leads {}.", group.unwrap_or("all groups"));
    Ok(())
}

/// The node itself is asked, at the address that any other knows.
pub(crate) fn drain(admin: &Admin, node: u64, undo: bool) -> Result<(), AdminError> {
    let members = changed(admin, admin.get("/cluster/members")?)?;
    let Some(member) = members.iter().find(|member| member.id == node) else {
        return Err(admin.no_member(node));
    };
    let admin = Admin::new(&member.raft_addr);
    let answer = match undo {
        false => admin.post("/cluster/drain", &json!({}))?,
        true => admin.delete("/cluster/drain")?,
    };
    let members = changed(&admin, answer)?;
    let leads = members
        .iter()
        .find(|member| member.id == node)
        .map(|member| member.leads.join(" "));
    match leads.filter(|leads| !undo && !leads.is_empty()) {
        _ if undo => println!("Node {node} takes clients again, and may lead."),
        None => println!("Node {node} is drained: clients are turned away, and it leads nothing."),
        Some(leads) => println!("Node {node} is drained, and still leads {leads}: no other node is fit to."),
    }
    Ok(())
}

pub(crate) fn list(admin: &Admin, json: bool) -> Result<(), AdminError> {
    let answer = admin.get("/cluster/members")?;
    if json && answer.status.is_success() {
        println!("{}", answer.body.trim_end());
        return Ok(());
    }
    print!("{}", render(&changed(admin, answer)?));
    Ok(())
}

fn changed(admin: &Admin, answer: Answer) -> Result<Vec<Member>, AdminError> {
    let Members { members } = admin.json(answer)?;
    Ok(members)
}

fn render(members: &[Member]) -> String {
    let rows = members.iter().map(|member| {
        let votes = match (member.votes, member.never_votes) {
            (true, _) => "yes",
            (false, true) => "never",
            (false, false) => "once it has caught up",
        };
        let leads = match member.leads.is_empty() {
            true => "-".to_owned(),
            false => member.leads.join(" "),
        };
        vec![
            member.id.to_string(),
            member.raft_addr.clone(),
            member.client_addr.clone(),
            votes.to_owned(),
            leads,
        ]
    });
    let mut text = String::new();
    table(&mut text, ["NODE", "RAFT", "CLIENTS", "VOTES", "LEADS"], rows);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_votes_is_shown() {
        let member = |id, votes, never_votes, leads: &[&str]| Member {
            id,
            raft_addr: format!("n{id}:4001"),
            client_addr: format!("n{id}:3001"),
            votes,
            never_votes,
            leads: leads.iter().map(|it| (*it).to_owned()).collect(),
        };
        let shown = render(&[
            member(1, true, false, &["meta", "shard-0"]),
            member(2, false, true, &[]),
            member(3, false, false, &[]),
        ]);
        let expected = "
NODE  RAFT     CLIENTS  VOTES                  LEADS
1     n1:4001  n1:3001  yes                    meta shard-0
2     n2:4001  n2:3001  never                  -
3     n3:4001  n3:3001  once it has caught up  -
";
        assert_eq!(shown, expected);
    }
}
