//! What a read waits for, if its caller asks: `consistency` and `after` in the query string, as the cluster adds them to
//! SpacetimeDB's API. Without them it shows what this node has.

use crate::http_error::HttpError;
use crate::node::Node;
use crate::query::Query;
use http::Uri;
use rtdb_consensus::{LogIndex, NoReadIndex, Position};
use serde::Deserialize;
use spacetimedb_lib::Identity;
use std::time::Duration;
use thiserror::Error;

/// The header that tells where in the log a write stands: `after` takes its value.
pub(crate) const POSITION: &str = "rafttimedb-position";

/// How long a read waits for this node to have what is wanted.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// As they stand in the URL.
#[derive(Debug, Default, Deserialize)]
struct Raw {
    #[serde(default)]
    consistency: Consistency,
    /// A position.
    #[serde(default)]
    after: u64,
}

/// Which reads a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Consistency {
    /// What this node has.
    #[default]
    Local,
    /// All that anybody has been told when the read begins.
    Linearizable,
}

/// What a read has to show at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freshness {
    consistency: Consistency,
    /// What stands up to there in the log.
    after: LogIndex,
}

impl Freshness {
    /// # Errors
    /// 400, if they say something else.
    pub(crate) fn from_uri(uri: &Uri) -> Result<Self, HttpError> {
        let Query(raw) = Query::<Raw>::read(uri.query().unwrap_or_default())?;
        Ok(Self {
            consistency: raw.consistency,
            after: Position(raw.after).index(),
        })
    }

    /// The same without `after`.
    pub(crate) fn of(consistency: Consistency) -> Self {
        Self {
            consistency,
            after: 0,
        }
    }

    /// Waits until this node has it.
    ///
    /// # Errors
    /// Why it has not, in the end.
    pub(crate) async fn wait(self, node: &Node, database: &Identity) -> Result<(), NotFresh> {
        let mut index = self.after;
        if self.consistency == Consistency::Linearizable {
            index = index.max(node.shard.read_index().await?);
        }
        if index == 0 {
            return Ok(());
        }
        let there = node.local.caught_up(database, index);
        let waited = rtdb_runtime::timeout(BEHIND_MAX, there).await;
        waited.map_err(|_| NotFresh::Behind)
    }
}

/// What is wanted can't be shown now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NotFresh {
    #[error(transparent)]
    NoReadIndex(#[from] NoReadIndex),
    #[error(
        "this node has not applied what is to be read within {} s: try again later, or turn to another node",
        BEHIND_MAX.as_secs()
    )]
    Behind,
}

impl From<NotFresh> for HttpError {
    fn from(error: NotFresh) -> Self {
        Self::unavailable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_said_in_the_query_string() {
        let read = |query: &str| {
            let uri = format!("/v1/database/x/sql?{query}").parse().expect("a URI");
            Freshness::from_uri(&uri)
        };
        assert_eq!(read("").ok(), Some(Freshness::default()));
        assert_eq!(
            read("confirmed=true&consistency=local").ok(),
            Some(Freshness::default())
        );
        let linearizable = Freshness {
            consistency: Consistency::Linearizable,
            after: 0,
        };
        assert_eq!(read("consistency=linearizable").ok(), Some(linearizable));
        let after = Freshness {
            consistency: Consistency::Local,
            after: 7,
        };
        assert_eq!(
            read(&format!("after={}", Position::new(7, 3).0)).ok(),
            Some(after)
        );
        for bad in [
            "consistency=strong",
            "after=",
            "after=-1",
            "after=18446744073709551616",
        ] {
            let refused = read(bad).expect_err("refused");
            assert_eq!(refused.status, http::StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
