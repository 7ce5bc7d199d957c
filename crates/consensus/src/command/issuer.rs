//! Outside issuers of tokens, and the keys that they sign with.

use bytes::Bytes;

/// Bytes of an issuer's name: SpacetimeDB takes no longer one.
pub const ISSUER_BYTES_MAX: usize = 128;

/// Bytes of an issuer's keys.
pub const ISSUER_KEYS_BYTES_MAX: usize = 32 << 10;

/// A node has fetched an issuer's keys. Refused if a text is longer than its limit. Of
/// [`ISSUERS_LEVEL`](super::ISSUERS_LEVEL), as [`WantIssuer`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetIssuer {
    /// The issuer, as its tokens name it, without slashes at the end.
    #[prost(string, tag = "1")]
    pub issuer: String,
    /// Its keys, as a JSON Web Key Set; nothing if they are the same as before.
    #[prost(bytes = "bytes", tag = "2")]
    pub keys: Bytes,
}

/// A node wants an issuer's keys and can't fetch them: may another one try. Refused if the name is longer than its limit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WantIssuer {
    /// The issuer, as its tokens name it, without slashes at the end.
    #[prost(string, tag = "1")]
    pub issuer: String,
}
