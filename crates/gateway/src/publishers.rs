//! Who may create databases.

use spacetimedb_lib::Identity;
use std::collections::BTreeSet;
use std::str::FromStr;
use thiserror::Error;

/// Identities that one setting names.
const PUBLISHERS_MAX: usize = 10_000;

/// Who may create databases. Whoever owns one may update it, clear it and delete it, whoever this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Publishers {
    /// Everyone who is let in, as natively.
    #[default]
    Everyone,
    /// These, and nobody else.
    Only(BTreeSet<Identity>),
}

/// What the setting says is no such thing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PublishersError {
    /// Neither a word nor an identity.
    #[error(
        "`{0}` is neither `everyone` nor `nobody` nor an identity, which has 64 hexadecimal digits (`spacetime login show`)"
    )]
    Neither(String),
    /// They are too many.
    #[error("at most {PUBLISHERS_MAX} identities can be named")]
    TooMany,
}

impl Publishers {
    /// Whether this identity may create a database.
    pub(crate) fn allow(&self, identity: &Identity) -> bool {
        match self {
            Self::Everyone => true,
            Self::Only(identities) => identities.contains(identity),
        }
    }
}

impl FromStr for Publishers {
    type Err = PublishersError;

    /// `everyone`, `nobody`, or identities, separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "everyone" => return Ok(Self::Everyone),
            "nobody" => return Ok(Self::Only(BTreeSet::new())),
            _ => {}
        }
        let words = text.split(',').map(str::trim);
        let identity = |word: &str| {
            let digits = word.strip_prefix("0x").unwrap_or(word);
            Identity::from_hex(digits).map_err(|_| PublishersError::Neither(word.to_owned()))
        };
        let identities = words.map(identity).collect::<Result<BTreeSet<_>, _>>()?;
        match identities.len() <= PUBLISHERS_MAX {
            true => Ok(Self::Only(identities)),
            false => Err(PublishersError::TooMany),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_nobody_or_those_who_are_named() {
        let [one, other] = [1, 2].map(|byte| Identity::from_byte_array([byte; 32]));
        let allowed = |text: &str| {
            let publishers: Publishers = text.parse().unwrap();
            [one, other].map(|it| publishers.allow(&it))
        };
        assert_eq!(allowed("everyone"), [true, true]);
        assert_eq!(allowed(" nobody "), [false, false]);
        assert_eq!(allowed(one.to_hex().as_ref()), [true, false]);
        assert_eq!(
            allowed(&format!("0x{}, {}", one.to_hex(), other.to_hex())),
            [true, true]
        );
        for text in ["", "me", "everyone,nobody", "00", &format!("{},", one.to_hex())] {
            let refused: Result<Publishers, _> = text.parse();
            assert!(refused.is_err(), "{text}");
        }
    }
}
