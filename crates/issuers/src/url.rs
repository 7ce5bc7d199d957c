//! Where an issuer's documents are, and whether a stranger may have that asked.

use http::Uri;
use thiserror::Error;

/// Bytes of an address that an issuer gives for its keys.
const URL_BYTES_MAX: usize = 2_048;

/// The ports below this are other services', except that of HTTPS.
const SYSTEM_PORTS: u16 = 1_024;
const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// What anybody could ask: HTTPS, at addresses of the public internet.
    Public,
    /// What the operator has named, wherever that is.
    Named,
}

/// Why something is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// It is no address, or has what has no place in one.
    #[error("it is no URL of a server, without a user, a query and a fragment")]
    Malformed,
    /// It is too long.
    #[error("it has more than {URL_BYTES_MAX} bytes")]
    TooLong,
    /// It is not HTTPS.
    #[error("only `https` is asked, unless --issuers names the issuer")]
    NotHttps,
    /// The port is another service's.
    #[error("no port below {SYSTEM_PORTS} is asked but {HTTPS_PORT}, unless --issuers names the issuer")]
    Port,
}

impl Url {
    /// Where an issuer says what it is.
    ///
    /// # Errors
    /// [`UrlError`]
    pub fn of_configuration(issuer: &str, reach: Reach) -> Result<Self, UrlError> {
        // What came after one of these would not be a part of the path.
        if issuer.contains('?') {
            return Err(UrlError::Malformed);
        }
        let issuer = issuer.trim_end_matches('/');
        Self::parse(&format!("{issuer}/.well-known/openid-configuration"), reach)
    }

    /// Where an issuer's keys are, as it says. What is on its own server may be asked as it may itself; elsewhere, only what
    /// anybody may ask.
    ///
    /// # Errors
    /// [`UrlError`]
    pub fn of_keys(&self, keys: &str, reach: Reach) -> Result<(Self, Reach), UrlError> {
        let there = Self::parse(keys, Reach::Named)?;
        let is_same = (&there.host, there.port, there.is_tls) == (&self.host, self.port, self.is_tls);
        let reach = if is_same { reach } else { Reach::Public };
        Ok((Self::parse(keys, reach)?, reach))
    }

    fn parse(text: &str, reach: Reach) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['#', '\\', '@']) {
            return Err(UrlError::Malformed);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError::Malformed),
        };
        let authority = uri.authority().ok_or(UrlError::Malformed)?;
        let host = authority.host().to_ascii_lowercase();
        let port = match authority.as_str().get(authority.host().len()..) {
            Some("") if is_tls => HTTPS_PORT,
            Some("") => HTTP_PORT,
            Some(_) => authority.port_u16().ok_or(UrlError::Malformed)?,
            None => return Err(UrlError::Malformed),
        };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.to_owned(),
            None => host,
        };
        if host.is_empty() {
            return Err(UrlError::Malformed);
        }
        if reach == Reach::Public && !is_tls {
            return Err(UrlError::NotHttps);
        }
        if reach == Reach::Public && port < SYSTEM_PORTS && port != HTTPS_PORT {
            return Err(UrlError::Port);
        }
        Ok(Self {
            uri,
            host,
            port,
            is_tls,
        })
    }

    /// The server's name, or its address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// What the server is asked for.
    pub(crate) fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// Which server is meant.
    pub(crate) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }
}

/// An issuer's host, however it is spelled.
pub(crate) fn host_of(issuer: &str) -> String {
    let (_, rest) = issuer.split_once("://").unwrap_or(("", issuer));
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(issuer: &str) -> Result<Url, UrlError> {
        Url::of_configuration(issuer, Reach::Public)
    }

    #[test]
    fn an_issuer_is_asked_below_its_own_path() {
        let url = public("https://Login.example.com/tenant/").unwrap();
        assert_eq!(
            (url.host(), url.port(), url.is_tls()),
            ("login.example.com", 443, true)
        );
        assert_eq!(url.path(), "/tenant/.well-known/openid-configuration");
        let url = public("https://[2606:4700::1]:8443").unwrap();
        assert_eq!((url.host(), url.port()), ("2606:4700::1", 8443));
        assert_eq!(url.authority(), "[2606:4700::1]:8443");
    }

    #[test]
    fn what_is_no_servers_address_is_not_asked() {
        for issuer in [
            "",
            "/",
            "issuer",
            "localhost",
            "//a.example",
            "ftp://a.example",
            "file:///etc/passwd",
            "https:///path",
            "https://",
            "https://user@a.example",
            "https://user:password@a.example",
            "https://a.example@b.example",
            "https://a.example:",
            "https://a.example:x",
            "https://a.example:65536",
            "https://a.example:-1",
            "https://a.example#fragment",
            "https://a.example?query=",
            "https://a.example/path?query",
            "https://a.example\\@b.example",
            "https://a.exa mple",
            "https://a.example\r\nhost: b",
            "https://bücher.example",
            "https://[::1",
        ] {
            assert_eq!(public(issuer), Err(UrlError::Malformed), "{issuer}");
        }
        let long = format!("https://a.example/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(public(&long), Err(UrlError::TooLong));
    }

    #[test]
    fn strangers_have_https_asked_and_no_other_services() {
        assert_eq!(public("http://a.example"), Err(UrlError::NotHttps));
        for port in [0, 22, 25, 80, 1023] {
            let issuer = format!("https://a.example:{port}");
            assert_eq!(public(&issuer), Err(UrlError::Port), "{port}");
        }
        let named = Url::of_configuration("http://127.0.0.1:80", Reach::Named).unwrap();
        assert_eq!((named.port(), named.is_tls()), (80, false));
    }

    #[test]
    fn keys_on_the_named_server_may_be_asked_and_elsewhere_only_as_anybodys() {
        let named = Url::of_configuration("http://10.0.0.1:8080/realm", Reach::Named).unwrap();
        let (_, reach) = named
            .of_keys("http://10.0.0.1:8080/keys?a=b", Reach::Named)
            .unwrap();
        assert_eq!(reach, Reach::Named);
        for elsewhere in ["http://10.0.0.2:8080/keys", "http://10.0.0.1:8081/keys"] {
            let refused = named.of_keys(elsewhere, Reach::Named);
            assert_eq!(refused, Err(UrlError::NotHttps), "{elsewhere}");
        }
        let (_, reach) = named.of_keys("https://keys.example/keys", Reach::Named).unwrap();
        assert_eq!(reach, Reach::Public);
        let public = public("https://a.example").unwrap();
        let (_, reach) = public.of_keys("https://a.example/keys", Reach::Public).unwrap();
        assert_eq!(reach, Reach::Public);
        assert!(public.of_keys("file:///etc/passwd", Reach::Public).is_err());
    }
}
