use crate::limits::RETRY_AFTER_S;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use rtdb_consensus::{Refusal, Unapplied};

/// An answer that is not the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpError {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
    /// The body is JSON, as some of SpacetimeDB's refusals are.
    json: bool,
}

impl HttpError {
    pub(crate) fn new(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            body: body.into(),
            json: false,
        }
    }

    pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Self {
        Self {
            status,
            body: body.to_string(),
            json: true,
        }
    }

    /// 400.
    pub(crate) fn bad_request(body: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, body)
    }

    /// 426, as SpacetimeDB answers.
    pub(crate) fn upgrade_required() -> Self {
        Self::new(
            StatusCode::UPGRADE_REQUIRED,
            "This service requires use of the websocket protocol",
        )
    }

    /// 503: the node can't serve this now, and another one, or a later attempt, may.
    pub(crate) fn unavailable(body: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, body)
    }

    /// 501, naming what isn't served.
    pub(crate) fn not_served(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{what} is not served by RaftTimeDB yet"),
        )
    }

    /// 404 in SpacetimeDB's words.
    pub(crate) fn no_such_database() -> Self {
        Self::new(StatusCode::NOT_FOUND, "No such database.")
    }

    /// 404 in SpacetimeDB's words: no database has that name.
    pub(crate) fn no_such_name(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("`{name}` not found"))
    }
}

impl From<Unapplied> for HttpError {
    fn from(unapplied: Unapplied) -> Self {
        let status = match &unapplied {
            Unapplied::Reducer { .. } | Unapplied::Refused(Refusal::Module(_) | Refusal::TooLong { .. }) => {
                StatusCode::BAD_REQUEST
            }
            Unapplied::Refused(Refusal::NoSuchDatabase | Refusal::NothingToEnter(_)) => {
                return Self::no_such_database();
            }
            Unapplied::Refused(Refusal::NoSuchShard(_)) => StatusCode::NOT_FOUND,
            Unapplied::Refused(Refusal::KeyTaken) => StatusCode::UNPROCESSABLE_ENTITY,
            Unapplied::Refused(Refusal::TooManyKeys { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Unapplied::Refused(Refusal::NotOwner | Refusal::Locked) => StatusCode::FORBIDDEN,
            Unapplied::Refused(Refusal::NameTaken(_)) => StatusCode::UNAUTHORIZED,
            Unapplied::Refused(
                Refusal::SessionGone
                | Refusal::Split
                | Refusal::StillThere
                | Refusal::OtherModule
                | Refusal::Restoring,
            ) => StatusCode::SERVICE_UNAVAILABLE,
            Unapplied::Refused(
                Refusal::AlreadyInitialised
                | Refusal::NotSplit
                | Refusal::NotReported(_)
                | Refusal::NotStuck
                | Refusal::NamesChanged
                | Refusal::ConnectionTaken
                | Refusal::Deposed
                | Refusal::NotYet
                | Refusal::NotDue
                | Refusal::Repeated
                | Refusal::NotRestoring,
            ) => StatusCode::CONFLICT,
            Unapplied::Unknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, unapplied.to_string())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let headers = response.headers_mut();
        if self.json {
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
        }
        if matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            headers.insert(RETRY_AFTER, RETRY_AFTER_S.into());
        }
        response
    }
}
