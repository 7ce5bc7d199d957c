//! What the nodes know together.

use bytes::Bytes;
use tokio::sync::watch;

/// An issuer, as the nodes know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedIssuer {
    /// Its name.
    pub name: String,
    /// Its keys, as a JSON Web Key Set; nothing if nobody has fetched them.
    pub keys: Bytes,
    /// When a node had them from the issuer last, in microseconds since the Unix epoch; 0 for never.
    pub fetched_us: u64,
    /// When a node wanted them last that could not fetch them; 0 for never.
    pub wanted_us: u64,
}

/// What the nodes know together of issuers.
pub trait Shared: Send + Sync {
    /// An issuer that one of them has fetched, or wants.
    fn issuer(&self, name: &str) -> Option<SharedIssuer>;

    /// Those that a node wants whose keys nobody has fetched since.
    fn wanted(&self) -> Vec<SharedIssuer>;

    /// Tells the others an issuer's keys; `None` if they are the same as before. `false` if that can't be done now.
    fn tell(&self, issuer: &str, keys: Option<Bytes>) -> bool;

    /// Asks the others to fetch an issuer's keys. `false` if there is nobody to ask.
    fn want(&self, issuer: &str) -> bool;

    /// Changes whenever any of it may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}
