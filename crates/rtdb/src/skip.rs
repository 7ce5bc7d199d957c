//! `rtdb skip`.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use serde_json::json;

use crate::admin::{Admin, AdminError};

/// What the operator types to go on.
const CONSENT: &str = "skip";

/// Asks, unless `yes`, and gives the command up. The exit status says whether it was done.
pub(crate) fn run(admin: &Admin, database: &str, position: &str, yes: bool) -> Result<ExitCode, AdminError> {
    if !yes && !consents(&warning(database, position), &mut io::stdin().lock()) {
        eprintln!("rtdb: nothing was done");
        return Ok(ExitCode::FAILURE);
    }
    let body = json!({ "database": database, "position": position });
    let answer = admin.post("/cluster/skip", &body)?;
    if !answer.status.is_success() {
        return Err(admin.refused(&answer));
    }
    println!("Skipped: the command at {position} of {database} has failed, on every node.");
    Ok(ExitCode::SUCCESS)
}

fn warning(database: &str, position: &str) -> String {
    format!(
        "The command at {position} of {database} will count as failed, for good, on every node:\n\
         - its caller hears that it was not committed; what it should have changed is not changed;\n\
         - commands behind it are applied as if it had never been;\n\
         - a node that has applied it after all makes the whole database again from the log, without it.\n\
         If a node that is down now may have applied it, start that node first instead.\n\
         Type `{CONSENT}` to go on: "
    )
}

fn consents(question: &str, answer: &mut impl BufRead) -> bool {
    eprint!("{question}");
    // If it can't be shown, it can't be answered either.
    let _ = io::stderr().flush();
    let mut line = String::new();
    answer.read_line(&mut line).is_ok() && line.trim() == CONSENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_itself_is_consent() {
        let answered = |answer: &str| consents("", &mut answer.as_bytes());
        assert!(answered("skip\n"));
        for other in ["", "\n", "y\n", "yes\n", "no\n", "skip it\n"] {
            assert!(!answered(other), "{other}");
        }
        let warning = warning("demo", "118.3");
        assert!(warning.contains("118.3 of demo") && warning.contains("not committed"));
    }
}
