//! A call under way: what is proposed, and what its caller is told in the end.

use crate::freshness::Freshness;
use crate::reducers::{self, CallRefused};
use bytes::{Bytes, BytesMut};
use rtdb_consensus::{Applied, Command, Reply, command};
use rtdb_determinism::Module;
use rtdb_determinism::header::{self, CallHeader};
use rtdb_protocol::client::CallReducer;
use rtdb_protocol::reply::{CallReply, Outcome};
use rtdb_protocol::server::Update;
use rtdb_protocol::{Subprotocol, Text, reply};

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The session's id.
    pub(crate) session: u64,
    /// The database, 32 bytes as in BSATN.
    pub(crate) database: Bytes,
    /// The client's identity, as in BSATN.
    pub(crate) identity: [u8; 32],
    /// The client's connection id, as in BSATN.
    pub(crate) connection: [u8; 16],
    /// Whether the database is the client's own.
    pub(crate) is_owner: bool,
    /// The newest subprotocol of the local server, whose words its errors have.
    pub(crate) server: Subprotocol,
    /// What its reads have to show.
    pub(crate) freshness: Freshness,
}

/// What a step of the session depends on besides the session.
pub(crate) struct Context<'a> {
    /// The module that runs.
    pub(crate) module: &'a Module,
    /// Microseconds since the Unix epoch, for what the log gives no time.
    pub(crate) now_us: i64,
}

/// What the client is owed.
pub(super) enum UnderWay {
    /// A call's result.
    Call(CallUnderWay),
    /// This message, once everything before it has been said.
    Refused(Bytes),
}

/// A call that was proposed or is about to be.
pub(super) struct CallUnderWay {
    /// Whether the update that carries the receipt makes the result.
    pub(super) receipt: bool,
    reducer: Text,
    reducer_id: u32,
    /// The header, then the reducer's own arguments.
    args: Bytes,
    request_id: u32,
    no_success_notify: bool,
}

/// A call that never goes to the log, and why.
pub(super) struct Refused {
    reducer: Text,
    reducer_id: u32,
    request_id: u32,
    message: String,
    /// The message for v1.
    message_v1: String,
}

impl CallUnderWay {
    /// Takes a client's call, if the local server would.
    pub(super) fn new(
        call: CallReducer,
        caller: &Caller,
        receipt: bool,
        context: &Context<'_>,
    ) -> Result<Self, Refused> {
        let reducer = match reducers::check(context.module, &call.reducer, &call.args, caller.is_owner) {
            Ok(reducer) => reducer,
            Err(why) => return Err(Refused::new(call, context, &why)),
        };
        let header = CallHeader {
            sender: caller.identity,
            connection: caller.connection,
            timestamp_us: 0,
            index: 0,
            session: if receipt { caller.session } else { 0 },
        };
        let mut args = BytesMut::with_capacity(header::LEN + call.args.len());
        args.extend_from_slice(&header.encode());
        args.extend_from_slice(&call.args);
        Ok(Self {
            receipt,
            reducer_id: reducer.id,
            // Copied out, as the arguments are: they may be a small part of their frame.
            reducer: Text::from(&*call.reducer),
            args: args.freeze(),
            request_id: call.request_id,
            no_success_notify: call.no_success_notify,
        })
    }

    /// What is said of a call whose arguments can't be read.
    pub(super) fn misread(call: CallReducer, context: &Context<'_>, why: &CallRefused) -> Refused {
        Refused::new(call, context, why)
    }

    /// Bytes to be counted for it.
    pub(super) fn bytes(&self) -> usize {
        self.args.len()
    }

    pub(super) fn command(&self, caller: &Caller) -> Command {
        let call = command::Call {
            database: caller.database.clone(),
            session: caller.session,
            reducer: self.reducer.to_string(),
            args: self.args.clone(),
            request_id: self.request_id,
            claims: String::new(),
            key: None,
        };
        command::Body::Call(call).into()
    }

    /// The result of a call that was applied; made from the update that carries its receipt, if there is one.
    pub(super) fn succeeded(
        &self,
        subprotocol: Subprotocol,
        caller: &Caller,
        applied: Applied,
        update: Option<Update>,
    ) -> Option<Bytes> {
        let outcome = match applied.reply {
            Reply::Call {
                return_value,
                execution_us,
                energy,
            } => Outcome::Ok {
                return_value,
                execution_us,
                energy,
            },
            _ => Outcome::Ok {
                return_value: Bytes::new(),
                execution_us: 0,
                energy: 0,
            },
        };
        let reply = self.reply(caller, applied.timestamp_us, &outcome);
        match update {
            Some(update) => update.into_result(&reply),
            None => reply::call_result(subprotocol, &reply),
        }
    }

    /// The result of a call whose transaction was rolled back.
    pub(super) fn failed(
        &self,
        subprotocol: Subprotocol,
        caller: &Caller,
        timestamp_us: i64,
        outcome: &Outcome,
    ) -> Option<Bytes> {
        reply::call_result(subprotocol, &self.reply(caller, timestamp_us, outcome))
    }

    /// What is said in its place if it turns out that it can't be proposed.
    pub(super) fn into_refused(self, message: String) -> Refused {
        Refused {
            reducer: self.reducer,
            reducer_id: self.reducer_id,
            request_id: self.request_id,
            message_v1: message.clone(),
            message,
        }
    }

    fn reply<'a>(&'a self, caller: &'a Caller, timestamp_us: i64, outcome: &'a Outcome) -> CallReply<'a> {
        CallReply {
            request_id: self.request_id,
            timestamp_us,
            sender: &caller.identity,
            connection: &caller.connection,
            reducer: &self.reducer,
            reducer_id: self.reducer_id,
            args: &self.args[header::LEN..],
            no_success_notify: self.no_success_notify,
            outcome,
        }
    }
}

impl Refused {
    fn new(call: CallReducer, context: &Context<'_>, why: &CallRefused) -> Self {
        let reducer_id = context
            .module
            .reducer(&call.reducer)
            .map_or(u32::MAX, |reducer| reducer.id);
        Self {
            reducer: call.reducer,
            reducer_id,
            request_id: call.request_id,
            message: why.to_string(),
            message_v1: why.with_cause(),
        }
    }

    /// What the client is told, as SpacetimeDB tells of a call that never ran.
    pub(super) fn message(self, subprotocol: Subprotocol, caller: &Caller, now_us: i64) -> Bytes {
        let outcome = Outcome::Rejected(match subprotocol {
            Subprotocol::V1 => self.message_v1,
            Subprotocol::V2 | Subprotocol::V3 => self.message,
        });
        let reply = CallReply {
            request_id: self.request_id,
            timestamp_us: now_us,
            sender: &caller.identity,
            connection: &caller.connection,
            reducer: &self.reducer,
            reducer_id: self.reducer_id,
            args: &[],
            no_success_notify: false,
            outcome: &outcome,
        };
        reply::call_result(subprotocol, &reply).unwrap_or_default()
    }
}
