//! Browsers may call from anywhere, as they may with SpacetimeDB.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, VARY,
};
use http::{HeaderValue, Method};

/// What an answer may depend on.
const VARIES: &str = "origin, access-control-request-method, access-control-request-headers";

/// The headers that requests may have: those that SpacetimeDB takes, and, where it counts, that of calls that are sent again.
const AS_NATIVELY: &str = "authorization,accept,content-type";
const WITH_KEY: &str = "authorization,accept,content-type,idempotency-key";

/// Answers a preflight, which any `OPTIONS` is, and allows every origin to read the answer to anything else.
pub(super) async fn cors(request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS;
    let mut parts = request.uri().path().split('/');
    let what = parts.find(|part| ["call", "sql", "route"].contains(part));
    let takes_keys = matches!(what, Some("call" | "sql"));
    let mut response = if is_preflight {
        ().into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static(VARIES));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    if is_preflight {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("*"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(if takes_keys { WITH_KEY } else { AS_NATIVELY }),
        );
    }
    response
}
