//! Which SpacetimeDB this is, and whether we have been tested with it.

use rtdb_protocol::Subprotocol;
use std::fmt;

/// The versions (major, minor) that RaftTimeDB is tested with.
pub const TESTED: [(u32, u32); 2] = [(1, 2), (2, 8)];

/// A SpacetimeDB's version, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// One by its own words, such as `1.2.0`.
    pub fn new(version: &str) -> Self {
        Self(version.to_owned())
    }

    /// From what `--version` prints: `spacetimedb … version 1.2.0; …`.
    pub(super) fn from_output(output: &str) -> Option<Self> {
        let (_, rest) = output.split_once("version ")?;
        let version = rest.split([';', ' ', '\n']).next()?;
        numbers(version).map(|_| Self(version.to_owned()))
    }

    /// From what `GET /v1/health` answers; `unknown` if that says nothing.
    pub(super) fn from_health(json: &str) -> Self {
        let health: Option<serde_json::Value> = serde_json::from_str(json).ok();
        let version = health.as_ref().and_then(|health| health.get("version")?.as_str());
        Self(version.unwrap_or("unknown").to_owned())
    }

    /// Whether it is one that we are tested with.
    pub fn is_tested(&self) -> bool {
        self.numbers().is_some_and(|version| TESTED.contains(&version))
    }

    /// Its major and minor number, if it has them.
    pub fn numbers(&self) -> Option<(u32, u32)> {
        numbers(&self.0)
    }

    /// The newest subprotocol that it speaks: v2 came with 2.0, v3 with 2.2. An unknown version speaks v1 at least.
    pub fn newest_subprotocol(&self) -> Subprotocol {
        match numbers(&self.0) {
            Some(version) if version >= (2, 2) => Subprotocol::V3,
            Some((2, _)) => Subprotocol::V2,
            _ => Subprotocol::V1,
        }
    }

    pub(super) fn warn_if_untested(&self) {
        if self.is_tested() {
            return;
        }
        let tested = TESTED
            .map(|(major, minor)| format!("{major}.{minor}.x"))
            .join(", ");
        tracing::warn!(version = %self, tested, "RaftTimeDB has not been tested with this version of SpacetimeDB");
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let old = Version::from_output(
            "spacetimedb spacetimedb tool version 1.2.0; spacetimedb-lib version 1.2.0;",
        );
        assert_eq!(old.as_ref().map(ToString::to_string).as_deref(), Some("1.2.0"));
        assert!(old.as_ref().unwrap().is_tested());
        assert_eq!(old.unwrap().newest_subprotocol(), Subprotocol::V1);
        assert_eq!(Version::from_output("bash, version unknown"), None);
        assert_eq!(Version::from_output("nothing"), None);

        let new = Version::from_health(r#"{"version":"2.8.3","nodes":[0]}"#);
        assert!(new.is_tested());
        assert_eq!(new.newest_subprotocol(), Subprotocol::V3);
        assert!(!Version::from_health(r#"{"version":"2.9.0"}"#).is_tested());
        assert_eq!(Version::from_health("?").to_string(), "unknown");
    }
}
