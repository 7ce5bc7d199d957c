//! Tokens of outside issuers: whether one of their keys has signed a token.
//!
//! As SpacetimeDB does, an issuer is asked for its OpenID configuration, which says where its keys are. Who shows a token
//! names the issuer, so that anybody can have any address asked: it is guarded what is asked ([`Policy`], `url`, `address`),
//! how much and for how long (`https`), and how many are asked at a time ([`Issuers`]). Nothing here knows of the log: what
//! the nodes know together is behind [`Shared`].

mod address;
mod cache;
mod fetch;
mod https;
mod issuers;
mod key_set;
mod policy;
mod rate;
mod refused;
mod shared;
mod token;
mod url;

pub use fetch::{Fetch, FetchError, Held};
pub use https::Https;
pub use issuers::Issuers;
pub use policy::{Policy, PolicyError};
pub use refused::Refused;
pub use shared::{Shared, SharedIssuer};
pub use url::{Reach, Url, UrlError};
