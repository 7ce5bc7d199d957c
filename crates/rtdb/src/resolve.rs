//! `rtdb resolve`.

use serde_json::json;

use crate::admin::{Admin, AdminError};

/// Says that the replica of `node` is right, where a database's replicas contradict each other without a majority.
pub(crate) fn run(admin: &Admin, database: &str, node: u64) -> Result<(), AdminError> {
    let answer = admin.post("/cluster/resolve", &json!({ "database": database, "node": node }))?;
    if !answer.status.is_success() {
        return Err(admin.refused(&answer));
    }
    println!(
        "The replica of node {node} is the right one of {database}. It takes calls again; replicas that differ are set aside."
    );
    Ok(())
}
