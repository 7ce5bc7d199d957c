//! What databases may be called.

use serde::Deserialize;
use spacetimedb_lib::Identity;
use thiserror::Error;

/// Why a database can't have that name. SpacetimeDB's rules and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// It is an identity.
    #[error("database names cannot be identities")]
    Identity,
    /// It is empty.
    #[error("database names cannot be empty")]
    Empty,
    /// A hyphen stands where none may.
    #[error("invalid hyphen in database name")]
    Hyphen,
    /// It has other characters.
    #[error("invalid characters in database name")]
    Invalid,
}

/// A name or an identity, as a parameter gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct NameOrIdentity(pub(crate) String);

impl TryFrom<String> for NameOrIdentity {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        match check(&text) {
            Ok(()) | Err(NameError::Identity) => Ok(Self(text)),
            Err(error) => Err(error),
        }
    }
}

/// Checks a name: lower-case letters and digits, in groups with single hyphens between them.
///
/// # Errors
/// [`NameError`].
pub fn check(name: &str) -> Result<(), NameError> {
    if Identity::from_hex(name).is_ok() {
        return Err(NameError::Identity);
    }
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        return Err(NameError::Invalid);
    }
    if name.split('-').any(str::is_empty) {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_servers_rules() {
        for good in ["a", "a-b", "db2", "7-of-9"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check(""), Err(NameError::Empty));
        assert_eq!(check("A"), Err(NameError::Invalid));
        assert_eq!(check("a_b"), Err(NameError::Invalid));
        for bad in ["-a", "a-", "a--b"] {
            assert_eq!(check(bad), Err(NameError::Hyphen), "{bad}");
        }
        assert_eq!(check(&"c2".repeat(32)), Err(NameError::Identity));
    }
}
