//! Requests and answers as modules see and write them.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use spacetimedb_lib::http as wire;

/// What the router has taken from the path.
const API: &str = "/v1";

/// The method of a request.
pub(super) fn method(method: &Method) -> wire::Method {
    match *method {
        Method::GET => wire::Method::Get,
        Method::HEAD => wire::Method::Head,
        Method::POST => wire::Method::Post,
        Method::PUT => wire::Method::Put,
        Method::DELETE => wire::Method::Delete,
        Method::CONNECT => wire::Method::Connect,
        Method::OPTIONS => wire::Method::Options,
        Method::TRACE => wire::Method::Trace,
        Method::PATCH => wire::Method::Patch,
        _ => wire::Method::Extension(method.to_string()),
    }
}

/// The head of a request.
pub(super) fn request(request: &Request) -> wire::Request {
    let headers = request.headers();
    wire::Request {
        method: method(request.method()),
        headers: headers
            .iter()
            .map(|(name, value)| (Some(name.as_str().into()), value.as_bytes().into()))
            .collect(),
        timeout: None,
        uri: external(request.uri(), headers),
        version: match request.version() {
            Version::HTTP_09 => wire::Version::Http09,
            Version::HTTP_10 => wire::Version::Http10,
            Version::HTTP_2 => wire::Version::Http2,
            Version::HTTP_3 => wire::Version::Http3,
            _ => wire::Version::Http11,
        },
    }
}

/// The URI as the client has it: with scheme and host, those of proxies before us if they say so.
fn external(uri: &Uri, headers: &HeaderMap) -> String {
    let path = uri.path_and_query().map_or(uri.path(), |path| path.as_str());
    let path = format!("{API}{path}");
    if let (Some(scheme), Some(host)) = (uri.scheme(), uri.authority()) {
        return format!("{scheme}://{host}{path}");
    }
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let first = |name: &'static str| {
        let first = text(&HeaderName::from_static(name))?.split(',').next()?.trim();
        (!first.is_empty()).then_some(first)
    };
    let scheme = first("x-forwarded-proto").or(uri.scheme_str()).unwrap_or("http");
    let host = first("x-forwarded-host").or_else(|| text(&HOST));
    let host = host.or(uri.authority().map(|authority| authority.as_str()));
    host.map_or_else(|| path.clone(), |host| format!("{scheme}://{host}{path}"))
}

/// What a handler has answered; or what is wrong with that. Where the body ends is not the handler's to say: who reads on at
/// another place takes the rest for the answer to somebody else, if a proxy has several clients on one connection. Only of an
/// answer to `HEAD` may it say how long it were.
pub(super) fn response(method: &Method, head: wire::Response, body: Bytes) -> Result<Response, String> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(head.code).map_err(|error| error.to_string())?;
    if response.status().is_informational() {
        return Err(format!("{} is no status of an answer", response.status()));
    }
    // Of others hyper can't make an answer.
    if matches!(head.version, wire::Version::Http10) {
        *response.version_mut() = Version::HTTP_10;
    }
    for (name, value) in head.headers.into_iter() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_bytes(&value).map_err(|error| error.to_string())?;
        let headers = response.headers_mut();
        headers
            .try_append(name, value)
            .map_err(|error| error.to_string())?;
    }
    let headers = response.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    let length = headers.remove(CONTENT_LENGTH);
    if *method == Method::HEAD
        && let Some(length) = length.filter(is_length)
    {
        headers.insert(CONTENT_LENGTH, length);
    }
    Ok(response)
}

fn is_length(value: &HeaderValue) -> bool {
    let text = value.to_str().ok();
    text.is_some_and(|text| text.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(uri: &str, headers: &[(&'static str, &'static str)]) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        external(&uri.parse().expect("a URI"), &headers.collect())
    }

    #[test]
    fn a_uri_is_the_client_s() {
        let path = "/database/a/route/x?y=1";
        let host = ("host", "here:3000");
        assert_eq!(seen(path, &[]), "/v1/database/a/route/x?y=1");
        assert_eq!(seen(path, &[host]), "http://here:3000/v1/database/a/route/x?y=1");
        let proxied = [
            host,
            ("x-forwarded-proto", " https, http"),
            ("x-forwarded-host", "there , here"),
        ];
        assert_eq!(seen(path, &proxied), "https://there/v1/database/a/route/x?y=1");
        let empty = [host, ("x-forwarded-proto", ","), ("x-forwarded-host", " ")];
        assert_eq!(seen("/x", &empty), "http://here:3000/v1/x");
        assert_eq!(seen("https://a/x", &proxied), "https://a/v1/x");
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        let answer = |code, headers: &[(&str, &[u8])]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (Some((*name).into()), (*value).into()));
            let head = wire::Response {
                headers: headers.collect(),
                version: wire::Version::Http3,
                code,
            };
            response(&Method::GET, head, Bytes::from_static(b"x"))
        };
        let good = answer(418, &[("a", b"1"), ("b", b"\xff"), ("a", b"2")]).expect("an answer");
        assert_eq!((good.status().as_u16(), good.version()), (418, Version::HTTP_11));
        let all = good.headers().get_all("a").iter().map(HeaderValue::as_bytes);
        assert_eq!(all.collect::<Vec<_>>(), [b"1", b"2"]);
        assert!(answer(99, &[]).is_err() && answer(1_000, &[]).is_err());
        assert!(answer(100, &[]).is_err() && answer(101, &[]).is_err());
        assert!(answer(200, &[("a b", b"1")]).is_err());
        assert!(answer(200, &[("a", b"\n")]).is_err());
        let many: Vec<_> = (0..40_000).map(|nth| format!("x-{nth}")).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b"1"[..])).collect();
        assert!(answer(200, &many).is_err());
    }
}
