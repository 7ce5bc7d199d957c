//! How an issuer's keys are fetched.

use crate::url::{Reach, UrlError};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;

/// A place among those that are under way: held for as long as anything of it is, however it ends for who asked.
pub type Held = Arc<OwnedSemaphorePermit>;

/// Fetches what an issuer says its keys are.
pub trait Fetch: Send + Sync {
    /// The document at the issuer's `jwks_uri`, within bounds of time and size.
    fn fetch(
        &self,
        issuer: String,
        reach: Reach,
        held: Held,
    ) -> BoxFuture<'static, Result<Bytes, FetchError>>;
}

/// Why there are no keys. Who has shown a token hears nothing of it: he could have anything looked up.
#[derive(Debug, Error)]
pub enum FetchError {
    /// It may not be asked there.
    #[error("its keys are not asked for: {0}")]
    Url(#[from] UrlError),
    /// It has no address that may be asked.
    #[error("`{0}` has no public address, and --issuers does not name the issuer")]
    NotPublic(String),
    /// It can't be reached.
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    /// It answers with something else.
    #[error("it answers with {0}, which is not followed")]
    Status(u16),
    /// It answers with too much.
    #[error("it answers with more than {0} bytes")]
    TooLarge(usize),
    /// It answers with nothing that could be its configuration.
    #[error("it does not say where its keys are: {0}")]
    Configuration(String),
    /// It is too slow.
    #[error("it has not answered within {0} s")]
    Slow(u64),
}
