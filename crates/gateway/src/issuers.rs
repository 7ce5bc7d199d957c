//! What the gateway asks of outside issuers of tokens.

use futures::future::BoxFuture;
use thiserror::Error;

/// Outside issuers, whose tokens clients show.
pub trait Issuers: Send + Sync {
    /// Whether this issuer has signed a token, which is whose it says it is.
    fn verify<'a>(&'a self, token: &'a str, issuer: &'a str) -> BoxFuture<'a, Result<(), NotVerified>>;
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotVerified {
    /// It is not good, or it can't be known whether it is.
    #[error("{0}")]
    Refused(String),
    /// It may be, a little later.
    #[error("{0}")]
    Busy(String),
}
