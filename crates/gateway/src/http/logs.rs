//! `GET …/logs`: without what the server says of the cluster's own tables.

use super::HttpError;
use super::database::{Caller, forward};
use crate::node::Node;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use futures::{StreamExt, stream};
use http::StatusCode;
use rtdb_protocol::hidden::HIDDEN_PREFIX;
use serde::Deserialize;
use std::future::ready;
use std::sync::Arc;

/// Bytes of a line that is looked at: what the server says of a table is shorter.
const LINE_BYTES_MAX: usize = 512;

/// Where the server's own lines are from, for 1.2.0 and for 2.8.3.
const SERVERS: [&str; 2] = ["spacetimedb", "__spacetimedb__"];

/// The local server judges whether the caller may read them: it knows the owner.
pub(super) async fn logs(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpError> {
    let answer = forward(&node, &database, &caller, "/logs", query).await?;
    if answer.status() != StatusCode::OK {
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    // The log may be followed: what is there goes on as it comes.
    let pieces = body.into_data_stream().map(Some).chain(stream::once(ready(None)));
    let shown = pieces.scan(Lines::default(), |lines, piece| {
        ready(Some(match piece {
            Some(piece) => piece.map(|piece| lines.shown(&piece)),
            None => Ok(std::mem::take(&mut lines.begun).into()),
        }))
    });
    Ok(Response::from_parts(parts, Body::from_stream(shown)))
}

/// A line of a log, as far as it matters.
#[derive(Deserialize)]
struct Line<'a> {
    filename: &'a str,
    message: &'a str,
}

/// Lines that come in pieces.
#[derive(Default)]
struct Lines {
    /// The last line, whose end is still to come.
    begun: Vec<u8>,
    /// It is too long to be hidden; what there was of it is passed on.
    is_passing: bool,
}

impl Lines {
    /// What may be shown, once this piece is there.
    fn shown(&mut self, piece: &[u8]) -> Bytes {
        let mut shown = Vec::with_capacity(self.begun.len() + piece.len());
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            let is_whole = part.ends_with(b"\n");
            let is_long = self.is_passing || self.begun.len() > LINE_BYTES_MAX;
            if is_long || is_whole {
                if is_long || !is_hidden(&self.begun) {
                    shown.append(&mut self.begun);
                }
                self.begun.clear();
                self.is_passing = is_long && !is_whole;
            }
        }
        shown.into()
    }
}

/// Whether the server speaks of a table that clients don't know of.
fn is_hidden(line: &[u8]) -> bool {
    let name = format!("`{HIDDEN_PREFIX}");
    serde_json::from_slice::<Line<'_>>(line)
        .is_ok_and(|line| SERVERS.contains(&line.filename) && line.message.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_on_hidden_tables_are_left_out_however_the_lines_come() {
        let line = |filename: &str, message: &str| {
            let line = serde_json::json!({ "filename": filename, "message": message });
            format!("{line}\n")
        };
        let long = "x".repeat(LINE_BYTES_MAX);
        let [old, server] = SERVERS;
        let hidden = line(old, "Creating table `rtdb_state`") + &line(server, "Creating table `rtdb_now`");
        let kept = [
            line(server, "Creating table `player`"),
            line("src/lib.rs", "Creating table `rtdb_state`"),
            line(server, &format!("{long} `rtdb_state`")),
            "no JSON, `rtdb_state`\n".to_owned(),
            "\n".to_owned(),
            "the end".to_owned(),
        ];
        let all = format!("{hidden}{}", kept.join(&hidden));
        for bytes in [1, 7, 64, all.len()] {
            let mut lines = Lines::default();
            let pieces = all.as_bytes().chunks(bytes);
            let mut shown: Vec<u8> = pieces.flat_map(|piece| lines.shown(piece)).collect();
            shown.append(&mut lines.begun);
            assert_eq!(String::from_utf8(shown).expect("text"), kept.concat(), "{bytes}");
        }
    }
}
