//! Whose tokens are taken.

use crate::url::{Reach, Url, UrlError};
use std::collections::BTreeSet;
use std::str::FromStr;
use thiserror::Error;

/// Issuers that one setting names.
const NAMED_MAX: usize = 1_000;

/// Whose tokens are taken, besides the cluster's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Of everyone who has a public address.
    everyone: bool,
    /// Of these, wherever they are, without slashes at their ends.
    named: BTreeSet<String>,
}

/// What the setting says is no such thing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PolicyError {
    /// Neither a word nor an issuer.
    #[error("`{0}` is neither `everyone` nor `nobody` nor an issuer's URL: {1}")]
    Neither(String, UrlError),
    /// They are too many.
    #[error("at most {NAMED_MAX} issuers can be named")]
    TooMany,
}

impl Default for Policy {
    /// Everyone's, as natively.
    fn default() -> Self {
        Self {
            everyone: true,
            named: BTreeSet::new(),
        }
    }
}

impl Policy {
    /// How an issuer may be asked; `None` if it may not.
    pub(crate) fn reach(&self, issuer: &str) -> Option<Reach> {
        if self.named.contains(issuer.trim_end_matches('/')) {
            return Some(Reach::Named);
        }
        self.everyone.then_some(Reach::Public)
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    /// `nobody`, or `everyone` and URLs, separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut policy = Self {
            everyone: false,
            named: BTreeSet::new(),
        };
        if text.trim() == "nobody" {
            return Ok(policy);
        }
        for word in text.split(',').map(str::trim) {
            if word == "everyone" {
                policy.everyone = true;
                continue;
            }
            Url::of_configuration(word, Reach::Named)
                .map_err(|error| PolicyError::Neither(word.to_owned(), error))?;
            policy.named.insert(word.trim_end_matches('/').to_owned());
        }
        match policy.named.len() <= NAMED_MAX {
            true => Ok(policy),
            false => Err(PolicyError::TooMany),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_nobody_or_those_who_are_named() {
        let reach = |setting: &str, issuer: &str| setting.parse::<Policy>().unwrap().reach(issuer);
        let (mine, other) = ("http://keycloak:8080/realm", "https://other.example");
        assert_eq!(reach("everyone", other), Some(Reach::Public));
        assert_eq!(reach(" nobody ", other), None);
        assert_eq!(reach(mine, other), None);
        assert_eq!(reach(mine, mine), Some(Reach::Named));
        assert_eq!(reach(mine, "http://keycloak:8080/realm/"), Some(Reach::Named));
        assert_eq!(reach(mine, "http://keycloak:8080/realm/below"), None);
        let both = format!("everyone, {mine}/");
        assert_eq!(reach(&both, mine), Some(Reach::Named));
        assert_eq!(reach(&both, other), Some(Reach::Public));
        assert_eq!(Policy::default(), "everyone".parse().unwrap());
        for text in ["", "me", "everyone,nobody", "https://a,", "https://u@a"] {
            assert!(text.parse::<Policy>().is_err(), "{text}");
        }
    }
}
