use super::changes::Changes;
use super::{AppliedCall, v1, v2};
use crate::reply::{self, CallReply, Outcome};
use crate::{CALL_HEADER_BYTES, ConnectionId, Identity, Text, hidden};
use bytes::{BufMut, Bytes, BytesMut};

/// A transaction's rows, as one connection's subscriptions see them: v1 `TransactionUpdate` and
/// `TransactionUpdateLight`, v2 and v3 `TransactionUpdate`.
#[derive(Clone, Debug)]
pub struct Update {
    pub(super) raw: Bytes,
    pub(super) changes: Changes,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// v1 `TransactionUpdate`.
    Full(Box<Event>),
    /// v1 `TransactionUpdateLight`.
    Light { request_id: u32 },
    /// v2 and v3 `TransactionUpdate`.
    Plain,
}

/// What v1 tells with the rows: which call they come from.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) status: Status,
    pub(crate) timestamp_us: i64,
    pub(crate) sender: Identity,
    pub(crate) connection: ConnectionId,
    pub(crate) reducer: Text,
    pub(crate) reducer_id: u32,
    pub(crate) args: Bytes,
    pub(crate) request_id: u32,
    pub(crate) energy: u128,
    pub(crate) execution_us: i64,
}

#[derive(Clone, Debug)]
pub(crate) enum Status {
    Committed,
    Failed(Text),
    OutOfEnergy,
}

impl Update {
    /// `rtdb_index` of the call that made this update, if it is a call of `session`: the receipt among its rows.
    pub fn receipt(&self, session: u64) -> Option<u64> {
        self.changes.receipt(session)
    }

    /// This update and a later one as one, if they can be told as one.
    pub fn with(&self, later: &Self) -> Option<Self> {
        let mut out = BytesMut::with_capacity(1 + self.raw.len() + later.raw.len());
        out.put_u8(v2::TRANSACTION_UPDATE);
        self.changes.put_with(&later.changes, &mut out)?;
        v2::read_update(out.freeze())
    }

    /// The message's bytes, hidden tables included.
    pub fn bytes(&self) -> usize {
        self.raw.len()
    }

    /// The rows, hidden tables included.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// What a client sees of it that shares the connection with others: those of the query sets that `numbers` has, under the
    /// numbers that the client knows. `numbers` is sorted by the number in the message. In v1 the client sees all of it.
    pub fn renumbered(&self, numbers: &[(u32, u32)]) -> Self {
        Self {
            raw: self.raw.clone(),
            changes: self.changes.renumbered(numbers),
            kind: self.kind.clone(),
        }
    }

    /// The message for a client that did not make this call, or made it and wants no answer of its own. `None` if
    /// nothing is left that the client has subscribed to.
    pub fn into_other(self) -> Option<Bytes> {
        if !self.changes.any_visible() {
            return None;
        }
        let mut out = match self.kind {
            Kind::Light { .. } | Kind::Plain if self.changes.all_visible() => return Some(self.raw),
            _ => BytesMut::with_capacity(self.raw.len()),
        };
        match self.kind {
            // What a hidden reducer did is shown without its name: a light update is sound for every client.
            Kind::Full(event) if hidden::is_hidden(event.reducer.as_bytes()) => {
                put_light(&mut out, 0, &self.changes)
            }
            Kind::Full(mut event) => {
                event.remove_header();
                v1::put_update(&mut out, &event.status, &self.changes, &event.as_call());
            }
            Kind::Light { request_id } => put_light(&mut out, request_id, &self.changes),
            Kind::Plain => {
                out.put_u8(v2::TRANSACTION_UPDATE);
                self.changes.put_visible(&mut out);
            }
        }
        Some(out.freeze())
    }

    /// The caller's own result, made from the update that carries its receipt. `None` if the caller wants none and
    /// nothing is left that it has subscribed to.
    ///
    /// A v1 caller gets the full message, also where it asked for light ones: SpacetimeDB does the same.
    pub fn into_result(self, reply: &CallReply<'_>) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(self.raw.len() + 64 + reply.reducer.len() + reply.args.len());
        let mut call = reply::v1_call(reply);
        match self.kind {
            Kind::Full(_) | Kind::Light { .. } if reply.no_success_notify => return self.into_other(),
            Kind::Plain => {
                v2::put_ok(&mut out, reply, &self.changes);
                return Some(out.freeze());
            }
            // The same run of the reducer, and an applier on v2 or v3 hears of neither.
            Kind::Full(event) => (call.energy, call.execution_us) = (event.energy, event.execution_us),
            Kind::Light { .. } => {}
        }
        v1::put_update(&mut out, &Status::Committed, &self.changes, &call);
        Some(out.freeze())
    }

    /// What became of this connection's own call.
    pub(super) fn applied(self) -> Option<AppliedCall> {
        let Kind::Full(event) = self.kind else { return None };
        let index = event.header().map(|(_, _, _, index)| index);
        let (execution_us, energy) = (event.execution_us.max(0).unsigned_abs(), event.energy);
        let outcome = match event.status {
            Status::Committed => Outcome::Ok {
                return_value: Bytes::new(),
                execution_us,
                energy,
            },
            // A replicated call always has a header; only the answer to one that never ran comes without arguments.
            Status::Failed(message) if event.args.is_empty() => Outcome::Rejected(message.to_string()),
            Status::Failed(message) => Outcome::Failed {
                message: message.to_string(),
                execution_us,
                energy,
            },
            Status::OutOfEnergy => Outcome::OutOfEnergy,
        };
        Some(AppliedCall {
            request_id: event.request_id,
            index,
            outcome,
        })
    }
}

fn put_light(out: &mut BytesMut, request_id: u32, changes: &Changes) {
    out.put_u8(v1::TRANSACTION_UPDATE_LIGHT);
    out.put_u32_le(request_id);
    changes.put_visible(out);
}

impl Event {
    /// The call header at the start of the arguments: sender, connection, timestamp, index.
    fn header(&self) -> Option<(Identity, ConnectionId, i64, u64)> {
        let (sender, rest) = self.args.split_first_chunk()?;
        let (connection, rest) = rest.split_first_chunk()?;
        let (timestamp, rest) = rest.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (_session, _args) = rest.split_first_chunk::<8>()?;
        Some((
            *sender,
            *connection,
            i64::from_le_bytes(*timestamp),
            u64::from_le_bytes(*index),
        ))
    }

    /// Tells of the call as if its true caller had made it here: without the header, from what stands in it.
    fn remove_header(&mut self) {
        if let Some((sender, connection, timestamp_us, _)) = self.header() {
            (self.sender, self.connection, self.timestamp_us) = (sender, connection, timestamp_us);
            self.args = self.args.slice(CALL_HEADER_BYTES..);
        }
    }

    fn as_call(&self) -> v1::Call<'_> {
        v1::Call {
            timestamp_us: self.timestamp_us,
            sender: &self.sender,
            connection: &self.connection,
            reducer: &self.reducer,
            reducer_id: self.reducer_id,
            args: &self.args,
            request_id: self.request_id,
            energy: self.energy,
            execution_us: self.execution_us,
        }
    }
}
