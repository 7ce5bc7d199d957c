//! What a client sends: frames split into messages, each one a call, a read or a procedure. And the few messages that
//! the cluster itself sends to SpacetimeDB as its client.

mod encode;
mod read;
mod v1;
mod v2;

pub use encode::{
    call_procedure, call_reducer, call_reducer_bytes, one_off_query, subscribe, subscribe_all_receipts,
    subscribe_instead, subscribe_nothing, subscribe_receipts, subscribe_receipts_as, unsubscribe,
};
pub use read::{QUERIES_BYTES_MAX, QUERIES_MAX, Read, ReadKind, Refused};

use crate::reader::Reader;
use crate::{CALL_HEADER_BYTES, FrameError, MESSAGE_BYTES_MAX, Subprotocol, Text};
use bytes::Bytes;

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// A write: it goes through the log.
    Call(CallReducer),
    /// A read: the local SpacetimeDB answers it.
    Read(Read),
    /// A procedure: the local SpacetimeDB runs it.
    Procedure(CallProcedure),
}

impl ClientMessage {
    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Call(call) => call.reducer.len() + call.args.len(),
            Self::Read(read) => read.raw.len(),
            Self::Procedure(call) => call.procedure.len() + call.args.len(),
        }
    }
}

/// A client's call of a reducer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallReducer {
    /// The reducer's name.
    pub reducer: Text,
    /// Its arguments in BSATN, without a call header.
    pub args: Bytes,
    /// The client's number for the call.
    pub request_id: u32,
    /// The caller wants no answer of its own if the call goes well (v1 only, flags = 1); see
    /// [`crate::reply::CallReply::no_success_notify`].
    pub no_success_notify: bool,
}

/// A client's call of a procedure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallProcedure {
    /// The procedure's name.
    pub procedure: Text,
    /// Its arguments in BSATN, without a call header.
    pub args: Bytes,
    /// The client's number for the call.
    pub request_id: u32,
}

/// The messages of one frame, in order; see [`split`].
#[derive(Debug)]
pub struct Messages {
    subprotocol: Subprotocol,
    frame: Bytes,
    at: usize,
    done: bool,
}

/// Splits a client's binary frame. v1 and v2 frames hold exactly one message, a v3 frame one or more. After an error
/// the iterator ends: the frame's rest can't be read, and the client is to be closed with the error as the reason.
pub fn split(subprotocol: Subprotocol, frame: Bytes) -> Messages {
    Messages {
        subprotocol,
        frame,
        at: 0,
        done: false,
    }
}

impl Iterator for Messages {
    type Item = Result<ClientMessage, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let message = self.read();
        self.done = message.is_err() || self.at == self.frame.len();
        Some(message)
    }
}

impl Messages {
    /// Bytes of the frame that are still to be split.
    pub fn left(&self) -> usize {
        self.frame.len() - self.at
    }

    fn read(&mut self) -> Result<ClientMessage, FrameError> {
        if self.frame.is_empty() {
            return Err(FrameError::Empty);
        }
        check_size(self.frame.len(), MESSAGE_BYTES_MAX)?;
        let start = self.at;
        let mut reader = Reader::new(&self.frame, start);
        let message = match self.subprotocol {
            Subprotocol::V1 => v1::read(&mut reader)?,
            Subprotocol::V2 | Subprotocol::V3 => v2::read(&mut reader)?,
        };
        if self.subprotocol != Subprotocol::V3 && reader.left() > 0 {
            return Err(FrameError::Trailing { count: reader.left() });
        }
        self.at = reader.at();
        if matches!(message, ClientMessage::Call(_) | ClientMessage::Procedure(_)) {
            check_size(self.at - start, MESSAGE_BYTES_MAX - CALL_HEADER_BYTES)?;
        }
        Ok(message)
    }
}

fn check_size(bytes: usize, limit: usize) -> Result<(), FrameError> {
    if bytes > limit {
        Err(FrameError::TooLarge { bytes, limit })
    } else {
        Ok(())
    }
}
