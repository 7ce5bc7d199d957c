//! Why the gateway closes a client's WebSocket.

use rtdb_protocol::FrameError;
use std::borrow::Cow;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Bytes of a reason that fit into a close frame (RFC 6455, 5.5).
const REASON_BYTES_MAX: usize = 123;

/// A close frame's code and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The code (RFC 6455, 7.4).
    pub code: u16,
    /// The reason, at most 123 bytes.
    pub reason: Cow<'static, str>,
}

impl CloseReason {
    /// The node goes: the client should connect to another.
    pub const AWAY: u16 = 1001;
    /// The client broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// The client sent a kind of data that is not taken.
    pub const UNSUPPORTED: u16 = 1003;
    /// The client sent text that is not UTF-8.
    pub const NOT_UTF8: u16 = 1007;
    /// The client's message was larger than may be.
    pub const TOO_BIG: u16 = 1009;
    /// What SpacetimeDB closes with when a message can't be handled.
    pub const ERROR: u16 = 1011;
    /// The client should reconnect.
    pub const RESTART: u16 = 1012;
    /// The client should come back later.
    pub const AGAIN: u16 = 1013;

    /// A reason, cut to what a close frame holds.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        let mut reason = reason.into();
        if reason.len() > REASON_BYTES_MAX {
            let mut end = REASON_BYTES_MAX;
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            reason.to_mut().truncate(end);
        }
        Self { code, reason }
    }

    /// The local server went away under a client with subscriptions.
    pub fn restart() -> Self {
        Self::new(Self::RESTART, "service restart")
    }

    /// What SpacetimeDB says when a database is deleted.
    pub fn module_exited() -> Self {
        Self::new(Self::AWAY, "module exited")
    }

    pub(crate) fn frame(&self) -> CloseFrame {
        CloseFrame {
            code: CloseCode::from(self.code),
            reason: self.reason.as_ref().into(),
        }
    }
}

impl From<FrameError> for CloseReason {
    /// SpacetimeDB closes with 1011 and the reason when it can't read a message.
    fn from(error: FrameError) -> Self {
        let code = match error {
            FrameError::TooLarge { .. } => Self::TOO_BIG,
            _ => Self::ERROR,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let reason = CloseReason::new(CloseReason::ERROR, "ä".repeat(100));
        assert_eq!(reason.reason.len(), 122);
    }
}
