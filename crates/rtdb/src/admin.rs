//! Requests to a node's admin API.

use std::io::{self, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use ureq::http::StatusCode;
use ureq::typestate::WithBody;
use ureq::{Agent, RequestBuilder, SendBody};

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long it may take to answer what the nodes must agree on first: it gives up itself after 20 s, and says why.
const AGREEMENT_MAX: Duration = Duration::from_secs(25);

/// Bytes of an answer: a table's rows are the most.
const ANSWER_BYTES_MAX: u64 = 128 << 20;

/// The admin API of one node.
#[derive(Debug)]
pub(crate) struct Admin {
    url: String,
    agent: Agent,
}

/// Why there is no useful answer. The text says what to look at.
#[derive(Debug, Error)]
pub(crate) enum AdminError {
    #[error(
        "no node answers at {url} ({source})\n  Is rafttimedb running there? Is this its --raft-addr (4001 by default), not its --listen-addr?"
    )]
    Unreachable { url: String, source: ureq::Error },
    #[error("{url} did not answer within {} s\n  The node may be stopped or cut off: look at its log, and at a firewall between here and there.", max.as_secs())]
    Timeout { url: String, max: Duration },
    #[error("{url} answered {status}: {message}")]
    Refused {
        url: String,
        status: StatusCode,
        message: String,
    },
    #[error(
        "what answers at {url} is not a rafttimedb admin API ({reason})\n  Use a node's --raft-addr (4001 by default), not its --listen-addr."
    )]
    NotANode { url: String, reason: String },
    #[error("node {node} is no member, as {url} knows: see `rtdb members`")]
    NoMember { url: String, node: u64 },
    #[error("{url}: {source}")]
    Http { url: String, source: ureq::Error },
}

/// A text as a part of a path or query, whatever is in it.
pub(crate) fn in_url(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let each = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    each.collect()
}

/// A node's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
}

impl Admin {
    /// `addr` is a URL, or `host:port`, which means `http://`.
    pub(crate) fn new(addr: &str) -> Self {
        let scheme = if addr.contains("://") { "" } else { "http://" };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_MAX))
            .build();
        Self {
            url: format!("{scheme}{}", addr.trim_end_matches('/')),
            agent: agent.into(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer, AdminError> {
        let url = format!("{}{path}", self.url);
        self.answer(self.agent.get(url).call(), ANSWER_MAX)
    }

    /// An answer that may take long to come, and be of any size.
    pub(crate) fn stream(&self, path: &str) -> Result<impl Read + use<>, AdminError> {
        let url = format!("{}{path}", self.url);
        let request = self.agent.get(url).config().timeout_global(None).build();
        let response = request.call().map_err(|source| self.lost(source, ANSWER_MAX))?;
        if !response.status().is_success() {
            let answer = self.answer(Ok(response), ANSWER_MAX)?;
            return Err(self.refused(&answer));
        }
        Ok(response.into_body().into_with_config().limit(u64::MAX).reader())
    }

    /// Sends something of any size, for as long as it takes.
    pub(crate) fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        mut body: impl Read,
    ) -> Result<Answer, AdminError> {
        let url = format!("{}{path}", self.url);
        let request = self.agent.post(url).content_type("application/octet-stream");
        let with =
            |request: RequestBuilder<WithBody>, header: &(&str, &str)| request.header(header.0, header.1);
        let request = headers.iter().fold(request, with);
        let request = request.config().timeout_global(None).build();
        self.answer(request.send(SendBody::from_reader(&mut body)), ANSWER_MAX)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Answer, AdminError> {
        let url = format!("{}{path}", self.url);
        let request = self.agent.delete(url).config();
        let request = request.timeout_global(Some(AGREEMENT_MAX)).build();
        self.answer(request.call(), AGREEMENT_MAX)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Answer, AdminError> {
        let url = format!("{}{path}", self.url);
        let request = self.agent.post(url).content_type("application/json").config();
        let request = request.timeout_global(Some(AGREEMENT_MAX)).build();
        self.answer(request.send(body.to_string()), AGREEMENT_MAX)
    }

    fn answer(
        &self,
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        max: Duration,
    ) -> Result<Answer, AdminError> {
        let read = sent.and_then(|mut response| {
            Ok(Answer {
                status: response.status(),
                body: response
                    .body_mut()
                    .with_config()
                    .limit(ANSWER_BYTES_MAX)
                    .read_to_string()?,
            })
        });
        read.map_err(|source| self.lost(source, max))
    }

    fn lost(&self, source: ureq::Error, max: Duration) -> AdminError {
        let url = self.url.clone();
        match source {
            ureq::Error::Timeout(_) => AdminError::Timeout { url, max },
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                AdminError::Unreachable { url, source }
            }
            ureq::Error::Io(ref error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                AdminError::Unreachable { url, source }
            }
            source => AdminError::Http { url, source },
        }
    }

    /// For an answer that is no success.
    pub(crate) fn refused(&self, answer: &Answer) -> AdminError {
        // Errors are JSON with a `message`; whatever else it is, a person may make sense of it.
        let json: Option<Value> = serde_json::from_str(&answer.body).ok();
        let message = json
            .as_ref()
            .and_then(|json| json.get("message").or_else(|| json.get("error"))?.as_str());
        let message = message.unwrap_or(answer.body.trim()).to_string();
        AdminError::Refused {
            url: self.url.clone(),
            status: answer.status,
            message,
        }
    }

    /// What a good answer says.
    pub(crate) fn json<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, AdminError> {
        if !answer.status.is_success() {
            return Err(self.refused(&answer));
        }
        serde_json::from_str(&answer.body).map_err(|error| self.not_a_node(error))
    }

    pub(crate) fn no_member(&self, node: u64) -> AdminError {
        AdminError::NoMember {
            url: self.url.clone(),
            node,
        }
    }

    pub(crate) fn not_a_node(&self, reason: impl ToString) -> AdminError {
        AdminError::NotANode {
            url: self.url.clone(),
            reason: reason.to_string(),
        }
    }
}
