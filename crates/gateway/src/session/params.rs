//! The query parameters of `/subscribe`.

use crate::freshness::Consistency;
use crate::http_error::HttpError;
use crate::query::Query;
use http::StatusCode;
use rtdb_protocol::compress::Compression;
use serde::Deserialize;
use spacetimedb_lib::ConnectionId;

/// As they stand in the URL. `token` is read with the other credentials.
#[derive(Debug, Deserialize)]
struct Raw {
    connection_id: Option<String>,
    compression: Option<String>,
    light: Option<bool>,
    #[serde(default)]
    consistency: Consistency,
    /// Checked, and nothing more: what clients see is in the log of a majority already.
    #[serde(rename = "confirmed")]
    _confirmed: Option<bool>,
}

/// As they are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Params {
    pub(crate) connection: ConnectionId,
    pub(crate) compression: Compression,
    /// Whether other people's updates come without the call that made them (v1).
    pub(crate) light: bool,
    /// Which reads it wants. The first are fresh anyhow: the client has come by way of the log.
    pub(crate) consistency: Consistency,
}

impl Params {
    /// Reads the URL's query; without a connection id, one is drawn.
    ///
    /// # Errors
    /// 400, as SpacetimeDB answers.
    pub(crate) fn from_query(query: &str) -> Result<Self, HttpError> {
        let invalid = |what: String| HttpError::new(StatusCode::BAD_REQUEST, what);
        let Query(raw) = Query::<Raw>::read(query)?;
        let connection = match raw.connection_id {
            Some(hex) => ConnectionId::from_hex(&hex).map_err(|_| {
                invalid(format!(
                    "Failed to deserialize query string: invalid connection id `{hex}`"
                ))
            })?,
            None => ConnectionId::from_le_byte_array(rtdb_runtime::random_bytes()),
        };
        if connection == ConnectionId::ZERO {
            return Err(invalid(
                "Invalid connection ID: the all-zeros ConnectionId is reserved.".into(),
            ));
        }
        let compression = match raw.compression {
            Some(name) => Compression::from_query(&name).ok_or_else(|| {
                invalid(format!(
                    "Failed to deserialize query string: unknown variant `{name}`"
                ))
            })?,
            None => Compression::default(),
        };
        Ok(Self {
            connection,
            compression,
            light: raw.light.unwrap_or(false),
            consistency: raw.consistency,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_understood() {
        let params =
            Params::from_query("connection_id=000000000000000000000000000000ff&compression=Gzip&light=true&confirmed=false&token=x&consistency=linearizable")
                .expect("good parameters");
        assert_eq!(params.connection.to_u128(), 0xff);
        assert_eq!(params.compression, Compression::Gzip);
        assert!(params.light);
        assert_eq!(params.consistency, Consistency::Linearizable);
    }

    #[test]
    fn defaults_are_the_servers() {
        let params = Params::from_query("").expect("good parameters");
        assert_ne!(params.connection, ConnectionId::ZERO);
        assert_eq!(params.compression, Compression::Brotli);
        assert!(!params.light);
        assert_eq!(params.consistency, Consistency::Local);
    }

    #[test]
    fn bad_parameters_are_refused() {
        for query in [
            "connection_id=00000000000000000000000000000000",
            "connection_id=xyz",
            "compression=Zip",
            "light=perhaps",
            "confirmed=7",
            "consistency=strong",
        ] {
            let error = Params::from_query(query).expect_err(query);
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{query}");
        }
    }
}
