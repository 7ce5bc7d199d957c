//! Procedures under way. Each begins when the calls before it are done; then nothing waits for it. What its transactions
//! change the client sees by its subscriptions, and after that the result.

use super::{Action, Context, Core, Upstream};
use crate::procedures::{Finished, ProcedureCall};
use crate::reducers;
use bytes::Bytes;
use rtdb_determinism::header::{CallHeader, NO_RECEIPT};
use rtdb_protocol::client::CallProcedure;
use rtdb_protocol::reply;

/// What has been heard of a client's procedures.
#[derive(Default)]
pub(super) struct Running {
    /// How many are under way.
    pub(super) count: usize,
    /// Results that wait for the rows of the procedure's last transaction.
    finished: Vec<Waiting>,
    /// The newest position of which the client was shown the rows.
    shown_to: u64,
}

struct Waiting {
    message: Bytes,
    last: u64,
    /// It was looked at before.
    is_overdue: bool,
}

impl Core {
    pub(super) fn admit_procedure(
        &mut self,
        call: CallProcedure,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let CallProcedure {
            procedure,
            args,
            request_id,
        } = call;
        let is_owner = self.caller.is_owner;
        let checked = match self.misread.take() {
            Some(why) => Err(why),
            None => reducers::check_procedure(context.module, &procedure, &args, is_owner).map(drop),
        };
        if let Err(why) = checked {
            let message = reply::procedure_refused(self.subprotocol, request_id, &why.to_string());
            return self.refuse(message, actions);
        }
        let session = self.caller.session;
        let header = CallHeader {
            sender: self.caller.identity,
            connection: self.caller.connection,
            timestamp_us: context.now_us,
            index: 0,
            session: session | NO_RECEIPT,
        };
        self.running.count += 1;
        self.bytes += args.len();
        actions.push(Action::CallProcedure(ProcedureCall {
            procedure: procedure.to_string(),
            // Copied out: they may be a small part of their frame.
            args: Bytes::copy_from_slice(&args),
            request_id,
            header,
            receipts: if self.expects_receipts() { session } else { 0 },
        }));
    }

    /// A procedure has ended.
    pub(crate) fn procedure_finished(
        &mut self,
        request_id: u32,
        finished: Finished,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let Finished {
            result,
            last,
            args_bytes,
        } = finished;
        self.running.count = self.running.count.saturating_sub(1);
        self.bytes -= args_bytes;
        let message = match result {
            Ok(result) => result.raw,
            Err(why) => reply::procedure_refused(self.subprotocol, request_id, &why),
        };
        self.bytes += message.len();
        self.running.finished.push(Waiting {
            message,
            last,
            is_overdue: false,
        });
        self.settle(actions);
        self.admit(context, actions);
    }

    /// The client is about to be shown what the call at this position has changed.
    pub(super) fn shown_receipt(&mut self, position: Option<u64>) {
        self.running.shown_to = self.running.shown_to.max(position.unwrap_or(0));
    }

    /// Sends the results whose rows the client has been shown, or will never be.
    pub(super) fn tell_procedures(&mut self, actions: &mut Vec<Action>) {
        if self.running.finished.is_empty() {
            return;
        }
        let shown_to = match self.expects_receipts() {
            true => self.running.shown_to.max(self.restored_to),
            false => u64::MAX,
        };
        let told = self.running.finished.extract_if(.., |it| it.last <= shown_to);
        for Waiting { message, .. } in told {
            self.bytes -= message.len();
            actions.push(Action::Send(message));
        }
    }

    /// Sends the results that have waited since it was done last: what they wait for does not come any more.
    pub(crate) fn tell_overdue(&mut self, actions: &mut Vec<Action>) {
        for waiting in &mut self.running.finished {
            match waiting.is_overdue {
                true => waiting.last = 0,
                false => waiting.is_overdue = true,
            }
        }
        self.tell_procedures(actions);
    }

    /// Whether the updates that the client sees tell of its receipts.
    fn expects_receipts(&self) -> bool {
        match self.sharing.is_shared() {
            true => self.sharing.is_subscribed(),
            false => self.upstream != Upstream::Absent,
        }
    }
}
