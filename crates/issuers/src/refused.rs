//! Why tokens are not taken, and issuers not asked.

use crate::fetch::FetchError;
use crate::key_set::{BadSignature, KeySetError};
use crate::url::UrlError;
use thiserror::Error;

/// Why a token is not taken. In SpacetimeDB's words, where it has some.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The operator does not want the issuer's tokens.
    #[error("tokens of the issuer `{0}` are not taken here")]
    NotTaken(String),
    /// The issuer can't be one.
    #[error("Error fetching public key for issuer {0}: {1}")]
    NotAsked(String, UrlError),
    /// Its keys are not known. Why, is nobody's business: who shows a token could have anything looked up.
    #[error("Error fetching public key for issuer {0}")]
    NoKeys(String),
    /// Too many issuers are being asked.
    #[error("too many issuers of tokens are being asked for their keys: try again")]
    Busy,
    /// It is no token.
    #[error("Invalid token: InvalidToken")]
    Malformed,
    /// The issuer has not signed it.
    #[error("{0}")]
    NotSigned(String),
}

impl From<BadSignature> for Refused {
    fn from(error: BadSignature) -> Self {
        Self::NotSigned(error.to_string())
    }
}

/// Why an issuer is not asked now.
#[derive(PartialEq, Eq)]
pub(crate) enum NotNow {
    /// It could not be asked a moment ago.
    Resting,
    /// Too many are.
    Busy,
}

/// Why an issuer's keys were not had.
#[derive(Debug, Error)]
pub(crate) enum NoKeys {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("its keys are not taken: {0}")]
    Keys(#[from] KeySetError),
}
