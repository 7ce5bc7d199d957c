use thiserror::Error;

/// Why a frame could not be read. Each message fits a WebSocket close reason (at most 123 bytes).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A binary frame with nothing in it.
    #[error("the frame holds no message")]
    Empty,
    /// The frame ends inside a message.
    #[error("the message is cut off: {needed} more bytes expected at byte {at}")]
    Truncated {
        /// Where in the frame.
        at: usize,
        /// How many bytes are missing.
        needed: usize,
    },
    /// The frame goes on after its one message.
    #[error("{count} bytes follow the message")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// A sum's tag, or a flag, that this version does not know.
    #[error("unknown {what} {value} at byte {at}")]
    Unknown {
        /// What the byte chooses.
        what: &'static str,
        /// The byte.
        value: u8,
        /// Where in the frame.
        at: usize,
    },
    /// A string is not UTF-8.
    #[error("the text at byte {at} is not UTF-8")]
    NotUtf8 {
        /// Where in the frame.
        at: usize,
    },
    /// The message is larger than SpacetimeDB would take, the call header included.
    #[error("the message has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The largest length allowed.
        limit: usize,
    },
    /// The message asks for more at once than is taken.
    #[error("the message has {count} queries or query sets, the limit is {limit}: send several messages")]
    TooManyQueries {
        /// How many it has.
        count: usize,
        /// The largest number allowed.
        limit: usize,
    },
    /// SpacetimeDB compressed what it was asked to send uncompressed.
    #[error("a compressed payload (scheme {scheme}) where none was asked for")]
    Compressed {
        /// The compression byte.
        scheme: u8,
    },
}
