//! What the local server's words speak of: the module, damage to a database's files, or troubles of its own.
//!
//! Only the first may become the outcome of a publication, which has to be the same on every node, and only the second is
//! a reason to make a database again from the log. The server answers 500 to all three (SpacetimeDB 1.2.0 and 2.8.3,
//! `log_and_500`), so that only its text tells. What is not known is a trouble of its own: it is waited for.

use http::StatusCode;
use rtdb_runtime::Instant;
use std::time::Duration;

/// What a server says whose machine or load is the matter, whatever else it says.
const TROUBLES: [&str; 9] = [
    "os error",
    "No space left",
    "annot allocate",
    "out of memory",
    "Too many open files",
    "timed out",
    "deadline has elapsed",
    "unable to lock",
    "already opened",
];

/// What it says of a module: in the order of its sources, from the compiler to the definition's validation.
const OF_MODULE: [&str; 62] = [
    // The engine.
    "WebAssembly translation error",
    "failed to parse WebAssembly module",
    "failed to compile",
    "Compilation error",
    "Invalid input WebAssembly code",
    "unknown import",
    "incompatible import type",
    "expected a WebAssembly module",
    "wasm trap",
    "wasm backtrace",
    // The interface.
    "there should be a memory export",
    "there should be a function called",
    "export to be a",
    "signature for",
    "malformed version string",
    "module cannot depend on both major version",
    "abi version",
    "unable to determine ABI",
    "setup function returned an error",
    "error getting module description",
    "error decoding module description",
    "bad signature for descriptor function",
    "unimplemented RawModuleDef version",
    // The definition.
    "is used for multiple",
    "Multiple reducers defined",
    "module contains invalid identifier",
    "which is forbidden",
    "Empty identifiers are forbidden",
    "is reserved by spacetimedb",
    "is not annotated with a custom ordering",
    "referenced by def",
    "has multiple primary key",
    "has duplicate columns",
    "more than 1 auto_inc",
    "No index found to support unique constraint",
    "Direct index does not support",
    "Hash indexes are not supported",
    "invalid sequence",
    "has invalid return type",
    "has invalid product_type_ref",
    "has invalid ref",
    "scheduled table",
    "error at reducer",
    "error at view",
    "error at typespace",
    "Missing type definition",
    "is primary key but has no unique constraint",
    "should have a type definition",
    "refers to a scheduled",
    "expected to have type",
    "reserved for system use",
    "Row-level security invalid",
    "Failed to deserialize default value",
    "Multiple default values",
    "multiple HTTP",
    "HTTP route",
    "lifecycle event",
    "Module validation errors",
    // What typechecking a row-level security rule says.
    "SqlError",
    "SqlParserError",
    "executing: `",
    "failed to create row-level security",
];

/// What it says of damaged files (SpacetimeDB's commit log, snapshots, and replay of both).
const OF_DAMAGE: [&str; 18] = [
    "out-of-order commit",
    "forked history",
    "failed to decode tx record",
    "checksum mismatch",
    "invalid commit encountered",
    "failed to fill whole buffer",
    "unexpected end of file",
    "Error replaying the commit log",
    "Expected tx offset",
    "Encountered corrupted",
    "Failed to BSATN deserialize",
    "Refusing to reconstruct",
    "Failed to restore datastore from snapshot",
    "Failed to bootstrap datastore",
    "No connected snapshot found",
    "Snapshot has incorrect database_identity",
    "Missing object",
    "database improperly initialized",
];

/// What it says of files that are of another database: after it was killed it may have forgotten one, and gives its number to
/// the next.
const OF_OTHERS: [&str; 2] = ["mismatched database identity", "mismatched owner identity"];

/// What a server quotes to the end of its answer: a rule, a query, what the module says itself.
const QUOTING: [&str; 4] = [
    "executing: ",
    "query: ",
    "failed to create row-level security: ",
    "setup function returned an error",
];

/// Whether an answer to a publication speaks of the module: 4xx does, if its text does not speak of something else.
pub(super) fn is_of_module(status: StatusCode, text: &str) -> bool {
    let says_so = match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => true,
        StatusCode::INTERNAL_SERVER_ERROR => has_any(text, &OF_MODULE),
        _ => false,
    };
    says_so && !is_trouble(text)
}

/// Whether a text speaks of the server's own troubles, in its own words: what it quotes may be of the module.
pub(super) fn is_trouble(text: &str) -> bool {
    has_any(&unquoted(text), &TROUBLES)
}

/// A text without what it quotes. An apostrophe within a word quotes nothing, nor does a mark without its other one.
fn unquoted(text: &str) -> String {
    let end = QUOTING.iter().filter_map(|it| text.find(it)).min();
    let mut rest = &text[..end.unwrap_or(text.len())];
    let mut own = String::new();
    while let Some(open) = rest.find(['`', '\'', '"']) {
        let (before, quoted) = rest.split_at(open);
        let (mark, inside) = quoted.split_at(1);
        let in_word = before.ends_with(char::is_alphanumeric) && inside.starts_with(char::is_alphanumeric);
        own.push_str(before);
        rest = match inside.split_once(mark) {
            Some((_, behind)) if !in_word => behind,
            _ => inside,
        };
    }
    own + rest
}

fn has_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// What a server has said of a database that it could not open.
#[derive(Debug, Default)]
pub(super) struct Damage {
    since: Option<Instant>,
}

impl Damage {
    /// The server could not open the database, and said why. Says whether it is to be made again: damage was named first
    /// so long ago as `wait` says, the database has not been opened since, and damage is named now.
    pub(super) fn named(&mut self, now: Instant, text: &str, wait: Duration) -> bool {
        if has_any(text, &OF_OTHERS) {
            return true;
        }
        // A module that can't be started has never been accepted: its creation was broken off.
        let is_damage = (has_any(text, &OF_DAMAGE) || has_any(text, &OF_MODULE)) && !is_trouble(text);
        if !is_damage {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now.duration_since(since) >= wait
    }

    /// The database is open, or is not there.
    pub(super) fn gone(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(180);
    const SERVER_ERROR: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

    #[test]
    fn files_of_another_database_are_not_waited_for() {
        let text = "failed to get or launch module host: mismatched owner identity: c2001e != c20030";
        let mut damage = Damage::default();
        assert!(damage.named(Instant::now(), text, WAIT));
        assert!(!damage.named(Instant::now(), "checksum mismatch", WAIT));
    }

    #[test]
    fn only_words_about_the_module_are_a_verdict() {
        for text in [
            "failed to parse WebAssembly module: unexpected end-of-file (at offset 0x8)",
            "there should be a memory export called \"memory\" but it does not exist",
            "abi version 10.4 is not supported (host implements 10.0)",
            "unable to determine ABI of module (may be on an spacetime version < 0.8)",
            "module contains invalid identifier: Empty identifiers are forbidden.",
            "wasm trap while calling \"__describe_module__\": wasm trap: wasm `unreachable` instruction executed",
            "name `a` is used for multiple entities",
        ] {
            assert!(is_of_module(SERVER_ERROR, text), "{text}");
        }
        for text in [
            "",
            "internal error",
            "No space left on device (os error 28)",
            "Cannot allocate memory (os error 12)",
            "failed to compile: mmap failed: Cannot allocate memory (os error 12)",
            "Too many open files (os error 24)",
            "unable to lock database c200 for update",
            "deadline has elapsed",
            "Database is already opened. Path: `replicas/1`. Error: locked",
        ] {
            assert!(!is_of_module(SERVER_ERROR, text), "{text}");
        }
    }

    #[test]
    fn a_status_of_the_clients_is_one_only_if_the_text_does_not_contradict() {
        let rejected =
            "Database update rejected: Adding a column x to table y requires a default value annotation";
        assert!(is_of_module(StatusCode::BAD_REQUEST, rejected));
        let full = "Failed to create or update the database: No space left on device (os error 28)";
        assert!(!is_of_module(StatusCode::BAD_REQUEST, full));
        // A token that has run out, too many requests, a proxy that gives up.
        for status in [
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
            StatusCode::NOT_FOUND,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
        ] {
            assert!(!is_of_module(status, "wasm trap"), "{status}");
        }
    }

    #[test]
    fn what_is_quoted_is_no_trouble() {
        for text in [
            "name `timed out` has an invalid continue character ' '",
            "module contains invalid identifier: 'os error' is reserved by spacetimedb",
            "SqlError: `nowhere` is not a valid table, executing: `SELECT * FROM nowhere WHERE a = 'timed out'`",
            "setup function returned an error: \"timed out",
        ] {
            assert!(!is_trouble(text), "{text}");
        }
        let rule = "failed to create row-level security: `SELECT * FROM a` WHERE b = 'timed out'`: `b` is not in scope";
        assert!(is_of_module(SERVER_ERROR, rule));
        for text in [
            "can't open `replicas/1`: it's full (os error 28)",
            "the server's disk: No space left, that's all",
            "Database is already opened. Path: `replicas/1`. Error: `locked`",
            "an open ` and then it timed out",
        ] {
            assert!(is_trouble(text), "{text}");
        }
    }

    #[test]
    fn a_slow_server_is_waited_for_without_end() {
        let mut damage = Damage::default();
        let start = Instant::now();
        for second in 0..100_000 {
            let now = start + Duration::from_secs(second);
            assert!(!damage.named(now, "deadline has elapsed", WAIT));
            assert!(!damage.named(now, "error starting database: timed out waiting for lock", WAIT));
            assert!(!damage.named(now, "Cannot allocate memory (os error 12)", WAIT));
        }
    }

    #[test]
    fn damage_is_believed_when_it_has_been_named_for_long() {
        const TEXT: &str =
            "error starting database: Error replaying the commit log: checksum mismatch at offset=7";
        let mut damage = Damage::default();
        let start = Instant::now();
        let just_before = start + WAIT - Duration::from_millis(1);
        assert!(!damage.named(start, TEXT, WAIT));
        assert!(!damage.named(just_before, TEXT, WAIT));
        assert!(!damage.named(start + WAIT, "deadline has elapsed", WAIT));
        assert!(damage.named(start + WAIT, TEXT, WAIT));

        let mut damage = Damage::default();
        assert!(!damage.named(start, TEXT, WAIT));
        damage.gone();
        assert!(!damage.named(start + WAIT, TEXT, WAIT));
    }
}
